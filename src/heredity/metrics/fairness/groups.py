"""Group numbers and label columns as the fairness metrics take them, and what makes a gap undefined."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Shaped
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


def group_masks(sensitive: Tensor, groups: int | None) -> list[Bool[Tensor, "n"]]:
    """One mask a group. Raises DataError for negative numbers and UndefinedMetric for fewer than two groups."""
    if len(sensitive) and int(sensitive.min()) < 0:
        raise DataError(f"group {int(sensitive.min())} is negative", remedy="number the groups 0, 1, ...")
    highest = int(sensitive.max()) + 1 if len(sensitive) else 0
    if groups is not None and highest > groups:
        raise DataError(f"group {highest - 1} is outside 0..{groups - 1}", remedy="number the groups 0, 1, ...")
    count = highest if groups is None else groups
    if count < 2:
        raise UndefinedMetric(
            f"a gap needs two groups, found {count} (nodes: {len(sensitive)})", remedy="use a sample with every group"
        )
    return [sensitive == group for group in range(count)]


def nonempty(masks: Sequence[Tensor], what: str) -> None:
    """Raises UndefinedMetric with the counts when a mask selects nobody."""
    counts = [int(mask.sum()) for mask in masks]
    if not all(counts):
        shown = ", ".join(f"group {group}: {count}" for group, count in enumerate(counts))
        raise UndefinedMetric(f"{what} is undefined: {shown}", remedy='use a larger sample, or undefined="nan"')


def widest(rates: Sequence[float]) -> float:
    """The signed gap, later group minus earlier, of the pair of groups that lie furthest apart.

    >>> widest([0.5, 0.75])
    0.25
    """
    low, high = (rates.index(pick(rates)) for pick in (min, max))
    return rates[max(low, high)] - rates[min(low, high)]


def rate(mask: Tensor, event: Tensor) -> float:
    """Share of the masked nodes with the event."""
    return float(event[mask].double().mean())
