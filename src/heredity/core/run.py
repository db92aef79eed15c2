"""One directory per run: stages that are done once, models with lineage, tables, figures, checkpoints and resume."""

import base64
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from heredity.core.errors import ConfigError, RunError
from heredity.core.files import finite, read_json, write_json, write_text
from heredity.core.lineage import Lineage, lineage_of, load_model, load_tensors, record, save_model, save_tensors
from heredity.core.loop import History
from heredity.core.outcome import Figure, Pictures
from heredity.core.progress import Reporter
from heredity.core.randomness import seed_of
from heredity.core.settings import flatten, to_plain


@dataclass(frozen=True)
class Machine:
    """Where a run computes; the words are Lightning Fabric's."""

    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    strategy: str = "auto"
    accelerator: str = "auto"

    def fabric(self) -> Fabric:
        """Start Fabric, launching further processes where more than one device is asked for."""
        precision: Any = self.precision
        strategy = self.strategy
        if self.devices * self.num_nodes > 1 and strategy in ("auto", "ddp"):
            # Parts that a loss does not reach are normal here: a masked autoencoder leaves the pooling's norm alone.
            strategy = "ddp_find_unused_parameters_true"
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                precision=precision,
                strategy=strategy,
            )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"this machine cannot run that: {error}", remedy="see --devices, --precision and --strategy"
            ) from error
        if self.devices > 1 or self.num_nodes > 1:
            fabric.launch()
        return fabric


