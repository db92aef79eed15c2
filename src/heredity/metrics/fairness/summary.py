"""All that a fairness card says about one classifier on one set of nodes."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import DataError
from heredity.metrics.fairness.bootstrap import Interval, intervals
from heredity.metrics.fairness.gaps import group_confusion, odds_gap, opportunity_gap, parity_gap
from heredity.metrics.fairness.groups import ClassNumbers, aligned, group_count
from heredity.metrics.fairness.utility import accuracy, calibration_error, f1, group_accuracies, macro_auc

FEW = 30


@dataclass(frozen=True)
class GroupSummary:
    """One group: how many nodes, how they are labelled and treated, and how honest the probabilities are.

    Rates are of class 1 of two classes; of more, of every class. `calibration_error` is on p(class 1), or, of more than two
    classes, on the probability of the predicted one; `surplus` is mean probability minus mean outcome of the same.
    """

    nodes: int
    base_rates: tuple[float, ...]
    selection_rates: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: Interval
    calibration_error: Interval
    surplus: Interval


@dataclass(frozen=True)
class FairnessSummary:
    """Utility and gaps of one classifier with 95 % bootstrap intervals over nodes; gaps are signed (later minus earlier).

    `soft_parity` is the gap of mean probabilities, `label_gap` that of the labels themselves (the line that a gap of
    decisions is read against). `notes` say what makes a figure doubtful: a constant prediction, a small group.
    """

    nodes: int
    accuracy: Interval
    f1: Interval
    auc: Interval
    statistical_parity_difference: Interval
    equal_opportunity_difference: Interval
    equalised_odds_difference: Interval
    soft_parity: Interval
    label_gap: Interval
    groups: tuple[GroupSummary, ...]
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """As JSON-ready data (write it with `write_json`, which turns nan into null)."""
        return asdict(self)


def fairness_summary(
    probabilities: Float[Tensor, "n c"],
    labels: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    seed: int,
    groups: int | None = None,
    samples: int = 1000,
    bins: int = 10,
) -> FairnessSummary:
    """Measure a classifier on labelled nodes; ties of the arg max go to the earlier class.

    Undefined gaps are nan and noted. Raises DataError for rows that are not probabilities and for a label out of range.

    >>> p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    >>> found = fairness_summary(p, torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]), seed=0, samples=50)
    >>> found.accuracy.value, found.statistical_parity_difference.value
    (1.0, 0.0)
    """
    truth, group = (column.cpu() for column in aligned(labels=labels, sensitive=sensitive))
    p = probabilities.detach().cpu().double()
    _checked(p, truth)
    classes, parts = p.shape[1], group_count(group, groups)
    predicted = p.argmax(dim=1)
    event = p[:, 1] if classes == 2 else p.amax(dim=1)
    outcome = (truth == 1).double() if classes == 2 else (predicted == truth).double()
    hot = torch.nn.functional.one_hot(group, parts).double()
    of_group = (hot[:, :, None] * p[:, None, :]).flatten(1)

    def statistics(weights: Float[Tensor, "r n"]) -> dict[str, Tensor]:
        double = weights.double()
        table = group_confusion(predicted, truth, group, classes=classes, groups=parts, weights=weights)
        found = {
            "accuracy": accuracy(table),
            "f1": f1(table),
            "auc": macro_auc(p, truth, double),
            "statistical_parity_difference": parity_gap(table),
            "equal_opportunity_difference": opportunity_gap(table),
            "equalised_odds_difference": odds_gap(table),
            "soft_parity": parity_gap((double @ of_group).reshape(-1, parts, 1, classes)),
            "label_gap": parity_gap(table.sum(dim=3)[:, :, None]),
        }
        each = group_accuracies(table)
        for number in range(parts):
            inside = double * hot[:, number]
            found[f"accuracy {number}"] = each[:, number]
            found[f"calibration {number}"] = calibration_error(event, outcome, inside, bins=bins)
            found[f"surplus {number}"] = (inside * (event - outcome)).sum(dim=1) / inside.sum(dim=1)
        return found

    found = intervals(statistics, len(truth), samples=samples, seed=seed)
    table = group_confusion(predicted, truth, group, classes=classes, groups=parts)[0]
    members = tuple(
        GroupSummary(
            nodes=int(table[number].sum()),
            base_rates=_rates(table[number].sum(dim=1)),
            selection_rates=_rates(table[number].sum(dim=0)),
            confusion=tuple(tuple(int(count) for count in row) for row in table[number]),
            accuracy=found.pop(f"accuracy {number}"),
            calibration_error=found.pop(f"calibration {number}"),
            surplus=found.pop(f"surplus {number}"),
        )
        for number in range(parts)
    )
    return FairnessSummary(nodes=len(truth), **found, groups=members, notes=_notes(predicted, members, found))


def gap_change(
    before: ClassNumbers,
    after: ClassNumbers,
    labels: ClassNumbers,
    sensitive: ClassNumbers,
    *,
    gap: Literal["statistical_parity", "equal_opportunity", "equalised_odds"] = "statistical_parity",
    seed: int,
    groups: int | None = None,
    samples: int = 1000,
) -> Interval:
    """|gap of `after`| - |gap of `before`|, two classifiers on the same nodes: positive where bias was added on the way.

    Both are resampled together, so that what they share cancels: the interval is narrower than that of either gap.

    >>> teacher, student = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])
    >>> gap_change(teacher, student, torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1]), seed=0, samples=20).value
    1.0
    """
    measure = {
        "statistical_parity": parity_gap,
        "equal_opportunity": opportunity_gap,
        "equalised_odds": odds_gap,
    }[gap]
    columns = aligned(before=before, after=after, labels=labels, sensitive=sensitive)
    first, second, truth, group = (column.cpu() for column in columns)
    classes = max(2, *(int(column.max()) + 1 for column in (first, second, truth)))
    parts = group_count(group, groups)

    def statistics(weights: Float[Tensor, "r n"]) -> dict[str, Tensor]:
        each = [
            measure(group_confusion(column, truth, group, classes=classes, groups=parts, weights=weights)).abs()
            for column in (first, second)
        ]
        return {"change": each[1] - each[0]}

    return intervals(statistics, len(truth), samples=samples, seed=seed)["change"]


def _checked(p: Tensor, truth: Tensor) -> None:
    if p.ndim != 2 or len(p) != len(truth) or p.shape[1] < 2 or not len(p):
        raise DataError(
            f"probabilities have shape {tuple(p.shape)} for {len(truth)} labels",
            remedy="one row a node, one column a class",
        )
    wrong = torch.nonzero(~((p >= -1e-6).all(dim=1) & ((p.sum(dim=1) - 1).abs() < 1e-3))).flatten()
    if len(wrong):
        raise DataError(
            f"row {int(wrong[0])} is not a distribution (sum {float(p[wrong[0]].sum()):.3g})",
            remedy="apply softmax to logits first",
        )
    if int(truth.min()) < 0 or int(truth.max()) >= p.shape[1]:
        outside = int(truth.min()) if int(truth.min()) < 0 else int(truth.max())
        raise DataError(f"label {outside} is outside 0..{p.shape[1] - 1}", remedy="pass labelled nodes only")


def _rates(counts: Tensor) -> tuple[float, ...]:
    total = float(counts.sum())
    shares = [float(count) / total if total else math.nan for count in counts]
    return (shares[1],) if len(shares) == 2 else tuple(shares)


def _notes(predicted: Tensor, members: tuple[GroupSummary, ...], found: dict[str, Interval]) -> tuple[str, ...]:
    notes = []
    if len(torch.unique(predicted)) == 1:
        notes.append(f"degenerate: class {int(predicted[0])} for every node; gaps of 0 are no fairness")
    small = [(number, group.nodes) for number, group in enumerate(members) if group.nodes < FEW]
    notes += [f"group {number} has {nodes} nodes: too few for a verdict" for number, nodes in small]
    notes += [f"{name} is undefined: a group lacks a class" for name, value in found.items() if math.isnan(value.value)]
    return tuple(notes)
