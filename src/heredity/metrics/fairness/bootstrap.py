"""How far a figure could have fallen elsewhere: percentile intervals over resampled nodes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.randomness import generator_of

_CELLS = 2**22


@dataclass(frozen=True)
class Interval:
    """A figure with the 95 % percentile interval of its bootstrap; nan where it is undefined.

    `resamples` counts those in which it was defined.
    """

    value: float
    low: float
    high: float
    resamples: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def resamples(nodes: int, samples: int, seed: int) -> Iterator[Float[Tensor, "r n"]]:
    """How often each node was drawn in each of `samples` draws with replacement, a bounded block of rows at a time."""
    random = generator_of("bootstrap", seed)
    block = max(1, min(samples, _CELLS // max(1, nodes)))
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        drawn = torch.randint(nodes, (rows, nodes), generator=random)
        drawn += nodes * torch.arange(rows)[:, None]
        yield torch.bincount(drawn.reshape(-1), minlength=rows * nodes).reshape(rows, nodes).float()


def intervals(
    statistics: Callable[[Float[Tensor, "r n"]], dict[str, Float[Tensor, "r"]]], nodes: int, *, samples: int, seed: int
) -> dict[str, Interval]:
    """Several statistics of node weights, each with its interval, all on the same resamples.

    `statistics` takes rows of weights (how often each node counts) and returns one number a row for each name.

    >>> x = torch.tensor([0.0, 1.0, 1.0, 0.0])
    >>> intervals(lambda w: {"mean": (w * x).sum(1) / w.sum(1)}, 4, samples=200, seed=0)["mean"].value
    0.5
    """
    whole = statistics(torch.ones(1, nodes))
    drawn: dict[str, list[Tensor]] = {name: [] for name in whole}
    for weights in resamples(nodes, samples, seed):
        for name, values in statistics(weights).items():
            drawn[name].append(values.double())
    return {name: _interval(float(value[0]), torch.cat(drawn[name])) for name, value in whole.items()}


def _interval(value: float, drawn: Tensor) -> Interval:
    defined = drawn[~drawn.isnan()]
    if math.isnan(value) or not len(defined):
        return Interval(value, math.nan, math.nan, 0)
    low, high = torch.quantile(defined, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high, len(defined))
