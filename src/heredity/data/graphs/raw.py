"""From what a file holds to a graph: the steps that all layouts share."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heredity.core.errors import DataError, suggestion
from heredity.data.graphs.checks import tell_tales
from heredity.data.graphs.graph import Graph, assemble
from heredity.data.graphs.similarity import nearest_pairs, similar_pairs, spread_evenly
from heredity.data.graphs.splits import Split, drawn_split


@dataclass(frozen=True)
class Options:
    """What a graph source may be asked for: `bail:DIR?official`, `graph:DIR?label=paid,sensitive=sex,drop=A,B`."""

    label: str | None = None
    """Label column."""
    sensitive: str | None = None
    """Column of the sensitive attribute."""
    label_positive: str | None = None
    """This value is class 1, every other class 0; `all` keeps all classes of dblp."""
    sensitive_positive: str | None = None
    """This value is group 1, every other group 0; `all` keeps all groups of dblp."""
    sensitive_above: float | None = None
    """Larger numbers are group 1: cuts a continuous column in two."""
    drop: tuple[str, ...] = ()
    """Feature columns to leave out."""
    official: bool = False
    """All published columns, those that leak the label included."""
    raw: bool = False
    """Features as in the file, not standardised."""
    split: Literal["published", "drawn"] = "published"
    """`drawn` ignores a split that lies beside the data and draws one from the seed."""
    train: float | None = None
    """Share of each class to train on; the layout's own unless given."""
    validation: float | None = None
    cap: int | None = None
    """At most so many training nodes a class; 0: no bound; the layout's own unless given."""
    edges: Literal["published", "similarity", "nearest"] = "published"
    """`similarity` and `nearest` rebuild the edges from the features that are used."""
    edges_without: tuple[str, ...] = ()
    """Further features that the rebuilt edges must not know."""
    threshold: float | None = None
    """Of the similarity rule; the layout's own unless given."""
    neighbours: int = 10
    """For edges=nearest."""
    features: Literal["given", "structure"] = "given"
    """`structure` makes features from the edges alone: degree and spectral coordinates."""
    components: int = 0
    """Reduce sparse features to so many by truncated SVD (dblp)."""


@dataclass(frozen=True, eq=False)
class RawGraph:
    """What a file holds, in numbers, before it is split, standardised and checked as a whole."""

    name: str
    features: Float[Tensor, "n d"]
    feature_names: tuple[str, ...]
    labels: Int[Tensor, "n"]
    sensitive: Int[Tensor, "n"]
    pairs: Int[Tensor, "2 m"]
    label_name: str
    sensitive_name: str
    notes: list[str] = field(default_factory=list)
    split: Split | None = None
    train: float = 0.5
    validation: float = 0.25
    cap: int = 0
    threshold: float | None = None
    spread: tuple[str, ...] = ()
    """Columns that the published similarity rule scales to -1..1."""


def finish(found: RawGraph, options: Options, seed: int, *, standardised: bool = False) -> Graph:
    """Split, look for leaks, rebuild the edges where asked, and assemble. Raises DataError naming column and remedy.

    Features that are `standardised` already stay as they are.
    """
    notes = list(found.notes)
    notes += tell_tales(found.features, found.feature_names, found.labels, found.sensitive, found.label_name)
    pairs = found.pairs
    if options.edges != "published":
        pairs, note = _rebuilt(found, options)
        notes.append(note)
    split = found.split
    if split is None or options.split == "drawn":
        train = found.train if options.train is None else options.train
        validation = found.validation if options.validation is None else options.validation
        cap = found.cap if options.cap is None else options.cap
        split = drawn_split(
            found.labels, train=train, validation=validation, seed=seed, name=found.name, cap=max(0, cap)
        )
    graph = assemble(
        name=found.name,
        features=found.features,
        labels=found.labels,
        sensitive=found.sensitive,
        pairs=pairs,
        split=split,
        feature_names=found.feature_names,
        label_name=found.label_name,
        sensitive_name=found.sensitive_name,
        notes=notes,
        raw=options.raw or standardised,
    )
    return replace(graph, standardised=True) if standardised else graph


def kept_columns(names: Sequence[str], drop: Sequence[str], where: str) -> list[str]:
    """The names without the dropped ones. Raises DataError for a dropped column that is not there, or when none is left."""
    for name in drop:
        if name not in names:
            raise DataError(f"{where} has no feature column {name!r} to drop", remedy=suggestion(name, names))
    kept = [name for name in names if name not in drop]
    if not kept:
        raise DataError(f"{where} keeps no feature column", remedy="drop fewer, or use features=structure")
    return kept


def _rebuilt(found: RawGraph, options: Options) -> tuple[Int[Tensor, "2 m"], str]:
    names = kept_columns(found.feature_names, options.edges_without, found.name)
    columns = []
    for name in names:
        column = found.features[:, found.feature_names.index(name), None].double()
        columns.append(spread_evenly(column) if name in found.spread else column)
    rows = torch.cat(columns, dim=1)
    without = f", without {', '.join(options.edges_without)}" if options.edges_without else ""
    if options.edges == "nearest":
        return nearest_pairs(rows, options.neighbours), f"edges rebuilt: {options.neighbours} nearest rows{without}"
    threshold = options.threshold if options.threshold is not None else found.threshold
    if threshold is None:
        raise DataError(f"{found.name}: edges=similarity needs a threshold", remedy="add threshold=0.7, for example")
    return similar_pairs(rows, threshold), f"edges rebuilt by similarity above {threshold:g} of the largest{without}"
