"""Graphs in one safe file, and PyTorch Geometric's `Data`: no pickle is read or written."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heredity.core.errors import DataError, ModelError
from heredity.core.lineage import load_tensors, save_tensors
from heredity.data.graphs.extra import extra
from heredity.data.graphs.graph import Graph
from heredity.data.graphs.raw import Options, RawGraph, finish, kept_columns
from heredity.data.graphs.splits import Split, check_disjoint, check_part
from heredity.data.graphs.tables import plain_file

_KEY = "heredity.graph"
_TEXTS = ("name", "label_name", "sensitive_name")
_PARTS = ("train", "validation", "test")
_MAX_BYTES = 8 * 2**30
# Names that PyG users give to the same tensors.
_ALIASES = {"sensitive": ("sensitive", "s", "sens"), "validation_mask": ("validation_mask", "val_mask")}


def save_graph(path: Path, graph: Graph) -> None:
    """Write a graph as one safetensors file with PyG's names (`x`, `edge_index`, `y`, `sensitive`); read it as `pyg:FILE`."""
    tensors = {
        "x": graph.features,
        "edge_index": graph.edges,
        "y": graph.labels,
        "sensitive": graph.sensitive,
        **{part: getattr(graph, part) for part in _PARTS},
    }
    about = {
        **{text: getattr(graph, text) for text in _TEXTS},
        "feature_names": list(graph.feature_names),
        "notes": list(graph.notes),
        "standardised": graph.standardised,
    }
    save_tensors(path, tensors, {_KEY: json.dumps(about)})


def read_stored(path: Path, options: Options) -> tuple[RawGraph, bool]:
    """A graph from safetensors or npz, and whether its features are standardised already.

    Needs `x` [n, d], `edge_index` [2, m], `y` [n] and `sensitive` (or `s`) [n]; a split as node numbers `train`,
    `validation`, `test` or as masks `train_mask`, `val_mask`, `test_mask`. Raises DataError naming the tensor.
    """
    tensors, about = _tensors(plain_file(path, "check the path after pyg:"))
    return _from_tensors(tensors, about, path, options), about.get("standardised") is True


def from_pyg(data: Any, *, seed: int, sensitive: Tensor | None = None, name: str = "pyg", raw: bool = False) -> Graph:
    """A graph from a PyG `Data` with x, edge_index, y, and sensitive or s (or given beside it). Raises DataError.

    Masks of the data are its split; without any, one is drawn from the seed.
    """
    tensors = {key: value for key, value in data.to_dict().items() if isinstance(value, Tensor)}
    if sensitive is not None:
        tensors["sensitive"] = sensitive
    return finish(_from_tensors(tensors, {"name": name}, Path(name), Options()), Options(raw=raw), seed)


def _from_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path, options: Options) -> RawGraph:
    features, pairs = _one(tensors, "x", path, 2), _one(tensors, "edge_index", path, 2)
    labels, sensitive = (_whole(_one(tensors, name, path, 1), name, path) for name in ("y", "sensitive"))
    pairs = _whole(pairs, "edge_index", path)
    nodes = len(features)
    names = about.get("feature_names") or [f"x_{number}" for number in range(features.shape[1])]
    features = _checked_features(features, names, path)
    _check_columns(labels, sensitive, nodes, path)
    _check_pairs(pairs, nodes, path)
    kept = kept_columns(names, options.drop, str(path))
    return RawGraph(
        name=about.get("name") or path.stem,
        features=features[:, [names.index(name) for name in kept]] if options.drop else features,
        feature_names=tuple(kept),
        labels=labels,
        sensitive=sensitive,
        pairs=pairs,
        label_name=about.get("label_name") or "y",
        sensitive_name=about.get("sensitive_name") or "sensitive",
        notes=list(about.get("notes", [])),
        split=_split(tensors, labels, path),
    )


def _checked_features(features: Tensor, names: Sequence[str], path: Path) -> Tensor:
    if len(names) != features.shape[1]:
        raise DataError(f"{path}: {len(names)} feature names for {features.shape[1]} columns", remedy="save it again")
    real = features if features.is_floating_point() else features.double()
    bad = torch.nonzero(~torch.isfinite(real))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(f"{path}: row {row}, column {names[column]!r} is not finite", remedy="fill it in or drop it")
    return real


