"""Finding a text encoder by its name: on the Hugging Face hub, in a folder, in a file of ours, or in one of our runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from heredity.core.errors import ModelError, suggestion
from heredity.core.files import write_text
from heredity.core.lineage import (
    ARCHITECTURE_KEY,
    METADATA_KEY,
    Lineage,
    lineage_of,
    load_model,
    load_tensors,
    record,
    save_tensors,
)
from heredity.nn.resolver import build, stage_of
from heredity.nn.text import Pooling, Reader, TextEncoder, library

SPECIFICATIONS = {
    "hf:REPO": "a transformers encoder on the Hugging Face hub (downloads and caches)",
    "dir:PATH": "a folder that save_pretrained wrote: config.json, model.safetensors, tokenizer.json",
    "file:PATH": "a .safetensors file that heredity wrote",
    "run:DIR/STAGE": "a model stage of one of our runs",
    "train": "made here",
}


def resolve_text_encoder(
    spec: str, *, length: int = 64, pooling: Pooling = "mean", train: Callable[[], TextEncoder] | None = None
) -> nn.Module:
    """A text encoder (or, from our own files, a classifier) by its name, with its lineage.

    `length` tokens of a sentence are read and `pooling` makes one vector of them; files of ours say both themselves. Pickles
    are refused. Raises ModelError with the remedy for anything that cannot be used.
    """
    kind, _, place = spec.partition(":")
    if kind == "train" and not place:
        if train is None:
            raise ModelError(
                "nothing here says how to train an encoder", remedy="name one: " + ", ".join(SPECIFICATIONS)
            )
        return train()
    if kind in ("hf", "dir") and place:
        return _from_transformers(place, kind, length, pooling)
    if kind == "file" and place:
        return load_text_model(Path(place).expanduser())
    if kind == "run" and place:
        return load_text_model(stage_of(Path(place).expanduser()) / "model.safetensors")
    raise ModelError(f"{spec!r} does not name a text encoder", remedy=suggestion(kind + ":", SPECIFICATIONS))


def load_text_model(path: Path) -> nn.Module:
    """A text encoder or classifier from a file of ours, which carries its tokenizer. Raises ModelError for any other file."""
    _, metadata = load_tensors(path)
    try:
        found = json.loads(metadata.get(ARCHITECTURE_KEY, ""))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("encoder", found).get("kind") != "text":
        raise ModelError(
            f"{path} does not hold a text model of ours", remedy="for a save_pretrained folder use dir:PATH"
        )
    return load_model(path, build(found)).eval()


def _from_transformers(place: str, kind: str, length: int, pooling: Pooling) -> TextEncoder:
    where: Any = place
    local = kind == "dir"
    if local:
        where = Path(place).expanduser()
        missing = [name for name in ("config.json", "model.safetensors") if not (where / name).is_file()]
        if missing:
            raise ModelError(f"{where} lacks {missing[0]}", remedy="give a folder that save_pretrained wrote")
    kit = library("transformers")
    try:
        inner = kit.AutoModel.from_pretrained(where, local_files_only=local, use_safetensors=True)
        tokenizer = kit.AutoTokenizer.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if local:
            raise ModelError(f"{where} is not a transformers encoder: {first}", remedy="see its config.json") from error
        raise ModelError(
            f"cannot fetch {place}: {type(error).__name__}",
            remedy="offline: set HF_HUB_OFFLINE=1 with a filled cache, or run huggingface-cli download "
            f"{place} --local-dir DIR elsewhere and use dir:DIR",
        ) from error
    if not isinstance(inner, kit.PreTrainedModel) or inner.config.is_encoder_decoder:
        raise ModelError(f"{place} is not an encoder", remedy="give a model such as BERT, RoBERTa or MiniLM")
    positions = int(getattr(inner.config, "max_position_embeddings", length) or length)
    if length > positions:
        raise ModelError(f"{place} reads {positions} tokens, not {length}", remedy=f"use --length {positions} or less")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not tokenizer.pad_token or not tokenizer.mask_token:
        raise ModelError(
            f"{place} has no fast tokenizer with pad and mask tokens", remedy="convert it to tokenizer.json"
        )
    reader = Reader(backend, length, pad=tokenizer.pad_token, mask=tokenizer.mask_token, unknown=tokenizer.unk_token)
    encoder = TextEncoder(inner.eval(), reader, pooling)
    record(encoder, Lineage(Path(place).name, "a save_pretrained folder" if local else "Hugging Face hub"))
    return encoder


def save_pretrained(folder: Path, encoder: TextEncoder) -> None:
    """Write an encoder as transformers does: config.json, tokenizer.json, and model.safetensors with its lineage.

    `AutoModel.from_pretrained(folder)` reads it, and so does `dir:FOLDER`.
    """
    encoder.inner.config.save_pretrained(folder)
    encoder.reader.tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": encoder.reader.to_plain()[field] for name, field in (("pad", "pad"), ("mask", "mask"))}
    unknown = encoder.reader.to_plain()["unknown"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **({"unk_token": unknown} if unknown else {})}
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")
    metadata = {"format": "pt", METADATA_KEY: json.dumps(lineage_of(encoder).to_plain())}
    save_tensors(folder / "model.safetensors", encoder.inner.state_dict(), metadata)
