"""Mini-batches of graphs that do not fit full batch: sampled neighbourhoods, and batches in which every group is present."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Nodes sampled around some seeds. `nodes` are their numbers in the whole graph, the seeds first.

    `edges` are (source, target) in positions of `nodes`: a message goes from a sampled neighbour to the node it was sampled
    for. Nodes and edges come in order of hops: `known[k]` counts the nodes at most k hops away (`known[0]` the seeds), and
    `hops[k]` the edges into nodes at most k hops away. So of K layers the last needs only the first `hops[0]` edges and
    gives the first `known[0]` nodes, the one before it `hops[1]` and `known[1]`, and so forth.
    """

    nodes: Int[Tensor, "m"]
    edges: Int[Tensor, "2 e"]
    known: tuple[int, ...]
    hops: tuple[int, ...]

    @property
    def seeds(self) -> int:
        """How many of the nodes are seeds."""
        return self.known[0]


class NeighbourSampler:
    """Uniform neighbour sampling without replacement from sorted edges, as GraphSAGE does (Hamilton et al., NeurIPS 2017).

    Holds the row starts of the CSR form and one position a node; a draw costs O(nodes sampled x fan-out^2), whatever the
    degree of a hub. Only torch is needed.

    >>> ring = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])
    >>> found = NeighbourSampler(ring, 3).sample(torch.tensor([2]), (2,), torch.Generator().manual_seed(0))
    >>> found.nodes.tolist(), found.edges.tolist()
    ([2, 0, 1], [[1, 2], [0, 0]])
    """

    def __init__(self, edges: Int[Tensor, "2 e"], nodes: int) -> None:
        if edges.shape[1] and bool((edges[0, 1:] < edges[0, :-1]).any()):
            raise DataError("edges are not sorted by their first node", remedy="use those of a Graph")
        self._start = torch.zeros(nodes + 1, dtype=torch.long)
        torch.cumsum(torch.bincount(edges[0], minlength=nodes), dim=0, out=self._start[1:])
        self._neighbours = edges[1]
        self._position = torch.full((nodes,), -1, dtype=torch.long)

    def sample(self, seeds: Int[Tensor, "b"], fan_outs: Sequence[int], generator: torch.Generator) -> Neighbourhood:
        """The seeds (each once), up to `fan_outs[0]` neighbours of each, up to `fan_outs[1]` of each node that is new, ..."""
        position = self._position
        found = [seeds]
        position[seeds] = torch.arange(len(seeds))
        known, frontier = [len(seeds)], seeds
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        hops: list[int] = []
        for fan_out in fan_outs:
            owner, neighbour = self._draw(frontier, fan_out, generator)
            new = torch.unique(neighbour[position[neighbour] < 0])
            position[new] = known[-1] + torch.arange(len(new))
            found.append(new)
            known.append(known[-1] + len(new))
            sources.append(position[neighbour])
            targets.append(position[frontier][owner])
            hops.append(len(owner) + (hops[-1] if hops else 0))
            frontier = new
        nodes = torch.cat(found)
        position[nodes] = -1
        edges = torch.stack([torch.cat(sources), torch.cat(targets)])
        return Neighbourhood(nodes, edges, tuple(known), tuple(hops))

    def _draw(self, frontier: Tensor, fan_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions in `frontier` and the neighbours drawn for them: all where there are few, else by Floyd's algorithm.

        Floyd's algorithm draws k of n distinct numbers in k steps: in each, a number up to a rising bound, or the bound
        itself if that number was drawn before.
        """
        start = self._start[frontier]
        degree = self._start[frontier + 1] - start
        drawn = torch.arange(fan_out).repeat(len(frontier), 1)
        many = torch.nonzero(degree > fan_out).flatten()
        if len(many):
            chosen = torch.full((len(many), fan_out), -1, dtype=torch.long)
            for step in range(fan_out):
                bound = degree[many] - fan_out + step
                number = (torch.rand(len(many), generator=generator, dtype=torch.float64) * (bound + 1)).long()
                repeated = (chosen[:, :step] == number[:, None]).any(dim=1)
                chosen[:, step] = torch.where(repeated, bound, number)
            drawn[many] = chosen
        owner, column = torch.nonzero(drawn < degree[:, None], as_tuple=True)
        return owner, self._neighbours[start[owner] + drawn[owner, column]]


def stratified_batches(
    rows: Int[Tensor, "m"], sensitive: Int[Tensor, "m"], size: int, *, generator: torch.Generator, least: int = 32
) -> Iterator[Int[Tensor, "b"]]:
    """All rows in random order, in batches that hold every group in its share, and at least `least` nodes of it.

    A group too small for that is gone through several times; every other row comes once. `sensitive` is the group of each of
    `rows`. Raises DataError when the batch cannot hold `least` nodes of every group, or a group has none.

    >>> batches = stratified_batches(torch.arange(8), torch.arange(8) % 2, 4, generator=torch.Generator(), least=1)
    >>> [sorted((batch % 2).tolist()) for batch in batches]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    groups = int(sensitive.max()) + 1
    if groups * least > size:
        raise DataError(
            f"batches of {size} cannot hold {least} nodes of each of {groups} groups", remedy="use larger batches"
        )
    count = -(-len(rows) // size)
    shares = []
    for group in range(groups):
        members = rows[sensitive == group]
        if not len(members):
            raise DataError(f"no node of group {group} among {len(rows)}", remedy="use a part with every group")
        needed = max(len(members), min(least, len(members)) * count)
        turns = [members[torch.randperm(len(members), generator=generator)] for _ in range(-(-needed // len(members)))]
        shares.append(torch.cat(turns)[:needed].tensor_split(count))
    for parts in zip(*shares, strict=True):
        batch = torch.cat(parts)
        yield batch[torch.randperm(len(batch), generator=generator)]
