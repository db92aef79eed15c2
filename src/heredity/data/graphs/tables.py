"""Text files as users have them: CSV columns and lists of node pairs. Every error names file, column and line."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from heredity.core.errors import DataError, suggestion

_MAX_BYTES = 8 * 2**30
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})


@dataclass(frozen=True, eq=False)
class Table:
    """Text cells by column; `lines[row]` is where a row stands in the file."""

    path: Path
    columns: dict[str, list[str]]
    lines: Sequence[int]

    @property
    def rows(self) -> int:
        """How many rows there are below the header."""
        return len(self.lines)

    def column(self, name: str, role: str) -> list[str]:
        """The cells of a column. Raises DataError naming the nearest column there is."""
        if name not in self.columns:
            raise DataError(
                f"{self.path} has no {role} column {name!r}",
                remedy=suggestion(name, self.columns) or "check the header",
            )
        return self.columns[name]


def plain_file(path: Path, remedy: str) -> Path:
    """The path of a file that is there and not absurdly large. Raises DataError."""
    if not path.is_file():
        raise DataError(f"no file {path}", remedy=remedy)
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES >> 30} GB", remedy="give a smaller file")
    return path


def read_table(path: Path, *, remedy: str = "copy the published files there") -> Table:
    """A CSV file with a header. Raises DataError for a column named twice or a row with more or fewer cells."""
    cells: list[list[str]] = []
    lines: list[int] = []
    try:
        with plain_file(path, remedy).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if len(header) < 1 or len(set(header)) < len(header) or "" in header:
                twice = sorted({name for name in header if header.count(name) > 1 or not name})
                raise DataError(
                    f"{path}: the header names {twice[0]!r} twice or not at all" if twice else f"{path} is empty",
                    remedy="give a CSV file whose first line names every column once",
                )
            for row in reader:
                if row:
                    if len(row) != len(header):
                        raise DataError(
                            f"{path}, line {reader.line_num}: {len(row)} cells under {len(header)} columns",
                            remedy="mend the line",
                        )
                    cells.append(row)
                    lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}", remedy="save it as UTF-8 CSV") from error
    if not cells:
        raise DataError(f"{path} has a header and no rows", remedy=remedy)
    return Table(path, {name: [row[place].strip() for row in cells] for place, name in enumerate(header)}, lines)


def numeric(table: Table, names: Sequence[str]) -> Float[Tensor, "n d"]:
    """Feature columns as float64. Raises DataError naming column and line of a missing, non-numeric or infinite cell."""
    columns = [_numeric_column(table, name) for name in names]
    return torch.from_numpy(np.stack(columns, axis=1)) if columns else torch.zeros(table.rows, 0, dtype=torch.float64)


def _numeric_column(table: Table, name: str) -> np.ndarray:
    cells = table.column(name, "feature")
    try:
        values = np.array(cells, dtype=np.float64)
        if np.isfinite(values).all():
            return values
    except (ValueError, OverflowError):
        pass
    for cell, line in zip(cells, table.lines, strict=True):
        if cell.lower() in MISSING:
            raise DataError(
                f"{table.path}, line {line}: column {name!r} has no value ({cell!r})",
                remedy=f"fill it in, or leave the column out with drop={name}",
            )
        if number_of(cell) is None:
            raise DataError(
                f"{table.path}, line {line}: column {name!r} is {cell!r}, not a finite number",
                remedy=f"encode it as numbers, or leave the column out with drop={name}",
            )
    raise DataError(f"{table.path}: column {name!r} is not numeric", remedy=f"leave it out with drop={name}")


def number_of(cell: str) -> float | None:
    """A finite number, or None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_columns(path: Path, columns: int, *, remedy: str = "copy the published files there") -> np.ndarray:
    """A text file of numbers, so many in every line, separated by blanks or tabs: float64 [lines, columns]."""
    plain_file(path, remedy)
    try:
        if not path.stat().st_size:
            return np.zeros((0, columns))
        values = np.loadtxt(path, dtype=np.float64, ndmin=2, comments=None, encoding="utf-8")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        reason = str(error).partition(";")[0].replace("\n", " ")
        raise DataError(f"{path} is not {columns} numbers a line: {reason}", remedy="mend the line") from error
    if not len(values):
        return np.zeros((0, columns))
    if values.shape[1] != columns:
        raise DataError(f"{path} has {values.shape[1]} numbers a line, not {columns}", remedy="mend the file")
    return values


def whole(values: np.ndarray, path: Path, what: str) -> np.ndarray:
    """Numbers that must be whole (published files write them as 8.38e+02) as int64. Raises DataError naming the line."""
    flat = values if values.ndim == 2 else values[:, None]
    wrong = np.flatnonzero(
        ~np.isfinite(flat).all(axis=1) | (np.abs(flat) > 2**53).any(axis=1) | (flat % 1 != 0).any(axis=1)
    )
    if len(wrong):
        shown = " ".join(f"{value:g}" for value in flat[wrong[0]])
        raise DataError(f"{path}, line {wrong[0] + 1}: {what} {shown} is not a whole number", remedy="mend the line")
    return values.astype(np.int64)


def read_pairs(path: Path, nodes: int, *, names: np.ndarray | None = None) -> Int[Tensor, "2 m"]:
    """Two node numbers a line, as integers or as `8.38e+02`; `names[row]` gives nodes other numbers than their rows.

    Raises DataError naming the line of an edge to a node that does not exist.
    """
    pairs = whole(read_columns(path, 2), path, "node")
    if names is not None:
        order = np.argsort(names, kind="stable")
        place = np.searchsorted(names, pairs, sorter=order).clip(0, nodes - 1)
        rows = order[place]
        known = names[rows] == pairs
    else:
        rows, known = pairs, (pairs >= 0) & (pairs < nodes)
    wrong = np.flatnonzero(~known.all(axis=1))
    if len(wrong):
        unknown = pairs[wrong[0]][~known[wrong[0]]][0]
        range_of = f"0..{nodes - 1}" if names is None else f"the {nodes} rows of the node file"
        raise DataError(
            f"{path}, line {wrong[0] + 1}: an edge to node {unknown}, which is not among {range_of}",
            remedy="remove the edge or add the node",
        )
    return torch.from_numpy(rows.T.copy())
