"""The bias that can be trained away: RELIANT's objective J on class probabilities, whole or estimated from batches.

Source: Dong et al., "RELIANT: Fair Knowledge Distillation for Graph Neural Networks", SDM 2023, and its published code.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import ConfigError, suggestion
from heredity.metrics.fairness.groups import ClassNumbers, aligned, group_masks, nonempty

Phi = Literal["official", "legendre", "identity", "sigmoid"]

# Coefficients of the Legendre polynomials 1, 3, 5, 7, 9 in 1/2 + sum a_k L_k(2p - 1).
_SERIES = {
    # As published: integrals of L_k over [0, 1] without the factor (2k + 1). Smooth, monotone, and not the unit step.
    "official": (1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256),
    # The Legendre series of the unit step, which ripples: its slope can point the wrong way.
    "legendre": (3 / 4, -7 / 16, 11 / 32, -75 / 256, 133 / 512),
}
# L_1, L_3, ..., L_9 in powers x, x^3, ..., x^9.
_POLYNOMIALS = (
    (1, 0, 0, 0, 0),
    (-3 / 2, 5 / 2, 0, 0, 0),
    (15 / 8, -70 / 8, 63 / 8, 0, 0),
    (-35 / 16, 315 / 16, -693 / 16, 429 / 16, 0),
    (315 / 128, -4620 / 128, 18018 / 128, -25740 / 128, 12155 / 128),
)


def soft_step(probabilities: Float[Tensor, "..."], phi: Phi = "identity") -> Float[Tensor, "..."]:
    """phi(p), a differentiable stand-in for the decision p > 1/2; phi(1 - p) = 1 - phi(p).

    `official` is the published polynomial, `legendre` the series it was meant to be, `identity` the mean-probability gap
    usual elsewhere, `sigmoid` a logistic of slope 8.

    >>> [round(float(soft_step(torch.tensor(0.75), phi)), 4) for phi in ("official", "legendre", "identity", "sigmoid")]
    [0.7943, 0.9623, 0.75, 0.8808]
    """
    if phi == "identity":
        return probabilities
    if phi == "sigmoid":
        return torch.sigmoid(8 * (probabilities - 0.5))
    if phi not in _SERIES:
        raise ConfigError(f"unknown phi {phi!r}", remedy=suggestion(phi, [*_SERIES, "identity", "sigmoid"]))
    powers = [sum(a * row[power] for a, row in zip(_SERIES[phi], _POLYNOMIALS, strict=True)) for power in range(5)]
    x = 2 * probabilities - 1
    square = x * x
    total = torch.full_like(x, powers[4])
    for power in reversed(powers[:4]):
        total = total * square + power
    return 0.5 + x * total


def group_weights(
    sensitive: ClassNumbers,
    labels: ClassNumbers | None = None,
    *,
    rows: ClassNumbers | None = None,
    groups: int | None = None,
) -> Float[Tensor, "groups n"]:
    """The matrix whose product with [n, c] values is the mean row of each group; compute it once and use it every step.

    `rows` restricts the means to those node numbers; `labels` to nodes of class 1 (the equal-opportunity objective).
    Raises UndefinedMetric with the counts when a group has nobody left: a mean over nobody would poison the weights.

    >>> group_weights(torch.tensor([0, 1, 1]))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.5000]])
    """
    (group,) = aligned(sensitive=sensitive)
    masks = group_masks(group, groups)
    chosen = torch.ones_like(group, dtype=torch.bool)
    if rows is not None:
        chosen = torch.zeros_like(chosen).index_fill(0, aligned(rows=rows)[0], True)
    if labels is not None:
        chosen = chosen & (aligned(labels=labels, sensitive=sensitive)[0] == 1)
    members = [mask & chosen for mask in masks]
    nonempty(members, "the bias objective" + (" among nodes of class 1" if labels is not None else ""))
    stacked = torch.stack(members).float()
    return stacked / stacked.sum(dim=1, keepdim=True)


def squared_gap(means: Float[Tensor, "groups c"], other: Float[Tensor, "groups c"] | None = None) -> Float[Tensor, ""]:
    """Squared differences of the group means, summed over classes and averaged over pairs of groups.

    With two groups it is the published sum. With `other`, a second and independent estimate of the same means, it is the
    product of the two differences, whose expectation is free of the variance of either.
    """
    count = len(means)
    centred = means - means.mean(dim=0)
    partner = centred if other is None else other - other.mean(dim=0)
    return 2 / (count - 1) * (centred * partner).sum()


def bias_objective(
    probabilities: Float[Tensor, "n c"],
    sensitive: ClassNumbers,
    labels: ClassNumbers | None = None,
    *,
    phi: Phi = "identity",
    rows: ClassNumbers | None = None,
    groups: int | None = None,
) -> Float[Tensor, ""]:
    """J = sum_c (mean over s=0 of phi(p_c) - mean over s=1 of phi(p_c))^2: statistical parity as a loss.

    With `labels` the means run over nodes of class 1 only: equal opportunity. Several groups: the mean over their pairs.

    Args:
        probabilities: class probabilities, rows summing to 1.
        sensitive: group numbers, integer or boolean [n].
        labels: class numbers [n], for the equal-opportunity objective.
        rows: node numbers that count; all unless given.

    Raises UndefinedMetric when a group has nobody.

    >>> float(bias_objective(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), torch.tensor([0, 1])))
    0.5
    """
    weights = group_weights(sensitive, labels, rows=rows, groups=groups).to(probabilities)
    return squared_gap(weights @ soft_step(probabilities, phi))
