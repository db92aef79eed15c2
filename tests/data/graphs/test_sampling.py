import pytest
import torch

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.graphs import NeighbourSampler, load_graph, stratified_batches
from heredity.data.graphs.graph import undirected


def star(leaves: int) -> torch.Tensor:
    ends = torch.arange(1, leaves + 1)
    return undirected(torch.stack([torch.zeros_like(ends), ends]), leaves + 1)[0]


def test_a_neighbourhood_is_a_part_of_the_graph() -> None:
    graph = load_graph("biased-sbm?nodes=500", seed=0)
    sampler = NeighbourSampler(graph.edges, graph.nodes)
    known = set(map(tuple, graph.edges.T.tolist()))
    seeds = torch.tensor([7, 3, 99])
    for turn in range(3):
        found = sampler.sample(seeds, (4, 3), generator_of("sample", turn))
        assert found.nodes[:3].tolist() == seeds.tolist()
        assert len(torch.unique(found.nodes)) == len(found.nodes)
        source, target = found.nodes[found.edges]
        assert set(zip(target.tolist(), source.tolist(), strict=True)) <= known
        pairs = found.edges[0] * len(found.nodes) + found.edges[1]
        assert len(torch.unique(pairs)) == len(pairs)
        per_node = torch.bincount(found.edges[1], minlength=3)
        degree = torch.bincount(graph.edges[0], minlength=500)
        assert per_node[:3].tolist() == degree[seeds].clamp(max=4).tolist()
        assert int(per_node[3:].max()) <= 3
        assert found.hops == (int(per_node[:3].sum()), len(pairs))
        assert int(found.edges[1, : found.hops[0]].max()) < found.seeds == 3
        assert int(found.edges[0, : found.hops[0]].max()) < found.known[1]
        assert int(found.edges[1].max()) < found.known[1] <= found.known[2] == len(found.nodes)


def test_fan_outs_above_every_degree_give_the_whole_neighbourhood() -> None:
    graph = load_graph("biased-sbm?nodes=200", seed=0)
    sampler = NeighbourSampler(graph.edges, graph.nodes)
    found = sampler.sample(torch.arange(200), (100,), generator_of())
    assert torch.equal(found.edges.flip(0), graph.edges)


def test_every_neighbour_of_a_hub_is_equally_likely() -> None:
    sampler = NeighbourSampler(star(20), 21)
    random = generator_of("hub")
    counts = torch.zeros(21)
    for _ in range(600):
        found = sampler.sample(torch.tensor([0]), (5,), random)
        assert len(found.nodes) == 6
        counts[found.nodes[1:]] += 1
    # 600 draws of 5 out of 20: 150 each, standard deviation 10.6.
    assert float((counts[1:] - 150).abs().max()) < 45


def test_isolated_nodes_and_graphs_without_edges_are_no_trouble() -> None:
    nothing = torch.zeros(2, 0, dtype=torch.long)
    found = NeighbourSampler(nothing, 4).sample(torch.tensor([2, 0]), (3, 3), generator_of())
    assert found.nodes.tolist() == [2, 0]
    assert found.edges.shape == (2, 0)
    with pytest.raises(DataError, match="not sorted"):
        NeighbourSampler(torch.tensor([[1, 0], [0, 1]]), 2)


def test_batches_hold_every_group_and_every_row() -> None:
    rows = torch.randperm(5000, generator=generator_of("rows"))[:1000]
    group = (torch.rand(1000, generator=generator_of("group")) < 0.02).long()
    batches = list(stratified_batches(rows, group, 128, generator=generator_of("batches"), least=8))
    of_row = dict(zip(rows.tolist(), group.tolist(), strict=True))
    assert {row for batch in batches for row in batch.tolist()} == set(rows.tolist())
    seen: dict[int, int] = {}
    for batch in batches:
        members = [of_row[row] for row in batch.tolist()]
        assert members.count(1) >= 8
        for row in batch.tolist():
            seen[row] = seen.get(row, 0) + 1
    assert all(seen[row] == 1 for row, member in of_row.items() if member == 0)


def test_batches_that_cannot_hold_every_group_are_refused() -> None:
    with pytest.raises(DataError, match="cannot hold 32 nodes of each of 2 groups"):
        next(stratified_batches(torch.arange(100), torch.arange(100) % 2, 32, generator=generator_of()))
    with pytest.raises(DataError, match="no node of group 0"):
        next(stratified_batches(torch.arange(100), torch.ones(100).long(), 64, generator=generator_of()))
