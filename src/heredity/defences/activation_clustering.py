"""Activation Clustering (Chen et al., SafeAI 2019): a class that falls into two groups was poisoned."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from heredity.defences.contract import DataVerdict, Threshold
from heredity.defences.sample_features import back_in_order, features_of, large_enough

PAPER = Threshold(0.1, "paper")
"""A silhouette above 0.10 to 0.15 speaks for two groups (section 4.3 of the paper)."""


@dataclass(frozen=True)
class ActivationClustering:
    """How a class's activations are split in two: reduced to `dimensions`, then 2-means from `restarts` starts.

    The paper takes independent components, which have unit variance each, so that two groups compete with every other
    direction; "principal" components keep their sizes. A class of fewer than 50 samples gets principal ones either way.

    A class is suspected when the smaller group holds less than `share` of it and the silhouette exceeds the threshold.
    """

    dimensions: int = 10
    reduction: Literal["independent", "principal"] = "independent"
    restarts: int = 10
    share: float = 0.35
    allow_tiny: bool = False


def scan(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: ActivationClustering | None = None,
    *,
    generator: torch.Generator,
    threshold: Threshold = PAPER,
) -> DataVerdict:
    """Which training samples form a small group of their own within their class.

    `model` was trained on these `images` (uint8 or [0, 1]) and `labels`, poisoned ones among them. A class's score is the
    silhouette of its two groups where the smaller one is small enough, else 0; what is not kept is the smaller group of
    the suspected classes. A sample's score is the class's score plus how much nearer (-1..1) it lies to the smaller group
    than to the larger. The paper's third test (train without the group, and see how it is then classified) is left to the
    caller. Raises ConfigError for a class with fewer than 20 samples, unless `allow_tiny`.
    """
    config = config or ActivationClustering()
    features, sorted_labels, order, ask = features_of(model, images, labels)
    classes = large_enough(sorted_labels, 20, allow_tiny=config.allow_tiny, detector="Activation Clustering")
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    scores, smaller = torch.zeros(len(features)), torch.zeros(len(features), dtype=torch.bool)
    class_scores = [0.0] * (max(classes) + 1)
    for label in classes:
        rows = torch.nonzero(sorted_labels == label).flatten()
        if len(rows) < 3:
            continue
        found = split_class(features[rows].numpy(), config, seed)
        class_scores[label] = found.silhouette if found.share < config.share else 0.0
        scores[rows] = class_scores[label] + torch.from_numpy(found.margins).float()
        smaller[rows] = torch.from_numpy(found.smaller)
    suspects = tuple(label for label in classes if threshold.flags(class_scores[label]))
    flagged = torch.isin(sorted_labels, torch.tensor(suspects, dtype=torch.long)) & smaller
    return DataVerdict(
        detector="Activation Clustering",
        scores=back_in_order(scores, order),
        kept=~back_in_order(flagged, order),
        threshold=threshold,
        cost=ask.cost(),
        class_scores=tuple(class_scores),
        suspects=suspects,
        measures={"highest silhouette": max(class_scores)},
    )


@dataclass(frozen=True)
class Split:
    """A class in two groups: the smaller one's members and share, the silhouette, and each sample's pull towards it."""

    smaller: np.ndarray
    share: float
    silhouette: float
    margins: np.ndarray


def split_class(features: np.ndarray, config: ActivationClustering, seed: int) -> Split:
    """One class's activations in two groups. Where they are all alike there is no second group."""
    if float(np.ptp(features, axis=0).max()) == 0.0:
        nobody = np.zeros(len(features), dtype=bool)
        return Split(nobody, 0.0, 0.0, np.full(len(features), -1.0))
    reduced = reduce(features, config, seed)
    clusters = KMeans(2, n_init=config.restarts, random_state=seed).fit(reduced)  # pyright: ignore[reportArgumentType]
    groups = np.asarray(clusters.labels_)
    sizes = np.bincount(groups, minlength=2)
    small = int(sizes.argmin())
    to_small, to_large = (
        np.linalg.norm(reduced - clusters.cluster_centers_[place], axis=1) for place in (small, 1 - small)
    )
    margins = (to_large - to_small) / np.maximum(to_large + to_small, 1e-12)
    smaller = groups == small
    return Split(smaller, float(smaller.mean()), float(silhouette_score(reduced, groups)), margins)


def reduce(features: np.ndarray, config: ActivationClustering, seed: int) -> np.ndarray:
    """The class's components: principal ones also where there are too few samples or the search does not converge."""
    kept = min(config.dimensions, *features.shape)
    if config.reduction == "independent" and len(features) >= 50:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return np.asarray(
                    FastICA(kept, whiten="unit-variance", random_state=seed, max_iter=500).fit_transform(features)
                )
            except (ConvergenceWarning, ValueError, np.linalg.LinAlgError):
                pass
    return np.asarray(PCA(kept, random_state=seed).fit_transform(features))
