"""`heredity repair`: a foreign classifier, a few clean labelled images, and a child from which a backdoor may be gone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heredity.audit.calibration import CLEANSE
from heredity.audit.models import Opened
from heredity.core.errors import ConfigError, DataError, ModelError, suggestion
from heredity.data.labelled import ImageSource
from heredity.defences import anp, fine_pruning, nad, unlearning
from heredity.defences.contract import Repair
from heredity.defences.unlearning import Unlearning
from heredity.nn.inference import accuracy

Mend = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Repair]

REPAIRS: Mapping[str, tuple[str, Mend]] = {
    "fine-pruning": (
        "prune the units that clean images use least, then fine-tune",
        lambda model, images, labels, draws: fine_pruning.repair(model, images, labels, generator=draws),
    ),
    "anp": (
        "prune the neurons that a small push sets off",
        lambda model, images, labels, draws: anp.repair(model, images, labels, generator=draws),
    ),
    "nad": (
        "distil attention from a fine-tuned copy",
        lambda model, images, labels, draws: nad.repair(model, images, labels, generator=draws),
    ),
    "unlearning": (
        "recover a trigger with Neural Cleanse, fine-tune on images that carry it",
        lambda model, images, labels, draws: unlearning.repair(
            model, images, labels, Unlearning(search=CLEANSE), generator=draws
        ),
    ),
    "unlearning-by-pruning": (
        "recover a trigger with Neural Cleanse, prune the units it wakes",
        lambda model, images, labels, draws: unlearning.repair(
            model, images, labels, Unlearning("pruning", search=CLEANSE), generator=draws
        ),
    ),
}


@dataclass(frozen=True)
class Mended:
    """A repair, with the accuracy on held-out clean images (0..1) before and after."""

    repair: Repair
    before: float
    after: float
    seen: int
    measured_on: int


def mend(opened: Opened, source: ImageSource, how: str, *, rows: int, generator: torch.Generator) -> Mended:
    """Repair with `rows` images of the source's training part; accuracy is measured on its test part.

    Raises ConfigError for an unknown repair, ModelError for a model without a head, DataError for data that does not fit.
    """
    if how not in REPAIRS:
        raise ConfigError(f"unknown repair {how!r}", remedy=suggestion(how, REPAIRS))
    if rows < 1:
        raise ConfigError(f"--rows {rows}", remedy="a repair needs at least two images of every class")
    if opened.headless:
        raise ModelError("the model has no classification head", remedy="give a classifier")
    train, test = source.train, source.test
    if not len(test.labels):
        raise DataError("the source has no test part to measure on", remedy="give one with a test split")
    chosen = torch.randperm(len(train.labels), generator=generator)[:rows]
    before = accuracy(opened.model, test.images, test.labels)
    found = REPAIRS[how][1](opened.model, train.images[chosen], train.labels[chosen], generator)
    after = accuracy(found.model, test.images, test.labels)
    return Mended(found, before, after, len(chosen), len(test.labels))
