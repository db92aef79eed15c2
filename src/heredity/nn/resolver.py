"""Finding an encoder by its name: from timm, a hub, a file, a folder, one of our runs, or made here."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import timm
import torch
from torch import Tensor, nn

from heredity.core.errors import ModelError, suggestion
from heredity.core.files import read_json
from heredity.core.lineage import (
    ARCHITECTURE_KEY,
    Lineage,
    fit_state,
    lineage_of,
    load_model,
    load_tensors,
    record,
    remember,
)
from heredity.core.settings import from_plain, to_plain
from heredity.nn.attention import attention_blocks, set_heads
from heredity.nn.encoders import Classifier, EncoderShape, Normalised, make_encoder

SPECIFICATIONS = {
    "timm:NAME": "pre-trained weights through timm (downloads and caches); timm:NAME?random for random ones",
    "hf:REPO": "a timm model on the Hugging Face hub",
    "file:PATH": "a .safetensors file; a .pt or .pth of plain tensors",
    "dir:PATH": "a folder that save_pretrained of timm's hub functions wrote (config.json, model.safetensors)",
    "run:DIR/STAGE": "a model stage of one of our runs",
    "train": "made here",
}


def resolve_encoder(
    spec: str, *, image: int, architecture: str | None = None, train: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """An encoder that takes uint8 RGB images of `image` pixels and gives one feature vector each, with its lineage.

    `architecture` names the shape of weights that do not say it themselves: a timm name, or "residual", "resnet18" or "vit"
    with options, such as vit:width=64,depth=4. Raises ModelError with the remedy for anything that cannot be used.
    """
    kind, _, place = spec.partition(":")
    if kind == "train":
        if train is None:
            raise ModelError(
                "nothing here says how to train an encoder", remedy="name a model: " + ", ".join(SPECIFICATIONS)
            )
        return train()
    if kind == "timm" and place:
        return _from_timm(place, image)
    if kind == "hf" and place:
        return _from_timm(f"hf-hub:{place}", image)
    if kind == "file" and place:
        return load_file(Path(place).expanduser(), image=image, architecture=architecture)
    if kind == "dir" and place:
        return _from_folder(Path(place).expanduser(), image)
    if kind == "run" and place:
        path = stage_of(Path(place).expanduser()) / "model.safetensors"
        return load_file(path, image=image, architecture=architecture)
    raise ModelError(f"{spec!r} does not name a model", remedy=suggestion(kind + ":", SPECIFICATIONS))


def stage_of(place: Path) -> Path:
    """DIR/STAGE, where the stage's own slashes are part of its name."""
    for parent in place.parents:
        if (parent / "stages").is_dir():
            return parent / "stages" / str(place.relative_to(parent)).replace("/", "--")
    raise ModelError(
        f"{place} does not lie in a run directory", remedy="write run:DIR/STAGE, e.g. run:runs/demo/contrastive/marked"
    )


def _from_timm(name: str, image: int) -> Normalised:
    bare, _, option = name.partition("?")
    if option not in ("", "random"):
        raise ModelError(f"unknown option {option!r}", remedy="timm:NAME or timm:NAME?random")
    if not bare.startswith("hf-hub:") and not timm.is_model(bare):
        near = timm.list_models(f"*{bare.split('.')[0][:12]}*")[:5]
        raise ModelError(
            f"timm knows no model {bare!r}", remedy="near: " + (", ".join(near) or "see timm.list_models()")
        )
    try:
        inner = _timm_model(bare, image, pretrained=option != "random")
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot fetch {bare}: {type(error).__name__}",
            remedy="offline: set HF_HUB_OFFLINE=1 with a filled cache, or run huggingface-cli download REPO "
            "--local-dir DIR elsewhere and use dir:DIR",
        ) from error
    encoder = _normalised_like(inner)
    remember(encoder, {"kind": "timm", "name": bare, "image": image})
    record(encoder, Lineage(bare, "timm, random weights" if option else "timm, pre-trained weights"))
    return encoder


def _timm_model(name: str, image: int, *, pretrained: bool, pool: str | None = None) -> nn.Module:
    """Transformers want their image size; convolutional nets do not take one. `pool` replaces the model's own pooling."""
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0} | ({"global_pool": pool} if pool else {})
    try:
        return timm.create_model(name, **options, img_size=image)
    except TypeError:
        return timm.create_model(name, **options)


