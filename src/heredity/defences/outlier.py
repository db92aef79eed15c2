"""An out-of-distribution view: inputs whose features lie where no clean image's do.

Mahalanobis distance (Lee et al., NeurIPS 2018, one Gaussian for all classes, no labels) and distance to the k-th nearest
clean neighbour (Sun et al., ICML 2022).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import (
    Cost,
    InputFilter,
    as_unit,
    calibrate,
    clean_images,
    examining,
    features_before_head,
)


@dataclass(frozen=True)
class Outlier:
    """Which distance, in which features: an encoder's "output", or what a classifier's last layer sees ("before-head").

    `neighbour` is k of the nearest-neighbour distance; `rejection` the share of clean inputs that may be turned away.
    """

    distance: Literal["mahalanobis", "nearest"] = "mahalanobis"
    features: Literal["output", "before-head"] = "output"
    neighbour: int = 5
    rejection: float = 0.01


def fit(model: nn.Module, images: Tensor, config: Outlier | None = None, *, generator: torch.Generator) -> InputFilter:
    """A filter from clean images (uint8 or [0, 1]): one half describes the clean features, the other sets the threshold.

    The covariance is Ledoit and Wolf's, which is defined with fewer images than features. Raises DataError when half the
    images cannot state the rejection rate: 1 % needs 99 in each half.
    """
    config = config or Outlier()
    if config.neighbour < 1:
        raise ConfigError(f"neighbour {config.neighbour}", remedy="count from 1")
    unit = clean_images(images, at_least=2 * config.neighbour + 2)
    order = torch.randperm(len(unit), generator=generator)
    known, held_out = unit[order[: len(unit) // 2]], unit[order[len(unit) // 2 :]]
    features, described = _features(model, known, config)
    if config.distance == "mahalanobis":
        gaussian = LedoitWolf().fit(features)

        def distance(rows: np.ndarray) -> np.ndarray:
            return np.sqrt(gaussian.mahalanobis(rows))
    else:
        nearest = NearestNeighbors(n_neighbors=config.neighbour).fit(features)

        def distance(rows: np.ndarray) -> np.ndarray:
            return nearest.kneighbors(rows)[0][:, -1]

    def examine(inputs: Tensor) -> tuple[Float[Tensor, "n"], Cost]:
        rows, cost = _features(model, as_unit(inputs), config)
        return torch.from_numpy(distance(rows)).float(), cost

    scores, asked = examine(held_out)
    cost = Cost(described.seconds + asked.seconds, described.queries + asked.queries)
    threshold = calibrate(scores.tolist(), config.rejection, source="clean images")
    return InputFilter(f"outlier, {config.distance}", threshold, cost, examine)


def _features(model: nn.Module, unit: Tensor, config: Outlier) -> tuple[np.ndarray, Cost]:
    with examining(model) as ask:
        if config.features == "output":
            return ask.all(unit).double().numpy(), ask.cost()
        with features_before_head(model) as seen:
            ask.all(unit)
        return torch.cat([part.flatten(1).cpu() for part in seen]).double().numpy(), ask.cost()
