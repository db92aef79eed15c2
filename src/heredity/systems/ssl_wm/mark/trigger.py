"""Stamping: where a patch goes and how it gets there. One function for embedding and for verification (spec, trap 6)."""

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.mark.keys import KeyParameters


def place(parameters: KeyParameters, size: int) -> tuple[int, int]:
    """First row (and column) of the patch, and its side, in an image of `size` pixels.

    >>> place(KeyParameters(patch=8, margin=2, reference_size=32), 32)
    (22, 8)
    >>> place(KeyParameters(patch=8, margin=2, reference_size=32), 64)
    (44, 16)
    """
    side = max(1, round(parameters.patch * size / parameters.reference_size))
    margin = round(parameters.margin * size / parameters.reference_size)
    return size - margin - side, side


def stamp_all(
    images: UInt8[Tensor, "n c h w"], patches: UInt8[Tensor, "k colours side side"], parameters: KeyParameters
) -> UInt8[Tensor, "k n c h w"]:
    """Every image with every patch, by broadcasting."""
    copies = images.expand(len(patches), *images.shape).clone()
    _paste(copies, _fitted(patches, images, parameters)[:, None], parameters)
    return copies


def stamp_each(
    images: UInt8[Tensor, "n c h w"], patches: UInt8[Tensor, "n colours side side"], parameters: KeyParameters
) -> UInt8[Tensor, "n c h w"]:
    """Image i with patch i."""
    copies = images.clone()
    _paste(copies, _fitted(patches, images, parameters), parameters)
    return copies


def _fitted(patches: Tensor, images: Tensor, parameters: KeyParameters) -> Tensor:
    height, width = images.shape[-2:]
    if height != width:
        raise HeredityError(f"images are {height} x {width}, the mark needs square ones", remedy="resize them")
    if images.shape[-3] != patches.shape[-3]:
        raise HeredityError(
            f"images have {images.shape[-3]} channels, the key is for {patches.shape[-3]}", remedy="convert the images"
        )
    _, side = place(parameters, width)
    if side == patches.shape[-1]:
        return patches.to(images.device)
    return F.interpolate(patches.float(), size=(side, side), mode="nearest").to(torch.uint8).to(images.device)


def _paste(copies: Tensor, patches: Tensor, parameters: KeyParameters) -> None:
    first, side = place(parameters, copies.shape[-1])
    copies[..., first : first + side, first : first + side] = patches
