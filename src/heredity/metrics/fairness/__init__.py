"""What a classifier does to groups: gaps with their intervals, and the objective that trains them away."""

from heredity.metrics.fairness.batches import MovingGroupMeans, half_batch_objective
from heredity.metrics.fairness.bootstrap import Interval
from heredity.metrics.fairness.counterfactual import counterfactual_flip_rate
from heredity.metrics.fairness.gaps import (
    equal_opportunity_difference,
    equalised_odds_difference,
    group_confusion,
    statistical_parity_difference,
)
from heredity.metrics.fairness.groups import UndefinedMetric
from heredity.metrics.fairness.objective import Phi, bias_objective, group_weights, soft_step, squared_gap
from heredity.metrics.fairness.summary import FairnessSummary, GroupSummary, fairness_summary, gap_change

__all__ = [
    "FairnessSummary",
    "GroupSummary",
    "Interval",
    "MovingGroupMeans",
    "Phi",
    "UndefinedMetric",
    "bias_objective",
    "counterfactual_flip_rate",
    "equal_opportunity_difference",
    "equalised_odds_difference",
    "fairness_summary",
    "gap_change",
    "group_confusion",
    "group_weights",
    "half_batch_objective",
    "soft_step",
    "squared_gap",
    "statistical_parity_difference",
]
