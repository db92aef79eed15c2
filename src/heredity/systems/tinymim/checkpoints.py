"""Released MAE and TinyMIM checkpoints as safetensors for timm's transformers (spec, section 6.2)."""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.lineage import Lineage, fit_state, record, remember
from heredity.nn.encoders import Classifier, Normalised
from heredity.nn.resolver import build

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Width -> timm's name, patch; heads of all blocks and of the last one, as MAE and as TinyMIM trained them.
_SHAPES: dict[int, tuple[str, int]] = {
    192: ("vit_tiny_patch16_224", 16),
    384: ("vit_small_patch16_224", 16),
    768: ("vit_base_patch16_224", 16),
    1024: ("vit_large_patch16_224", 16),
    1280: ("vit_huge_patch14_224", 14),
}
_MAE_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_TINYMIM_HEADS = {192: (6, 12), 384: (6, 12), 768: (12, 16)}
_DECODER = ("mask_token", "decoder")
_EXTRA = ("conv1x1", "head_dist")


@dataclass(frozen=True)
class Imported:
    """The model, and what a user must know of how it was read."""

    model: nn.Module
    notes: tuple[str, ...]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.pth` file: plain tensors, with an argparse.Namespace beside them where MAE's code left one.

    Raises ModelError for a missing file, for anything that could run code (naming it), and for a file without tensors.
    """
    if not path.is_file():
        raise ModelError(f"no file {path}", remedy="give a .pth file of MAE or TinyMIM")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"(?:GLOBAL|Unsupported global:|class)\s+(\S+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise ModelError(
            f"{path} holds more than tensors{what}, or is damaged, and is not opened",
            remedy="download it again from its authors, or save its state dict alone where you trust it",
        ) from error
    for wrapper in ("model", "state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} is not a state dict of tensors", remedy="give a .pth file of MAE or TinyMIM")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def import_checkpoint(
    state: Mapping[str, Tensor],
    *,
    name: str,
    kind: Literal["mae", "tinymim"],
    size: int = 224,
    heads: int | None = None,
    last_heads: int | None = None,
) -> Imported:
    """A timm model of the checkpoint's shape with its weights: an encoder, or a classifier where the file has a head.

    How many heads there are is stored nowhere: they are those of `kind`, unless told. Positions of another grid are
    interpolated. Raises ModelError, naming keys by group, for a layout with missing or unknown tensors.
    """
    notes: list[str] = []
    width, depth = _width_of(state, name), _depth_of(state)
    if width not in _SHAPES or depth not in (12, 24, 32):
        raise ModelError(
            f"{name}: a width of {width} and {depth} blocks are no released shape",
            remedy="known widths: " + ", ".join(map(str, _SHAPES)) + "; load others with --architecture",
        )
    timm_name, patch = _SHAPES[width]
    distilled = "dist_token" in state
    kept = {key: value for key, value in state.items() if not key.startswith((*_DECODER, *_EXTRA))}
    for group in ("decoder", "mask_token", *_EXTRA):
        if count := sum(key.startswith(group) for key in state):
            notes.append(f"left out {count} tensors of {group}")
    classes = len(kept["head.bias"]) if "head.bias" in kept and not distilled else 0
    if distilled:
        timm_name = "deit_tiny_distilled_patch16_224"
        kept = {key: value for key, value in kept.items() if not key.startswith("head")}
    pooled = "fc_norm.weight" in kept
    architecture: dict[str, Any] = {
        "kind": "timm",
        "name": timm_name,
        "image": size,
        **({} if distilled else {"pool": "avg" if pooled else "token"}),
    }
    architecture |= _heads_of(width, kind, pooled, distilled, heads, last_heads, notes)
    encoder = build(architecture)
    assert isinstance(encoder, Normalised)
    encoder.mean.copy_(torch.tensor(IMAGENET_MEAN).reshape(-1, 1, 1))
    encoder.std.copy_(torch.tensor(IMAGENET_STD).reshape(-1, 1, 1))
    body = {key: value.float() for key, value in kept.items() if not key.startswith("head.")}
    body = _positions(body, encoder, name, notes)
    _check_keys(body, encoder.inner.state_dict(), name)
    fit_state(encoder.inner, body, source=name)
    remember(encoder, architecture)
    model: nn.Module = encoder
    if classes:
        model = Classifier(encoder, features=width, classes=classes)
        fit_state(model.head, {key[5:]: kept[key].float() for key in ("head.weight", "head.bias")}, source=name)
    made_by = "MAE (released)" if kind == "mae" else "TinyMIM (released)"
    record(model, Lineage(name, made_by, settings={"heads": architecture.get("heads"), "patch": patch}))
    return Imported(model.eval(), tuple(notes))


def _heads_of(
    width: int,
    kind: str,
    pooled: bool,
    distilled: bool,
    heads: int | None,
    last_heads: int | None,
    notes: list[str],
) -> dict[str, int]:
    known = _TINYMIM_HEADS.get(width) if kind == "tinymim" else None
    if distilled:
        usual, last = 12, 12
    elif known is not None and not pooled:
        usual, last = known
    else:
        usual = last = _MAE_HEADS[width]
    if heads is None or last_heads is None:
        notes.append(
            f"the file does not say its heads: taken for {heads or usual}, {last_heads or heads or last} in the last block "
            "(--heads, --last-heads to say otherwise)"
        )
    chosen = heads or usual
    return {"heads": chosen, "last_heads": last_heads or (heads if heads is not None else last)}


def _width_of(state: Mapping[str, Tensor], name: str) -> int:
    token = state.get("cls_token")
    if token is None or token.ndim != 3:
        raise ModelError(
            f"{name} has no cls_token of shape 1 x 1 x width ({_some(state)})",
            remedy="give a .pth file of MAE or TinyMIM",
        )
    return int(token.shape[2])


def _depth_of(state: Mapping[str, Tensor]) -> int:
    numbers = [int(found.group(1)) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))]
    return max(numbers, default=-1) + 1


def _positions(body: dict[str, Tensor], encoder: Normalised, name: str, notes: list[str]) -> dict[str, Tensor]:
    vit: Any = encoder.inner
    stored, wanted = body.get("pos_embed"), vit.pos_embed
    if stored is None or stored.shape == wanted.shape:
        return body
    patches = stored.shape[1] - vit.num_prefix_tokens
    side = round(max(0, patches) ** 0.5)
    if stored.ndim != 3 or stored.shape[2] != wanted.shape[2] or side * side != patches:
        raise ModelError(
            f"{name}: pos_embed has shape {tuple(stored.shape)}, which is no square grid",
            remedy="give the released file",
        )
    grid = list(vit.patch_embed.grid_size)
    notes.append(f"positions interpolated from {side} x {side} to {grid[0]} x {grid[1]} patches")
    resampled = resample_abs_pos_embed(
        stored, new_size=grid, old_size=[side, side], num_prefix_tokens=vit.num_prefix_tokens
    )
    return {**body, "pos_embed": resampled}


def _check_keys(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        said = [f"{title} {_grouped(keys)}" for title, keys in (("lacks", missing), ("has unknown", unknown)) if keys]
        raise ModelError(f"{name} {' and '.join(said)}", remedy="give the released file; nothing was loaded in part")


def _grouped(keys: Iterable[str]) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[re.sub(r"(blocks\.\d+).*", r"\1", key)].append(key)
    shown = [
        ", ".join(members[:3]) + (f" and {len(members) - 3} more" if len(members) > 3 else "")
        for members in groups.values()
    ]
    return "; ".join(shown[:4]) + (f"; {len(shown) - 4} more groups" if len(shown) > 4 else "")


def _some(state: Mapping[str, Tensor]) -> str:
    return "it holds " + ", ".join(list(state)[:3])
