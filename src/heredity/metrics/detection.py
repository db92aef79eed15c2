"""How well scores tell the guilty from the innocent: AUROC with an interval, errors at a stated rate, the MAD index.

Scores are plain numbers, higher meaning more suspicious. Nothing here knows what was scored.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, rankdata

from heredity.core.errors import DataError


def auroc(guilty: Sequence[float], innocent: Sequence[float]) -> float:
    """Probability that a guilty one scores higher than an innocent one, 0..1; a tie counts half.

    Raises DataError when a group is empty or a score is not a number (infinite ones are ranked).

    >>> auroc([0.9, 0.4], [0.1, 0.4])
    0.875
    """
    both = np.concatenate([np.asarray(guilty, float), np.asarray(innocent, float)])
    many, few = len(guilty), len(innocent)
    if not many or not few:
        raise DataError("an AUROC needs scores of both kinds", remedy="give at least one guilty and one innocent score")
    if np.isnan(both).any():
        raise DataError("a score is not a number", remedy="leave out what could not be scored, and say so")
    return float((rankdata(both)[:many].sum() - many * (many + 1) / 2) / (many * few))


def auroc_interval(value: float, guilty: int, innocent: int, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of an AUROC found on so many independent guilty and innocent ones.

    The ends are the values theta with |theta - value| = z sqrt(V(theta)), V being Hanley and McNeil's variance for
    exponential scores (Newcombe, Statistics in Medicine 2006, method 5). Unlike a bootstrap it does not collapse to a
    point where ten and ten are told apart perfectly.

    >>> low, high = auroc_interval(1.0, 10, 10)
    >>> round(low, 2), high
    (0.8, 1.0)
    """
    z = float(norm.ppf(0.5 + level / 2))
    more = (guilty + innocent) / 2 - 1

    def excess(theta: float) -> float:
        spread = theta * (1 - theta) * (1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
        return abs(theta - value) - z * math.sqrt(spread / (guilty * innocent))

    # At 0 and at 1 the variance is 0, so that a perfect value solves the equation too: look beside it.
    near = 1e-9
    low = 0.0 if value <= near else float(brentq(excess, 0.0, value - near))  # pyright: ignore[reportArgumentType]
    high = 1.0 if value >= 1 - near else float(brentq(excess, value + near, 1.0))  # pyright: ignore[reportArgumentType]
    return low, high


def share_interval(count: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial (Clopper-Pearson) interval of a share.

    >>> low, high = share_interval(0, 10)
    >>> low, round(high, 3)
    (0.0, 0.308)
    """
    found = binomtest(count, trials).proportion_ci(confidence_level=level, method="exact")
    return float(found.low), float(found.high)


def threshold_at(innocent: Sequence[float], rate: float) -> tuple[float, float]:
    """The threshold that a new innocent score exceeds with probability `rate` at most, and the probability it stands for.

    The k-th smallest of n innocent scores is exceeded by another one, exchangeable with them, with probability
    (n + 1 - k) / (n + 1) at most: nothing is assumed about their distribution. Raises DataError when n scores are too few
    to state so small a rate.

    >>> threshold_at([1.0, 3.0, 2.0, 4.0], 0.2)
    (4.0, 0.2)
    """
    ordered = np.sort(np.asarray(innocent, float))
    count = len(ordered)
    if not 0 < rate < 1:
        raise DataError(f"a false-positive rate of {rate:g} is none", remedy="give one between 0 and 1, such as 0.05")
    if np.isnan(ordered).any():
        raise DataError("an innocent score is not a number", remedy="leave out what could not be scored, and say so")
    rank = math.ceil((1 - rate) * (count + 1) - 1e-9)
    if rank > count:
        raise DataError(
            f"{count} clean scores cannot state a false-positive rate of {rate:g}",
            remedy=f"give at least {math.ceil(1 / rate - 1e-9) - 1}, or allow a rate of {1 / (count + 1):.3g}",
        )
    return float(ordered[rank - 1]), (count + 1 - rank) / (count + 1)


def false_acceptance(guilty: Sequence[float], innocent: Sequence[float], *, rejection: float) -> float:
    """Share of the guilty that pass where `rejection` (0..1) of the innocent are turned away. Lower is better.

    >>> false_acceptance([0.0, 5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0], rejection=0.2)
    0.25
    """
    threshold, _ = threshold_at(innocent, rejection)
    return float((np.asarray(guilty, float) <= threshold).mean())


def mad_index(values: Sequence[float]) -> Float[np.ndarray, "n"]:
    """How many (normal-consistent) median absolute deviations each value lies from the median, signed.

    (v - median) / (1.4826 median|v - median|), as in Neural Cleanse, section 4. Where that deviation is 0, more than half of
    the values being equal, the index means nothing: it is 0 and a warning says so. Raises DataError for fewer than three.

    >>> mad_index([1.0, 2.0, 3.0, 4.0, 100.0]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    found = np.asarray(values, float)
    if len(found) < 3:
        raise DataError(f"{len(found)} values have no outlier", remedy="the MAD index needs at least three classes")
    if not np.isfinite(found).all():
        raise DataError("a value is not finite", remedy="leave out what could not be measured, and say so")
    away = found - np.median(found)
    deviation = 1.4826 * float(np.median(np.abs(away)))
    if deviation <= 1e-12 * max(1.0, float(np.abs(found).max())):
        warnings.warn("more than half of the values are equal: the MAD index means nothing and is set to 0")
        return np.zeros_like(found)
    return away / deviation
