"""Graphs by name: the embedded one, published data sets with a sensitive attribute, and the user's own."""

from heredity.data.graphs.biased_sbm import BiasedSbm, biased_sbm
from heredity.data.graphs.graph import Graph
from heredity.data.graphs.raw import Options
from heredity.data.graphs.sampling import Neighbourhood, NeighbourSampler, stratified_batches
from heredity.data.graphs.similarity import nearest_pairs, similar_pairs
from heredity.data.graphs.sources import check_source, knows, list_sources, load_graph
from heredity.data.graphs.stored import from_pyg, save_graph, to_pyg
from heredity.data.graphs.write_graphs import make_source

__all__ = [
    "BiasedSbm",
    "Graph",
    "NeighbourSampler",
    "Neighbourhood",
    "Options",
    "biased_sbm",
    "check_source",
    "from_pyg",
    "knows",
    "list_sources",
    "load_graph",
    "make_source",
    "nearest_pairs",
    "save_graph",
    "similar_pairs",
    "stratified_batches",
    "to_pyg",
]
