import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heredity.core.outcome import Claim, Metric, bootstrap_interval, judge, summarise


def claim(**changes: object) -> Claim:
    plain = {"id": "c", "text": "t", "metric": "m", "comparison": "at most", "threshold": 1.0, "depends_on": "a"}
    return Claim(**{**plain, **changes})  # pyright: ignore[reportArgumentType]


def runs(*values: float) -> list[dict[str, Metric]]:
    return [{"m": Metric(value)} for value in values]


def test_every_seed_must_hold_unless_the_mean_is_asked_for() -> None:
    assert not judge(claim(), runs(0.0, 0.0, 1.1)).holds
    assert judge(claim(judged_on="mean"), runs(0.0, 0.0, 1.1)).holds
    assert not judge(claim(judged_on="interval"), runs(0.0, 0.0, 2.9)).holds
    assert judge(claim(comparison="at least"), runs(1.0, 2.0)).holds


def test_what_was_not_measured_does_not_hold() -> None:
    for comparison in ("at most", "at least"):
        for judged_on in ("every seed", "mean", "interval"):
            asked = claim(comparison=comparison, judged_on=judged_on)
            assert not judge(asked, [{}]).holds
            assert not judge(asked, runs(math.nan, 1.0)).holds


def test_a_conditional_claim_is_judged_where_its_case_arose_and_unanswered_where_it_never_did() -> None:
    asked = claim(occasions="cases")

    def run(value: float, cases: float) -> dict[str, Metric]:
        return {"m": Metric(value), "cases": Metric(cases)}

    found = judge(asked, [run(0.5, 2), run(math.nan, 0), run(1.0, 1)])
    assert found.holds
    assert found.mean == 0.75
    assert found.interval is not None
    assert math.isfinite(found.interval[0])
    assert not judge(asked, [run(0.5, 2), run(1.5, 1)]).holds
    assert not judge(asked, [run(math.nan, 1), run(0.5, 1)]).holds
    for judged_on in ("every seed", "mean", "interval"):
        never = judge(claim(occasions="cases", judged_on=judged_on), [run(math.nan, 0)] * 2)
        assert (never.holds, never.unanswered) == (False, True)
    assert not found.unanswered


def test_a_claim_is_unanswered_where_nobody_measured_it_and_fails_where_the_answer_is_no_number() -> None:
    nobody = judge(claim(), [{"other": Metric(1.0)}] * 2)
    assert (nobody.holds, nobody.unanswered) == (False, True)
    for measured in ([{"m": Metric(math.nan)}], [{"m": Metric(1.0)}, {"other": Metric(1.0)}]):
        failed = judge(claim(), measured)
        assert (failed.holds, failed.unanswered) == (False, False)


def test_bootstrap_agrees_with_scipy() -> None:
    sample = np.random.default_rng(0).normal(size=30)
    ours = bootstrap_interval(sample.tolist())
    theirs = stats.bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert ours == bootstrap_interval(sample.tolist())


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6))
def test_summary(values: list[float]) -> None:
    summary = summarise(runs(*values))["m"]
    assert summary["mean"] == pytest.approx(np.mean(values))
    assert summary["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
    low, high = summary["interval"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
