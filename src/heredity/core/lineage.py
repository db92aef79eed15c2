"""Who a saved model's parents are: a birth certificate inside every safetensors file."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.files import write_bytes

METADATA_KEY = "heredity.lineage"
ARCHITECTURE_KEY = "heredity.architecture"
_ATTRIBUTE = "heredity_lineage"
_ARCHITECTURE = "heredity_architecture"
_MAX_DEPTH = 64
_MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Lineage:
    """One ancestor: what it is called, which transfer made it, with which settings, from which parents.

    `content` is the SHA-256 of the tensors (names, types, shapes and bytes), so that a renamed or re-saved file keeps its
    identity and a changed weight loses it. `marks` are remarks a reader of the file must know, such as an ownership mark.
    """

    name: str
    made_by: str
    content: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple["Lineage", ...] = ()
    marks: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)

    @staticmethod
    def from_plain(plain: Any, *, depth: int = 0) -> "Lineage":
        """From the JSON data of a file, which may be hostile: types and depth are checked. Raises ModelError."""
        if depth > _MAX_DEPTH or not isinstance(plain, dict):
            raise ModelError("the lineage record is malformed", remedy="the file was not written by heredity")
        texts = [plain.get(key, "") for key in ("name", "made_by", "content")]
        parents, marks, settings = plain.get("parents", []), plain.get("marks", []), plain.get("settings", {})
        well_formed = (
            all(isinstance(text, str) for text in texts)
            and isinstance(parents, list)
            and isinstance(marks, list)
            and all(isinstance(mark, str) for mark in marks)
            and isinstance(settings, dict)
        )
        if not well_formed:
            raise ModelError("the lineage record is malformed", remedy="the file was not written by heredity")
        made = tuple(Lineage.from_plain(parent, depth=depth + 1) for parent in parents)
        return Lineage(*texts, settings=settings, parents=made, marks=tuple(marks))


def content_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted tensors of a state dict.

    >>> content_hash({"w": torch.zeros(2)}) == content_hash({"w": torch.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def lineage_of(model: nn.Module) -> Lineage:
    """The lineage recorded on a model in memory; a model that nobody recorded is of unknown origin."""
    known = getattr(model, _ATTRIBUTE, None)
    return known if isinstance(known, Lineage) else Lineage(name=type(model).__name__, made_by="unknown")


def record(model: nn.Module, lineage: Lineage, *, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Attach a lineage, with the content hash of the weights as they are now, to a model; returns the same model.

    `weights` stand in for a state dict that does not hold plain tensors, such as that of int8 layers.
    """
    known = Lineage(**{**vars(lineage), "content": content_hash(model.state_dict() if weights is None else weights)})
    setattr(model, _ATTRIBUTE, known)
    return model


def remember(model: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Note on a model how its untrained self is built (JSON data), so that a file of its weights can say so."""
    setattr(model, _ARCHITECTURE, dict(architecture))


def architecture_of(model: nn.Module) -> dict[str, Any] | None:
    """What `remember` noted, if anything."""
    return getattr(model, _ARCHITECTURE, None)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; shared tensors are stored once each."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata=dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors and metadata. Raises ModelError for anything else, a pickle included."""
    if not path.is_file():
        raise ModelError(f"no file {path}", remedy="check the path of the model")
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its JSON header, whose two low bytes may be those of a pickle.
    if head[8:] != b"{" and head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened",
            remedy="convert it where you trust it: safetensors.torch.save_file(torch.load(PATH, weights_only=True), OUT)",
        )
    if len(head) < 8 or struct.unpack("<Q", head[:8])[0] > _MAX_HEADER:
        raise ModelError(f"{path} is not a safetensors file", remedy="give a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return load_file(path), metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}", remedy="give a .safetensors file") from error


def save_model(path: Path, model: nn.Module) -> Lineage:
    """Save a model's weights with its lineage, and its architecture where it is known. Returns the lineage written."""
    lineage = lineage_of(record(model, lineage_of(model)))
    metadata = {METADATA_KEY: json.dumps(lineage.to_plain())}
    if (architecture := architecture_of(model)) is not None:
        metadata[ARCHITECTURE_KEY] = json.dumps(architecture)
    save_tensors(path, model.state_dict(), metadata)
    return lineage


def read_lineage(path: Path) -> Lineage:
    """The lineage inside a file. Raises ModelError when it has none or when the weights are not those it was written for."""
    tensors, metadata = load_tensors(path)
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path} carries no lineage", remedy="only files that heredity wrote carry one")
    try:
        lineage = Lineage.from_plain(json.loads(metadata[METADATA_KEY]))
    except ValueError as error:
        raise ModelError(f"{path}: the lineage record is not JSON", remedy="the file was damaged") from error
    if lineage.content != content_hash(tensors):
        raise ModelError(
            f"{path}: the weights are not those the lineage was written for", remedy="the file was changed after saving"
        )
    return lineage


def load_model(path: Path, model: nn.Module) -> nn.Module:
    """Load weights and lineage into a model of the same shape. Raises ModelError naming the first tensor that differs."""
    tensors, metadata = load_tensors(path)
    fit_state(model, tensors, source=str(path))
    if METADATA_KEY in metadata:
        setattr(model, _ATTRIBUTE, Lineage.from_plain(json.loads(metadata[METADATA_KEY])))
    return model


def fit_state(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """`load_state_dict` with errors that name the tensor, and a refusal of weights that are not finite."""
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        first = f"lacks {missing[0]!r}" if missing else f"has an unknown {unknown[0]!r}"
        raise ModelError(
            f"{source} {first} ({len(missing)} missing, {len(unknown)} unknown tensors)",
            remedy=f"name the architecture it was saved from; {type(model).__name__} was expected",
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{source}: {name!r} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}",
                remedy="name the architecture it was saved from",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{source}: {name!r} holds values that are not finite", remedy="the training diverged")
    model.load_state_dict(dict(tensors))
