"""What a run found out, as plain data: metrics, tables, figures, and claims judged on them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from heredity.core.errors import ConfigError
from heredity.core.randomness import seed_of


@dataclass(frozen=True)
class Metric:
    """One measured number with its unit and, where it was estimated, its 95 % interval."""

    value: float
    unit: str = ""
    higher_is_better: bool | None = None
    interval: tuple[float, float] | None = None

    def to_plain(self) -> dict[str, Any]:
        """As in results.json; `interval` only where there is one."""
        plain = asdict(self)
        if self.interval is None:
            del plain["interval"]
        else:
            plain["interval"] = list(self.interval)
        return plain


@dataclass(frozen=True)
class Table:
    """A table for the report: cells are numbers or texts, one list a row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What `System.run` returns. Metric names are paths: `contrastive/digit/full/log10_p`."""

    metrics: Mapping[str, Metric]
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper as a measured quantity that can fall short.

    `metric` is a path in the outcome; the claim holds when it is at least (or at most) `threshold`. Over several seeds,
    `judged_on` "every seed" asks it of each one, "mean" of the mean, "interval" of the whole 95 % bootstrap interval of
    the mean. `depends_on` names the ablation that removes the idea behind the claim: with it, the claim must break.
    A `reported` claim is an open question: judged and shown like the others, but a "no" is an answer and fails no run.
    `presets` names those that measure it, where not all do: others leave it out instead of failing it. `occasions` names a
    metric that counts the cases which a conditional claim is about; seeds without one are passed over, and where no seed
    has one the claim is unanswered.
    """

    id: str
    text: str
    metric: str
    comparison: Literal["at least", "at most"]
    threshold: float
    depends_on: str
    judged_on: Literal["every seed", "mean", "interval"] = "every seed"
    reported: bool = False
    presets: tuple[str, ...] = ()
    occasions: str = ""

    def holds_for(self, value: float) -> bool:
        """Whether one number satisfies the claim; a number that is missing or not a number never does."""
        if math.isnan(value):
            return False
        return value >= self.threshold if self.comparison == "at least" else value <= self.threshold


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured for it.

    `unanswered` claims do not hold, and no run showed them false: none measured them, since its settings leave that out or
    nothing occurred that they are about. A metric that was measured and is not a number is an answer: no.
    """

    claim: Claim
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    holds: bool
    unanswered: bool = False

    def to_plain(self) -> dict[str, Any]:
        """As in the `claims` list of results.json."""
        return {
            "id": self.claim.id,
            "text": self.claim.text,
            "holds": self.holds,
            "unanswered": self.unanswered,
            "reported": self.claim.reported,
            "measured": {
                "metric": self.claim.metric,
                "value": self.mean,
                "interval": list(self.interval) if self.interval else None,
                "comparison": self.claim.comparison,
                "threshold": self.claim.threshold,
                "judged_on": self.claim.judged_on,
                "values": list(self.values),
            },
            "depends_on": self.claim.depends_on,
        }


def judge(claim: Claim, runs: Sequence[Mapping[str, Metric]]) -> Judgement:
    """Judge a claim on the metrics of one run or of one run a seed.

    >>> claim = Claim("small", "it is small", "size", "at most", 1.0, "no-idea", "mean")
    >>> judge(claim, [{"size": Metric(0.5)}, {"size": Metric(1.1)}]).holds
    True
    """
    if not runs:
        raise ConfigError("there are no runs to judge", remedy="give at least one seed")
    values = tuple(run[claim.metric].value if claim.metric in run else math.nan for run in runs)
    judged = [value for run, value in zip(runs, values, strict=True) if _has_occasion(claim, run)]
    mean = float(np.mean(judged)) if judged else math.nan
    if len(runs) == 1:
        interval = runs[0][claim.metric].interval if claim.metric in runs[0] else None
    else:
        interval = bootstrap_interval(judged or values)
    if claim.judged_on == "every seed":
        holds = bool(judged) and all(claim.holds_for(value) for value in judged)
    elif claim.judged_on == "interval" and interval is not None:
        holds = all(claim.holds_for(end) for end in interval)
    else:
        holds = claim.holds_for(mean)
    unanswered = not judged or all(claim.metric not in run for run in runs)
    return Judgement(claim, values, mean, interval, holds, unanswered)


def _has_occasion(claim: Claim, run: Mapping[str, Metric]) -> bool:
    return not claim.occasions or claim.occasions not in run or run[claim.occasions].value > 0


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, seeded by the values themselves so that it is repeatable.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    sample = np.asarray(values, dtype=float)
    if not np.isfinite(sample).all():
        return (math.nan, math.nan)
    random = np.random.default_rng(seed_of("bootstrap", *(repr(float(value)) for value in sample)))
    means = sample[random.integers(len(sample), size=(resamples, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(runs: Sequence[Mapping[str, Metric]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (n - 1) and 95 % bootstrap interval of every metric that all runs share."""
    shared = [name for name in runs[0] if all(name in run for run in runs)] if runs else []
    summary: dict[str, dict[str, Any]] = {}
    for name in shared:
        values = [run[name].value for run in runs]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        first = runs[0][name]
        summary[name] = {
            "mean": float(np.mean(values)),
            "standard_deviation": spread,
            "interval": list(bootstrap_interval(values)),
            "unit": first.unit,
            "higher_is_better": first.higher_is_better,
        }
    return summary


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, grouped: `values[series][label]`; `intervals` likewise, low and high end of each bar's interval.

    With a single series, bars of the labels in `warned` are drawn in the warning colour, which `warning` explains.
    """

    labels: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]]
    unit: str
    reference: float | None = None
    intervals: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    warning: str = ""
    kind: str = field(default="bars", init=False)


@dataclass(frozen=True)
class Curves:
    """Lines: `lines[name] = (xs, ys)`."""

    lines: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    x: str
    y: str
    reference: float | None = None
    kind: str = field(default="curves", init=False)


@dataclass(frozen=True)
class Heatmap:
    """A matrix with a number in every cell."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    unit: str
    kind: str = field(default="heatmap", init=False)


@dataclass(frozen=True)
class Pictures:
    """Images in a grid: nested lists of uint8 RGB, [row][column] -> H x W x 3, with a caption a row."""

    grid: tuple[tuple[Any, ...], ...]
    captions: tuple[str, ...]
    kind: str = field(default="pictures", init=False)


@dataclass(frozen=True)
class Points:
    """Scattered points in groups: `groups[name] = (xs, ys)`."""

    groups: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    x: str
    y: str
    kind: str = field(default="points", init=False)


@dataclass(frozen=True)
class Slopes:
    """What becomes of each of several things from stage to stage: `lines[name]` has one value a stage."""

    stages: tuple[str, ...]
    lines: Mapping[str, tuple[float, ...]]
    unit: str
    reference: float | None = None
    kind: str = field(default="slopes", init=False)


@dataclass(frozen=True)
class Fronts:
    """Trade-offs: `lines[name] = (xs, ys)` joined in order, `spread[name] = (x lows, x highs, y lows, y highs)`."""

    lines: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    spread: Mapping[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]]
    x: str
    y: str
    kind: str = field(default="fronts", init=False)


Figure = Bars | Curves | Heatmap | Pictures | Points | Slopes | Fronts
"""What a room may hand to `Run.figure`; the report draws it. A room hands data, not drawings."""
