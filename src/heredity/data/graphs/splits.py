"""Which nodes train, validate and test: published splits as they are, others drawn from the seed and stratified."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of


@dataclass(frozen=True, eq=False)
class Split:
    """Node numbers of the three parts, and how they were chosen."""

    train: Int[Tensor, "train"]
    validation: Int[Tensor, "validation"]
    test: Int[Tensor, "test"]
    how: str


def drawn_split(
    labels: Int[Tensor, "n"], *, train: float, validation: float, seed: int, name: str, cap: int = 0
) -> Split:
    """Shares of each class, drawn by the seed; the test part gets the rest. Unlabelled nodes (-1) are in none.

    `cap` bounds the training nodes of each class, as the published loaders do; nodes over it are in no part. Raises
    DataError for a class with fewer than three nodes.
    """
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for label in range(int(labels.max()) + 1):
        rows = torch.nonzero(labels == label).flatten()
        if len(rows) < 3:
            raise DataError(
                f"{name}: class {label} has {len(rows)} nodes, too few for a training, validation and test part",
                remedy="merge classes, or give a split",
            )
        rows = rows[torch.randperm(len(rows), generator=generator_of("split", name, seed, label))]
        first = max(1, min(len(rows) - 2, round(train * len(rows))))
        second = max(first + 1, min(len(rows) - 1, round((train + validation) * len(rows))))
        parts[0].append(rows[: min(first, cap) if cap else first])
        parts[1].append(rows[first:second])
        parts[2].append(rows[second:])
    shares = f"{train:.0%} / {validation:.0%} / {1 - train - validation:.0%}"
    capped = f", at most {cap} training nodes a class" if cap else ""
    how = f"split drawn with seed {seed}, {shares} of each class{capped}"
    return Split(*(torch.cat(part).sort().values for part in parts), how=how)