class Run:
    """Everything a recipe may touch of the outside world.

    A recipe asks for stages by name. `run.model("teacher", make=..., train=...)` makes an untrained module and trains it,
    or makes it and loads it where the stage is already on disk; `run.table` does the same for plain numbers.

    >>> with Run.temporary() as run:
    ...     run.table("answer", lambda: {"value": 42})
    {'value': 42}
    """

    def __init__(
        self,
        directory: Path,
        *,
        fabric: Fabric,
        seed: int = 0,
        limit_steps: int = 0,
        reporter: Reporter | None = None,
        checkpoint_seconds: float = 5.0,
    ) -> None:
        self.directory, self.fabric, self.seed, self.limit_steps = directory, fabric, seed, limit_steps
        self.reporter = reporter or Reporter(quiet=True)
        self.checkpoint_seconds = checkpoint_seconds
        self.stages: list[dict[str, Any]] = []
        self._stage: str | None = None
        self._fits = 0
        self._figures = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: Mapping[str, Any],
        *,
        machine: Machine,
        resume: bool = False,
        reporter: Reporter | None = None,
        checkpoint_seconds: float = 5.0,
    ) -> "Run":
        """Begin a run in an empty directory, or with `resume` go on with one that was begun with the same identity.

        `identity` is what fixes the numbers: system, preset, seed, limit_steps and the config as plain data. It is kept in
        config.yaml. Raises RunError when the directory holds another run, or cannot be written.
        """
        fabric = machine.fabric()
        if fabric.is_global_zero:
            _claim_directory(directory, identity, resume)
        fabric.barrier()
        speaker = (reporter or Reporter()) if fabric.is_global_zero else Reporter(quiet=True)
        return cls(
            directory,
            fabric=fabric,
            seed=int(identity["seed"]),
            limit_steps=int(identity.get("limit_steps", 0)),
            reporter=speaker,
            checkpoint_seconds=checkpoint_seconds,
        )

    @staticmethod
    def begin(directory: Path, identity: Mapping[str, Any]) -> None:
        """Write the config.yaml of a run that is to be resumed later."""
        write_text(directory / "config.yaml", yaml.safe_dump(to_plain(identity), sort_keys=False, allow_unicode=True))

    @classmethod
    @contextmanager
    def temporary(cls, *, seed: int = 0, reporter: Reporter | None = None, limit_steps: int = 0) -> "Iterator[Run]":
        """A run whose directory vanishes afterwards: for verbs and for Python users who only want the model."""
        with tempfile.TemporaryDirectory(prefix="heredity-") as place:
            fabric = Machine(accelerator="cpu").fabric()
            yield cls(Path(place), fabric=fabric, seed=seed, reporter=reporter, limit_steps=limit_steps)

    def model(
        self,
        name: str,
        *,
        make: Callable[[], nn.Module],
        train: Callable[[nn.Module], Any],
        made_by: str,
        parents: Sequence[nn.Module] = (),
        settings: Any = None,
        marks: tuple[str, ...] = (),
    ) -> Any:
        """A stage that makes a model: trained now, or loaded where it was trained before.

        `train` changes the module that `make` returned in place; both see torch's generator seeded for this stage. The saved
        file records `made_by`, `settings` and the lineages of `parents`; `marks` are added to those of the parents.
        """
        path = self._stage_path(name) / "model.safetensors"
        inherited = tuple(dict.fromkeys([*(mark for parent in parents for mark in lineage_of(parent).marks), *marks]))
        born = Lineage(
            name=name,
            made_by=made_by,
            settings=finite(to_plain(settings)) if settings is not None else {},
            parents=tuple(lineage_of(parent) for parent in parents),
            marks=inherited,
        )

        def build() -> nn.Module:
            model = make().to(self.fabric.device)
            train(model)
            record(model.eval(), born)
            if self.fabric.is_global_zero:
                save_model(path, model)
            return model

        def restore() -> nn.Module:
            return load_model(path, make()).to(self.fabric.device).eval()

        return self._once(name, build, restore)

    def table(self, name: str, compute: Callable[[], Any]) -> Any:
        """A stage that computes plain data (JSON types): computed now, or read where it was computed before."""
        path = self._stage_path(name) / "value.json"

        def build() -> Any:
            value = self.fabric.broadcast(finite(compute()))
            if self.fabric.is_global_zero:
                write_json(path, value)
            return value

        return self._once(name, build, lambda: read_json(path))

    def tensors(self, name: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """A stage that computes tensors, such as cached labels or features."""
        path = self._stage_path(name) / "tensors.safetensors"

        def build() -> dict[str, Tensor]:
            value = dict(compute())
            if self.fabric.is_global_zero:
                save_tensors(path, value, {})
            return value

        return self._once(name, build, lambda: load_tensors(path)[0])

    def figure(self, name: str, figure: Figure, *, caption: str, alt: str) -> None:
        """Hand a figure to the report: data, a caption, and a text that says what it shows to somebody who cannot see it."""
        if self.fabric.is_global_zero:
            content = {"name": name, "kind": figure.kind, "caption": caption, "alt": alt, "data": _figure_data(figure)}
            folder = self.directory / "figures"
            for stale in folder.glob(f"??-{_safe(name)}.json"):
                stale.unlink()
            write_json(folder / f"{self._figures:02d}-{_safe(name)}.json", content)
        self._figures += 1

    def history(self, stage: str, fit: int = 0) -> dict[str, list[float]]:
        """The loss curves of a stage's fit, by term."""
        path = self.directory / "logs" / f"{_safe(stage)}.{fit}.csv"
        lines = path.read_text(encoding="utf-8").splitlines()
        columns = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])
        return {name: columns[:, index].tolist() for index, name in enumerate(lines[0].split(","))}

    def begin_fit(self, total: int) -> "FitSlot":
        """A place for the next training loop of this stage; called by `fit`."""
        stage = self._stage or "unnamed"
        slot = FitSlot(self, stage, self._fits, total)
        self._fits += 1
        return slot

    def _stage_path(self, name: str) -> Path:
        return self.directory / "stages" / _safe(name)

    def _once(self, name: str, build: Callable[[], Any], restore: Callable[[], Any]) -> Any:
        if self._stage is not None:
            raise ConfigError(f"stage {name!r} begins inside stage {self._stage!r}", remedy="stages do not nest")
        if any(stage["name"] == name for stage in self.stages):
            raise ConfigError(f"stage {name!r} exists twice in one run", remedy="give every stage its own name")
        place = self._stage_path(name)
        marker = place / "stage.json"
        self._stage, self._fits = name, 0
        began = time.monotonic()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, name, "initial"))
                done = bool(self.fabric.broadcast(marker.exists()))
                value = restore() if done else build()
            if done:
                self.stages.append(read_json(marker))
            else:
                self.stages.append({"name": name, "seconds": round(time.monotonic() - began, 3)})
                self.fabric.barrier()
                if self.fabric.is_global_zero:
                    write_json(marker, self.stages[-1])
                    shutil.rmtree(place / "fits", ignore_errors=True)
            seconds = self.stages[-1]["seconds"]
            if done or seconds >= 0.5:
                self.reporter.say(f"{'on disk' if done else f'{seconds:6.1f}s'}  {name}")
            return value
        finally:
            self.reporter.end()
            self._stage = None


