"""What an owner does with SSL-WM on an encoder of their own: `heredity ssl-wm keygen | embed | verify`."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from torch import Tensor, nn

from heredity.core.errors import HeredityError
from heredity.core.files import ensure_writable, write_json
from heredity.core.lineage import save_model
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import Classifier, feature_size
from heredity.nn.inference import top1
from heredity.nn.resolver import resolve_encoder
from heredity.systems.ssl_wm.embed import Embedding, embed_mark
from heredity.systems.ssl_wm.keys import (
    Key,
    KeyParameters,
    derive_patches,
    generate_key,
    load_key,
    random_patches,
    save_key,
)
from heredity.systems.ssl_wm.verification import Verdict, ask, decide, permutation_test

MARK = "carries an ownership mark (SSL-WM)"


def keygen(
    key: Annotated[Path, tyro.conf.Positional],
    owner: str,
    size: int = 32,
    patch: int | None = None,
    margin: int | None = None,
    sub_keys: int = 8,
) -> str:
    """Make an ownership key and write it to KEY (readable by you alone).

    Args:
        key: File to write, e.g. mine.key.json. It must not exist.
        owner: Who you are; part of what the patches are derived from.
        size: Side of your encoder's images in pixels.
        patch: Side of a patch in pixels: a quarter of the image unless given (a third below 24 pixels).
        margin: Pixels between patch and border: a sixteenth of the image unless given.
        sub_keys: Patches in the key.
    """
    if key.exists():
        raise HeredityError(f"{key} exists", remedy="choose another name: an overwritten key cannot be brought back")
    side = patch if patch is not None else max(2, size // 4 if size >= 24 else size // 3)
    edge = margin if margin is not None else max(1, size // 16)
    shape = KeyParameters(sub_keys=sub_keys, patch=side, margin=edge, reference_size=size)
    save_key(key, generate_key(owner, shape))
    return f"{key}: {sub_keys} patches of {side} x {side} for images of {size} pixels. Keep it secret, and keep a copy."


def embed(
    key: Annotated[Path, tyro.conf.Positional],
    encoder: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    images: str = "photos",
    architecture: str | None = None,
    steps: int = 1000,
    batch: int = 48,
    distance: float = 5.0,
    seed: int = 0,
    skip_corrupt: bool = False,
) -> str:
    """Hide the key's mark in ENCODER and write the marked encoder to OUT (.safetensors). Needs no labels.

    Args:
        key: Key file that keygen wrote.
        encoder: timm:NAME, file:PATH, dir:PATH or run:DIR/STAGE.
        out: File to write.
        images: Unlabelled images: any data source, see heredity data.
        architecture: Shape of weights that do not say it: a timm name, resnet18, vit:width=64,depth=4.
        steps: Optimiser steps.
        batch: Images a step; as many stamped and decoy images are added.
        distance: How far out marked images go, in feature norms: farther survives more and shows more (kappa).
        seed: Seed of the training.
        skip_corrupt: Skip pictures that cannot be read instead of stopping.
    """
    owned = load_key(key)
    ensure_writable(out)
    size = owned.parameters.reference_size
    source = load_images(images, size=size, seed=seed, skip_corrupt=skip_corrupt)
    parent = resolve_encoder(encoder, image=size, architecture=architecture)
    if isinstance(parent, Classifier):
        raise HeredityError(f"{encoder} is a classifier, not an encoder", remedy="give the encoder before its head")
    how = Embedding()
    how = replace(how, loss=replace(how.loss, distance=distance), plan=replace(how.plan, steps=steps, batch=batch))
    with Run.temporary(seed=seed, reporter=Reporter()) as run:
        marked = mark_encoder(parent, source.train.images, owned, how, run)
    lineage = save_model(out, marked)
    description = {"sha256": lineage.content, "architecture": encoder, "feature_dim": feature_size(marked, image=size)}
    save_key(key, replace(owned, encoder=description))
    return f"{out}: marked encoder, content {lineage.content[:16]}; noted in {key}"


def mark_encoder(parent: nn.Module, images: Tensor, key: Key, how: Embedding, run: Run) -> nn.Module:
    """A marked copy of an encoder (uint8 images -> features), with its lineage. The parent stays as it is."""

    def make() -> nn.Module:
        return copy.deepcopy(parent)

    marked = run.model(
        "marked",
        make=make,
        train=lambda encoder: embed_mark(encoder, images, key, how, run),
        made_by="SSL-WM embedding",
        parents=[parent],
        settings=how,
        marks=(MARK,),
    )
    return marked


@dataclass(frozen=True)
class Verified:
    """A verdict with what it rests on."""

    verdict: Verdict
    sentence: str
    alpha: float
    decoys: int
    images: int

    def __str__(self) -> str:
        v = self.verdict
        how = "all picks enumerated" if v.exact else f"{v.picks:,} sampled picks"
        return (
            f"{self.sentence}\n"
            f"  p = {v.p:.3g} ({how}; 95 % interval {v.interval[0]:.2g} to {v.interval[1]:.2g}; floor {v.floor:.2g})\n"
            f"  flip rate {v.flip_true:.2f} under the owner's patches, {v.flip_decoy:.2f} under {self.decoys} decoys\n"
            f"  {v.queries:,} queries on {self.images} images\n"
            "  Null hypothesis: the suspect was made without access to the secret. A key that was not published before the\n"
            "  suspect appeared proves nothing by itself: anyone can search for one."
        )


def verify(
    key: Annotated[Path, tyro.conf.Positional],
    suspect: Annotated[str, tyro.conf.Positional],
    images: str = "photos",
    size: int | None = None,
    number: int = 128,
    decoys: int = 24,
    alpha: float = 1e-4,
    picks: int = 1_000_000,
    nonce: str = "",
    out: Path | None = None,
) -> Verified:
    """Ask a SUSPECT model for labels and tell whether its behaviour is bound to the key.

    Args:
        key: Key file that keygen wrote.
        suspect: A classifier that heredity wrote (file:PATH or run:DIR/STAGE), or module:function taking uint8 images.
        images: Base images of the suspect's kind, best ones it was not trained on: any data source.
        size: Side of the suspect's images, if not the key's.
        number: How many base images.
        decoys: How many foreign patches to compare with.
        alpha: Level of the verdict; choose it before asking.
        picks: Sampled permutations where they are too many to enumerate.
        nonce: A text that the owner did not choose (a verifier's or a public beacon's): seeds decoys and base images.
        out: File for the verdict as JSON.
    """
    owned = load_key(key)
    source = load_images(images, size=size or owned.parameters.reference_size)
    model = resolve_suspect(suspect, source.test.images.shape[-1])
    order = np.random.default_rng(seed_of("base images", nonce)).permutation(len(source.test.images))[:number]
    result = verify_suspect(
        model, source.test.images[order], owned, decoys=decoys, alpha=alpha, picks=picks, nonce=nonce
    )
    if out is not None:
        write_json(out, asdict(result))
    return result


def verify_suspect(
    suspect: Callable[[Tensor], Tensor],
    images: Tensor,
    key: Key,
    *,
    decoys: int = 24,
    alpha: float = 1e-4,
    picks: int = 1_000_000,
    nonce: str = "",
) -> Verified:
    """Verify any function from uint8 images (n x 3 x size x size) to n top-1 labels.

    >>> key = generate_key("me", KeyParameters(patch=5, margin=1, reference_size=16))
    >>> suspect = lambda images: (images.float().mean(dim=(1, 2, 3)) > 99).long()
    >>> verify_suspect(suspect, load_images("digits").test.images[:32], key, picks=1000).verdict.p > 0.001
    True
    """
    patches = random_patches(decoys, key.parameters, generator_of("decoys", nonce, key.created))
    answers = ask(suspect, images, derive_patches(key), patches, key.parameters)
    verdict = permutation_test(answers, random=np.random.default_rng(seed_of("picks", nonce, key.created)), picks=picks)
    return Verified(verdict, decide(verdict, alpha), alpha, decoys, len(images))


def resolve_suspect(spec: str, size: int) -> Callable[[Tensor], Tensor]:
    """A suspect as a function from uint8 images to labels: a classifier file of ours, or a Python callable by name."""
    if spec.startswith(("file:", "run:")):
        model = resolve_encoder(spec, image=size)
        if not isinstance(model, Classifier):
            raise HeredityError(f"{spec} is an encoder, not a classifier", remedy="give the downstream model")
        return lambda images: top1(model, images)
    module, colon, name = spec.partition(":")
    if not colon or not name.isidentifier():
        raise HeredityError(f"{spec!r} does not name a suspect", remedy="file:PATH, run:DIR/STAGE or module:function")
    import importlib
    import sys

    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HeredityError(f"cannot import {spec}: {error}", remedy="run where the module lies") from error
    finally:
        sys.path.pop(0)
    return found


COMMANDS = {"keygen": keygen, "embed": embed, "verify": verify}
