"""A graph whose nodes have a label and belong to a group: what every reader returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.data.graphs.splits import Split


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph in memory, with features, labels and a sensitive attribute of its nodes.

    `edges` holds every edge in both directions, without self-loops and duplicates, sorted by (row, column): its columns are
    the entries of a CSR matrix in order. Labels are 0..classes-1, or -1 where unknown; groups are 0..groups-1. Features are
    standardised with the statistics of the training nodes unless `standardised` says otherwise. `notes` is what a reader of
    any figure measured on this graph must know: what was merged or dropped, how it was split, what leaks.
    """

    name: str
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    sensitive: Int[Tensor, "n"]
    edges: Int[Tensor, "2 e"]
    train: Int[Tensor, "train"]
    validation: Int[Tensor, "validation"]
    test: Int[Tensor, "test"]
    feature_names: tuple[str, ...]
    label_name: str
    sensitive_name: str
    classes: int
    groups: int
    notes: tuple[str, ...] = ()
    standardised: bool = True

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.labels)


def undirected(pairs: Int[Tensor, "2 m"], nodes: int) -> tuple[Int[Tensor, "2 e"], int, int]:
    """Edges in both directions, sorted and without repetition, from pairs listed in any order and direction.

    Returns them with the number of self-loops left out and of pairs that repeat an earlier one in the same direction.

    >>> undirected(torch.tensor([[1, 1, 0, 2, 2], [0, 0, 1, 2, 1]]), 3)
    (tensor([[0, 1, 1, 2],
            [1, 0, 2, 1]]), 1, 1)
    """
    first, second = pairs[0], pairs[1]
    loops = int((first == second).sum())
    if loops:
        first, second = first[first != second], second[first != second]
    repeated = len(first) - len(torch.unique(first * nodes + second))
    once = torch.unique(torch.minimum(first, second) * nodes + torch.maximum(first, second))
    low, high = once // nodes, once % nodes
    keys = torch.cat([once, high * nodes + low]).sort().values
    return torch.stack([keys // nodes, keys % nodes]), loops, repeated


def standardise(features: Float[Tensor, "n d"], train: Int[Tensor, "m"]) -> Float[Tensor, "n d"]:
    """Mean 0 and standard deviation 1 over the training nodes; a column that is constant there is only centred."""
    seen = features[train].double()
    centre, spread = seen.mean(dim=0), seen.std(dim=0, correction=0)
    spread = torch.where(spread > 1e-12 * centre.abs().clamp(min=1.0), spread, torch.ones_like(spread))
    return ((features - centre) / spread).float()


def assemble(
    *,
    name: str,
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    sensitive: Int[Tensor, "n"],
    pairs: Int[Tensor, "2 m"],
    split: Split,
    feature_names: Sequence[str],
    label_name: str,
    sensitive_name: str,
    notes: Sequence[str] = (),
    raw: bool = False,
) -> Graph:
    """The graph of checked columns, with loops and duplicates merged, counted and noted.

    Raises DataError when a group or a class is absent where it is needed, since no gap between groups is defined then.
    """
    nodes, classes, groups = len(labels), int(labels.max()) + 1, int(sensitive.max()) + 1
    for part, rows in (("training", split.train), ("test", split.test)):
        _every_group(name, part, sensitive[rows], groups, sensitive_name)
    edges, loops, repeated = undirected(pairs, nodes)
    told = [*notes, split.how]
    if loops or repeated:
        told.append(f"{loops} self-loops left out, {repeated} repeated edges merged")
    if isolated := nodes - len(torch.unique(edges[0])):
        told.append(f"{isolated} isolated nodes kept")
    for group in range(groups):
        for label in range(classes):
            members = (sensitive[split.test] == group) & (labels[split.test] == label)
            if not members.any():
                told.append(
                    f"no test node of class {label} in group {group}: equal opportunity of that class is undefined"
                )
    return Graph(
        name=name,
        features=features.float() if raw else standardise(features, split.train),
        labels=labels,
        sensitive=sensitive,
        edges=edges,
        train=split.train,
        validation=split.validation,
        test=split.test,
        feature_names=tuple(feature_names),
        label_name=label_name,
        sensitive_name=sensitive_name,
        classes=classes,
        groups=groups,
        notes=tuple(told),
        standardised=not raw,
    )


def _every_group(name: str, part: str, members: Tensor, groups: int, sensitive_name: str) -> None:
    counts = torch.bincount(members, minlength=groups).tolist()
    if not all(counts):
        shown = ", ".join(f"group {group}: {count}" for group, count in enumerate(counts))
        raise DataError(
            f"{name}: the {part} nodes lack a group of {sensitive_name!r} ({shown})",
            remedy="draw another split with another seed, or merge the groups",
        )
