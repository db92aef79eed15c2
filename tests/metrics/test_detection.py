import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from heredity.core.errors import DataError
from heredity.metrics.detection import (
    auroc,
    auroc_interval,
    false_acceptance,
    mad_index,
    share_interval,
    threshold_at,
)

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@given(SCORES, SCORES)
@settings(deadline=None)
def test_the_area_is_scikit_learns(guilty: list[float], innocent: list[float]) -> None:
    truth = [1] * len(guilty) + [0] * len(innocent)
    assert auroc(guilty, innocent) == pytest.approx(roc_auc_score(truth, guilty + innocent))
    assert auroc(guilty, innocent) + auroc(innocent, guilty) == pytest.approx(1.0)


def test_an_infinite_score_is_ranked_and_no_number_is_refused() -> None:
    assert auroc([math.inf], [1.0, 2.0]) == 1.0
    with pytest.raises(DataError, match="not a number"):
        auroc([math.nan], [1.0])
    with pytest.raises(DataError, match="both kinds"):
        auroc([], [1.0])


def test_the_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    shift, truth = 1.5, 0.8556  # Phi(1.5 / sqrt(2))
    hits = 0
    for _ in range(400):
        value = auroc(random.normal(shift, 1, 12).tolist(), random.normal(0, 1, 12).tolist())
        low, high = auroc_interval(value, 12, 12)
        assert 0 <= low <= value <= high <= 1
        hits += low <= truth <= high
    assert 0.91 <= hits / 400 <= 1.0


def test_the_interval_of_a_perfect_or_useless_score_is_not_a_point() -> None:
    assert auroc_interval(1.0, 10, 10)[0] < 0.9
    assert auroc_interval(0.0, 10, 10) == pytest.approx((0.0, 1 - auroc_interval(1.0, 10, 10)[0]), abs=1e-6)
    low, high = auroc_interval(0.5, 10, 10)
    assert low == pytest.approx(1 - high, abs=1e-6)


def test_exact_interval_of_a_share() -> None:
    assert share_interval(10, 10) == pytest.approx((0.025 ** (1 / 10), 1.0))


@given(st.integers(19, 60), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_threshold_states_no_more_than_was_asked(count: int, rate: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=count)
    value, stated = threshold_at(scores.tolist(), rate)
    assert 0 < stated <= rate + 1e-12
    assert (scores > value).sum() == round(stated * (count + 1)) - 1


def test_the_stated_rate_is_the_rate_of_new_scores() -> None:
    random = np.random.default_rng(0)
    rates = [
        float((random.normal(size=100) > threshold_at(random.normal(size=19).tolist(), 0.1)[0]).mean())
        for _ in range(600)
    ]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.012)


def test_too_few_clean_scores_cannot_state_a_small_rate() -> None:
    with pytest.raises(DataError, match="give at least 19"):
        threshold_at([0.0] * 18, 0.05)
    with pytest.raises(DataError, match="is none"):
        threshold_at([0.0] * 18, 0.0)
    with pytest.raises(DataError, match="not a number"):
        threshold_at([math.nan] * 30, 0.1)


def test_false_acceptance_by_hand() -> None:
    innocent = [float(score) for score in range(99)]
    assert false_acceptance([98.0, 98.5, 1.0, 200.0], innocent, rejection=0.01) == 0.5
    assert false_acceptance([94.5, 93.5], innocent, rejection=0.05) == 0.5


def test_the_index_by_hand_and_for_equal_values() -> None:
    found = mad_index([1.0, 2.0, 3.0, 4.0, 10.0])
    assert found == pytest.approx((np.array([1.0, 2, 3, 4, 10]) - 3) / 1.4826)
    with pytest.warns(UserWarning, match="means nothing"):
        assert mad_index([2.0, 2.0, 2.0, 9.0]).tolist() == [0.0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mad_index([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="at least three"):
        mad_index([1.0, 2.0])
    with pytest.raises(DataError, match="not finite"):
        mad_index([1.0, 2.0, math.inf])
