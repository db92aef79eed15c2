"""Gaps against fairlearn, J against closed forms, intervals against brute force, batch estimators against the whole."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre
from sklearn.metrics import f1_score, roc_auc_score

from heredity.core.errors import DataError
from heredity.core.files import finite
from heredity.core.randomness import generator_of
from heredity.metrics.fairness import (
    MovingGroupMeans,
    Phi,
    UndefinedMetric,
    bias_objective,
    counterfactual_flip_rate,
    equal_opportunity_difference,
    equalised_odds_difference,
    fairness_summary,
    gap_change,
    group_confusion,
    half_batch_objective,
    soft_step,
    statistical_parity_difference,
)
from heredity.metrics.fairness.utility import auc, calibration_error

P = torch.tensor([0, 0.25, 0.4, 0.5, 0.6, 0.75, 1], dtype=torch.float64)
PHIS: tuple[Phi, ...] = ("official", "legendre", "identity", "sigmoid")


def columns(seed: int, *, nodes: int = 200, groups: int = 2, classes: int = 2) -> tuple[torch.Tensor, ...]:
    random = generator_of("fairness", seed)
    predicted, truth = (torch.randint(classes, (nodes,), generator=random) for _ in range(2))
    return predicted, truth, torch.randint(groups, (nodes,), generator=random)


def rates(metric: Callable[..., Any], predicted: torch.Tensor, truth: torch.Tensor, group: torch.Tensor) -> list[float]:
    frame = MetricFrame(
        metrics=metric, y_true=truth.numpy(), y_pred=predicted.numpy(), sensitive_features=group.numpy()
    )
    return frame.by_group.tolist()


def furthest(found: list[float]) -> float:
    """The signed gap of the pair of groups furthest apart, by trying all pairs."""
    pairs = [found[b] - found[a] for a in range(len(found)) for b in range(a + 1, len(found))]
    return max(pairs, key=abs)


@given(st.integers(0, 10**6), st.integers(2, 4))
@settings(max_examples=8, deadline=None)
def test_gaps_agree_with_fairlearn(seed: int, groups: int) -> None:
    predicted, truth, group = columns(seed, groups=groups)
    parity = furthest(rates(selection_rate, predicted, truth, group))
    opportunity = furthest(rates(true_positive_rate, predicted, truth, group))
    false_alarms = furthest(rates(false_positive_rate, predicted, truth, group))
    assert abs(statistical_parity_difference(predicted, group)) == pytest.approx(abs(parity), abs=1e-12)
    assert abs(equal_opportunity_difference(predicted, truth, group)) == pytest.approx(abs(opportunity), abs=1e-12)
    odds = equalised_odds_difference(predicted, truth, group)
    assert abs(odds) == pytest.approx(max(abs(opportunity), abs(false_alarms)), abs=1e-12)
    whole = equalized_odds_difference(truth.numpy(), predicted.numpy(), sensitive_features=group.numpy())
    assert abs(odds) == pytest.approx(whole, abs=1e-12)
    if groups == 2:
        assert statistical_parity_difference(predicted, group) == pytest.approx(parity, abs=1e-12)
        assert equal_opportunity_difference(predicted, truth, group) == pytest.approx(opportunity, abs=1e-12)


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_many_classes_take_the_worst_class_against_the_rest(seed: int) -> None:
    predicted, truth, group = columns(seed, classes=4, groups=3)
    each = []
    opportunities = []
    for label in range(4):
        event = (predicted == label).long()
        each.append(abs(furthest(rates(selection_rate, event, truth, group))))
        of_class = truth == label
        opportunities.append(abs(furthest([float(event[of_class & (group == g)].double().mean()) for g in range(3)])))
    assert abs(statistical_parity_difference(predicted, group)) == pytest.approx(max(each), abs=1e-12)
    assert abs(equal_opportunity_difference(predicted, truth, group)) == pytest.approx(max(opportunities), abs=1e-12)


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_swapping_the_groups_or_the_classes_turns_the_sign(seed: int) -> None:
    predicted, truth, group = columns(seed)
    gap = statistical_parity_difference(predicted, group)
    assert statistical_parity_difference(predicted, 1 - group) == pytest.approx(-gap)
    assert statistical_parity_difference(1 - predicted, group) == pytest.approx(-gap)
    assert statistical_parity_difference(predicted.bool(), group.bool()) == gap
    opportunity = equal_opportunity_difference(predicted, truth, group)
    assert equal_opportunity_difference(predicted, truth, 1 - group) == pytest.approx(-opportunity)


def test_an_empty_group_is_an_error_with_counts_or_nan() -> None:
    predicted, group = torch.tensor([1, 0]), torch.tensor([1, 1])
    with pytest.raises(UndefinedMetric, match="group 0: 0, group 1: 2"):
        statistical_parity_difference(predicted, group)
    assert math.isnan(statistical_parity_difference(predicted, group, undefined="nan"))
    with pytest.raises(UndefinedMetric, match="group 1: 1 of class 0 and 0 of class 1"):
        equal_opportunity_difference(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    with pytest.raises(UndefinedMetric, match="needs two groups"):
        statistical_parity_difference(torch.tensor([1]), torch.tensor([0]))
    assert math.isnan(statistical_parity_difference(torch.tensor([1]), torch.tensor([0]), undefined="nan"))


def test_unlabelled_nodes_have_no_part_in_equal_opportunity() -> None:
    predicted, truth, group = columns(0)
    more = torch.cat([truth, torch.full((50,), -1)])
    extra = [torch.cat([column, torch.ones(50, dtype=torch.long)]) for column in (predicted, group)]
    assert equal_opportunity_difference(extra[0], more, extra[1]) == equal_opportunity_difference(
        predicted, truth, group
    )


@pytest.mark.parametrize(
    ("predicted", "group", "message"),
    [
        (torch.tensor([0.2, 0.7]), torch.tensor([0, 1]), "argmax"),
        (torch.tensor([[1], [0]]), torch.tensor([0, 1]), "shape"),
        (torch.tensor([1, 0, 1]), torch.tensor([0, 1]), "differ in length"),
        (torch.tensor([1, 0]), torch.tensor([0, -1]), "group -1"),
        (torch.tensor([1, -3]), torch.tensor([0, 1]), "class is outside"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(predicted: torch.Tensor, group: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        statistical_parity_difference(predicted, group)


def test_phi_matches_the_published_values() -> None:
    # Computed for the specification from the published coefficients, and from the series of the unit step.
    official = torch.tensor([0.0742, 0.2057, 0.3276, 0.5, 0.6724, 0.7943, 0.9258], dtype=torch.float64)
    series = torch.tensor([-0.123, 0.038, -0.028, 0.5, 1.028, 0.962, 1.123], dtype=torch.float64)
    assert torch.allclose(soft_step(P, "official"), official, atol=5e-5)
    assert torch.allclose(soft_step(P, "legendre"), series, atol=5e-4)


def test_phi_equals_numpys_legendre_polynomials() -> None:
    plain = [1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256]
    normalised = [a * (2 * k + 1) / 2 / 0.5 / 2 for a, k in zip(plain, (1, 3, 5, 7, 9), strict=True)]
    coefficients: dict[Phi, list[float]] = {"official": plain, "legendre": normalised}
    for phi, odd in coefficients.items():
        series = [0.5, *(value for a in odd for value in (a, 0))]
        assert soft_step(P, phi).numpy() == pytest.approx(legendre.legval(2 * P.numpy() - 1, series), abs=1e-12)
    integrals = [legendre.legval([0, 1], legendre.legint([0] * k + [1])) for k in (1, 3, 5, 7, 9)]
    assert plain == pytest.approx([upper - lower for lower, upper in integrals], abs=1e-12)


@pytest.mark.parametrize("phi", PHIS)
def test_the_objective_is_twice_the_squared_gap_for_two_classes(phi: Phi) -> None:
    random = generator_of("objective")
    p = torch.rand(50, generator=random, dtype=torch.float64, requires_grad=True)
    group = torch.randint(2, (50,), generator=random)
    truth = torch.randint(2, (50,), generator=random)
    for inside, labels in ((torch.ones(50, dtype=torch.bool), None), (truth == 1, truth)):
        gap = soft_step(p[inside & (group == 0)], phi).mean() - soft_step(p[inside & (group == 1)], phi).mean()
        found = bias_objective(torch.stack([1 - p, p], 1), group, labels, phi=phi)
        assert float(found.detach()) == pytest.approx(2 * float(gap.detach()) ** 2, abs=1e-9)
    few = p[:6].detach().requires_grad_()
    members = torch.arange(6) % 2
    assert torch.autograd.gradcheck(lambda x: bias_objective(torch.stack([1 - x, x], 1), members, phi=phi), (few,))


def test_the_objective_over_several_groups_is_the_mean_over_pairs() -> None:
    _, _, group = columns(1, groups=3)
    p = torch.rand(200, 4, generator=generator_of("p")).softmax(dim=1)
    pairs = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = (group == a) | (group == b)
        pairs.append(float(bias_objective(p[both], (group[both] == b).long())))
    assert float(bias_objective(p, group)) == pytest.approx(np.mean(pairs), abs=1e-6)
    rows = torch.arange(0, 200, 2)
    assert float(bias_objective(p, group, rows=rows)) == pytest.approx(float(bias_objective(p[rows], group[rows])))


def test_the_objective_without_a_group_is_an_error_and_no_nan() -> None:
    p, group = torch.full((4, 2), 0.5), torch.tensor([0, 0, 1, 1])
    with pytest.raises(UndefinedMetric, match="among nodes of class 1: group 0: 2, group 1: 0"):
        bias_objective(p, group, torch.tensor([1, 1, 0, 0]))
    with pytest.raises(UndefinedMetric, match="group 0: 0, group 1: 1"):
        bias_objective(p, group, rows=torch.tensor([3]))


def population() -> tuple[torch.Tensor, torch.Tensor]:
    random = generator_of("population")
    group = (torch.rand(4000, generator=random) < 0.3).long()
    p = (torch.rand(4000, generator=random) * 0.8 + 0.1 * group).double()
    return torch.stack([1 - p, p], dim=1), group


def batches_of(size: int, count: int, group: torch.Tensor) -> list[torch.Tensor]:
    random = generator_of("batches")
    drawn = [torch.randperm(len(group), generator=random)[:size] for _ in range(count)]
    return [rows for rows in drawn if int(group[rows][::2].sum()) > 0 and int(group[rows][1::2].sum()) > 0]


def test_batch_estimates_of_the_objective_against_the_whole() -> None:
    p, group = population()
    whole = float(bias_objective(p, group))
    batches = batches_of(48, 110, group)
    alone = torch.stack([bias_objective(p[rows], group[rows]) for rows in batches])
    halves = torch.stack([half_batch_objective(p[rows], group[rows]) for rows in batches])
    moving = MovingGroupMeans(decay=0.95)
    averaged = torch.stack([moving(p[rows], group[rows]) for rows in batches])[30:]
    # E[gap^2] = gap^2 + variance of the gap, known here from the population and the sizes of the groups in a batch.
    inside = [p[group == g, 1].var() / 48 / (group == g).double().mean() for g in (0, 1)]
    expected = whole + 2 * float(sum(inside))
    assert abs(float(alone.mean()) - expected) < 3 * float(alone.std()) / len(alone) ** 0.5
    assert float(alone.mean()) > 1.2 * whole
    assert abs(float(halves.mean()) - whole) < 3 * float(halves.std()) / len(halves) ** 0.5
    assert abs(float(averaged.mean()) - whole) < 0.15 * whole
    assert float(averaged.std()) < 0.4 * float(alone.std())


def test_the_gradient_of_the_moving_objective_is_that_of_the_whole() -> None:
    p, group = population()
    shift = torch.zeros(2, requires_grad=True, dtype=torch.float64)

    def moved(rows: torch.Tensor) -> torch.Tensor:
        return (p[rows].log() + shift * group[rows][:, None]).softmax(dim=1)

    everything = torch.arange(len(group))
    (expected,) = torch.autograd.grad(bias_objective(moved(everything), group), shift)
    moving = MovingGroupMeans(decay=0.98)
    batches = batches_of(256, 80, group)
    found = [torch.autograd.grad(moving(moved(rows), group[rows]), shift)[0] for rows in batches][30:]
    assert torch.allclose(torch.stack(found).mean(0), expected, rtol=0.1)
    first = MovingGroupMeans()
    (one,) = torch.autograd.grad(first(moved(everything), group), shift)
    assert torch.allclose(one, expected)
    again = MovingGroupMeans(decay=0.98)
    again.restore(moving.state())
    rows = batches[0]
    assert float(again(p[rows], group[rows])) == float(moving(p[rows], group[rows]))


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_utility_agrees_with_scikit_learn(seed: int) -> None:
    random = generator_of("utility", seed)
    p = torch.rand(80, 3, generator=random).mul(6).round().softmax(dim=1).double()
    truth = torch.randint(3, (80,), generator=random)
    group = torch.randint(2, (80,), generator=random)
    found = fairness_summary(p, truth, group, seed=0, samples=2)
    predicted = p.argmax(1)
    assert found.accuracy.value == pytest.approx(float((predicted == truth).double().mean()))
    assert found.f1.value == pytest.approx(f1_score(truth, predicted, average="macro", labels=[0, 1, 2]))
    assert found.auc.value == pytest.approx(roc_auc_score(truth, p, multi_class="ovr"), abs=1e-9)
    two, binary = torch.stack([1 - p[:, 1], p[:, 1]], 1), (truth == 1).long()
    summary = fairness_summary(two, binary, group, seed=0, samples=2)
    assert summary.f1.value == pytest.approx(f1_score(binary, two.argmax(1)))
    assert summary.auc.value == pytest.approx(roc_auc_score(binary, two[:, 1]), abs=1e-9)
    assert summary.statistical_parity_difference.value == statistical_parity_difference(two.argmax(1), group)
    confusion = group_confusion(two.argmax(1), binary, group)[0].long().tolist()
    assert [[list(row) for row in member.confusion] for member in summary.groups] == confusion
    weights = torch.randint(0, 3, (1, 80), generator=random).float()
    repeated = torch.arange(80).repeat_interleave(weights[0].long())
    assert float(auc(two[:, 1], binary.double(), weights)) == pytest.approx(
        roc_auc_score(binary[repeated], two[repeated, 1]), abs=1e-9
    )


def test_calibration_is_the_mean_over_bins() -> None:
    random = generator_of("calibration")
    p = torch.rand(500, generator=random).double()
    y = (torch.rand(500, generator=random) < p**2).double()
    place = (p * 10).long()
    expected = sum(abs(float((y - p)[place == b].sum())) for b in range(10)) / 500
    assert float(calibration_error(p, y, torch.ones(1, 500))) == pytest.approx(expected)
    summary = fairness_summary(torch.stack([1 - p, p], 1), y.long(), place % 2, seed=0, samples=2)
    for number, group in enumerate(summary.groups):
        inside = place % 2 == number
        assert group.surplus.value == pytest.approx(float((p - y)[inside].mean()))
        assert group.base_rates == (pytest.approx(float(y[inside].mean())),)


def test_intervals_are_those_of_resampled_nodes() -> None:
    random = generator_of("intervals")
    p = torch.rand(300, generator=random)
    truth, group = (torch.rand(300, generator=random) < p).long(), torch.randint(2, (300,), generator=random)
    summary = fairness_summary(torch.stack([1 - p, p], 1), truth, group, seed=0, samples=1000)
    predicted = (p > 0.5).long()
    numbers = np.random.default_rng(0)
    drawn = [torch.from_numpy(numbers.integers(0, 300, 300)) for _ in range(400)]
    for metric, found in (
        (
            lambda rows: statistical_parity_difference(predicted[rows], group[rows]),
            summary.statistical_parity_difference,
        ),
        (
            lambda rows: equal_opportunity_difference(predicted[rows], truth[rows], group[rows]),
            summary.equal_opportunity_difference,
        ),
    ):
        low, high = np.quantile([metric(rows) for rows in drawn], [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.025)
        assert found.low < found.value < found.high
    again = fairness_summary(torch.stack([1 - p, p], 1), truth, group, seed=0, samples=1000)
    assert again == summary
    assert json.dumps(finite(summary.to_plain()), allow_nan=False)


def test_a_change_of_gap_is_paired() -> None:
    predicted, truth, group = columns(2, nodes=600)
    other = torch.where(torch.rand(600, generator=generator_of("other")) < 0.05, 1 - predicted, predicted)
    change = gap_change(predicted, other, truth, group, seed=0)
    gaps = [abs(statistical_parity_difference(column, group)) for column in (predicted, other)]
    assert change.value == pytest.approx(gaps[1] - gaps[0])
    single = fairness_summary(
        torch.nn.functional.one_hot(predicted, 2).double(), truth, group, seed=0
    ).statistical_parity_difference
    assert change.high - change.low < single.high - single.low
    assert gap_change(predicted, predicted, truth, group, gap="equal_opportunity", seed=0, samples=20).high == 0


def test_doubtful_figures_are_noted() -> None:
    constant = torch.tensor([[0.2, 0.8]]).repeat(40, 1)
    group, truth = (torch.arange(40) >= 30).long(), (torch.arange(40) % 2) * (torch.arange(40) < 30)
    found = fairness_summary(constant, truth, group, seed=0, samples=20)
    assert any(note.startswith("degenerate: class 1 for every node") for note in found.notes)
    assert any("group 1 has 10 nodes" in note for note in found.notes)
    assert any(note.startswith("equal_opportunity_difference is undefined") for note in found.notes)
    assert math.isnan(found.equal_opportunity_difference.value)
    assert found.statistical_parity_difference.value == 0


@pytest.mark.parametrize(
    ("p", "truth", "message"),
    [
        (torch.tensor([[2.0, 1.0], [0.5, 0.5]]), [0, 1], "row 0 is not a distribution"),
        (torch.tensor([[0.5, 0.5], [math.nan, 0.5]]), [0, 1], "row 1 is not a distribution"),
        (torch.full((2, 2), 0.5), [0, -1], "label -1"),
        (torch.full((2, 2), 0.5), [0, 2], "label 2"),
        (torch.full((3, 2), 0.5), [0, 1], "differ|shape"),
    ],
)
def test_a_summary_of_what_are_no_probabilities_is_refused(p: torch.Tensor, truth: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fairness_summary(p, torch.tensor(truth), torch.tensor([0, 1]), seed=0)


def test_flipping_the_attribute_counts_what_changes() -> None:
    random = generator_of("flip")
    x = torch.randn(300, 3, generator=random)
    group = torch.randint(3, (300,), generator=random)
    x[:, 1] = torch.tensor([-1.2, 0.1, 1.4])[group]

    def blind(features: torch.Tensor) -> torch.Tensor:
        return features[:, [0, 2]]

    def sees(features: torch.Tensor) -> torch.Tensor:
        return (features[:, 0] + features[:, 1] > 0).long()

    assert counterfactual_flip_rate(blind, x, group, 1, seed=0, samples=50).value == 0
    expected = ((x[:, 0] - 1.2 > 0) != (x[:, 0] + 1.4 > 0)).double()
    found = counterfactual_flip_rate(sees, x, group, 1, seed=0)
    assert found.value == pytest.approx(float(expected.mean()))
    assert found.low < found.value < found.high
    rows = torch.arange(50)
    some = counterfactual_flip_rate(sees, x, group, 1, rows=rows, seed=0, samples=50)
    assert some.value == pytest.approx(float(expected[:50].mean()))
    with pytest.raises(DataError, match="it is not the sensitive attribute"):
        counterfactual_flip_rate(sees, x, group, 0, seed=0)
