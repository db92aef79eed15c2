"""What verification needs to know of a kind of input, so that one protocol serves images and text."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from heredity.core.errors import HeredityError, suggestion
from heredity.systems.ssl_wm.mark import text_trigger
from heredity.systems.ssl_wm.mark.keys import Key, derive_patches, image_parameters, random_patches
from heredity.systems.ssl_wm.mark.text_keys import derive_words, random_words
from heredity.systems.ssl_wm.mark.trigger import stamp_all


@dataclass(frozen=True)
class Modality:
    """How sub-keys are derived, drawn as decoys, put into inputs, and how one input travels.

    `derive(key)` gives the owner's sub-keys; `decoys(key, count, generator)` fresh ones from the same distribution;
    `stamp(inputs, sub_key, key, seed)` puts one sub-key into every input (`seed` serves marks with a random place; what
    becomes of an input must not depend on its neighbours);
    `encode(input)` gives the canonical bytes that a transcript hashes; `payload(input)` the JSON object that is sent;
    `overlap(sub_keys)` the largest share that two sub-keys have in common, 0..1. Inputs are anything with a length that
    gives one input at `inputs[i]`; `choose(inputs, places)` gives some of them and `join(parts)` puts several together.
    """

    name: str
    derive: Callable[[Key], Sequence[Any] | Tensor]
    decoys: Callable[[Key, int, torch.Generator], Sequence[Any] | Tensor]
    stamp: Callable[[Any, Any, Key, int], Any]
    encode: Callable[[Any], bytes]
    payload: Callable[[Any], dict[str, str]]
    overlap: Callable[[Any], float]
    choose: Callable[[Any, Sequence[int]], Any]
    join: Callable[[Sequence[Any]], Any]


def png_of(image: UInt8[Tensor, "3 height width"]) -> bytes:
    """An RGB image as PNG, the same bytes for the same pixels.

    >>> png_of(torch.zeros(3, 4, 4, dtype=torch.uint8))[:4]
    b'\\x89PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _equal_pixels(patches: Tensor) -> float:
    flat = patches.flatten(1)
    pairs = [(flat[i] == flat[j]).float().mean().item() for i in range(len(flat)) for j in range(i)]
    return max(pairs, default=0.0)


IMAGE = Modality(
    name="image",
    derive=derive_patches,
    decoys=lambda key, count, generator: random_patches(count, image_parameters(key), generator),
    stamp=lambda images, patch, key, seed: stamp_all(images, patch[None], image_parameters(key))[0],
    encode=png_of,
    payload=lambda image: {"image": base64.b64encode(png_of(image)).decode("ascii")},
    overlap=_equal_pixels,
    choose=lambda images, places: images[torch.as_tensor(list(places), dtype=torch.long)],
    join=lambda parts: torch.cat(list(parts)),
)


def _shared_words(groups: Sequence[Sequence[str]]) -> float:
    pairs = [len({*a} & {*b}) / len(a) for place, a in enumerate(groups) for b in groups[:place]]
    return max(pairs, default=0.0)


TEXT = Modality(
    name="text",
    derive=derive_words,
    decoys=lambda key, count, generator: random_words(count, key.parameters, generator),
    stamp=lambda texts, words, key, seed: text_trigger.stamp(texts, words, seed, within=key.parameters.within),
    encode=str.encode,
    payload=lambda text: {"text": text},
    overlap=_shared_words,
    choose=lambda texts, places: [texts[place] for place in places],
    join=lambda parts: [text for part in parts for text in part],
)

MODALITIES = {"image": IMAGE, "text": TEXT}


def modality_of(key: Key) -> Modality:
    """The modality of a key. Raises HeredityError for one that this build does not know."""
    if key.modality not in MODALITIES:
        raise HeredityError(f"the key is for {key.modality!r} inputs", remedy=suggestion(key.modality, MODALITIES))
    return MODALITIES[key.modality]
