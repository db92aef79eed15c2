"""The distilled set while it is learnt, and as the product it becomes: a safetensors file and a sheet of pictures."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heredity.core.errors import DataError
from heredity.core.lineage import load_tensors, save_tensors
from heredity.data.labelled import LabelledImages
from heredity.systems.dd_backdoor.trigger import Attack, paste

KEY = "heredity.distilled"


@dataclass(frozen=True)
class Poisoned:
    """The data that is distilled: images in 0..1, labels after the attack, and which images carry the patch."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, "n"]
    stamped: Bool[Tensor, "n"]
    members: tuple[Int[Tensor, "_"], ...]
    mean: float
    std: float
    attack: Attack

    @property
    def classes(self) -> int:
        """How many classes there are; `members` has the rows of each, as the attack labels them."""
        return len(self.members)

    def pixels(self, rows: Int[Tensor, "m"], patch: Tensor) -> Float[Tensor, "m c h w"]:
        """Some rows as pixels 0..255, under the patch where they are to carry it."""
        images = self.images[rows]
        if self.attack.kind != "none":
            marked = self.stamped[rows][:, None, None, None]
            images = torch.where(marked, paste(images, patch, self.attack.margin), images)
        return 255.0 * images


def poison(
    data: LabelledImages, attack: Attack, stamped: Bool[Tensor, "n"], *, device: torch.device | None = None
) -> Poisoned:
    """A training set with the attack's labels, on a device. Raises DataError where that leaves a class without images."""
    labels = torch.where(stamped, torch.full_like(data.labels, attack.target), data.labels)
    counts = torch.bincount(labels, minlength=len(data.classes))
    if bool((counts == 0).any()):
        empty = data.classes[int((counts == 0).nonzero()[0])]
        raise DataError(f"{data.name}: class {empty} has no image left to distil", remedy="lower the attack's ratio")
    images = data.images.float() / 255.0
    members = tuple(torch.nonzero(labels == label).flatten().to(device) for label in range(len(data.classes)))
    mean, std = float(images.mean()), float(images.std())
    return Poisoned(images.to(device), labels.to(device), stamped.to(device), members, mean, std, attack)


class Distilled(nn.Module):
    """What distillation learns: images in units of the data's deviation, and for unrolled distillation a rate per step.

    The patch, the network of the moment and the count of steps are state too: a killed run goes on where it stopped.
    """

    labels: Tensor
    patch: Tensor
    count: Tensor

    def __init__(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, "n"],
        patch: Tensor,
        network: nn.Module,
        data: Poisoned,
        *,
        rates: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.images = nn.Parameter(images)
        self.rates = None if rates is None else nn.Parameter(rates)
        self.network = network.requires_grad_(False)
        self.register_buffer("labels", labels)
        self.register_buffer("patch", patch)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._mean, self._std = data.mean, data.std

    def pixels(self) -> Float[Tensor, "n c h w"]:
        """The images as pixels; as published, they may leave 0..255."""
        return 255.0 * (self.images * self._std + self._mean)