def _check_columns(labels: Tensor, sensitive: Tensor, nodes: int, path: Path) -> None:
    for name, values in (("y", labels), ("sensitive", sensitive)):
        if len(values) != nodes:
            raise DataError(f"{path}: {name!r} has {len(values)} rows, 'x' {nodes}", remedy="one row a node")
    groups, counts = (part.tolist() for part in torch.unique(sensitive, return_counts=True))
    if groups != list(range(len(groups))) or len(groups) < 2:
        found = ", ".join(f"{group}: {count}" for group, count in list(zip(groups, counts, strict=True))[:5])
        raise DataError(
            f"{path}: 'sensitive' must be groups 0, 1, ... with two groups at least, found {found}",
            remedy="number the groups",
        )
    if int(labels.min()) < -1 or int(labels.max()) < 1:
        raise DataError(f"{path}: 'y' must be classes 0, 1, ... (-1: unlabelled)", remedy="number the classes")


def _check_pairs(pairs: Tensor, nodes: int, path: Path) -> None:
    if len(pairs) != 2:
        raise DataError(f"{path}: 'edge_index' has shape {tuple(pairs.shape)}", remedy="it must be [2, edges]")
    wrong = torch.nonzero(((pairs < 0) | (pairs >= nodes)).any(dim=0)).flatten()
    if len(wrong):
        raise DataError(
            f"{path}: edge {int(wrong[0])} is {pairs[:, wrong[0]].tolist()}, nodes are 0..{nodes - 1}",
            remedy="remove the edge or add the node",
        )


def to_pyg(graph: Graph) -> Any:
    """PyTorch Geometric's `Data` with x, edge_index, y, sensitive and the three masks."""
    data = extra("torch_geometric.data")
    masks = {
        f"{short}_mask": torch.zeros(graph.nodes, dtype=torch.bool).index_fill(0, getattr(graph, part), True)
        for short, part in (("train", "train"), ("val", "validation"), ("test", "test"))
    }
    return data.Data(x=graph.features, edge_index=graph.edges, y=graph.labels, sensitive=graph.sensitive, **masks)


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                    raise DataError(f"{path} unpacks to more than {_MAX_BYTES >> 30} GB", remedy="give a smaller file")
            with np.load(path, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
            return {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype.kind in "iufb"}, {}
        except (OSError, ValueError, TypeError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a readable npz: {error}", remedy="save it with numpy.savez") from error
    try:
        tensors, metadata = load_tensors(path)
    except ModelError as error:
        raise DataError(
            error.problem, remedy="save the graph as safetensors or npz: heredity.data.graphs.save_graph"
        ) from error
    try:
        about = json.loads(metadata.get(_KEY, "{}"))
    except ValueError as error:
        raise DataError(f"{path}: its description is not JSON", remedy="the file was damaged") from error
    texts = isinstance(about, dict) and all(isinstance(about.get(text, ""), str) for text in _TEXTS)
    if not texts or not all(
        isinstance(about.get(key, []), list) and all(isinstance(item, str) for item in about.get(key, []))
        for key in ("feature_names", "notes")
    ):
        raise DataError(f"{path}: its description is malformed", remedy="the file was damaged")
    return tensors, about


def _one(tensors: Mapping[str, Tensor], name: str, path: Path, dimensions: int) -> Tensor:
    found = next((tensors[alias] for alias in _ALIASES.get(name, (name,)) if alias in tensors), None)
    if found is None or found.ndim != dimensions or not found.numel():
        shown = (
            f"has shape {tuple(found.shape)}"
            if found is not None
            else f"is missing; there are {', '.join(sorted(tensors))}"
        )
        raise DataError(f"{path}: tensor {name!r} {shown}", remedy="it must hold x, edge_index, y and sensitive")
    return found


def _whole(values: Tensor, name: str, path: Path) -> Tensor:
    if values.is_floating_point() and not bool((values == values.round()).all()):
        raise DataError(f"{path}: {name!r} holds fractions", remedy="save it as integers")
    return values.long()


def _split(tensors: Mapping[str, Tensor], labels: Tensor, path: Path) -> Split | None:
    parts = []
    for part in _PARTS:
        masks = _ALIASES.get(f"{part}_mask", (f"{part}_mask",))
        mask = next((tensors[alias] for alias in masks if alias in tensors), None)
        if mask is not None:
            if mask.shape != labels.shape or mask.dtype != torch.bool:
                raise DataError(f"{path}: the mask of {part!r} is not one boolean a node", remedy="save it as bool [n]")
            parts.append(torch.nonzero(mask).flatten())
        elif part in tensors and tensors[part].ndim == 1:
            parts.append(_whole(tensors[part], part, path))
    if not parts:
        return None
    if len(parts) < len(_PARTS):
        raise DataError(f"{path}: the split lacks a part", remedy="give train, validation and test, or none of them")
    for part, rows in zip(_PARTS, parts, strict=True):
        check_part(rows, labels, f"{path}, {part}")
    check_disjoint(parts, str(path))
    return Split(*parts, how=f"split given in {path.name}")
