"""The user's own graph: `nodes.csv` and `edges.csv`, or GraphML."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.data.graphs.extra import extra
from heredity.data.graphs.raw import Options, RawGraph, kept_columns
from heredity.data.graphs.roles import classes_of, groups_of
from heredity.data.graphs.splits import Split, check_disjoint, check_part
from heredity.data.graphs.tables import Table, numeric, plain_file, read_table

_PARTS = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}


def read_folder(directory: Path, options: Options) -> RawGraph:
    """`nodes.csv` (id, label, sensitive, numeric features, optionally split) and `edges.csv` (source, target)."""
    table = read_table(directory / "nodes.csv", remedy="graph:DIR needs nodes.csv and edges.csv")
    edges = read_table(directory / "edges.csv", remedy="graph:DIR needs nodes.csv and edges.csv")
    names = table.column("id", "node")
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        twice = next(name for row, name in enumerate(names) if rows[name] != row)
        raise DataError(f"{table.path}: node {twice!r} is listed twice", remedy="one row a node")
    ends = []
    for column in ("source", "target"):
        cells = edges.column(column, "edge")
        for cell, line in zip(cells, edges.lines, strict=True):
            if cell not in rows:
                raise DataError(
                    f"{edges.path}, line {line}: column {column!r} names node {cell!r}, which {table.path.name} lacks",
                    remedy="remove the edge or add the node",
                )
        ends.append([rows[cell] for cell in cells])
    ignored = sorted(set(edges.columns) - {"source", "target"})
    notes = [f"edge columns ignored: {', '.join(ignored)}"] if ignored else []
    return _from_table(directory.name, table, torch.tensor(ends), options, notes)


def read_graphml(path: Path, options: Options) -> RawGraph:
    """GraphML through networkx; node attributes are the columns. Document types are refused: entities can be bombs."""
    networkx = extra("networkx")
    content = plain_file(path, "check the path after graphml:").read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} declares a document type or is not UTF-8", remedy="write plain UTF-8 GraphML")
    try:
        found = networkx.parse_graphml(content.decode())
    except Exception as error:  # networkx and its XML parser raise errors of many kinds on damaged files
        raise DataError(
            f"{path} is not GraphML: {type(error).__name__} {error}", remedy="write it with networkx"
        ) from error
    if not found.number_of_nodes() or not found.number_of_edges():
        raise DataError(f"{path} has {found.number_of_nodes()} nodes and no edges", remedy="give a graph")
    names = list(found.nodes)
    columns = {attribute: [] for _, attributes in found.nodes(data=True) for attribute in attributes}
    for _, attributes in found.nodes(data=True):
        for attribute, cells in columns.items():
            value = attributes.get(attribute, "")
            cells.append(str(int(value) if isinstance(value, bool) else value))
    rows = {name: row for row, name in enumerate(names)}
    pairs = torch.tensor([[rows[edge[0]] for edge in found.edges], [rows[edge[1]] for edge in found.edges]])
    table = Table(path, {"id": [str(name) for name in names]} | columns, range(1, len(names) + 1))
    return _from_table(
        path.stem, table, pairs, options, ["directed edges taken as undirected"] if found.is_directed() else []
    )


def _from_table(name: str, table: Table, pairs: Int[Tensor, "2 m"], options: Options, notes: list[str]) -> RawGraph:
    label, sensitive = options.label or "label", options.sensitive or "sensitive"
    if label == sensitive:
        raise DataError(f"{table.path}: {label!r} is both label and sensitive attribute", remedy="name two columns")
    groups, group_notes = groups_of(
        table.column(sensitive, "sensitive"),
        where=f"{table.path}, column {sensitive!r}",
        lines=table.lines,
        positive=options.sensitive_positive,
        above=options.sensitive_above,
    )
    classes, class_notes = classes_of(
        table.column(label, "label"), where=f"{table.path}, column {label!r}", positive=options.label_positive
    )
    names = [column for column in table.columns if column not in ("id", label, sensitive, "split")]
    kept = kept_columns(names, options.drop, str(table.path))
    return RawGraph(
        name=name,
        features=numeric(table, kept),
        feature_names=tuple(kept),
        labels=classes,
        sensitive=groups,
        pairs=pairs,
        label_name=label,
        sensitive_name=sensitive,
        notes=[
            *notes,
            *(f"{sensitive}: {note}" for note in group_notes),
            *(f"{label}: {note}" for note in class_notes),
            "the sensitive column is no feature",
        ],
        split=_given_split(table, classes) if "split" in table.columns and options.split == "published" else None,
    )


def _given_split(table: Table, labels: Int[Tensor, "n"]) -> Split:
    parts: Sequence[list[int]] = ([], [], [])
    for row, (cell, line) in enumerate(zip(table.columns["split"], table.lines, strict=True)):
        if cell and cell.lower() not in _PARTS:
            raise DataError(
                f"{table.path}, line {line}: column 'split' is {cell!r}", remedy="train, validation, test, or empty"
            )
        if cell:
            parts[_PARTS[cell.lower()]].append(row)
    found = [torch.tensor(part, dtype=torch.long) for part in parts]
    for part, rows in zip(("train", "validation", "test"), found, strict=True):
        check_part(rows, labels, f"{table.path}, column 'split', {part}")
    check_disjoint(found, str(table.path))
    return Split(*found, how="split given in column 'split'")
