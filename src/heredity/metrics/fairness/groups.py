"""Group numbers and label columns as the fairness metrics take them, and what makes a gap undefined."""

from typing import Literal

from jaxtyping import Shaped
from torch import Tensor

from heredity.core.errors import DataError, HeredityError

Undefined = Literal["raise", "nan"]
ClassNumbers = Shaped[Tensor, "..."]
"""One class or group number a node: integer or boolean [n]."""


class UndefinedMetric(HeredityError):  # noqa: N818 - the name users catch says what happened
    """A gap between groups of which one has no member: there is no rate to compare."""


def numbers(values: ClassNumbers, what: str) -> Tensor:
    """Class or group numbers as int64. Raises DataError for floats: a float is a score, and scores are no decisions."""
    if values.is_floating_point() or values.is_complex() or values.ndim != 1:
        raise DataError(
            f"{what} must be one integer or boolean a node, not {values.dtype} of shape {tuple(values.shape)}",
            remedy="take the class: logits.argmax(dim=1)",
        )
    return values.long()


def aligned(**columns: ClassNumbers) -> list[Tensor]:
    """Several columns as int64 of one length. Raises DataError naming those that differ."""
    found = {name: numbers(values, name) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"columns differ in length: {shown}", remedy="pass the same nodes in the same order")
    return list(found.values())


def group_count(sensitive: Tensor, groups: int | None = None) -> int:
    """How many groups there are. Raises DataError for numbers out of range and UndefinedMetric for fewer than two."""
    highest = int(sensitive.max()) + 1 if len(sensitive) else 0
    if len(sensitive) and (int(sensitive.min()) < 0 or (groups is not None and highest > groups)):
        wrong = int(sensitive.min()) if int(sensitive.min()) < 0 else highest - 1
        raise DataError(f"group {wrong} is outside 0..{(groups or highest) - 1}", remedy="number the groups 0, 1, ...")
    count = highest if groups is None else groups
    if count < 2:
        raise UndefinedMetric(
            f"a gap needs two groups, found {count} (nodes: {len(sensitive)})", remedy="use a sample with every group"
        )
    return count
