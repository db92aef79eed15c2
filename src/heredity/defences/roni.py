"""Reject on negative impact (Nelson et al., LEET 2008): leave out what makes models worse on clean data.

Backdoors leave accuracy on clean data alone, so that this filter should not see them: it is the negative control among
the others, and finds what spoils training (wrong labels).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError
from heredity.core.randomness import generator_of
from heredity.defences.contract import Cost, DataVerdict, Threshold, calibrate, content_order, examining
from heredity.defences.repairing import accuracy_of, labelled_clean

Train = Callable[[Tensor, Tensor, torch.Generator], nn.Module]
"""(images in [0, 1], labels, generator) -> a small trained classifier of pixels 0..255."""


@dataclass(frozen=True)
class Roni:
    """Each group of samples joins `repeats` random clean bases of `base` samples; its impact is the mean change of
    accuracy.

    The threshold is measured: `known` groups of as many clean samples are tried too, and `rate` is the false-positive
    rate it states (`known` groups can state none below 1 / (known + 1)).
    """

    base: int = 60
    repeats: int = 3
    known: int = 9
    rate: float = 0.1


def scan(
    train: Train,
    images: Tensor,
    labels: Tensor,
    groups: Sequence[Tensor],
    clean: tuple[Tensor, Tensor],
    config: Roni | None = None,
    *,
    generator: torch.Generator,
) -> DataVerdict:
    """Which groups of training samples make models worse on clean data. Groups are row numbers and should be of one size.

    `clean` are images and labels that are known to be clean: bases, known groups and the judging part come from them. A
    sample's score is that of its group: by how much accuracy (0..1) falls. Rows in no group score 0 and are kept. Trains
    (groups + known + 1) x repeats models. Raises DataError where the clean part is too small.
    """
    config = config or Roni()
    if not groups or any(len(group) == 0 for group in groups):
        raise ConfigError("there is no group to judge", remedy="give row numbers, e.g. one group a sample")
    unit, order = content_order(images)
    wanted = labels.cpu()[order].long()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    known_images, known_labels = labelled_clean(*clean, per_class=1)
    size = max(len(group) for group in groups)
    needed = config.base + config.known * size
    if len(known_images) < needed + 20:
        raise DataError(
            f"{len(known_images)} clean images are too few",
            remedy=f"give at least {needed + 20}, or lower base and known",
        )
    rows = torch.randperm(len(known_images), generator=generator)
    spare, judging = rows[: config.base + config.known * size], rows[needed:]
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    queries, seconds = 0, 0.0

    def accuracy(extra_images: Tensor, extra_labels: Tensor) -> float:
        nonlocal queries, seconds
        found = []
        for repeat in range(config.repeats):
            draws = generator_of(seed, repeat)
            base = spare[config.known * size :][torch.randperm(config.base, generator=draws)]
            everything = torch.cat([known_images[base], extra_images]), torch.cat([known_labels[base], extra_labels])
            model = train(*everything, draws)
            with examining(model) as ask:
                found.append(accuracy_of(ask, known_images[judging], known_labels[judging]))
                queries, seconds = queries + ask.queries, seconds + ask.cost().seconds
        return sum(found) / len(found)

    alone = accuracy(known_images[:0], known_labels[:0])
    trusted = [spare[number * size : (number + 1) * size] for number in range(config.known)]
    usual = [alone - accuracy(known_images[group], known_labels[group]) for group in trusted]
    threshold: Threshold = calibrate(usual, config.rate, source="clean training samples")
    scores, kept = torch.zeros(len(unit)), torch.ones(len(unit), dtype=torch.bool)
    for group in groups:
        inside = place[group]
        impact = alone - accuracy(unit[inside], wanted[inside])
        scores[group] = impact
        kept[group] = not threshold.flags(impact)
    return DataVerdict("RONI", scores, kept, threshold, Cost(seconds, queries), measures={"accuracy": alone})