def starting_images(
    data: Poisoned,
    patch: Tensor,
    labels: Int[Tensor, "n"],
    start: Literal["noise", "real"],
    generator: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Noise, or images of the classes as the attack has them (a stamped one among the target's, if it is drawn).

    Raises DataError when a class has too few images.
    """
    if start == "noise":
        return torch.randn(len(labels), *data.images.shape[1:], generator=generator).to(labels.device)
    rows = torch.empty_like(labels)
    for label in range(data.classes):
        members, places = data.members[label], torch.nonzero(labels == label).flatten()
        if len(places) > len(members):
            raise DataError(
                f"class {label} has {len(members)} images, and {len(places)} are to start from them",
                remedy="distil fewer images a class, or start from noise (matching.start in a config)",
            )
        rows[places] = members[torch.randperm(len(members), generator=generator)[: len(places)]]
    return (data.pixels(rows, patch) / 255.0 - data.mean) / data.std


def begin_by_class(
    data: Poisoned,
    patch: Tensor,
    network: nn.Module,
    per_class: int,
    start: Literal["noise", "real"],
    generator: torch.Generator,
) -> Distilled:
    """So many images of each class, one class after the other, before the first step."""
    labels = torch.arange(data.classes, device=data.images.device).repeat_interleave(per_class)
    return Distilled(starting_images(data, patch, labels, start, generator), labels, patch, network, data)


@dataclass(frozen=True)
class DistilledSet:
    """A distilled data set as it is handed on: float pixels (0..255, may leave it), labels, and how to train on it.

    `rates` are the learnt step sizes of unrolled distillation, one a step; its images are used in that order, `groups` at a
    time. `about` says what made it, and names the attack if there was one.
    """

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, "n"]
    rates: Float[Tensor, "steps"] | None = None
    groups: int = 1
    about: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "DistilledSet":
        """The same set on another device."""
        rates = None if self.rates is None else self.rates.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), rates=rates)


def pixel_statistics(made: DistilledSet) -> tuple[float, float]:
    """Mean and deviation (of 0..1) by which networks scale pixels: those of the data, or of the set where it says none.

    Raises DataError for a set whose metadata is damaged or whose images are all alike.
    """
    own = (float(made.images.mean()) / 255.0, float(made.images.std()) / 255.0)
    mean, std = made.about.get("mean", own[0]), made.about.get("std", own[1])
    if not all(isinstance(value, float) and math.isfinite(value) for value in (mean, std)) or std <= 0:
        raise DataError(
            f"the set's mean is {mean!r} and its deviation {std!r}", remedy="it is damaged, or all one colour"
        )
    return mean, std


def save_distilled(path: Path, made: DistilledSet) -> None:
    """Write a distilled set as safetensors, images in units of the pixel range as `heredity scan` reads them.

    What made it, and whether it is backdoored, is in the metadata.
    """
    tensors = {"images": made.images / 255.0, "labels": made.labels}
    if made.rates is not None:
        tensors["rates"] = made.rates
    save_tensors(path, tensors, {KEY: json.dumps({"groups": made.groups, **made.about})})


def load_distilled(path: Path) -> DistilledSet:
    """Read a distilled set, which may be hostile. Raises DataError naming the tensor that does not fit."""
    tensors, metadata = load_tensors(path)
    images, labels, rates = tensors.get("images"), tensors.get("labels"), tensors.get("rates")
    if images is None or labels is None:
        raise DataError(
            f"{path} has no tensors 'images' and 'labels'", remedy="give a set that dd-backdoor distil wrote"
        )
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or not images.is_floating_point():
        raise DataError(
            f"{path}: 'images' is {images.dtype} {tuple(images.shape)}", remedy="it must be float, n x 3 x size x size"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or not len(labels) or int(labels.min()) < 0:
        raise DataError(
            f"{path}: 'labels' is {labels.dtype} {tuple(labels.shape)}", remedy="it must be int64, one of 0.. an image"
        )
    if not bool(images.isfinite().all()):
        raise DataError(f"{path}: some pixels are not finite", remedy="distil again with a lower rate")
    try:
        about = json.loads(metadata.get(KEY, "{}"))
    except ValueError as error:
        raise DataError(f"{path}: the metadata {KEY} is no JSON", remedy="the file was not written here") from error
    groups = about.pop("groups", 1) if isinstance(about, dict) else 1
    if not isinstance(groups, int) or groups < 1 or len(images) % groups:
        raise DataError(f"{path}: {len(images)} images cannot be used in {groups!r} groups", remedy="it is damaged")
    if rates is not None and (rates.ndim != 1 or not bool(rates.isfinite().all())):
        raise DataError(f"{path}: 'rates' is {tuple(rates.shape)}", remedy="it must be one finite number a step")
    return DistilledSet(255.0 * images.float(), labels, rates, groups, about if isinstance(about, dict) else {})
