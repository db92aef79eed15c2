"""What a classifier would decide if nodes belonged to another group, all else unchanged."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import DataError
from heredity.metrics.fairness.bootstrap import Interval, intervals
from heredity.metrics.fairness.groups import ClassNumbers, aligned, group_count


def counterfactual_flip_rate(
    predict: Callable[[Float[Tensor, "n d"]], Tensor],
    features: Float[Tensor, "n d"],
    sensitive: ClassNumbers,
    column: int,
    *,
    seed: int,
    rows: ClassNumbers | None = None,
    samples: int = 1000,
) -> Interval:
    """Share of nodes whose class changes when the sensitive column of every node is set to another group's value.

    With several groups a node counts once any other group changes it. Proxies of the attribute and the edges stay as they
    are, so 0 says that the column is not used, and no more. Source: Agarwal et al., UAI 2021 (all nodes flipped at once).

    Args:
        predict: class scores [n, c] or class numbers [n] of all nodes from their features; a graph is closed over.
        features: as the model takes them, standardised or not.
        sensitive: group numbers [n].
        column: where the attribute stands in the features.
        rows: node numbers to report on; all unless given.

    Raises DataError when the column is not the attribute (it must have one value in each group).

    >>> x, members = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([0, 1, 1])
    >>> counterfactual_flip_rate(lambda x: (x[:, 0] > 0.5).long(), x, members, 0, seed=0, samples=20).value
    1.0
    """
    (group,) = aligned(sensitive=sensitive)
    count = group_count(group)
    if not 0 <= column < features.shape[1]:
        raise DataError(f"no feature column {column}", remedy=f"there are 0..{features.shape[1] - 1}")
    values = []
    for number in range(count):
        found = torch.unique(features[group == number, column])
        if len(found) != 1:
            raise DataError(
                f"feature column {column} has {len(found)} values in group {number}: it is not the sensitive attribute",
                remedy="give its column; without one in the features there is nothing to flip",
            )
        values.append(found[0])
    coding = torch.stack(values)
    with torch.no_grad():
        actual = _decisions(predict(features))
        changed = torch.zeros_like(actual, dtype=torch.bool)
        for shift in range(1, count):
            flipped = features.clone()
            flipped[:, column] = coding[(group + shift) % count]
            changed |= _decisions(predict(flipped)) != actual
    shown = (changed if rows is None else changed[aligned(rows=rows)[0]]).double().cpu()
    return intervals(
        lambda weights: {"flipped": (weights.double() @ shown) / weights.double().sum(dim=1)},
        len(shown),
        samples=samples,
        seed=seed,
    )["flipped"]


def _decisions(output: Tensor) -> Tensor:
    return output.argmax(dim=1) if output.ndim == 2 else output.long()
