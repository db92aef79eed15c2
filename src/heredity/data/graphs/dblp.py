"""DBLP as RELIANT publishes it: `edgelist.txt`, `labels.txt`, `sens.txt`, `X.npz`, `split/`.

Source: Dong et al., SDM 2023: label 1 = research area 3, group 1 = continent 2.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import seed_of
from heredity.data.graphs.graph import undirected
from heredity.data.graphs.raw import Options, RawGraph
from heredity.data.graphs.roles import classes_of, groups_of
from heredity.data.graphs.splits import published_split
from heredity.data.graphs.tables import plain_file, read_columns, read_pairs, whole

_MAX_DENSE = 4 * 2**30
_SPECTRAL = 16


def read_dblp(directory: Path, options: Options, seed: int) -> RawGraph:
    """The published coding unless `label_positive=` or `sensitive_positive=` say otherwise (`all` keeps every value)."""
    label_cells, sensitive_cells = (_column(directory / f"{name}.txt") for name in ("labels", "sens"))
    nodes = len(label_cells)
    if len(sensitive_cells) != nodes:
        raise DataError(
            f"{directory}: labels.txt has {nodes} nodes, sens.txt {len(sensitive_cells)}",
            remedy="the files do not belong together",
        )
    label_value, group_value = options.label_positive or "3", options.sensitive_positive or "2"
    labels, label_notes = classes_of(
        label_cells, where=f"{directory / 'labels.txt'}", positive=None if label_value == "all" else label_value
    )
    sensitive, group_notes = groups_of(
        sensitive_cells,
        where=f"{directory / 'sens.txt'}",
        lines=range(1, nodes + 1),
        positive=None if group_value == "all" else group_value,
    )
    pairs = read_pairs(directory / "edgelist.txt", nodes)
    notes = [*label_notes, *group_notes]
    if label_value != "all":
        notes.append(f"class 1 = label {label_value}, class 0 = every other")
    if group_value != "all":
        notes.append(f"group 1 = attribute {group_value}, group 0 = every other")
    if options.features == "structure":
        features, names = structure_features(pairs, nodes, seed)
        notes.append("features are made from the edges alone (degree and spectral coordinates), not published ones")
    else:
        features, names = _sparse_features(directory / "X.npz", nodes, options.components, seed)
        if options.components:
            notes.append(f"published features reduced to {options.components} by truncated SVD")
    return RawGraph(
        name="dblp",
        features=features,
        feature_names=names,
        labels=labels,
        sensitive=sensitive,
        pairs=pairs,
        label_name="research area",
        sensitive_name="continent",
        notes=notes,
        split=published_split(directory, labels, options.split),
    )


def _column(path: Path) -> list[str]:
    """`node value` lines, in any order of nodes, as one cell a node."""
    values = whole(read_columns(path, 2), path, "node or value")
    order = np.argsort(values[:, 0], kind="stable")
    wrong = np.flatnonzero(values[order, 0] != np.arange(len(values)))
    if not len(values) or len(wrong):
        raise DataError(
            f"{path}: node {int(wrong[0]) if len(wrong) else 0} is missing or listed twice",
            remedy="one line a node, 0, 1, ...",
        )
    return [str(value) for value in values[order, 1]]


def structure_features(
    pairs: Int[Tensor, "2 m"], nodes: int, seed: int
) -> tuple[Float[Tensor, "n d"], tuple[str, ...]]:
    """Log degree and leading singular directions of the normalised adjacency: features of a graph that has none."""
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD

    edges, _, _ = undirected(pairs, nodes)
    degree = torch.bincount(edges[0], minlength=nodes).double()
    scale = (degree + 1).rsqrt()
    loops = torch.arange(nodes)
    row, column = torch.cat([edges[0], loops]), torch.cat([edges[1], loops])
    matrix = csr_array(((scale[row] * scale[column]).numpy(), (row.numpy(), column.numpy())), shape=(nodes, nodes))
    dimensions = min(_SPECTRAL, nodes - 1)
    reduced = TruncatedSVD(dimensions, random_state=seed_of("structure", seed) % 2**32).fit_transform(matrix)
    columns = torch.cat([(degree + 1).log()[:, None], torch.from_numpy(reduced)], dim=1)
    return columns, ("log_degree", *(f"spectral_{number}" for number in range(dimensions)))


def _sparse_features(
    path: Path, nodes: int, components: int, seed: int
) -> tuple[Float[Tensor, "n d"], tuple[str, ...]]:
    """`data`, `row`, `col`, `shape` of a sparse matrix. Nothing is unpickled. Raises DataError for anything else."""
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD

    if not path.is_file():
        raise DataError(
            f"no file {path}: the node features are missing",
            remedy="copy X.npz there, or add ?features=structure for degree and spectral features",
        )
    try:
        with zipfile.ZipFile(plain_file(path, "copy X.npz there")) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_DENSE:
                raise DataError(f"{path} unpacks to more than {_MAX_DENSE >> 30} GB", remedy="give a smaller file")
        with np.load(path, allow_pickle=False) as loaded:
            data, row, column, shape = (loaded[name] for name in ("data", "row", "col", "shape"))
        shape = tuple(int(size) for size in shape)
        matrix = csr_array((data.astype(np.float32), (row.astype(np.int64), column.astype(np.int64))), shape=shape)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        OverflowError,
        MemoryError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(
            f"{path} is not a sparse matrix: {error}", remedy="it must hold data, row, col and shape"
        ) from error
    if len(shape) != 2 or shape[0] != nodes:
        raise DataError(
            f"{path} has shape {shape}, labels.txt {nodes} nodes", remedy="the files do not belong together"
        )
    if not np.isfinite(matrix.data).all():
        bad = matrix.tocoo()
        place = int(np.flatnonzero(~np.isfinite(bad.data))[0])
        raise DataError(f"{path}: node {bad.row[place]}, column {bad.col[place]} is not finite", remedy="mend the file")
    if components:
        reduced = TruncatedSVD(components, random_state=seed_of("components", seed) % 2**32).fit_transform(matrix)
        return torch.from_numpy(reduced).float(), tuple(f"svd_{number}" for number in range(components))
    if nodes * shape[1] * 4 > _MAX_DENSE:
        raise DataError(
            f"{path}: {nodes} x {shape[1]} features take more than {_MAX_DENSE >> 30} GB when dense",
            remedy="add ?components=256 to reduce them",
        )
    return torch.from_numpy(matrix.toarray()), tuple(f"word_{number}" for number in range(shape[1]))
