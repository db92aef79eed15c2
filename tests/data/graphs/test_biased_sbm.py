import torch
from sklearn.linear_model import LogisticRegression

from heredity.data.graphs import load_graph
from heredity.metrics.fairness import statistical_parity_difference


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


def gap_of_a_simple_model(options: str) -> float:
    """Statistical parity difference of logistic regression on own and neighbours' features, mean of three graphs."""
    gaps = []
    for seed in range(3):
        graph = load_graph(f"biased-sbm?nodes=2000,{options}", seed=seed)
        row, column = graph.edges
        degree = torch.bincount(row, minlength=graph.nodes).clamp(min=1)[:, None]
        near = torch.zeros_like(graph.features).index_add_(0, row, graph.features[column]) / degree
        both = torch.cat([graph.features, near], dim=1).numpy()
        model = LogisticRegression(C=0.1, max_iter=200).fit(both[graph.train], graph.labels[graph.train])
        predicted = torch.from_numpy(model.predict(both[graph.test]))
        gaps.append(statistical_parity_difference(predicted, graph.sensitive[graph.test]))
    return sum(gaps) / 3


def test_every_knob_moves_the_bias_the_way_it_should() -> None:
    usual = gap_of_a_simple_model("homophily=4")
    assert usual > 0.2
    hidden = [gap_of_a_simple_model(f"homophily={h},include_sensitive=false,proxy_shift=0.2") for h in (1, 12)]
    assert hidden[0] + 0.02 < hidden[1] < usual
    assert abs(gap_of_a_simple_model("homophily=1,label_gap=0.0001")) < 0.08
    assert gap_of_a_simple_model("proxy_shift=0,include_sensitive=false") < usual - 0.03
