"""What teacher and student look at: one geometry for both, colours changed for the student only (section 3.1.2)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from heredity.core.errors import ConfigError
from heredity.core.randomness import Draws, generator_of
from heredity.data.augment import Augmentation, augment
from heredity.data.pictures import Pictures

# Relations are compared position by position: crop and flip must be those of the teacher, colours need not be.
CROPS = Augmentation(scale=(0.2, 1.0), aspect=4 / 3, flip=0.5, brightness=0.0, contrast=0.0)
COLOURS = Augmentation(scale=(1.0, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, jitter=1.0)


@dataclass(frozen=True)
class Views:
    """The views of each image.

    `shift` > 0: moved by up to so many pixels each way, edges repeated: (2 shift + 1)^2 views, a finite set. Else random
    crops by `crop`: drawn anew in every step, or `fixed` > 0 of each image once and for all. Only finite sets can be cached.
    `colour` is the student's own jitter.
    """

    shift: int = 0
    crop: Augmentation = CROPS
    fixed: int = 0
    colour: Augmentation | None = COLOURS

    @property
    def count(self) -> int:
        """How many views each image has; 0 says that they have no end."""
        return (2 * self.shift + 1) ** 2 if self.shift else self.fixed


def check_cacheable(views: Views) -> None:
    """Raises ConfigError when the views have no end."""
    if not views.count:
        raise ConfigError("targets of views that are drawn anew cannot be cached", remedy="set fixed views or a shift")


def view(
    images: Pictures, rows: Int[Tensor, "batch"], how: Views, draws: Draws, *, seed: int
) -> UInt8[Tensor, "b c h w"]:
    """The view that teacher and student share. A finite set counts its rows image by image, view by view."""
    if not how.count:
        return augment(images[rows], how.crop, draws)
    pictures = images[rows // how.count]
    numbers = rows % how.count
    if how.shift:
        return shifted(pictures, numbers, how.shift)
    # Each fixed crop is drawn by its own number alone, so that whoever asks for it gets the same one.
    crops = [
        augment(picture[None], how.crop, Draws(generator_of(seed, "view", int(row))))
        for picture, row in zip(pictures, rows, strict=True)
    ]
    return torch.cat(crops)


def shifted(images: UInt8[Tensor, "b c h w"], numbers: Int[Tensor, "b"], reach: int) -> UInt8[Tensor, "b c h w"]:
    """Each image moved by its number's offset, from (-reach, -reach) row by row; edges are repeated.

    >>> shifted(torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3), torch.tensor([5]), 1)[0, 0, 0].tolist()
    [1, 2, 2]
    """
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(images.dtype)
    side = 2 * reach + 1
    top, left = numbers // side, numbers % side
    ys = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    xs = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[batch, channels, ys, xs]


def recoloured(images: UInt8[Tensor, "b c h w"], how: Views, draws: Draws) -> UInt8[Tensor, "b c h w"]:
    """The student's version of a shared view."""
    if how.colour is None:
        return images
    still = replace(how.colour, scale=(1.0, 1.0), aspect=1.0, flip=0.0, rotate=0.0)
    return augment(images, still, draws)
