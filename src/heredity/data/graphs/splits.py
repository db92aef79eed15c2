"""Which nodes train, validate and test: published splits as they are, others drawn from the seed and stratified."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.graphs.tables import plain_file, read_columns, whole


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
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise DataError(
            f"{name}: shares {train:g} to train and {validation:g} to validate leave no test part",
            remedy="choose train= and validation= above 0 with a sum below 1",
        )
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


def published_split(directory: Path, labels: Int[Tensor, "n"], choice: str = "published") -> Split | None:
    """The split in `split/{train,val,test}.txt` (a node number a line) or `{train,val,test}_split.npy`, if wanted and there.

    Raises DataError for a part that is missing, a node that does not exist, is unlabelled, or lies in two parts.
    """
    folder = directory / "split"
    if choice != "published" or not folder.is_dir():
        return None
    parts = []
    for part in ("train", "val", "test"):
        text, array = folder / f"{part}.txt", folder / f"{part}_split.npy"
        if array.is_file() and not text.is_file():
            values, path = _array(array), array
        else:
            values, path = read_columns(text, 1, remedy=f"{folder} needs train, val and test"), text
        rows = torch.from_numpy(whole(values.reshape(-1), path, "node"))
        check_part(rows, labels, str(path))
        parts.append(rows.sort().values)
    check_disjoint(parts, str(folder))
    return Split(*parts, how=f"published split ({', '.join(str(len(part)) for part in parts)} nodes)")


def check_part(rows: Int[Tensor, "m"], labels: Int[Tensor, "n"], where: str) -> None:
    """Raises DataError unless the rows are labelled nodes."""
    wrong = rows[(rows < 0) | (rows >= len(labels))]
    if not len(rows) or len(wrong):
        problem = f"node {int(wrong[0])} is not among 0..{len(labels) - 1}" if len(wrong) else "no nodes"
        raise DataError(f"{where}: {problem}", remedy="mend the split, or draw one with split=drawn")
    if bool((labels[rows] < 0).any()):
        raise DataError(
            f"{where}: node {int(rows[labels[rows] < 0][0])} has no label", remedy="leave it out, or use split=drawn"
        )


def check_disjoint(parts: list[Tensor], where: str) -> None:
    """Raises DataError for a node that lies in two parts, or twice in one."""
    values, counts = torch.unique(torch.cat(parts), return_counts=True)
    if bool((counts > 1).any()):
        raise DataError(
            f"{where}: node {int(values[counts > 1][0])} is listed twice", remedy="mend the split, or use split=drawn"
        )


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(plain_file(path, "copy the split there"), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{path} is not a readable array: {error}", remedy="save it with numpy.save") from error
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise DataError(f"{path} is not one node number a line", remedy="save it with numpy.save")
    return values.astype(np.float64)
