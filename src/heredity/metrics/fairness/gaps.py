"""Gaps between groups in what a classifier decides: statistical parity, equal opportunity, equalised odds.

All three are read off one table, how often each class was predicted for each class and group, so that thousands of
resamples of the nodes cost no more than thousands of small tables.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import DataError
from heredity.metrics.fairness.groups import ClassNumbers, Undefined, UndefinedMetric, aligned, group_count

Table = Float[Tensor, "r groups truth predicted"]


def group_confusion(
    predictions: ClassNumbers,
    labels: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    classes: int | None = None,
    groups: int | None = None,
    weights: Float[Tensor, "r n"] | None = None,
) -> Table:
    """How many nodes of each group and class got each prediction, counted once, or once for each row of node weights.

    Unlabelled nodes (label -1) do not count. `classes` and `groups` are inferred from the data unless given. Raises DataError
    for scores in place of classes, columns of different length and numbers out of range.

    >>> members = torch.tensor([0, 0, 1])
    >>> group_confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), members)[0].tolist()
    [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    """
    predicted, truth, group = aligned(predictions=predictions, labels=labels, sensitive=sensitive)
    highest = max((int(column.max()) for column in (predicted, truth) if len(column)), default=0) + 1
    count = max(highest, classes or 2)
    if len(predicted) and (int(predicted.min()) < 0 or (classes is not None and highest > classes)):
        raise DataError(f"a class is outside 0..{(classes or highest) - 1}", remedy="number the classes 0, 1, ...")
    parts = group_count(group, groups)
    known = truth >= 0
    cell = (group * count + truth.clamp(min=0)) * count + predicted
    counted = known.double()[None] if weights is None else torch.where(known, weights, 0.0).double()
    table = torch.zeros(len(counted), parts * count * count, dtype=torch.float64, device=cell.device)
    return table.index_add_(1, cell, counted).reshape(-1, parts, count, count)


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

    >>> statistical_parity_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
    0.5
    """
    nobody = torch.zeros_like(predictions, dtype=torch.long)
    return _gap(parity_gap, (predictions, nobody, sensitive), classes, groups, undefined)


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

    >>> members = torch.tensor([0, 0, 1, 1])
    >>> equal_opportunity_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([1, 1, 1, 0]), members)
    0.5
    """
    return _gap(opportunity_gap, (predictions, labels, sensitive), classes, groups, undefined)


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

    >>> members = torch.tensor([0, 0, 1, 1])
    >>> equalised_odds_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0]), members)
    1.0
    """
    return _gap(odds_gap, (predictions, labels, sensitive), classes, groups, undefined)


def parity_gap(table: Table) -> Float[Tensor, "r"]:
    """`statistical_parity_difference` of each table; nan where a group is empty."""
    predicted = table.sum(dim=2)
    return _largest(_signed(_events(predicted / predicted.sum(dim=2, keepdim=True))))


def opportunity_gap(table: Table) -> Float[Tensor, "r"]:
    """`equal_opportunity_difference` of each table; nan where a group has no member of a class."""
    return _largest(_signed(_events(_true_positive_rates(table))))


def odds_gap(table: Table) -> Float[Tensor, "r"]:
    """`equalised_odds_difference` of each table."""
    hits = table.diagonal(dim1=2, dim2=3)
    outside = table.sum(dim=(2, 3))[..., None] - table.sum(dim=3)
    false_positives = (table.sum(dim=2) - hits) / outside
    gaps = [_signed(_events(rates)) for rates in (_true_positive_rates(table), false_positives)]
    return _largest(torch.cat(gaps, dim=1))


def _true_positive_rates(table: Table) -> Float[Tensor, "r groups c"]:
    return table.diagonal(dim1=2, dim2=3) / table.sum(dim=3)


def _events(rates: Float[Tensor, "r groups c"]) -> Float[Tensor, "r groups e"]:
    """The classes to hold against the rest: of two only class 1, since class 0 mirrors it."""
    return rates[..., 1:] if rates.shape[2] == 2 else rates


def _signed(rates: Float[Tensor, "r groups e"]) -> Float[Tensor, "r e"]:
    """Later minus earlier of the two groups that lie furthest apart; nan where a rate is."""
    high, low = rates.max(dim=1), rates.min(dim=1)
    return (high.values - low.values) * torch.where(high.indices >= low.indices, 1.0, -1.0)


def _largest(gaps: Float[Tensor, "r e"]) -> Float[Tensor, "r"]:
    """The gap furthest from 0 in each row; nan where one is."""
    place = gaps.abs().max(dim=1, keepdim=True).indices
    found = gaps.gather(1, place)[:, 0]
    return torch.where(gaps.isnan().any(dim=1), math.nan, found)


def _gap(
    measure: Callable[[Table], Tensor],
    columns: tuple[Tensor, Tensor, Tensor],
    classes: int | None,
    groups: int | None,
    undefined: Undefined,
) -> float:
    try:
        table = group_confusion(*columns, classes=classes, groups=groups)
        value = float(measure(table)[0])
        if not math.isnan(value):
            return value
        members = table[0].sum(dim=2)
        counts = members.sum(dim=1) if measure is parity_gap else members
        shown = ", ".join(f"group {group}: {_count(count)}" for group, count in enumerate(counts))
        raise UndefinedMetric(
            f"the gap is undefined, a group has no member: {shown}", remedy='use a larger sample, or undefined="nan"'
        )
    except UndefinedMetric:
        if undefined == "raise":
            raise
        return math.nan


def _count(members: Tensor) -> str:
    if members.ndim == 0:
        return f"{int(members)}"
    return " and ".join(f"{int(count)} of class {label}" for label, count in enumerate(members))
