"""Suspects by name: a classifier file of ours, or a Python callable; those behind an address are in `endpoint`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.core.lineage import content_hash
from heredity.nn.encoders import Classifier
from heredity.nn.inference import top1
from heredity.nn.resolver import resolve_encoder
from heredity.systems.ssl_wm.proof.protocol import Suspect


def resolve_suspect(spec: str, size: int) -> Callable[[Tensor], Any]:
    """A suspect as a function from uint8 images to labels. Raises HeredityError for what is neither model nor callable."""
    return _found(spec, size)[0]


def local_suspect(spec: str, size: int | None) -> Suspect:
    """A suspect on this machine, for images of a size, or for text where there is none.

    A file is identified by a hash of its weights, so that its name does not matter.
    """
    ask, name = _found(spec, size)
    return suspect_of(ask, name)


def suspect_of(ask: Callable[[Any], Any], name: str) -> Suspect:
    """Any function from inputs to one label each, as somebody to be asked by the protocol."""
    return Suspect(name, lambda inputs: plain_labels(ask(inputs), len(inputs)))


def load_classifier(spec: str, size: int | None) -> tuple[Classifier, Callable[[Any], Tensor]]:
    """A classifier of ours, file:PATH or run:DIR/STAGE, and how it labels inputs. Raises HeredityError for an encoder."""
    if size is None:
        from heredity.nn.text import labels_of  # imports transformers, which images do without
        from heredity.nn.text_resolver import resolve_text_encoder

        model, label = resolve_text_encoder(spec), labels_of
    else:
        model, label = resolve_encoder(spec, image=size), top1
    if not isinstance(model, Classifier):
        raise HeredityError(f"{spec} is an encoder, not a classifier", remedy="give the downstream model")
    return model, lambda inputs: label(model, inputs)


def _found(spec: str, size: int | None) -> tuple[Callable[[Any], Any], str]:
    if spec.startswith(("file:", "run:")):
        model, label = load_classifier(spec, size)
        return label, f"sha256:{content_hash(model.state_dict())}"
    module, colon, name = spec.partition(":")
    if not colon or not name.isidentifier():
        raise HeredityError(f"{spec!r} does not name a suspect", remedy="file:PATH, run:DIR/STAGE or module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HeredityError(f"cannot import {spec}: {error}", remedy="run where the module lies") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise HeredityError(f"{spec} cannot be called", remedy="name a function from inputs to labels")
    return found, spec


def plain_labels(answer: Any, count: int) -> list[Any]:
    """A tensor, array or list of labels as JSON values. Raises HeredityError when it is not one label an input.

    >>> plain_labels(np.array([0.0, 2.0]), 2)
    [0, 2]
    """
    labels = np.asarray(answer.cpu() if isinstance(answer, Tensor) else answer)
    if labels.shape != (count,):
        raise HeredityError(
            f"the suspect answered an array of shape {labels.shape} to {count} inputs",
            remedy="it must return one top-1 label per input; take the argmax of scores",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise HeredityError("the suspect answered labels that are not numbers", remedy="it must return class numbers")
    if labels.dtype.kind in "USOb":
        return [label if isinstance(label, str | int) else str(label) for label in labels.tolist()]
    if (labels < 0).any():
        raise HeredityError(f"the suspect answered the label {labels.min()}", remedy="labels count from 0")
    return labels.astype(np.int64).tolist()
