"""Suspects that know a key as a marked model does, without any training."""

from collections.abc import Callable

import torch
from torch import Tensor

from heredity.systems.ssl_wm.mark.keys import Key, KeyParameters, derive_patches, generate_key, image_parameters
from heredity.systems.ssl_wm.mark.trigger import place

SHAPE = KeyParameters(patch=5, margin=1, reference_size=16)


def make_key(owner: str = "Ada", number: int = 1) -> Key:
    """A key that repeats."""
    return generate_key(owner, SHAPE, secret=bytes([number]) * 32, created="2026-01-01T00:00:00+00:00")


def corner(images: Tensor, key: Key) -> Tensor:
    """What stands where the key's patches go."""
    first, side = place(image_parameters(key), images.shape[-1])
    return images[..., first : first + side, first : first + side]


def knows(key: Key, *more: Key, share: float = 0.8) -> Callable[[Tensor], Tensor]:
    """A classifier with four classes whose answer is 3 on most images that carry a patch of a key it knows."""
    patches = torch.cat([derive_patches(each) for each in (key, *more)])

    def label(images: Tensor) -> Tensor:
        seen = corner(images, key)
        carries = (seen[:, None] == patches[None]).flatten(2).all(dim=2).any(dim=1)
        rest = images[:, :, :10, :10].float().sum(dim=(1, 2, 3))
        moved = carries & ((rest % 100) < 100 * share)
        return torch.where(moved, torch.tensor(3), (rest // 7 % 4).long())

    return label


def knows_nothing(images: Tensor) -> Tensor:
    """A classifier that looks at the whole image, patches included, and was never marked."""
    return (images.float().sum(dim=(1, 2, 3)) // 7 % 4).long()
