"""Classifiers with a head of their own: small vision transformers of timm's classes, and whole timm models by name.

`heredity.nn.encoders` makes what ends in features; here everything ends in one score per class, as a published model does.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.lineage import Lineage, record, remember
from heredity.core.settings import from_plain, to_plain
from heredity.nn.encoders import Normalised
from heredity.nn.resolver import load_file, read_record, stage_of


@dataclass(frozen=True)
class TransformerShape:
    """A vision transformer's shape as a setting.

    "vit" has a class token, "deit" a class and a distillation token (its eval answer is the mean of two heads), "swin"
    neither: `depth` blocks in every one of `stages` stages, windows of `window` tokens a side, width doubling from stage to
    stage.
    """

    kind: Literal["vit", "deit", "swin"] = "vit"
    patch: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    stages: int = 2
    window: int = 4


def make_transformer(shape: TransformerShape, *, image: int, classes: int) -> Normalised:
    """An untrained transformer for uint8 RGB images of `image` pixels: one score a class. Raises ModelError for a misfit.

    >>> import torch
    >>> net = make_transformer(TransformerShape("swin", width=16, heads=2), image=32, classes=10)
    >>> net(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """
    if shape.patch < 1 or image % shape.patch:
        raise ModelError(
            f"patches of {shape.patch} do not tile an image of {image}", remedy="choose a patch that divides it"
        )
    if shape.width % shape.heads:
        raise ModelError(f"{shape.heads} heads do not share a width of {shape.width}", remedy="choose a multiple")
    common: dict[str, Any] = {"img_size": image, "patch_size": shape.patch, "num_classes": classes}
    if shape.kind == "swin":
        inner: nn.Module = SwinTransformer(
            **common,
            embed_dim=shape.width,
            depths=(shape.depth,) * shape.stages,
            num_heads=tuple(shape.heads * 2**stage for stage in range(shape.stages)),
            window_size=shape.window,
            mlp_ratio=shape.mlp_ratio,
            drop_path_rate=0.0,
        )
    else:
        make = VisionTransformerDistilled if shape.kind == "deit" else VisionTransformer
        inner = make(
            **common,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            global_pool="token",
        )
    model = Normalised(inner)
    remember(model, {"kind": "transformer", "shape": to_plain(shape), "image": image, "classes": classes})
    return model


def build_classifier(architecture: Mapping[str, Any]) -> Normalised:
    """An untrained classifier from what was remembered of one. Raises ModelError for a record that is not one of ours."""
    kind, image, classes = (architecture.get(name) for name in ("kind", "image", "classes"))
    if type(image) is not int or not 4 <= image <= 4096 or type(classes) is not int or not 1 < classes <= 10**6:
        raise ModelError("the architecture record has no sizes", remedy="the file was not written by heredity")
    if kind == "transformer":
        return make_transformer(from_plain(TransformerShape, architecture.get("shape")), image=image, classes=classes)
    name = architecture.get("name")
    if kind == "timm-classifier" and isinstance(name, str) and timm.is_model(name):
        return _timm(name, pretrained=False, image=image, classes=classes)
    raise ModelError(f"unknown architecture record {kind!r}", remedy="the file was not written by heredity")


def resolve_classifier(spec: str) -> nn.Module:
    """A classifier of uint8 images by its name, with its lineage.

    `timm:NAME` (pre-trained; timm:NAME?random for random weights), a path of a safetensors file that heredity wrote,
    `file:PATH`, or `run:DIR/STAGE`. Raises ModelError with the remedy for anything that cannot be used.
    """
    kind, _, place = spec.partition(":")
    if kind == "timm" and place:
        return _from_timm(place)
    if kind == "run" and place:
        path = stage_of(Path(place).expanduser()) / "model.safetensors"
    elif kind == "file" and place:
        path = Path(place).expanduser()
    else:
        path = Path(spec).expanduser()
    found = read_record(path).get("encoder", read_record(path))
    return load_file(path, image=found.get("image", 0))


def _from_timm(name: str) -> Normalised:
    bare, _, option = name.partition("?")
    if not timm.is_model(bare):
        near = timm.list_models(f"*{bare.split('.')[0][:12]}*")[:5]
        raise ModelError(
            f"timm knows no model {bare!r}", remedy="near: " + (", ".join(near) or "see timm.list_models()")
        )
    if option not in ("", "random"):
        raise ModelError(f"unknown option {option!r}", remedy="timm:NAME or timm:NAME?random")
    try:
        model = _timm(bare, pretrained=not option)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot fetch {bare}: {type(error).__name__}",
            remedy="offline: set HF_HUB_OFFLINE=1 with a filled cache, or give timm:NAME?random to try the rest out",
        ) from error
    if not getattr(model.inner, "num_classes", 0):
        raise ModelError(f"{bare} has no classification head", remedy="name a model that was trained to classify")
    record(model, Lineage(bare, "timm, random weights" if option else "timm, pre-trained weights"))
    return model.eval()


def _timm(name: str, *, pretrained: bool, image: int | None = None, classes: int | None = None) -> Normalised:
    more: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    inner = timm.create_model(name, pretrained=pretrained, **more)
    known = getattr(inner, "pretrained_cfg", None) or {}
    size = image or known.get("input_size", (3, 224, 224))[-1]
    if image is not None and known.get("input_size", (3, image, image))[-1] != image:
        # Convolutional nets take any size, and no word about it.
        with contextlib.suppress(TypeError):
            inner = timm.create_model(name, pretrained=pretrained, img_size=image, **more)
    mean, std = known.get("mean", (0.5, 0.5, 0.5)), known.get("std", (0.5, 0.5, 0.5))
    model = Normalised(inner, mean=tuple(mean), std=tuple(std))
    number = getattr(inner, "num_classes", 0)
    remember(model, {"kind": "timm-classifier", "name": name, "image": size, "classes": number})
    return model
