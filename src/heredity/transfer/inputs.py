"""What a service may do to every picture before its model sees it, with or without the wish to break a mark.

Each treatment is a frozen setting and `treated` a module in front of a suspect, so that verification meets a service that
re-compresses, rescales, blurs, shifts, coarsens or perturbs its inputs.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from heredity.core.errors import ConfigError, suggestion
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.core.randomness import generator_of

Kind = Literal["noise", "jpeg", "resize", "blur", "shift", "bits"]
Images = UInt8[Tensor, "n c h w"]

_RANGES: dict[str, tuple[float, float, str]] = {
    "noise": (0.0, 1.0, "standard deviation of pixels in 0..1"),
    "jpeg": (1, 95, "quality of the compression"),
    "resize": (0.05, 1.0, "share of the side that is kept before the image is enlarged again"),
    "blur": (0.0, 10.0, "standard deviation of the Gaussian in pixels"),
    "shift": (0, 64, "pixels to the right and down"),
    "bits": (1, 8, "bits a channel"),
}


@dataclass(frozen=True)
class Treatment:
    """One treatment of input images and its strength.

    noise: 0.015 is the published one. jpeg: 30 to 90. resize: 0.75 is 24 of 32 pixels. shift: 1 to 3. bits: 3 to 5.
    """

    kind: Kind
    strength: float

    def __post_init__(self) -> None:
        low, high, meaning = _RANGES[self.kind]
        if not low <= self.strength <= high:
            raise ConfigError(
                f"{self.kind} cannot have strength {self.strength:g}", remedy=f"{low:g} to {high:g}: {meaning}"
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g}"

    @staticmethod
    def parse(text: str) -> "Treatment":
        """A treatment as settings write it, such as "jpeg 50".

        >>> Treatment.parse("jpeg 50")
        Treatment(kind='jpeg', strength=50.0)
        """
        kind, _, strength = text.strip().partition(" ")
        if kind not in _RANGES:
            raise ConfigError(f"unknown treatment {text!r}", remedy=suggestion(kind, _RANGES) + ', as in "jpeg 50"')
        try:
            return Treatment(kind, float(strength))  # pyright: ignore[reportArgumentType]
        except ValueError:
            raise ConfigError(f"treatment {text!r} has no strength", remedy='write "jpeg 50"') from None


def treat(images: Images, how: Treatment, *, seed: int = 0) -> Images:
    """The images as the model behind the service sees them: same shape, uint8. Noise is drawn from `seed` and the images.

    >>> treat(torch.full((1, 3, 8, 8), 200, dtype=torch.uint8), Treatment("bits", 1)).unique().tolist()
    [255]
    """
    strength = how.strength
    if how.kind == "jpeg":
        return torch.stack([_jpeg(image, round(strength)) for image in images])
    if how.kind == "shift":
        pixels = round(strength)
        padded = F.pad(images.float(), (pixels, 0, pixels, 0), mode="replicate")
        return padded[..., : images.shape[-2], : images.shape[-1]].to(torch.uint8)
    if how.kind == "bits":
        levels = 2 ** round(strength) - 1
        return _to_bytes((images.float() / 255 * levels).round() / levels)
    if how.kind == "resize":
        small = [max(1, round(side * strength)) for side in images.shape[-2:]]
        down = vision.resize(images, small, antialias=True)
        return vision.resize(down, list(images.shape[-2:]), antialias=True)
    if how.kind == "blur":
        width = 2 * max(1, round(3 * strength)) + 1
        width = min(width, 2 * (min(images.shape[-2:]) // 2) - 1)
        return vision.gaussian_blur(images, [width, width], [strength, strength]) if strength else images
    draws = generator_of(seed, "noise of the service", int(images.sum()))
    return _to_bytes(images.float() / 255 + strength * torch.randn(images.shape, generator=draws).to(images.device))


class Treated(nn.Module):
    """A suspect behind a treatment: uint8 images -> whatever the suspect answers."""

    def __init__(self, suspect: nn.Module, how: Treatment, *, seed: int = 0) -> None:
        super().__init__()
        self.suspect, self.how, self.seed = suspect, how, seed

    def forward(self, images: Tensor) -> Tensor:
        return self.suspect(treat(images.to(torch.uint8), self.how, seed=self.seed))


def treated(suspect: nn.Module, how: Treatment, *, seed: int = 0) -> nn.Module:
    """The suspect with the treatment in front of it, and a lineage that says so. The suspect is shared, not copied."""
    parent = lineage_of(suspect)
    settings = {"kind": how.kind, "strength": how.strength}
    born = Lineage(f"{parent.name}/{how}", "input treatment", settings=settings, parents=(parent,), marks=parent.marks)
    return record(Treated(suspect, how, seed=seed).eval(), born)


def _jpeg(image: UInt8[Tensor, "c h w"], quality: int) -> UInt8[Tensor, "c h w"]:
    """Compressed and decompressed by Pillow; grey images stay grey. Raises ConfigError for other numbers of channels."""
    if len(image) not in (1, 3):
        raise ConfigError(f"JPEG has 1 or 3 channels, not {len(image)}", remedy="choose another treatment")
    pixels = image.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if len(image) == 3 else pixels[..., 0]).save(buffer, "JPEG", quality=quality)
    back = np.array(Image.open(buffer))
    return torch.from_numpy(back.reshape(*pixels.shape)).permute(2, 0, 1).to(image.device)


def _to_bytes(values: Tensor) -> Tensor:
    return values.clamp(0, 1).mul(255).round().to(torch.uint8)
