"""Labelled images in memory: what every reader returns."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from heredity.core.errors import DataError


@dataclass(frozen=True)
class LabelledImages:
    """Square RGB images of one size with a class number each."""

    images: UInt8[Tensor, "n 3 size size"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]
    name: str

    def rows(self, chosen: Int[Tensor, "m"]) -> "LabelledImages":
        """The chosen rows, in that order."""
        return LabelledImages(self.images[chosen], self.labels[chosen], self.classes, self.name)


@dataclass(frozen=True)
class ImageSource:
    """Training and test part of one source. `caption` states the number of rows; `skipped` names files left out."""

    train: LabelledImages
    test: LabelledImages
    caption: str
    skipped: tuple[str, ...] = ()


def labelled(
    images: Tensor, labels: Tensor, classes: tuple[str, ...], *, name: str, size: int | None
) -> LabelledImages:
    """Checked and resized images. Raises DataError for labels outside the classes, or no images at all."""
    if len(images) == 0:
        raise DataError(f"{name} holds no images", remedy="check the folder")
    if len(images) != len(labels):
        raise DataError(
            f"{name}: {len(images)} images but {len(labels)} labels", remedy="the files do not belong together"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(f"{name}: label {wrong} is outside 0..{len(classes) - 1}", remedy="the label file is damaged")
    return LabelledImages(resize(images, size), labels.long(), classes, name)


def resize(images: UInt8[Tensor, "n c h w"], size: int | None) -> UInt8[Tensor, "n 3 s s"]:
    """Grey to RGB, centre crop to a square, and antialiased bilinear resizing where `size` differs."""
    colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    height, width = colour.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = colour[:, :, top : top + side, left : left + side]
    if size is None or size == side:
        return square.contiguous()
    parts = [
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=size < side, align_corners=False)
        for part in square.split(1024)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def split_rows(
    labels: Int[Tensor, "n"], share: float, generator: torch.Generator
) -> tuple[Int[Tensor, "kept"], Int[Tensor, "held"]]:
    """Row numbers in two shuffled parts, the second with `share` of each class (at least one row where a class has two)."""
    first, second = [], []
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held = min(len(rows) - 1, max(1, round(share * len(rows)))) if len(rows) > 1 else 0
        first.append(rows[held:])
        second.append(rows[:held])
    kept, held_back = torch.cat(first), torch.cat(second)
    kept = kept[torch.randperm(len(kept), generator=generator)]
    return kept, held_back[torch.randperm(len(held_back), generator=generator)]


def split(data: LabelledImages, share: float, generator: torch.Generator) -> tuple[LabelledImages, LabelledImages]:
    """Two parts, the second with `share` of each class: see `split_rows`."""
    first, second = split_rows(data.labels, share, generator)
    return data.rows(first), data.rows(second)
