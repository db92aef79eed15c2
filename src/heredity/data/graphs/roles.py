"""Label and sensitive column: their values to class and group numbers, or the reason why not."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.data.graphs.tables import MISSING, number_of

_MAX_GROUPS, _MAX_CLASSES = 20, 1000


def groups_of(
    cells: Sequence[str], *, where: str, lines: Sequence[int], positive: str | None = None, above: float | None = None
) -> tuple[Int[Tensor, "n"], list[str]]:
    """Group numbers of a sensitive column, and a note on what each number means.

    Distinct values in order become 0, 1, ...; with `positive` the group is 1 where the cell is that value; with `above`
    where it is a larger number. Raises DataError for a missing cell, a constant or a continuous column.
    """
    for cell, line in zip(cells, lines, strict=True):
        if cell.lower() in MISSING:
            raise DataError(
                f"{where}, line {line}: the sensitive attribute has no value ({cell!r})",
                remedy="fill it in or leave the node out: training needs every group",
            )
    if above is not None:
        values = [_number(cell, where, line) for cell, line in zip(cells, lines, strict=True)]
        found = torch.tensor([int(value > above) for value in values])
        _not_constant(found, where, f"no value on one side of {above:g}")
        return found, [f"group 1: {where.rpartition(' ')[2]} above {above:g}"]
    keyed = {cell: _key(cell) for cell in set(cells)}
    keys = [keyed[cell] for cell in cells]
    if positive is not None:
        found = torch.tensor([int(key == _key(positive)) for key in keys])
        shown = ", ".join(str(key) for key, _ in Counter(keys).most_common(5))
        _not_constant(found, where, f"{positive!r} is no value or the only one; values: {shown}")
        return found, []
    counts = Counter(keys)
    if len(counts) == 1:
        raise DataError(
            f"{where}: the sensitive attribute is constant ({cells[0]!r} in all {len(cells)} rows)",
            remedy="gaps between groups need two groups; name another column with sensitive=",
        )
    fractional = any(isinstance(key, float) and key % 1 for key in counts)
    if len(counts) > _MAX_GROUPS or (fractional and len(counts) > 2):
        raise DataError(
            f"{where}: the sensitive attribute has {len(counts)} different values, as a continuous column",
            remedy="cut it in two with sensitive_above=NUMBER, or pick one value with sensitive_positive=VALUE",
        )
    return _numbered(keys, counts)


def classes_of(
    cells: Sequence[str], *, where: str, positive: str | None = None, capped: bool = False
) -> tuple[Int[Tensor, "n"], list[str]]:
    """Class numbers of a label column (-1 where unlabelled), and a note on what each number means.

    An empty cell is unlabelled; so is -1 beside 0 and 1, while -1 beside 1 alone is class 0. `capped` counts every number
    above 1 as 1, the published rule for Pokec. Raises DataError for a column with one class or a continuous one.
    """
    keyed = {cell: None if cell.lower() in MISSING else _key(cell) for cell in set(cells)}
    keys: list[float | str | None] = [keyed[cell] for cell in cells]
    if capped:
        keys = [min(key, 1.0) if isinstance(key, float) else key for key in keys]
    if {-1.0, 0.0, 1.0} <= set(keys):
        keys = [None if key == -1.0 else key for key in keys]
    if positive is not None:
        chosen = _key(positive)
        if chosen not in keys:
            raise DataError(f"{where}: no label is {positive!r}", remedy="check label_positive=")
        keys = [None if key is None else float(key == chosen) for key in keys]
    counts = Counter(key for key in keys if key is not None)
    if len(counts) < 2:
        raise DataError(
            f"{where}: {len(counts)} different labels, at least two are needed", remedy="name another with label="
        )
    fractional = any(isinstance(key, float) and key % 1 for key in counts)
    if len(counts) > _MAX_CLASSES or (fractional and len(counts) > 2):
        raise DataError(
            f"{where}: {len(counts)} different labels, as a continuous column",
            remedy="bin it into classes, or pick one value with label_positive=VALUE",
        )
    numbers, notes = _numbered(keys, counts)
    if missing := int((numbers < 0).sum()):
        notes.append(f"{missing} nodes are unlabelled and in no part of the split")
    return numbers, notes


def _key(cell: str) -> float | str:
    """`1`, `1.0` and `1.0e+00` are one value."""
    value = number_of(cell)
    return cell if value is None else value


def _number(cell: str, where: str, line: int) -> float:
    value = number_of(cell)
    if value is None:
        raise DataError(f"{where}, line {line}: {cell!r} is not a number", remedy="sensitive_above needs numbers")
    return value


def _not_constant(found: Tensor, where: str, reason: str) -> None:
    if len(torch.unique(found)) < 2:
        raise DataError(f"{where}: one group only ({reason})", remedy="gaps between groups need two groups")


def _numbered(keys: Sequence[float | str | None], counts: Counter) -> tuple[Int[Tensor, "n"], list[str]]:
    ordered = sorted(counts, key=lambda key: (isinstance(key, str), key))
    numbers = {key: number for number, key in enumerate(ordered)}
    plain = ordered == [float(number) for number in range(len(ordered))]
    shown = ", ".join(
        f"{key:g} -> {number}" if isinstance(key, float) else f"{key} -> {number}" for key, number in numbers.items()
    )
    coded = torch.tensor([-1 if key is None else numbers[key] for key in keys])
    return coded, [] if plain else [f"coded {shown}"]