def _normalised_like(inner: nn.Module) -> Normalised:
    known = getattr(inner, "pretrained_cfg", None) or {}
    mean, std = known.get("mean", (0.5, 0.5, 0.5)), known.get("std", (0.5, 0.5, 0.5))
    return Normalised(inner, mean=tuple(mean), std=tuple(std))


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """An untrained encoder or classifier from what `remember` noted. Raises ModelError for a note that is not one of ours."""
    kind, image = architecture.get("kind"), architecture.get("image")
    if kind == "classifier":
        features, classes, inner = (architecture.get(field) for field in ("features", "classes", "encoder"))
        sizes_fit = all(type(size) is int and 0 < size <= 10**6 for size in (features, classes))
        if not sizes_fit or not isinstance(inner, dict) or inner.get("kind") == "classifier":
            raise ModelError("the architecture record is damaged", remedy="the file was not written by heredity")
        return Classifier(build(inner), features=features, classes=classes)  # pyright: ignore[reportArgumentType]
    if kind in ("transformer", "timm-classifier"):
        from heredity.nn.classifiers import build_classifier  # imports this module

        return build_classifier(architecture)
    if kind == "text":
        from heredity.nn.text import build_text  # imports transformers, which images do without

        return build_text(architecture)
    if type(image) is not int or not 4 <= image <= 4096:
        raise ModelError("the architecture record has no image size", remedy="name the architecture yourself")
    pool, heads = architecture.get("pool"), [architecture.get(field) for field in ("heads", "last_heads")]
    if pool not in (None, "avg", "token") or not all(
        count is None or (type(count) is int and 0 < count <= 4096) for count in heads
    ):
        raise ModelError("the architecture record is damaged", remedy="the file was not written by heredity")
    if kind == "timm" and isinstance(architecture.get("name"), str) and timm.is_model(architecture["name"]):
        encoder = _normalised_like(_timm_model(architecture["name"], image, pretrained=False, pool=pool))
    elif kind == "shape":
        encoder = make_encoder(from_plain(EncoderShape, architecture.get("shape")), image)
    else:
        raise ModelError(f"unknown architecture record {kind!r}", remedy="name the architecture yourself")
    for blocks, count in ((slice(None), heads[0]), (slice(-1, None), heads[1])):
        if count is not None:
            for block in attention_blocks(encoder)[blocks]:
                set_heads(block, count)
    remember(encoder, architecture)
    return encoder


def parse_architecture(text: str, image: int) -> dict[str, Any]:
    """`resnet18`, `vit:width=64,depth=4` or a timm name as an architecture record."""
    kind, _, options = text.partition(":")
    if kind in get_args(get_type_hints(EncoderShape)["kind"]):
        fields: dict[str, Any] = {"kind": kind}
        for option in filter(None, options.split(",")):
            name, _, value = option.partition("=")
            fields[name] = int(value) if value.isdigit() else value
        return {"kind": "shape", "shape": to_plain(from_plain(EncoderShape, fields)), "image": image}
    if timm.is_model(text):
        return {"kind": "timm", "name": text, "image": image}
    raise ModelError(
        f"unknown architecture {text!r}", remedy="residual, resnet18, vit:width=64,depth=4, or a name of timm"
    )


def load_file(path: Path, *, image: int, architecture: str | None = None) -> nn.Module:
    """An encoder or classifier from a file that says its architecture, or whose architecture is named.

    Raises ModelError when it says none, is for another image size, or holds other tensors than its architecture has.
    """
    tensors, metadata = _tensors_of(path)
    if architecture is not None:
        wanted = parse_architecture(architecture, image)
    elif ARCHITECTURE_KEY in metadata:
        wanted = _read_record(metadata[ARCHITECTURE_KEY], path)
        made_for = wanted.get("encoder", wanted).get("image")
        if made_for != image:
            raise ModelError(f"{path} is for images of {made_for} pixels, not {image}", remedy=f"use --size {made_for}")
    else:
        raise ModelError(
            f"{path} does not say its architecture", remedy="add --architecture, e.g. resnet18 or a timm name"
        )
    model = build(wanted)
    bare = isinstance(model, Normalised) and set(tensors) == set(model.inner.state_dict())
    if bare or path.suffix != ".safetensors":
        fit_state(model.inner if bare else model, tensors, source=str(path))  # pyright: ignore[reportArgumentType]
    else:
        load_model(path, model)
    if lineage_of(model).made_by == "unknown":
        record(model, Lineage(path.stem, "a file"))
    return model.eval()


def read_record(path: Path) -> dict[str, Any]:
    """What a file says of its architecture. Raises ModelError when it says nothing."""
    _, metadata = load_tensors(path)
    if ARCHITECTURE_KEY not in metadata:
        raise ModelError(f"{path} does not say its architecture", remedy="give a file that heredity wrote")
    return _read_record(metadata[ARCHITECTURE_KEY], path)


def _read_record(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: the architecture record is damaged", remedy="add --architecture")
    return found


def _tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix not in (".pt", ".pth"):
        return load_tensors(path)
    if not path.is_file():
        raise ModelError(f"no file {path}", remedy="check the path of the model")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} holds more than plain tensors and could run code when opened",
            remedy="convert it to safetensors where you trust it: safetensors.torch.save_file(state_dict, OUT)",
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} is not a state dict", remedy="save model.state_dict()")
    return content, {}


def _from_folder(path: Path, image: int) -> Normalised:
    weights = path / "model.safetensors"
    if not (path / "config.json").is_file() or not weights.is_file():
        raise ModelError(
            f"{path} lacks config.json or model.safetensors", remedy="give a folder that save_pretrained wrote"
        )
    name = read_json(path / "config.json").get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        raise ModelError(
            f"{path}/config.json: field 'architecture' is not a timm model", remedy="give a timm model's folder"
        )
    encoder = _normalised_like(_timm_model(name, image, pretrained=False))
    tensors, _ = load_tensors(weights)
    kept = {key: value for key, value in tensors.items() if key in encoder.inner.state_dict()}
    fit_state(encoder.inner, kept, source=str(weights))
    remember(encoder, {"kind": "timm", "name": name, "image": image})
    record(encoder, Lineage(name, "a save_pretrained folder"))
    return encoder
