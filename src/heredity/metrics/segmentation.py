"""How well predicted regions fit the true ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def intersection_over_union(
    predicted: Int[Tensor, "..."], truth: Int[Tensor, "..."], *, classes: int, ignore: int = 255
) -> Float[Tensor, "classes"]:
    """Of each class the pixels that both call so over those that either does; not-a-number for a class in neither.

    Pixels whose truth is `ignore` count for nothing. Its mean over classes is the mIoU (Everingham et al. 2015).

    >>> intersection_over_union(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), classes=2).tolist()
    [0.5, 0.5]
    """
    known = truth != ignore
    cells = torch.bincount(truth[known] * classes + predicted[known], minlength=classes**2).reshape(classes, classes)
    both = cells.diagonal().double()
    either = cells.sum(dim=0) + cells.sum(dim=1) - cells.diagonal()
    return torch.where(either > 0, both / either.clamp(min=1), torch.nan)


def mean_iou(predicted: Int[Tensor, "..."], truth: Int[Tensor, "..."], *, classes: int, ignore: int = 255) -> float:
    """Mean of `intersection_over_union` over the classes that occur, 0..1."""
    return float(intersection_over_union(predicted, truth, classes=classes, ignore=ignore).nanmean())
