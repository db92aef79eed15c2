"""Graph sources by name, such as `bail:DIR?official`, and the options they take."""

from pathlib import Path

from heredity.core.errors import DataError, suggestion
from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.graph import Graph

SOURCES = {
    "biased-sbm": "procedural block model with a biased label, embedded; biased-sbm?nodes=500,homophily=4",
}


def list_sources() -> list[tuple[str, str]]:
    """Names of all sources with what they are or the layout they need."""
    return list(SOURCES.items())


def knows(source: str) -> bool:
    """Whether this module reads or writes a source of that name."""
    return source.partition("?")[0].partition(":")[0] in {name.partition(":")[0] for name in SOURCES}


def load_graph(source: str, *, seed: int) -> Graph:
    """Read a source. Raises DataError naming file, column and remedy."""
    if source != "biased-sbm":
        raise DataError(f"unknown graph source {source!r}", remedy=suggestion(source, SOURCES))
    return biased_sbm(BiasedSbm(), seed=seed)


def check_source(source: str) -> str:
    """Read a source and describe it: nodes, edges, groups and what to know about them."""
    graph = load_graph(source, seed=0)
    lines = [f"{graph.name} ({graph.nodes} nodes, {graph.edges.shape[1] // 2} edges): ready"]
    return "\n".join(lines + [f"  note      {note}" for note in graph.notes])


def make_source(source: str, directory: Path, *, rows: int = 200, seed: int = 0) -> str:
    """Write a graph of `rows` nodes in the layout a name says. Raises DataError."""
    raise DataError(f"no generated set {source!r}", remedy="no graph layout is written yet")
