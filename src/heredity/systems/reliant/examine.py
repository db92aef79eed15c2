"""What a model decides about the test nodes of a graph, group by group."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor

from heredity.core.randomness import seed_of
from heredity.data.graphs import Graph
from heredity.metrics.fairness import equal_opportunity_difference, statistical_parity_difference


def examine(
    logits: Float[Tensor, "n c"], graph: Graph, teacher: Float[Tensor, "n c"], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Utility and gaps of one model on the test nodes, as plain data; the teacher's logits are for the agreement.

    Gaps are signed: later group minus earlier (see `heredity.metrics.fairness`); not-a-number where a group has nobody to
    compare. Intervals are 95 % bootstrap intervals over test nodes, of the gaps and of how far the absolute gap exceeds the
    teacher's on the same resampled nodes (`sp_over_teacher`).
    """
    rows = graph.test
    probabilities = logits[rows].softmax(dim=1)
    predictions, labels, groups = probabilities.argmax(dim=1), graph.labels[rows], graph.sensitive[rows]
    gaps = _gaps(predictions, labels, groups, graph)
    draws = np.random.default_rng(seed_of("resampled nodes", seed)).integers(len(rows), size=(resamples, len(rows)))
    binary = graph.classes == 2 and graph.groups == 2
    told = teacher[rows].argmax(dim=1)
    spread = _resampled(predictions.numpy(), told.numpy(), labels.numpy(), groups.numpy(), draws) if binary else {}
    counts = torch.zeros(graph.groups, graph.classes, graph.classes, dtype=torch.int64)
    counts.index_put_((groups, labels, predictions), torch.ones_like(labels), accumulate=True)
    return {
        "accuracy": float((predictions == labels).double().mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predictions)),
        "f1": float(
            f1_score(labels, predictions, average="binary" if graph.classes == 2 else "macro", zero_division=0)
        ),
        "auc": _auc(probabilities.numpy(), labels.numpy()),
        "agreement": float((predictions == told).double().mean()),
        **gaps,
        "intervals": spread,
        "confusion": counts.tolist(),
        "one_class": len(predictions.unique()) == 1,
    }


def _gaps(predictions: Int[Tensor, "m"], labels: Int[Tensor, "m"], groups: Int[Tensor, "m"], graph: Graph) -> Any:
    sizes = {"classes": graph.classes, "groups": graph.groups}
    return {
        "sp": statistical_parity_difference(predictions, groups, undefined="nan", **sizes),
        "eo": equal_opportunity_difference(predictions, labels, groups, undefined="nan", **sizes),
    }


def _auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    if len(np.unique(labels)) < probabilities.shape[1]:
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities / probabilities.sum(axis=1, keepdims=True), multi_class="ovr"))


def _resampled(
    predictions: np.ndarray, teacher: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: np.ndarray
) -> dict[str, Any]:
    """Percentile intervals of accuracy and of both gaps, for two groups and two classes, from drawn rows."""
    member, true = groups == 1, labels == 1

    def share(event: np.ndarray, among: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (event & among)[draws].sum(axis=1) / among[draws].sum(axis=1)

    def gaps(positive: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "sp": share(positive, member) - share(positive, ~member),
            "eo": share(positive, member & true) - share(positive, ~member & true),
        }

    found = {"accuracy": (predictions == labels)[draws].mean(axis=1), **gaps(predictions == 1)}
    found |= {
        f"{name}_over_teacher": np.abs(found[name]) - np.abs(values) for name, values in gaps(teacher == 1).items()
    }
    return {name: np.nanquantile(values, [0.025, 0.975]).tolist() for name, values in found.items()}
