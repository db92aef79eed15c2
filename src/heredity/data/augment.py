"""Augmentations of uint8 image batches, drawn sample by sample from `Draws`.

torchvision draws from global state and treats a batch alike; these draw one set of numbers a sample, so that a resumed
run and several processes see the same views, and do it for the whole batch in one call.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from heredity.core.randomness import Draws

Images = UInt8[Tensor, "batch channels height width"]


@dataclass(frozen=True)
class Augmentation:
    """How strongly views differ. Scale is the range of the crop's area (SimCLR's is 0.08 to 1), shift is in pixels."""

    scale: tuple[float, float] = (0.5, 1.0)
    aspect: float = 1.0
    flip: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.0
    grey: float = 0.0
    jitter: float = 0.8
    noise: float = 0.0


def augment(images: Images, how: Augmentation, draws: Draws) -> Images:
    """One random view of each image: crop, rotate and flip by one resampling, then colour, then noise."""
    view = _resample(images.float() / 255.0, how, draws)
    view = _colour(view, how, draws)
    if how.noise:
        view = view + how.noise * draws.normal(*view.shape).to(view.device)
    return view.clamp(0, 1).mul(255).round().to(torch.uint8)


def _resample(images: Float[Tensor, "b c h w"], how: Augmentation, draws: Draws) -> Float[Tensor, "b c h w"]:
    count = len(images)
    area = draws.uniform(count, low=how.scale[0], high=how.scale[1])
    ratio = torch.exp(draws.uniform(count, low=-1.0, high=1.0) * math.log(how.aspect))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    centre_x = (draws.uniform(count) * 2 - 1) * (1 - width)
    centre_y = (draws.uniform(count) * 2 - 1) * (1 - height)
    angle = (draws.uniform(count) * 2 - 1) * math.radians(how.rotate)
    mirror = torch.where(draws.uniform(count) < how.flip, -1.0, 1.0)
    cosine, sine = angle.cos(), angle.sin()
    rows = [width * cosine * mirror, -height * sine, centre_x, width * sine * mirror, height * cosine, centre_y]
    theta = torch.stack(rows, dim=1).reshape(-1, 2, 3).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _colour(images: Float[Tensor, "b c h w"], how: Augmentation, draws: Draws) -> Float[Tensor, "b c h w"]:
    count = len(images)
    amounts = (draws.uniform(count, 3) * 2 - 1).to(images.device)
    applied = (draws.uniform(count) < how.jitter).float().to(images.device)
    greyed = (draws.uniform(count) < how.grey).to(images.device).reshape(-1, 1, 1, 1)
    factor = (
        1 + amounts * torch.tensor([how.brightness, how.contrast, how.saturation], device=images.device)
    ) ** applied[:, None]
    brightness, contrast, saturation = factor.reshape(-1, 3, 1, 1, 1).unbind(dim=1)
    bright = images * brightness
    bright = (bright - bright.mean(dim=(1, 2, 3), keepdim=True)) * contrast + bright.mean(dim=(1, 2, 3), keepdim=True)
    grey = bright.mean(dim=1, keepdim=True)
    return torch.where(greyed, grey.expand_as(bright), (bright - grey) * saturation + grey)
