import torch

from heredity.data.graphs import load_graph


def test_the_embedded_graph_is_what_its_parameters_say() -> None:
    graph = load_graph("biased-sbm", seed=0)
    row, column = graph.edges
    assert graph.nodes == 3000
    assert graph.features.shape == (3000, 21)
    assert abs(len(row) / 3000 - 10) < 0.5
    assert abs(float((graph.sensitive[row] == graph.sensitive[column]).float().mean()) - 0.80) < 0.02
    assert abs(float((graph.labels[row] == graph.labels[column]).float().mean()) - 0.68) < 0.02
    keys = row * 3000 + column
    assert bool((keys[1:] > keys[:-1]).all())
    assert not bool((row == column).any())
    assert torch.equal(keys, (column * 3000 + row).sort().values)
    parts = torch.cat([graph.train, graph.validation, graph.test])
    assert len(torch.unique(parts)) == len(parts) == 3000
    assert (len(graph.train), len(graph.validation)) == (300, 600)
    assert torch.allclose(graph.features[graph.train].mean(0), torch.zeros(21), atol=1e-5)


def test_the_seed_decides_everything() -> None:
    first, again, other = (load_graph("biased-sbm", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.edges, again.edges)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.labels, other.labels)
