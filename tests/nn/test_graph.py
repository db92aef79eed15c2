from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GCNConv, SGConv
from torch_geometric.nn.models import GCN

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import architecture_of, save_model, save_tensors
from heredity.nn.graph import (
    Net,
    Structure,
    WithConstants,
    adopt,
    build_graph_model,
    convolve,
    load_graph_model,
    make_net,
    mean_of_neighbours,
    symmetric_product,
    with_columns,
)


def a_graph(nodes: int = 30, *, seed: int = 0) -> tuple[Structure, Tensor]:
    """A random graph (two nodes have no neighbours) and its dense adjacency with self-loops."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(nodes, nodes, generator=generator) < 0.15
    dense = (dense | dense.T) & ~torch.eye(nodes, dtype=torch.bool)
    dense[:2], dense[:, :2] = False, False
    return Structure(nodes, dense.nonzero().T.contiguous()), (dense | torch.eye(nodes, dtype=torch.bool)).float()


X = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))


def test_propagations_equal_dense_ones() -> None:
    structure, dense = a_graph()
    degree = dense.sum(dim=1)
    assert torch.equal(structure.degree, degree)
    assert torch.allclose(symmetric_product(structure.with_loops, X), dense @ X, atol=1e-6)
    scaled = dense / (degree[:, None] * degree).sqrt()
    assert torch.allclose(convolve(structure, X), scaled @ X, atol=1e-6)
    assert torch.allclose(mean_of_neighbours(structure, X), dense @ X / degree[:, None], atol=1e-6)


def test_the_gradient_is_that_of_the_dense_product() -> None:
    structure, dense = a_graph()
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    weights = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    (symmetric_product(structure.with_loops, ours) * weights).sum().backward()
    (dense @ theirs * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_layers_agree_with_torch_geometric() -> None:
    structure, _ = a_graph()
    net = make_net(Net("gcn", hidden=7, layers=2, dropout=0.0), 5, 2).eval()
    first, second = GCNConv(5, 7), GCNConv(7, 2)
    for ours, theirs in zip(net.linears, (first, second), strict=True):  # pyright: ignore[reportArgumentType]
        theirs.lin.weight, theirs.bias = ours.weight, ours.bias  # pyright: ignore[reportAttributeAccessIssue]
    expected = second(first(X, structure.edges).relu(), structure.edges)
    assert torch.allclose(net(X, structure), expected, atol=1e-5)
    twice = SGConv(5, 5, K=2, bias=False)
    twice.lin.weight = nn.Parameter(torch.eye(5))
    assert torch.allclose(convolve(structure, convolve(structure, X)), twice(X, structure.edges), atol=1e-5)
    teleporting = make_net(Net("appnp", hidden=7, hops=10, dropout=0.0), 5, 2).eval()
    before = make_net(Net("mlp", hidden=7, dropout=0.0), 5, 2).eval()
    before.load_state_dict(teleporting.state_dict())
    published = APPNP(K=10, alpha=0.1)(before(X, structure), structure.edges)
    assert torch.allclose(teleporting(X, structure), published, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "gcn", "sage", "sgc", "appnp", "gat", "pyg:GIN", "pyg:GraphSAGE"])
def test_every_kind_learns_shows_an_embedding_and_comes_back_from_a_file(tmp_path: Path, kind: str) -> None:
    structure, _ = a_graph()
    model = make_net(Net(kind, hidden=8, layers=2), 5, 3)
    embedding, logits = model.eval().both(X, structure)  # pyright: ignore[reportCallIssue]
    assert embedding.shape == (30, 8)
    assert torch.equal(logits, model(X, structure))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    save_model(tmp_path / "m.safetensors", model)
    again = load_graph_model(tmp_path / "m.safetensors")
    assert torch.equal(again(X, structure), logits)


def test_a_module_of_torch_geometric_is_taken_as_it_is() -> None:
    structure, _ = a_graph()
    theirs = GCN(5, 8, num_layers=2, out_channels=2).eval()
    ours = adopt(theirs)
    embedding, logits = ours.both(X, structure)  # pyright: ignore[reportCallIssue]
    assert torch.equal(logits, theirs(X, structure.edges))
    assert embedding.shape == (30, 8)
    assert adopt(ours) is ours
    with pytest.raises(ModelError, match="no message-passing layer"):
        adopt(Plain()).both(X, structure)  # pyright: ignore[reportCallIssue]


class Plain(nn.Module):
    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x


def test_constants_are_the_same_for_every_node() -> None:
    structure, _ = a_graph()
    student = make_net(Net("mlp", hidden=4), 7, 2)
    deployed = WithConstants(student, torch.tensor([[0.25, 0.75]])).eval()
    assert torch.equal(
        deployed(X, structure), student(torch.cat([X, torch.tensor([0.25, 0.75]).expand(30, 2)], 1), structure)
    )
    assert with_columns(X, torch.zeros(1, 0)) is X
    other, _ = a_graph(12, seed=4)
    assert deployed(X[:12], other).shape == (12, 2)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves the 3 nodes"):
        Structure(3, torch.tensor([[0], [3]]))
    with pytest.raises(ConfigError, match="did you mean 'sage'"):
        make_net(Net("sages"), 5, 2)
    with pytest.raises(ConfigError, match="no basic model 'Sequential'"):
        make_net(Net("pyg:Sequential"), 5, 2)
    with pytest.raises(ConfigError, match="such a shape"):
        make_net(Net(hidden=0), 5, 2)
    for note in ({}, {"kind": "graph-net", "features": -1, "classes": 2}, {"kind": "with-constants", "student": {}}):
        with pytest.raises(ModelError, match="damaged"):
            build_graph_model(note)
    save_tensors(tmp_path / "bare.safetensors", {"w": torch.zeros(1)}, {})
    with pytest.raises(ModelError, match="does not say how"):
        load_graph_model(tmp_path / "bare.safetensors")
    noted = architecture_of(make_net(Net("mlp"), 5, 2))
    assert noted is not None
    with pytest.raises(ModelError, match="damaged"):
        build_graph_model({"kind": "with-constants", "student": noted, "constants": [1, 10**12]})
