"""Spectral Signatures (Tran et al., NeurIPS 2018): poisoned samples stand out along their class's first singular
vector."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import DataVerdict, Threshold
from heredity.defences.sample_features import back_in_order, features_of, large_enough


@dataclass(frozen=True)
class SpectralSignatures:
    """`poisoned` is the largest share of a class (0..2/3) that may be poisoned: 1.5 times as many of every class are
    dropped."""

    poisoned: float = 0.1
    allow_tiny: bool = False


def scan(model: nn.Module, images: Tensor, labels: Tensor, config: SpectralSignatures | None = None) -> DataVerdict:
    """Which training samples lie farthest along the direction in which their class varies most.

    `model` was trained on these `images` (uint8 or [0, 1]) and `labels`. A sample's score is its squared coordinate on
    that direction over the class's own cut, so that 1 is the threshold in every class. By its nature the filter drops 1.5
    x `poisoned` of clean data too: that is its false-positive rate. A class's score is the share of its variance in that
    direction; whether it is high, only clean sets of the same kind can tell. Raises ConfigError for a class with fewer
    than 20 samples, unless `allow_tiny`.
    """
    config = config or SpectralSignatures()
    if not 0 < 1.5 * config.poisoned < 1:
        raise ConfigError(f"a poisoned share of {config.poisoned:g}", remedy="give one between 0 and 2/3")
    features, sorted_labels, order, ask = features_of(model, images, labels)
    classes = large_enough(sorted_labels, 20, allow_tiny=config.allow_tiny, detector="Spectral Signatures")
    scores, dropped = torch.zeros(len(features)), torch.zeros(len(features), dtype=torch.bool)
    class_scores = [0.0] * (max(classes) + 1)
    for label in classes:
        rows = torch.nonzero(sorted_labels == label).flatten()
        along, class_scores[label] = outlyingness(features[rows])
        count = round(1.5 * config.poisoned * len(rows))
        ranked = along.argsort(descending=True, stable=True)
        cut = (along[ranked[count - 1]] + along[ranked[count]]) / 2 if 0 < count < len(rows) else along.max()
        scores[rows] = (along / cut.clamp(min=1e-30)).float()
        dropped[rows[ranked[:count]]] = True
    return DataVerdict(
        detector="Spectral Signatures",
        scores=back_in_order(scores, order),
        kept=~back_in_order(dropped, order),
        threshold=Threshold(1.0, "paper", 1.5 * config.poisoned),
        cost=ask.cost(),
        class_scores=tuple(class_scores),
        measures={"dropped": float(dropped.float().mean())},
    )


def outlyingness(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n"], float]:
    """Each row's squared coordinate on the first right singular vector of the centred rows, and that direction's share of
    their variance.

    >>> outlyingness(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]))
    (tensor([1., 1., 4.]), 1.0)
    """
    centred = features - features.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    total = float(values.square().sum())
    return (centred @ directions[0]).square(), float(values[0].square()) / total if total else 0.0
