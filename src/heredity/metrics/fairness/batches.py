"""J from mini-batches: no sum over nodes but a function of group means, so a batch's own J is too large by their variance."""

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import ConfigError
from heredity.metrics.fairness.groups import ClassNumbers
from heredity.metrics.fairness.objective import Phi, group_weights, soft_step, squared_gap


class MovingGroupMeans:
    """J on group means that are averaged over the past batches; its gradient flows through the present one.

    The moving mean is a_t = decay a_(t-1) + (1 - decay) m_t, divided by 1 - decay^t (as Adam does), so that early batches
    are not drawn to 0. The gradient is that of J at the moving means, applied to the batch's own means.

    >>> moving = MovingGroupMeans(decay=0.9)
    >>> p = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    >>> round(float(moving(p, torch.tensor([0, 1]))), 6)
    0.5
    """

    def __init__(self, *, decay: float = 0.9, phi: Phi = "identity") -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay {decay:g} is outside [0, 1)", remedy="0.9 averages about ten batches")
        self.decay = decay
        self.phi: Phi = phi
        self._total: Tensor | None = None
        self._weight = 0.0

    def __call__(
        self,
        probabilities: Float[Tensor, "n c"],
        sensitive: ClassNumbers,
        labels: ClassNumbers | None = None,
        *,
        groups: int | None = None,
    ) -> Float[Tensor, ""]:
        """J after one more batch. Raises UndefinedMetric when a group is absent from it: stratify the batches."""
        weights = group_weights(sensitive, labels, groups=groups).to(probabilities)
        means = weights @ soft_step(probabilities, self.phi)
        present = means.detach()
        total = torch.zeros_like(present) if self._total is None else self._total
        self._total = self.decay * total + (1 - self.decay) * present
        self._weight = self.decay * self._weight + (1 - self.decay)
        return squared_gap(self._total / self._weight + means - present)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        return (
            {}
            if self._total is None
            else {"total": self._total, "weight": torch.tensor(self._weight, dtype=torch.float64)}
        )

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self._total = state.get("total")
        self._weight = float(state["weight"]) if state else 0.0


def half_batch_objective(
    probabilities: Float[Tensor, "n c"],
    sensitive: ClassNumbers,
    labels: ClassNumbers | None = None,
    *,
    phi: Phi = "identity",
    groups: int | None = None,
) -> Float[Tensor, ""]:
    """An unbiased estimate of J from one batch: the gap of its even rows times that of its odd rows.

    It may be negative. Raises UndefinedMetric when a half lacks a group.

    >>> p = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25]])
    >>> float(half_batch_objective(p, torch.tensor([0, 0, 1, 1])))
    0.5
    """
    values = soft_step(probabilities, phi)
    halves = []
    for start in (0, 1):
        rows = slice(start, None, 2)
        own = None if labels is None else labels[rows]
        halves.append(group_weights(sensitive[rows], own, groups=groups).to(values) @ values[rows])
    return squared_gap(*halves)
