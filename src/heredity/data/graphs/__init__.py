"""Graphs by name: the embedded one, published data sets with a sensitive attribute, and the user's own."""

from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.graph import Graph
from heredity.data.graphs.sources import check_source, knows, list_sources, load_graph, make_source

__all__ = [
    "BiasedSbm",
    "Graph",
    "biased_sbm",
    "check_source",
    "knows",
    "list_sources",
    "load_graph",
    "make_source",
]
