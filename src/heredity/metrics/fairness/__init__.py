"""What a classifier does to groups: gaps, and the objective that trains them away."""

from heredity.metrics.fairness.gaps import (
    equal_opportunity_difference,
    equalised_odds_difference,
    statistical_parity_difference,
)
from heredity.metrics.fairness.groups import UndefinedMetric
from heredity.metrics.fairness.objective import Phi, bias_objective, group_weights, soft_step, squared_gap

__all__ = [
    "Phi",
    "UndefinedMetric",
    "bias_objective",
    "equal_opportunity_difference",
    "equalised_odds_difference",
    "group_weights",
    "soft_step",
    "squared_gap",
    "statistical_parity_difference",
]
