"""How good a classifier is, and how honest its probabilities are, under node weights: one value a row of weights."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.metrics.fairness.gaps import Table


def accuracy(table: Table) -> Float[Tensor, "r"]:
    """Share of right predictions."""
    return table.diagonal(dim1=2, dim2=3).sum(dim=(1, 2)) / table.sum(dim=(1, 2, 3))


def group_accuracies(table: Table) -> Float[Tensor, "r groups"]:
    """Share of right predictions in each group; nan for an empty one."""
    return table.diagonal(dim1=2, dim2=3).sum(dim=2) / table.sum(dim=(2, 3))


def f1(table: Table) -> Float[Tensor, "r"]:
    """F1 of class 1 of two, the unweighted mean over more; a class that nobody has and nobody predicts counts as 0."""
    whole = table.sum(dim=1)
    hits, either = whole.diagonal(dim1=1, dim2=2), whole.sum(dim=1) + whole.sum(dim=2)
    scores = 2 * hits / either.clamp(min=1e-300)
    return scores[:, 1] if scores.shape[1] == 2 else scores.mean(dim=1)


def auc(scores: Float[Tensor, "n"], positive: Float[Tensor, "n"], weights: Float[Tensor, "r n"]) -> Float[Tensor, "r"]:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    `positive` is 1 or 0. nan where one side is empty.

    >>> auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.ones(1, 4)).item()
    0.75
    """
    _, place = torch.unique(scores, return_inverse=True)
    steps = torch.zeros(len(weights), int(place.max()) + 1, dtype=torch.float64)
    hits = steps.index_add(1, place, (weights * positive).double())
    misses = steps.index_add(1, place, (weights * (1 - positive)).double())
    below = misses.cumsum(dim=1) - misses / 2
    pairs = hits.sum(dim=1) * misses.sum(dim=1)
    return torch.where(pairs > 0, (hits * below).sum(dim=1) / pairs, math.nan)


def macro_auc(probabilities: Float[Tensor, "n c"], labels: Tensor, weights: Float[Tensor, "r n"]) -> Float[Tensor, "r"]:
    """`auc` of class 1 of two; of more, the mean over classes of one against the rest."""
    classes = probabilities.shape[1]
    chosen = (1,) if classes == 2 else range(classes)
    each = [auc(probabilities[:, label], (labels == label).to(probabilities), weights) for label in chosen]
    return torch.stack(each).mean(dim=0)


def calibration_error(
    confidence: Float[Tensor, "n"], right: Float[Tensor, "n"], weights: Float[Tensor, "r n"], *, bins: int = 10
) -> Float[Tensor, "r"]:
    """Expected calibration error: the mean, over equal-width bins of confidence, of |mean outcome - mean confidence|.

    Bins weigh by their nodes; a node at confidence 1 is in the last. nan without nodes. Source: Guo et al., ICML 2017.

    >>> calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1.0, 0.0]), torch.ones(1, 2)).round(decimals=4).item()
    0.4
    """
    place = (confidence * bins).long().clamp(0, bins - 1)
    empty = torch.zeros(len(weights), bins, dtype=torch.float64)
    surplus = empty.index_add(1, place, (weights * (right - confidence)).double())
    total = weights.double().sum(dim=1)
    return torch.where(total > 0, surplus.abs().sum(dim=1) / total, math.nan)
