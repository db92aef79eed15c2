"""What a model decides about the test nodes of a graph, group by group, as plain data for a stage of a run."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.randomness import seed_of
from heredity.data.graphs import Graph
from heredity.metrics.fairness import Interval, fairness_summary, gap_change


def examine(
    logits: Float[Tensor, "n c"], graph: Graph, teacher: Float[Tensor, "n c"], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Utility and gaps of one model on the test nodes; the teacher's logits are what it is compared with.

    Gaps are signed: later group minus earlier (see `heredity.metrics.fairness`); not-a-number where a group has nobody to
    compare. `intervals` are 95 % bootstrap intervals over test nodes, `sp_over_teacher` and `eo_over_teacher` those of how
    far the absolute gap exceeds the teacher's on the same resampled nodes.
    """
    rows = graph.test[graph.labels[graph.test] >= 0]
    probabilities = logits[rows].double().softmax(dim=1).float()
    predictions, told = probabilities.argmax(dim=1), teacher[rows].argmax(dim=1)
    labels, groups = graph.labels[rows], graph.sensitive[rows]
    drawn = {"seed": seed_of("resampled nodes", seed) % 2**31, "groups": graph.groups, "samples": resamples}
    found = fairness_summary(probabilities, labels, groups, **drawn)
    gaps = {"sp": found.statistical_parity_difference, "eo": found.equal_opportunity_difference}
    over = {
        "sp_over_teacher": gap_change(told, predictions, labels, groups, gap="statistical_parity", **drawn),
        "eo_over_teacher": gap_change(told, predictions, labels, groups, gap="equal_opportunity", **drawn),
    }
    confusion = torch.tensor([group.confusion for group in found.groups])
    recalls = confusion.sum(dim=0).double()
    return {
        "accuracy": found.accuracy.value,
        "balanced_accuracy": float((recalls.diag() / recalls.sum(dim=1).clamp(min=1)).mean()),
        "f1": found.f1.value,
        "auc": found.auc.value,
        "agreement": float((predictions == told).double().mean()),
        **{name: gap.value for name, gap in gaps.items()},
        "odds": found.equalised_odds_difference.value,
        "label_gap": found.label_gap.value,
        "intervals": {name: _ends(each) for name, each in {"accuracy": found.accuracy, **gaps, **over}.items()},
        "confusion": confusion.tolist(),
        "calibration_error": [group.calibration_error.value for group in found.groups],
        "surplus": [group.surplus.value for group in found.groups],
        "one_class": len(predictions.unique()) == 1,
        "notes": list(found.notes),
    }


def points_lost(logits: Float[Tensor, "n c"], plain: Float[Tensor, "n c"], graph: Graph) -> dict[str, float]:
    """Points of accuracy that a model lies below the plain one on the test nodes, with a 95 % interval (normal, paired)."""
    rows = graph.test[graph.labels[graph.test] >= 0]
    right = [(answers[rows].argmax(dim=1) == graph.labels[rows]).double() for answers in (plain, logits)]
    lost = 100 * (right[0] - right[1])
    mean, spread = float(lost.mean()), float(lost.std()) / len(lost) ** 0.5
    return {"points": mean, "low": mean - 1.96 * spread, "high": mean + 1.96 * spread}


def _ends(found: Interval) -> list[float]:
    return [found.low, found.high]
