"""Graph sources by name, such as `bail:DIR?official`, and the options they take."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch

from heredity.core.errors import ConfigError, DataError, suggestion
from heredity.core.overrides import parse_overrides
from heredity.core.settings import override
from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.dblp import read_dblp
from heredity.data.graphs.generic import read_folder, read_graphml
from heredity.data.graphs.graph import Graph
from heredity.data.graphs.nifty import read_nifty
from heredity.data.graphs.pokec import read_pokec
from heredity.data.graphs.raw import Options, finish
from heredity.data.graphs.stored import read_stored
from heredity.data.graphs.write_graphs import LAYOUTS

SOURCES = {
    "biased-sbm": "procedural block model with a biased label, embedded; biased-sbm?nodes=500,homophily=4",
    "bail:DIR": "bail.csv, bail_edges.txt, split/ where there; without the leaking TIME and FILE unless ?official",
    "credit:DIR": "credit.csv, credit_edges.txt",
    "german:DIR": "german.csv, german_edges.txt",
    "dblp:DIR": "edgelist.txt, labels.txt, sens.txt, split/, X.npz (or ?features=structure)",
    "pokec:DIR": "region_job.csv, region_job_2.csv or nba.csv, with its _relationship.txt of user numbers",
    "graph:DIR": "nodes.csv (id, label, sensitive, features, split where there) and edges.csv (source, target)",
    "graphml:FILE": "GraphML with numeric node attributes; ?label=NAME,sensitive=NAME",
    "pyg:FILE": "PyG's x, edge_index, y, sensitive, masks as safetensors or npz; never a pickle",
}
Config = TypeVar("Config")


def list_sources() -> list[tuple[str, str]]:
    """Names of all sources with what they are or the layout they need."""
    return list(SOURCES.items())


def knows(source: str) -> bool:
    """Whether this module reads or writes a source of that name."""
    kind = source.partition("?")[0].partition(":")[0]
    return kind in LAYOUTS or kind in {name.partition(":")[0] for name in SOURCES}


def load_graph(
    source: str,
    *,
    seed: int,
    label: str | None = None,
    sensitive: str | None = None,
    drop: tuple[str, ...] = (),
    raw: bool = False,
) -> Graph:
    """Read a source into memory; `seed` draws what is procedural and splits what has no published split.

    Options follow a question mark (`bail:DIR?official`, `graph:DIR?label=paid,drop=A,B&split=drawn`); see
    `heredity.data.graphs.Options` and, for the embedded graph, `BiasedSbm`. `label`, `sensitive`, `drop` and `raw` (features
    not standardised) may also be given here. Raises DataError naming file, column, line and remedy.

    >>> graph = load_graph("biased-sbm?nodes=200,homophily=8", seed=0)
    >>> graph.nodes, graph.classes, graph.groups
    (200, 2, 2)
    """
    name, _, query = source.partition("?")
    kind, colon, place = name.partition(":")
    wanted = {entry.partition(":")[0]: entry for entry in SOURCES}
    if kind not in wanted:
        raise DataError(f"unknown graph source {source!r}", remedy=suggestion(kind, wanted))
    if (":" in wanted[kind]) != bool(place) or (colon and not place):
        raise DataError(f"{source!r} does not name a source", remedy=f"write {wanted[kind]}")
    if kind == "biased-sbm":
        if label or sensitive or drop:
            raise DataError("biased-sbm has fixed columns", remedy="use include_sensitive=false to hide the group")
        return biased_sbm(with_query(BiasedSbm(), query, kind), seed=seed, raw=raw)
    options = with_query(Options(), query, kind)
    options = replace(
        options,
        label=label or options.label,
        sensitive=sensitive or options.sensitive,
        drop=(*options.drop, *drop),
        raw=raw or options.raw,
    )
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(f"no file or folder {path}", remedy=f"{kind} needs {SOURCES[wanted[kind]]}")
    if path.is_dir() != wanted[kind].endswith("DIR"):
        raise DataError(f"{path} is a {'folder' if path.is_dir() else 'file'}", remedy=f"write {wanted[kind]}")
    if kind == "pyg":
        found, standardised = read_stored(path, options)
        return finish(found, options, seed, standardised=standardised)
    if kind == "dblp":
        return finish(read_dblp(path, options, seed), options, seed)
    if kind in ("bail", "credit", "german"):
        return finish(read_nifty(kind, path, options), options, seed)
    return finish(
        {"pokec": read_pokec, "graph": read_folder, "graphml": read_graphml}[kind](path, options), options, seed
    )


def with_query(config: Config, query: str, kind: str) -> Config:
    """A config with the options of a query: `a=1,b=x,y&flag`; words after a list belong to it. Raises ConfigError.

    >>> with_query(Options(), "drop=A,B&official", "bail").drop
    ('A', 'B')
    """
    names = {field.name: str(field.type) for field in fields(config)}  # pyright: ignore[reportArgumentType]
    changes: dict[str, object] = {}
    for part in filter(None, query.split("&")):
        last = ""
        for word in part.split(","):
            name, equals, text = word.partition("=")
            if not equals and last and "tuple" in names[last]:
                changes[last] = (*changes[last], word)  # pyright: ignore[reportGeneralTypeIssues]
                continue
            if name not in names:
                raise ConfigError(f"{kind} takes no option {name!r}", remedy=suggestion(name, names))
            last = name
            if "tuple" in names[name]:
                changes[name] = (text,)
            elif names[name].startswith("str"):
                changes[name] = text
            else:
                changes[name] = parse_overrides([f"--{name}={text}"])[name] if equals else True
    return override(config, changes)


def check_source(source: str) -> str:
    """Read a source and describe it: nodes, edges, split, groups, base rates, and what to know about them."""
    graph = load_graph(source, seed=0)
    row, column = graph.edges
    lines = [
        f"{graph.name} ({graph.nodes} nodes, {len(row) // 2} undirected edges, {len(row) + graph.nodes} entries with both "
        "directions and self-loops): ready",
        f"  features  {graph.features.shape[1]}: {', '.join(graph.feature_names[:8])}"
        + (" ..." if len(graph.feature_names) > 8 else ""),
        f"  split     {len(graph.train)} training, {len(graph.validation)} validation, {len(graph.test)} test nodes",
        f"  label     {graph.label_name!r}, {graph.classes} classes",
    ]
    known = graph.labels >= 0
    for group in range(graph.groups):
        inside = graph.sensitive == group
        counts = torch.bincount(graph.labels[inside & known], minlength=graph.classes)
        shares = ", ".join(f"{share:.3f}" for share in (counts / counts.sum().clamp(min=1)).tolist()[:8])
        lines.append(
            f"  group {group}   {int(inside.sum())} nodes of {graph.sensitive_name!r}; share of each class: {shares}"
        )
    if len(row):
        same = {"group": graph.sensitive, "class": graph.labels}
        shown = ", ".join(f"same {name} {(of[row] == of[column]).float().mean():.1%}" for name, of in same.items())
        lines.append(f"  edges     {shown}")
    lines += [f"  note      {note}" for note in graph.notes]
    # Column names and notes come from files: what steers a terminal is not printed.
    return "\n".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line) for line in lines)