class FitSlot:
    """One training loop's checkpoint file, log and progress bar."""

    def __init__(self, run: Run, stage: str, index: int, total: int) -> None:
        self.label = f"{stage}#{index}"
        self.seed = run.seed
        self._run, self._stage, self._index = run, stage, index
        self._path = run._stage_path(stage) / "fits" / f"{index}.safetensors"
        self._last = time.monotonic()
        run.reporter.begin(stage, total)

    def restore(self) -> dict[str, Tensor] | None:
        """The state as it was last kept, if it was."""
        known = bool(self._run.fabric.broadcast(self._path.exists()))
        return load_tensors(self._path)[0] if known else None

    def due(self, step: int) -> bool:
        """Whether it is time to keep the state again."""
        return time.monotonic() - self._last >= self._run.checkpoint_seconds

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Write the state, atomically."""
        self._last = time.monotonic()
        if self._run.fabric.is_global_zero:
            save_tensors(self._path, state, {})

    def tick(self, step: int, losses: Mapping[str, float]) -> None:
        """Show progress."""
        self._run.reporter.tick(step, losses)

    def finish(self, history: History) -> None:
        """Write the loss curves as CSV and take the bar away."""
        self._run.reporter.end()
        if self._run.fabric.is_global_zero:
            lines = [",".join(history.terms)]
            lines += [",".join(repr(value) for value in step) for step in history.values.tolist()]
            write_text(
                self._run.directory / "logs" / f"{_safe(self._stage)}.{self._index}.csv", "\n".join(lines) + "\n"
            )


def _safe(name: str) -> str:
    allowed = all(part and part.strip(".") and set(part) <= _NAME for part in name.split("/"))
    if not allowed:
        raise ConfigError(f"{name!r} cannot name a stage", remedy="use letters, digits, '-', '_', '.', '=' and '/'")
    return name.replace("/", "--")


_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.=")


def _claim_directory(directory: Path, identity: Mapping[str, Any], resume: bool) -> None:
    path = directory / "config.yaml"
    if path.exists():
        if not resume:
            raise RunError(
                f"{directory} already holds a run", remedy="add --resume to go on with it, or choose another --out"
            )
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{path} cannot be read: {error}", remedy="choose another --out") from error
        old, new = flatten(before if isinstance(before, dict) else {}), flatten(to_plain(identity))
        changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        if changed:
            first = changed[0]
            raise RunError(
                f"{directory} was begun with {first} = {old.get(first)!r}, not {new.get(first)!r}",
                remedy="resume with the settings of its config.yaml, or choose another --out",
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} is not an empty directory", remedy="choose another --out")
    Run.begin(directory, identity)


def _figure_data(figure: Figure) -> dict[str, Any]:
    plain = {item.name: getattr(figure, item.name) for item in fields(figure) if item.name != "kind"}
    if isinstance(figure, Pictures):
        plain["grid"] = [[_png(picture) for picture in row] for row in figure.grid]
    return plain


def _png(picture: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture, dtype=np.uint8)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
