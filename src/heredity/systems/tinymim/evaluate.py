"""How accurate a classifier is: ImageFolder layout, ImageNet-A and -R, and ImageNet-C (paper, section 4.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from heredity.core.errors import DataError
from heredity.data.folders import class_folders
from heredity.data.pictures import labelled_folder
from heredity.systems.tinymim.finetune import predicted

# Errors of AlexNet by which the corruption error is normalised (Hendrycks and Dietterich 2019, their repository).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
SEVERITIES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class Corrupted:
    """Errors under corruptions, 0..1: of each, their mean, and the mean normalised by AlexNet (none without all 15)."""

    errors: Mapping[str, float]
    mean_error: float
    mce: float | None


def accuracy_on(
    model: nn.Module, directory: Path, classes: tuple[str, ...], *, size: int, subset: bool, skip_corrupt: bool = False
) -> tuple[float, int, tuple[str, ...]]:
    """Share of pictures told right (0..1), their number, and the files skipped.

    `directory` has one folder for each class. With `subset` only the classes that have a folder may be answered, as
    ImageNet-A and -R are measured. Raises DataError for a folder that is no class of the model.
    """
    found = labelled_folder(directory, classes, size=size, skip_corrupt=skip_corrupt)
    present = class_folders(directory)
    among = torch.tensor([number for number, name in enumerate(classes) if name in present]) if subset else None
    right = predicted(model, found.pictures, among=among) == found.labels
    return float(right.float().mean()), len(right), found.pictures.skipped


def corruption_errors(
    model: nn.Module, directory: Path, classes: tuple[str, ...], *, size: int, skip_corrupt: bool = False
) -> Corrupted:
    """Errors on ImageNet-C's layout, `<corruption>/<severity 1 to 5>/<class>/*`.

    The paper's "mCE" has the size of the plain mean; both readings are given. Raises DataError for a corruption that lacks a
    severity.
    """
    errors = {}
    for corruption in class_folders(directory):
        missing = [level for level in SEVERITIES if not (directory / corruption / level).is_dir()]
        if missing:
            raise DataError(
                f"{directory / corruption} has no severity {missing[0]}", remedy="give <corruption>/<1 to 5>/<class>/*"
            )
        found = [
            accuracy_on(
                model, directory / corruption / level, classes, size=size, subset=False, skip_corrupt=skip_corrupt
            )
            for level in SEVERITIES
        ]
        errors[corruption] = 1.0 - sum(share for share, *_ in found) / len(found)
    mean = sum(errors.values()) / len(errors)
    whole = set(ALEXNET) <= set(errors)
    mce = sum(errors[name] / ALEXNET[name] for name in ALEXNET) / len(ALEXNET) if whole else None
    return Corrupted(errors, mean, mce)
