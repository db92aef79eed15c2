"""Gaps between groups in what a classifier decides: statistical parity, equal opportunity, equalised odds."""

import math
from collections.abc import Sequence

from torch import Tensor

from heredity.metrics.fairness.groups import (
    ClassNumbers,
    Undefined,
    UndefinedMetric,
    aligned,
    group_masks,
    nonempty,
    rate,
    widest,
)


def statistical_parity_difference(
    predictions: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    classes: int | None = None,
    groups: int | None = None,
    undefined: Undefined = "raise",
) -> float:
    """P(prediction = 1 | s = 1) - P(prediction = 1 | s = 0), signed, in [-1, 1]; Dong et al. 2023 report its absolute value.

    With more than two groups: the later minus the earlier group of the pair that lies furthest apart. With more than two
    classes: the largest such gap, in absolute value, of one class against the rest. `classes` and `groups` are inferred
    from the data unless given.

    Args:
        predictions: class numbers, integer or boolean [n].
        sensitive: group numbers, integer or boolean [n].

    Raises UndefinedMetric with the counts when a group is empty, or returns nan with `undefined="nan"`; DataError for
    scores in place of classes.

    >>> import torch
    >>> statistical_parity_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
    0.5
    """
    predicted, group = aligned(predictions=predictions, sensitive=sensitive)
    try:
        masks = group_masks(group, groups)
        nonempty(masks, "statistical parity")
    except UndefinedMetric:
        if undefined == "raise":
            raise
        return math.nan
    return _largest(
        [widest([rate(mask, predicted == label) for mask in masks]) for label in _events(classes, predicted)]
    )


def equal_opportunity_difference(
    predictions: ClassNumbers,
    labels: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    classes: int | None = None,
    groups: int | None = None,
    undefined: Undefined = "raise",
) -> float:
    """P(prediction = 1 | y = 1, s = 1) - P(prediction = 1 | y = 1, s = 0), signed, in [-1, 1] (true-positive rates).

    Several groups and classes are treated as in `statistical_parity_difference`, each class among its own members.
    Unlabelled nodes (label -1) do not count. Raises UndefinedMetric where a group has no member of a class.

    >>> import torch
    >>> members = torch.tensor([0, 0, 1, 1])
    >>> equal_opportunity_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([1, 1, 1, 0]), members)
    0.5
    """
    predicted, truth, group = aligned(predictions=predictions, labels=labels, sensitive=sensitive)
    gaps = []
    try:
        masks = group_masks(group, groups)
        for label in _events(classes, predicted, truth):
            members = [mask & (truth == label) for mask in masks]
            nonempty(members, f"equal opportunity of class {label}")
            gaps.append(widest([rate(mask, predicted == label) for mask in members]))
    except UndefinedMetric:
        if undefined == "raise":
            raise
        return math.nan
    return _largest(gaps)


def equalised_odds_difference(
    predictions: ClassNumbers,
    labels: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    classes: int | None = None,
    groups: int | None = None,
    undefined: Undefined = "raise",
) -> float:
    """The larger, in absolute value, of the gaps of true-positive and of false-positive rates; signed, in [-1, 1].

    >>> import torch
    >>> members = torch.tensor([0, 0, 1, 1])
    >>> equalised_odds_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0]), members)
    1.0
    """
    predicted, truth, group = aligned(predictions=predictions, labels=labels, sensitive=sensitive)
    gaps = []
    try:
        masks = group_masks(group, groups)
        for label in _events(classes, predicted, truth):
            for inside, what in ((truth == label, "true"), ((truth != label) & (truth >= 0), "false")):
                members = [mask & inside for mask in masks]
                nonempty(members, f"the {what}-positive rate of class {label}")
                gaps.append(widest([rate(mask, predicted == label) for mask in members]))
    except UndefinedMetric:
        if undefined == "raise":
            raise
        return math.nan
    return _largest(gaps)


def _events(classes: int | None, *columns: Tensor) -> Sequence[int]:
    """The classes to hold against the rest: of two classes only class 1, since class 0 has the same gap, negated."""
    seen = max((int(column.max()) for column in columns if len(column)), default=0) + 1
    count = max(seen, classes or 2)
    return (1,) if count == 2 else range(count)


def _largest(gaps: Sequence[float]) -> float:
    return max(gaps, key=abs)
