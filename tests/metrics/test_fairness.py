import pytest
import torch
from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.metrics.fairness import (
    UndefinedMetric,
    bias_objective,
    equal_opportunity_difference,
    soft_step,
    statistical_parity_difference,
)

P = torch.tensor([0, 0.25, 0.4, 0.5, 0.6, 0.75, 1], dtype=torch.float64)


def columns(seed: int, nodes: int = 200, groups: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = generator_of("fairness", seed)
    predicted, truth = (torch.randint(2, (nodes,), generator=random) for _ in range(2))
    return predicted, truth, torch.randint(groups, (nodes,), generator=random)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_two_groups_agree_with_fairlearn(seed: int) -> None:
    predicted, truth, group = columns(seed)
    arrays = {"y_true": truth.numpy(), "y_pred": predicted.numpy(), "sensitive_features": group.numpy()}
    selected = MetricFrame(metrics=selection_rate, **arrays).by_group
    positives = MetricFrame(metrics=true_positive_rate, **arrays).by_group
    assert statistical_parity_difference(predicted, group) == pytest.approx(selected[1] - selected[0], abs=1e-12)
    assert equal_opportunity_difference(predicted, truth, group) == pytest.approx(
        positives[1] - positives[0], abs=1e-12
    )


def test_an_empty_group_is_an_error_with_counts_or_nan() -> None:
    predicted, group = torch.tensor([1, 0]), torch.tensor([1, 1])
    with pytest.raises(UndefinedMetric, match="group 0: 0, group 1: 2"):
        statistical_parity_difference(predicted, group)
    assert statistical_parity_difference(predicted, group, undefined="nan") != 0.0


def test_scores_are_refused() -> None:
    with pytest.raises(DataError, match="argmax"):
        statistical_parity_difference(torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))


def test_phi_matches_the_published_values() -> None:
    # Computed for the specification from the published coefficients, and from the series of the unit step.
    official = torch.tensor([0.0742, 0.2057, 0.3276, 0.5, 0.6724, 0.7943, 0.9258], dtype=torch.float64)
    series = torch.tensor([-0.123, 0.038, -0.028, 0.5, 1.028, 0.962, 1.123], dtype=torch.float64)
    assert torch.allclose(soft_step(P, "official"), official, atol=5e-5)
    assert torch.allclose(soft_step(P, "legendre"), series, atol=5e-4)


def test_phi_equals_numpys_legendre_polynomials() -> None:
    published = legendre.legval(2 * P.numpy() - 1, [0.5, 1 / 2, 0, -1 / 8, 0, 1 / 16, 0, -5 / 128, 0, 7 / 256])
    assert soft_step(P, "official").numpy() == pytest.approx(published, abs=1e-12)


def test_the_objective_is_twice_the_squared_gap_for_two_classes() -> None:
    random = generator_of("objective")
    p = torch.rand(50, generator=random)
    group = torch.randint(2, (50,), generator=random)
    for phi in ("official", "legendre", "identity", "sigmoid"):
        gap = soft_step(p[group == 0], phi).mean() - soft_step(p[group == 1], phi).mean()
        assert float(bias_objective(torch.stack([1 - p, p], 1), group, phi=phi)) == pytest.approx(
            2 * float(gap) ** 2, abs=1e-6
        )
