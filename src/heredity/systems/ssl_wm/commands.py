"""What an owner does with SSL-WM on an encoder of their own: `heredity ssl-wm keygen | embed | commit | verify | search`."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from heredity.core.errors import HeredityError, ModelError, TrainingError
from heredity.core.files import ensure_writable
from heredity.core.lineage import content_hash, load_tensors, save_model, save_tensors
from heredity.core.progress import Reporter
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.data.text import load_text
from heredity.nn.encoders import Classifier, feature_size
from heredity.nn.inference import outputs
from heredity.nn.resolver import resolve_encoder
from heredity.systems.ssl_wm.mark.embed import Embedding, embed_mark
from heredity.systems.ssl_wm.mark.keys import (
    Key,
    KeyParameters,
    generate_key,
    image_parameters,
    is_protected,
    load_key,
    save_key,
)
from heredity.systems.ssl_wm.mark.text_keys import TextKeyParameters, choose_pool
from heredity.systems.ssl_wm.mark.vault import passphrase_for
from heredity.systems.ssl_wm.proof.commitment import (
    Commitment,
    commit_to,
    commitment_path,
    load_commitment,
    save_commitment,
)
from heredity.systems.ssl_wm.proof.modality import modality_of
from heredity.systems.ssl_wm.proof.search import search
from heredity.systems.ssl_wm.proof.suspects import resolve_suspect
from heredity.systems.ssl_wm.proof.verify import Verified, verify, verify_suspect

if TYPE_CHECKING:
    from heredity.systems.ssl_wm.mark.embed_text import TextEmbedding

MARK = "carries an ownership mark (SSL-WM)"
_OVERLAP = {"image": 0.25, "text": 0.0}


def keygen(
    key: Annotated[Path, tyro.conf.Positional],
    owner: str,
    size: int = 32,
    patch: int | None = None,
    margin: int | None = None,
    sub_keys: int = 8,
    corpus: str | None = None,
    rarest: float = 0.3,
    tokenizer: str | None = None,
    words: int = 3,
    protect: bool = False,
) -> str:
    """Make an ownership key and write it to KEY (readable by you alone).

    Args:
        key: File to write, e.g. mine.key.json. It must not exist.
        owner: Who you are; part of what the sub-keys are derived from.
        size: Side of your encoder's images in pixels.
        patch: Side of a patch in pixels: a quarter of the image unless given (a third below 24 pixels).
        margin: Pixels between patch and border: a sixteenth of the image unless given.
        sub_keys: Patches or word groups in the key.
        corpus: For a key that marks text: a text source whose rare words the key draws from; see heredity data.
        rarest: The share of its words (0..1), rarest first, that may be drawn.
        tokenizer: The text encoder (hf:REPO, dir:PATH, file:PATH) whose tokenizer must know those words.
        words: Words in a group of a text key.
        protect: Encrypt the file under a passphrase (typed, or from HEREDITY_KEY_PASSPHRASE or _FILE).
    """
    if key.exists():
        raise HeredityError(f"{key} exists", remedy="choose another name: an overwritten key cannot be brought back")
    ensure_writable(key)
    if corpus is not None:
        pool = choose_pool(load_text(corpus).corpus, known=_known_to(tokenizer), rarest=rarest)
        shape: KeyParameters | TextKeyParameters = TextKeyParameters(sub_keys=sub_keys, words=words, pool=pool)
        said = f"{sub_keys} groups of {words} words out of {len(pool):,}"
    else:
        side = patch if patch is not None else max(2, size // 4 if size >= 24 else size // 3)
        edge = margin if margin is not None else max(1, size // 16)
        shape = KeyParameters(sub_keys=sub_keys, patch=side, margin=edge, reference_size=size)
        said = f"{sub_keys} patches of {side} x {side} for images of {size} pixels"
    passphrase = passphrase_for(key, twice=True) if protect else None
    save_key(key, _unlike(owner, shape), passphrase=passphrase)
    return f"{key}: {said}. Keep it secret, and keep a copy."


def _known_to(encoder: str | None) -> Callable[[str], bool] | None:
    if encoder is None:
        return None
    from heredity.nn.text_resolver import resolve_text_encoder  # imports transformers, which images do without

    return resolve_text_encoder(encoder).reader.knows  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def _unlike(owner: str, shape: KeyParameters | TextKeyParameters) -> Key:
    """A key whose sub-keys do not overlap: one that half equals another would tie with it (spec, trap 15)."""
    for _ in range(50):
        key = generate_key(owner, shape)
        modality = modality_of(key)
        if modality.overlap(modality.derive(key)) <= _OVERLAP[modality.name]:
            return key
    raise HeredityError(
        "50 keys in a row had sub-keys that overlap", remedy="make patches larger, sub-keys fewer, or the corpus larger"
    )


def embed(
    key: Annotated[Path, tyro.conf.Positional],
    encoder: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    images: str | None = None,
    architecture: str | None = None,
    steps: int = 1000,
    batch: int = 48,
    distance: float | None = None,
    jpeg: tuple[int, int] | None = (20, 95),
    seed: int = 0,
    skip_corrupt: bool = False,
) -> str:
    """Hide the key's mark in ENCODER and write the marked encoder to OUT (.safetensors). Needs no labels.

    Args:
        key: Key file that keygen wrote.
        encoder: timm:NAME, file:PATH, dir:PATH or run:DIR/STAGE; for a text key hf:REPO, file:PATH, dir:PATH or run:...
        out: File to write.
        images: Unlabelled inputs: any data source, see heredity data; photos, or grammar for a text key, unless given.
        architecture: Shape of weights that do not say it: a timm name, resnet18, vit:width=64,depth=4.
        steps: Optimiser steps.
        batch: Inputs a step; as many stamped and decoy inputs are added.
        distance: How far out marked inputs go, in feature norms: farther survives more and shows more (kappa). 5 for images
            and 3 for text unless given.
        jpeg: Lowest and highest quality at which every fourth stamped picture is compressed, so that a service that
            compresses its inputs does not lose the mark; None for never. Texts are not compressed.
        seed: Seed of the training.
        skip_corrupt: Skip pictures that cannot be read instead of stopping.
    """
    owned = load_key(key)
    passphrase = passphrase_for(key) if is_protected(key) else None
    ensure_writable(out)
    inputs: Any
    if owned.modality == "text":
        from heredity.nn.text_resolver import resolve_text_encoder  # imports transformers, which images do without
        from heredity.systems.ssl_wm.mark.embed_text import TextEmbedding

        inputs, parent = load_text(images or "grammar", seed=seed).corpus, resolve_text_encoder(encoder)
        how: Any = TextEmbedding()
    else:
        size = image_parameters(owned).reference_size
        inputs = load_images(images or "photos", size=size, seed=seed, skip_corrupt=skip_corrupt).train.images
        parent, how = resolve_encoder(encoder, image=size, architecture=architecture), Embedding(jpeg=jpeg)
    if isinstance(parent, Classifier):
        raise HeredityError(f"{encoder} is a classifier, not an encoder", remedy="give the encoder before its head")
    loss = how.loss if distance is None else replace(how.loss, distance=distance)
    how = replace(how, loss=loss, plan=replace(how.plan, steps=steps, batch=batch))
    public = commitment_path(key)
    if public.exists() and load_commitment(public).encoder_sha256:
        raise HeredityError(
            f"{key} is committed to an encoder ({public})",
            remedy="make a new key for another encoder, or remove the commitment if it was never published",
        )
    with Run.temporary(seed=seed, reporter=Reporter()) as run:
        try:
            marked = mark_encoder(parent, inputs, owned, how, run)
        except TrainingError as error:
            raise TrainingError(error.problem, remedy=_last_good(run, out)) from error
    lineage = save_model(out, marked)
    few = marked.reader.tokens(inputs[:2]) if owned.modality == "text" else inputs[:2]
    width = outputs(marked, few).shape[1]
    description = {"sha256": lineage.content, "architecture": encoder, "feature_dim": width}
    noted = replace(owned, encoder=description)
    said = f"{out}: marked encoder, content {lineage.content[:16]}; noted in {key}"
    if not public.exists():
        commitment = commit_to(noted, lineage.content)
        save_commitment(public, commitment)
        noted = replace(noted, commitment=commitment.commitment)
        said += "\n" + _publish(public, commitment)
    save_key(key, noted, passphrase=passphrase)
    return said


def _last_good(run: Run, out: Path) -> str:
    """Keep the weights of the last checkpoint before training went wrong, where there is one; returns the remedy."""
    kept = run.directory / "stages" / "marked" / "fits" / "0.safetensors"
    advice = "try a smaller --distance"
    if not kept.exists():
        return f"{advice}; no checkpoint had been written yet"
    state = {name[6:]: value for name, value in load_tensors(kept)[0].items() if name.startswith("model/")}
    if not all(bool(value.isfinite().all()) for value in state.values()):
        return f"{advice}; the last checkpoint was no better"
    place = out.with_suffix(".last-good.safetensors")
    save_tensors(place, state, {})
    return f"{advice}; the weights of the last checkpoint are in {place}"


def check_markable(encoder: nn.Module, batch: int) -> None:
    """Refuse an encoder that cannot be trained, and a batch too small to be. Raises ModelError with the remedy."""
    if batch < 2:
        raise ModelError(f"a batch of {batch} is too small to embed with", remedy="give --batch 2 or more, better 32")
    kinds = {tensor.dtype for tensor in (*encoder.parameters(), *encoder.buffers())}
    quantised = any("quantized" in type(module).__module__ for module in encoder.modules())
    if quantised or kinds & {torch.int8, torch.uint8, torch.qint8, torch.quint8, torch.qint32}:
        raise ModelError(
            "the encoder is quantised to 8 bits and cannot be trained",
            remedy="mark the float encoder, then quantise it",
        )
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ModelError(
            "every parameter of the encoder is frozen (requires_grad is False)",
            remedy="call encoder.requires_grad_(True)",
        )


def mark_encoder(
    parent: nn.Module, images: Tensor | Sequence[str], key: Key, how: "Embedding | TextEmbedding", run: Run
) -> Any:
    """A marked copy of an encoder (uint8 images, or texts, -> features), with its lineage. The parent stays as it is.

    Raises ModelError for an encoder that cannot be trained, or whose features are not one vector an input.
    """
    check_markable(parent, how.plan.batch)
    if isinstance(how, Embedding):
        feature_size(parent, image=image_parameters(key).reference_size)

    def train(encoder: Any) -> None:
        if isinstance(how, Embedding):
            embed_mark(encoder, torch.as_tensor(images), key, how, run)
        else:
            from heredity.systems.ssl_wm.mark.embed_text import embed_text_mark

            embed_text_mark(encoder, list(images), key, how, run)  # pyright: ignore[reportArgumentType]

    def make() -> nn.Module:
        return copy.deepcopy(parent)

    marked = run.model(
        "marked",
        make=make,
        train=train,
        made_by="SSL-WM embedding",
        parents=[parent],
        settings=how,
        marks=(MARK,),
    )
    return marked


def commit(
    key: Annotated[Path, tyro.conf.Positional],
    encoder: Path | None = None,
    out: Path | None = None,
) -> str:
    """Write the public commitment to KEY and to the encoder that carries its mark: to be published before release.

    Args:
        key: Key file that keygen wrote.
        encoder: The marked encoder (.safetensors); the one that embed noted in the key unless given.
        out: File to write; NAME.commitment.json beside the key unless given.
    """
    owned = load_key(key)
    marked = content_hash(load_tensors(encoder)[0]) if encoder is not None else owned.encoder.get("sha256")
    path = out or commitment_path(key)
    passphrase = passphrase_for(key) if is_protected(key) else None
    commitment = commit_to(owned, marked)
    if path.exists() and load_commitment(path).commitment != commitment.commitment:
        raise HeredityError(
            f"{path} holds another commitment", remedy="choose another --out: what was published must not be lost"
        )
    if not path.exists():
        save_commitment(path, commitment)
    save_key(key, replace(owned, commitment=commitment.commitment), passphrase=passphrase)
    without = "" if marked else "\nIt names no encoder, so that verify --against cannot be used: give --encoder."
    return _publish(path, commitment) + without


def _publish(path: Path, commitment: Commitment) -> str:
    return (
        f"{path}: publish this line where its date can be trusted, before the encoder leaves the house\n"
        f"{commitment.commitment}"
    )


COMMANDS = {"keygen": keygen, "embed": embed, "commit": commit, "verify": verify, "search": search}

__all__ = [
    "COMMANDS",
    "Verified",
    "commit",
    "embed",
    "keygen",
    "mark_encoder",
    "resolve_suspect",
    "verify",
    "verify_suspect",
]
