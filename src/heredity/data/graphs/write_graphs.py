"""Writing small biased graphs in published layouts: readers and writers test each other."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from heredity.core.errors import DataError, suggestion
from heredity.core.files import write_bytes, write_text
from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.extra import extra
from heredity.data.graphs.graph import Graph
from heredity.data.graphs.stored import save_graph

_SPLIT = (("train", "train"), ("val", "validation"), ("test", "test"))


def make_source(source: str, directory: Path, *, rows: int = 200, seed: int = 0) -> str:
    """Write a biased block model of `rows` nodes in the layout a name says; returns a description.

    Layouts: graph, bail, credit, german, dblp, pokec, graphml, pyg; `biased-sbm` writes the first. Raises DataError when the
    folder is not empty.
    """
    if source not in LAYOUTS:
        raise DataError(f"no generated set {source!r}", remedy=suggestion(source, LAYOUTS))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is not an empty folder", remedy="choose another")
    graph = biased_sbm(BiasedSbm(nodes=rows, degree=min(10.0, rows / 5)), seed=seed, raw=True)
    read_as = LAYOUTS[source](graph, directory)
    return f"{directory}: {rows} nodes, {graph.edges.shape[1] // 2} edges; read it as {read_as}"


def _write_folder(graph: Graph, directory: Path) -> str:
    parts = np.full(graph.nodes, "", dtype=object)
    for _, part in _SPLIT:
        parts[getattr(graph, part).numpy()] = part
    columns = {"id": [f"n{node}" for node in range(graph.nodes)], **_label_and_group(graph), **_features(graph)}
    _write_csv(directory / "nodes.csv", columns | {"split": list(parts)})
    source, target = _once(graph)
    edges = {"source": [f"n{node}" for node in source], "target": [f"n{node}" for node in target]}
    _write_csv(directory / "edges.csv", edges)
    return f"graph:{directory}"


def _write_table(kind: str, label: str, sensitive: str, extra: dict[str, str]) -> Callable[[Graph, Path], str]:
    """A writer of the layout of Bail, Credit and German: the group among the features, edges as floats."""

    def write(graph: Graph, directory: Path) -> str:
        group = graph.sensitive.tolist()
        coded = ["Female" if one else "Male" for one in group] if kind == "german" else group
        truth = graph.labels.tolist()
        signed = [1 if one else -1 for one in truth] if kind == "german" else truth
        constant = {name: [value] * graph.nodes for name, value in extra.items()}
        leak = {"TIME": [one * (3 + node % 7) for node, one in enumerate(truth)], "FILE": [3] * graph.nodes}
        columns = {label: signed, sensitive: coded, **_features(graph), **constant}
        _write_csv(directory / f"{kind}.csv", columns | (leak if kind == "bail" else {}))
        pairs = "".join(f"{source:.18e} {target:.18e}\n" for source, target in zip(*_once(graph), strict=True))
        write_text(directory / f"{kind}_edges.txt", pairs)
        if kind == "bail":
            _write_split(graph, directory)
        return f"{kind}:{directory}"

    return write


def _write_dblp(graph: Graph, directory: Path) -> str:
    """Label 3 and attribute 2 stand for class and group 1; the rest is spread over other values."""
    edges = "".join(f"{source}\t{target}\n" for source, target in zip(*_once(graph), strict=True))
    write_text(directory / "edgelist.txt", edges)
    others = [0, 1, 2, 4]
    labels = [3.0 if one else float(others[node % 4]) for node, one in enumerate(graph.labels.tolist())]
    groups = [2.0 if one else float(node % 2) for node, one in enumerate(graph.sensitive.tolist())]
    for name, values in (("labels", labels), ("sens", groups)):
        write_text(directory / f"{name}.txt", "".join(f"{node}\t{value}\n" for node, value in enumerate(values)))
    values = graph.features.numpy()
    row, column = np.nonzero(values)
    buffer = io.BytesIO()
    np.savez(buffer, data=values[row, column], row=row, col=column, shape=np.array(values.shape))
    write_bytes(directory / "X.npz", buffer.getvalue())
    for name, part in _SPLIT:
        buffer = io.BytesIO()
        np.save(buffer, getattr(graph, part).numpy().astype(np.float64))
        write_bytes(directory / "split" / f"{name}_split.npy", buffer.getvalue())
    return f"dblp:{directory}"


def _write_pokec(graph: Graph, directory: Path) -> str:
    """Raw user numbers that are no rows; every tenth user's field of work is unknown (-1)."""
    users = [7 * node + 1 for node in range(graph.nodes)]
    work = [-1 if node % 10 == 9 else label * (1 + node % 3) for node, label in enumerate(graph.labels.tolist())]
    columns = {"user_id": users, "region": graph.sensitive.tolist(), "I_am_working_in_field": work, **_features(graph)}
    _write_csv(directory / "region_job.csv", columns)
    pairs = "".join(f"{users[source]}\t{users[target]}\n" for source, target in zip(*_once(graph), strict=True))
    write_text(directory / "region_job_relationship.txt", pairs)
    return f"pokec:{directory}"


def _write_graphml(graph: Graph, directory: Path) -> str:
    networkx = extra("networkx")
    columns = {**_label_and_group(graph), **_features(graph)}
    drawn = networkx.Graph()
    for node in range(graph.nodes):
        drawn.add_node(f"n{node}", **{name: values[node] for name, values in columns.items()})
    drawn.add_edges_from((f"n{source}", f"n{target}") for source, target in zip(*_once(graph), strict=True))
    buffer = io.BytesIO()
    networkx.write_graphml_xml(drawn, buffer)
    write_bytes(directory / "graph.graphml", buffer.getvalue())
    return f"graphml:{directory / 'graph.graphml'}"


def _write_stored(graph: Graph, directory: Path) -> str:
    save_graph(directory / "graph.safetensors", graph)
    return f"pyg:{directory / 'graph.safetensors'}"


def _once(graph: Graph) -> tuple[list[int], list[int]]:
    row, column = graph.edges
    return row[row < column].tolist(), column[row < column].tolist()


def _label_and_group(graph: Graph) -> dict[str, list]:
    return {"label": graph.labels.tolist(), "sensitive": graph.sensitive.tolist()}


def _features(graph: Graph) -> dict[str, list]:
    """All features but the group, which every layout has in a column of its own."""
    chosen = [(place, name) for place, name in enumerate(graph.feature_names) if name != "group"]
    return {name: graph.features[:, place].tolist() for place, name in chosen}


def _write_csv(path: Path, columns: dict[str, list]) -> None:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    write_text(path, "\n".join(lines) + "\n")


def _write_split(graph: Graph, directory: Path) -> None:
    for name, part in _SPLIT:
        write_text(directory / "split" / f"{name}.txt", "".join(f"{node}\n" for node in getattr(graph, part).tolist()))


LAYOUTS: dict[str, Callable[[Graph, Path], str]] = {
    "biased-sbm": _write_folder,
    "graph": _write_folder,
    "bail": _write_table("bail", "RECID", "WHITE", {}),
    "credit": _write_table("credit", "NoDefaultNextMonth", "Age", {"Single": "1"}),
    "german": _write_table("german", "GoodCustomer", "Gender", {"OtherLoansAtStore": "0", "PurposeOfLoan": "Radio"}),
    "dblp": _write_dblp,
    "pokec": _write_pokec,
    "graphml": _write_graphml,
    "pyg": _write_stored,
}
