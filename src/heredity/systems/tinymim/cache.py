"""Teacher targets on disk: for a finite set of views the teacher need run only once."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from lightning.fabric import Fabric
from safetensors import safe_open
from torch import Tensor

from heredity.core.errors import ConfigError
from heredity.core.files import read_json, write_json
from heredity.core.lineage import load_tensors, save_tensors
from heredity.data.pictures import Pictures

_SHARD = 1024
_IN_MEMORY = 2**30


@dataclass
class TargetCache:
    """Rows of targets in safetensors shards. Ask for rows by their numbers; small caches are kept in memory."""

    directory: Path
    rows: int
    whole: Tensor | None = None

    def __getitem__(self, rows: Int[Tensor, "batch"]) -> Tensor:
        if self.whole is not None:
            return self.whole[rows.cpu()].to(rows.device)
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for shard in (rows // _SHARD).unique().tolist():
            with safe_open(_path(self.directory, shard), framework="pt") as file:
                stored = file.get_slice("targets")
                for place in (rows // _SHARD == shard).nonzero().flatten().tolist():
                    row = int(rows[place]) % _SHARD
                    found[place] = stored[row : row + 1]
        return torch.cat(found).to(rows.device)


def cached_targets(
    directory: Path,
    rows: int,
    compute: Callable[[Int[Tensor, "batch"]], Tensor],
    identity: Mapping[str, Any],
    *,
    fabric: Fabric,
    store: torch.dtype = torch.float32,
    tick: Callable[[int, int], None] = lambda done, total: None,
    batch: int = 256,
) -> TargetCache:
    """The targets of rows 0..rows-1: read from the directory, or computed and written there, shard by shard.

    `identity` says what they are of (teacher, target, views, pictures). A build that was interrupted goes on, and ends in the
    same numbers. Raises ConfigError when the directory holds targets of something else.
    """
    index = directory / "targets.json"
    wanted = {"rows": rows, "store": str(store), **identity}
    if fabric.is_global_zero:
        if index.exists():
            before = read_json(index)
            changed = [name for name in sorted(wanted) if before.get(name) != wanted[name]]
            if changed:
                raise ConfigError(
                    f"{directory} holds targets with {changed[0]} = {before.get(changed[0])!r}, not {wanted[changed[0]]!r}",
                    remedy="choose another folder for this cache, or remove that one",
                )
        else:
            write_json(index, wanted)
        shards = range(-(-rows // _SHARD))
        for shard in shards:
            tick(shard * _SHARD, rows)
            if not _path(directory, shard).exists():
                numbers = torch.arange(shard * _SHARD, min(rows, (shard + 1) * _SHARD))
                parts = [compute(part.to(fabric.device)).to(store).cpu() for part in numbers.split(batch)]
                save_tensors(_path(directory, shard), {"targets": torch.cat(parts)}, {})
    fabric.barrier()
    first = load_tensors(_path(directory, 0))[0]["targets"]
    if first.nbytes / len(first) * rows > _IN_MEMORY:
        return TargetCache(directory, rows)
    everything = [load_tensors(_path(directory, shard))[0]["targets"] for shard in range(-(-rows // _SHARD))]
    return TargetCache(directory, rows, torch.cat(everything))


def _path(directory: Path, shard: int) -> Path:
    return directory / f"targets-{shard:05d}.safetensors"


def fingerprint(pictures: Pictures) -> str:
    """What tells one set of pictures from another: their bytes, or the names and sizes of their files."""
    digest = hashlib.sha256()
    if pictures.memory is not None:
        digest.update(pictures.memory.cpu().contiguous().numpy().tobytes())
    for path in pictures.files:
        digest.update(f"{path}|{path.stat().st_size}\n".encode())
    return digest.hexdigest()
