"""Opening what somebody else made: a classifier by its name, or a set of labelled images in a safetensors file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import DataError, ModelError
from heredity.core.lineage import Lineage, architecture_of, content_hash, fit_state, load_tensors, record
from heredity.nn.classifiers import build_classifier, resolve_classifier
from heredity.nn.encoders import Normalised


@dataclass(frozen=True)
class Opened:
    """A model, the side of its images in pixels, and the hash of its weights."""

    model: nn.Module
    size: int
    content: str
    headless: bool


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as somebody distributes them: pixels in [0, 1] after clamping, and how many lay outside before.

    The file is a safetensors file with two tensors: `images`, n x c x h x w with one or three channels, uint8 or floats
    meant to lie in [0, 1]; and `labels`, n whole numbers from 0.
    """

    images: Float[Tensor, "n 3 h w"]
    labels: Int[Tensor, "n"]
    outside: float
    content: str


def is_image_set(spec: str) -> bool:
    """Whether the name is that of a file with the tensors of an image set. Raises ModelError for a damaged file."""
    path = Path(spec.removeprefix("file:")).expanduser()
    return path.is_file() and set(load_tensors(path)[0]) >= {"images", "labels"}


def load_image_set(spec: str) -> ImageSet:
    """Read an image set. Raises DataError naming the tensor that has another shape, type or range than it must have."""
    path = Path(spec.removeprefix("file:")).expanduser()
    tensors, _ = load_tensors(path)
    images, labels = tensors["images"], tensors["labels"]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape or images.shape[2] != images.shape[3]:
        raise DataError(
            f"{path}: 'images' has shape {tuple(images.shape)}",
            remedy="it must be n x 3 x side x side (or n x 1 x ...)",
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"{path}: 'labels' has shape {tuple(labels.shape)} and type {labels.dtype} for {len(images)} images",
            remedy="it must be one whole number an image",
        )
    if int(labels.min()) < 0 or int(labels.max()) >= 10**5:
        raise DataError(f"{path}: 'labels' go from {int(labels.min())} to {int(labels.max())}", remedy="count from 0")
    if images.dtype == torch.uint8:
        unit, outside = images.float() / 255.0, 0.0
    elif images.is_floating_point():
        unit = images.float()
        if not bool(torch.isfinite(unit).all()):
            raise DataError(f"{path}: 'images' holds values that are not finite", remedy="the distillation diverged")
        outside = float(((unit < 0) | (unit > 1)).float().mean())
    else:
        raise DataError(f"{path}: 'images' has type {images.dtype}", remedy="it must be uint8, or floats in [0, 1]")
    return ImageSet(unit.clamp(0, 1).expand(-1, 3, -1, -1).clone(), labels.long(), outside, content_hash(tensors))


def open_model(spec: str, *, architecture: str | None = None, size: int | None = None) -> Opened:
    """A model by its name: a path or file:PATH, run:DIR/STAGE, timm:NAME (as `resolve_classifier`).

    `architecture` is a timm name for a foreign .safetensors file of plain weights that does not say what it is; `size`
    the side of its images, timm's own unless given. Raises ModelError with the remedy for anything that cannot be opened.
    """
    model = resolve_classifier(spec) if architecture is None else _foreign(spec, architecture, size)
    known: dict[str, Any] = architecture_of(model) or {}
    side = known.get("image", known.get("encoder", {}).get("image"))
    if type(side) is not int:
        raise ModelError(f"{spec} does not take images", remedy="give an image model")
    headless = known.get("kind") in ("shape", "timm")
    return Opened(model.eval(), side, content_hash(model.state_dict()), headless)


def _foreign(spec: str, architecture: str, size: int | None) -> Normalised:
    path = Path(spec.removeprefix("file:")).expanduser()
    tensors, _ = load_tensors(path)
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture.split('.')[0][:12]}*")[:5]
        raise ModelError(f"timm knows no model {architecture!r}", remedy="near: " + (", ".join(near) or "see timm"))
    known = timm.models.get_pretrained_cfg(architecture)
    heads = (known.classifier if known is not None else None) or "head"
    head = heads if isinstance(heads, str) else heads[0]
    weight = tensors.get(f"{head}.weight")
    if weight is None or weight.ndim < 2:
        raise ModelError(f"{path} has no classification head ({head}.weight)", remedy="give a classifier's weights")
    side = size or (known.input_size[-1] if known is not None and known.input_size else 224)
    wanted = {"kind": "timm-classifier", "name": architecture, "image": side, "classes": len(weight)}
    model = build_classifier(wanted)
    fit_state(model.inner, tensors, source=str(path))
    record(model, Lineage(path.stem, "a file"))
    return model
