"""What a model makes of training samples just before its classes: what data filters look at."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import Examination, as_unit, content_order, examining, features_before_head
from heredity.defences.repairing import check_classes, labelled_clean


def features_of(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"], Int[Tensor, "n"], Examination]:
    """Features and labels of training samples in an order that depends on their content alone, which rows of the given
    ones they are, and the examination that asked. Raises DataError for labels that do not fit.
    """
    _, order = content_order(as_unit(images))
    unit, sorted_labels = labelled_clean(images, labels, per_class=1)
    with examining(model) as ask, features_before_head(model) as seen:
        check_classes(ask.all(unit), sorted_labels)
    return torch.cat([part.flatten(1).cpu() for part in seen]).double(), sorted_labels, order, ask


def back_in_order(values: Shaped[Tensor, "n"], order: Int[Tensor, "n"]) -> Shaped[Tensor, "n"]:
    """Values of sorted samples, in the order in which the samples were given."""
    given = torch.empty_like(values)
    given[order] = values
    return given


def large_enough(labels: Int[Tensor, "n"], least: int, *, allow_tiny: bool, detector: str) -> list[int]:
    """The classes that occur. Raises ConfigError for one with fewer than `least` samples, unless that is wanted."""
    counts = torch.bincount(labels)
    classes = [label for label, count in enumerate(counts.tolist()) if count]
    tiny = [label for label in classes if counts[label] < least]
    if tiny and not allow_tiny:
        raise ConfigError(
            f"{detector}: class {tiny[0]} has {int(counts[tiny[0]])} samples, too few to tell groups apart",
            remedy=f"give at least {least} of every class, or allow_tiny=True to see how little it finds",
        )
    return classes
