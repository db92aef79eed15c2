"""Edges between similar rows: how the published graphs of Bail, Credit and German were made from their tables.

Source: Agarwal, Lakkaraju, Zitnik, "Towards a Unified Framework for Fair and Stable Graph Representation Learning", UAI 2021.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from heredity.core.errors import DataError

_MAX_ROWS = 100_000


def similar_pairs(features: Float[Tensor, "n d"], threshold: float, *, block: int = 500) -> Int[Tensor, "2 m"]:
    """Pairs i -> j with 1 / (1 + distance) above `threshold` times the largest such similarity of i to another row.

    Rows are taken `block` at a time, so that memory is block x n and never n x n; time is n^2 d. Raises DataError beyond
    100,000 rows, where `nearest_pairs` is the way.

    >>> similar_pairs(torch.tensor([[0.0], [0.1], [5.0]]), 0.9)
    tensor([[0, 1, 2, 2],
            [1, 0, 0, 1]])
    """
    from scipy.spatial.distance import cdist

    rows = features.double().numpy()
    if not 0 < threshold <= 1:
        raise DataError(f"threshold {threshold:g} is outside 0..1", remedy="published graphs use 0.6, 0.7 and 0.8")
    if not 2 <= len(rows) <= _MAX_ROWS:
        raise DataError(
            f"similarity of all pairs of {len(rows)} rows",
            remedy=f"from 2 to {_MAX_ROWS} rows; use edges=nearest beyond",
        )
    found = []
    for start in range(0, len(rows), block):
        near = cdist(rows[start : start + block], rows)
        similarity = 1.0 / (1.0 + near)
        # The largest entry of a row is the node itself; identical rows tie with it, which is as it should be.
        largest = np.partition(similarity, -2, axis=1)[:, -2]
        first, second = np.nonzero(similarity > threshold * largest[:, None])
        other = first + start != second
        found.append(np.stack([first[other] + start, second[other]]))
    return torch.from_numpy(np.concatenate(found, axis=1))


def nearest_pairs(features: Float[Tensor, "n d"], neighbours: int) -> Int[Tensor, "2 m"]:
    """Pairs of each row with its nearest others, by Euclidean distance (a tree, no matrix).

    >>> nearest_pairs(torch.tensor([[0.0], [0.1], [5.0]]), 1)
    tensor([[0, 1, 2],
            [1, 0, 1]])
    """
    from sklearn.neighbors import NearestNeighbors

    rows = features.double().numpy()
    if not 0 < neighbours < len(rows):
        raise DataError(
            f"{neighbours} nearest of {len(rows)} rows", remedy="choose neighbours= below the number of rows"
        )
    found = NearestNeighbors(n_neighbors=neighbours).fit(rows).kneighbors(return_distance=False)
    return torch.from_numpy(np.stack([np.repeat(np.arange(len(rows)), neighbours), found.reshape(-1)]))


def spread_evenly(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Columns scaled to -1..1 by their extremes, as the published loaders do for some."""
    low, high = features.min(dim=0).values, features.max(dim=0).values
    return 2 * (features - low) / (high - low).clamp(min=1e-12) - 1
