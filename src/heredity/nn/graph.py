"""Graphs for models: sparse propagation whose backward needs no transpose, and graph networks built on it.

A model takes `(features, structure)` and returns logits. Ours run on a CSR product; those of torch-geometric are taken as
they are (`adopt`), on its edge lists.
"""

import itertools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError, suggestion
from heredity.core.lineage import ARCHITECTURE_KEY, load_model, load_tensors, remember
from heredity.core.settings import from_plain


@dataclass(frozen=True, eq=False)
class Structure:
    """An undirected graph as models see it: `edges` in both directions, sorted by row, without loops or duplicates."""

    nodes: int
    edges: Int[Tensor, "2 e"]

    def __post_init__(self) -> None:
        if self.edges.numel() and not 0 <= int(self.edges.min()) <= int(self.edges.max()) < self.nodes:
            raise DataError(f"an edge leaves the {self.nodes} nodes", remedy="number nodes 0..n-1")

    @cached_property
    def degree(self) -> Float[Tensor, "n"]:
        """How many neighbours each node has, itself included."""
        ones = torch.ones(self.edges.shape[1], device=self.edges.device)
        return torch.ones(self.nodes, device=self.edges.device).index_add_(0, self.edges[0], ones)

    @cached_property
    def with_loops(self) -> Tensor:
        """A + I as CSR with ones."""
        return self._csr(torch.ones(self.edges.shape[1] + self.nodes, device=self.edges.device))

    @cached_property
    def normalised(self) -> Tensor:
        """D^-1/2 (A + I) D^-1/2 as CSR (Kipf and Welling, 2017)."""
        rows, columns = self._entries
        scale = self.degree.rsqrt()
        return self._csr(scale[rows] * scale[columns])

    def to(self, device: torch.device | str) -> "Structure":
        """The same graph on another device."""
        return self if self.edges.device == torch.device(device) else Structure(self.nodes, self.edges.to(device))

    @cached_property
    def _entries(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of A + I in CSR order."""
        each = torch.arange(self.nodes, device=self.edges.device)
        keys = torch.cat([self.edges[0] * self.nodes + self.edges[1], each * (self.nodes + 1)]).sort().values
        return keys // self.nodes, keys % self.nodes

    def _csr(self, values: Tensor) -> Tensor:
        rows, columns = self._entries
        pointers = torch.zeros(self.nodes + 1, dtype=torch.int64, device=rows.device)
        pointers[1:] = torch.bincount(rows, minlength=self.nodes).cumsum(0)
        with warnings.catch_warnings():
            # PyTorch says once in every process that its CSR tensors are in beta: nothing a user could act on.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
            return torch.sparse_csr_tensor(pointers, columns, values, (self.nodes, self.nodes), check_invariants=False)


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, dense: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, ctx.matrix @ gradients[0].contiguous()


def symmetric_product(matrix: Tensor, dense: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
    """A symmetric sparse matrix times a dense one. The gradient is the same product: no transpose is kept, no edge list.

    >>> path = Structure(3, torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> symmetric_product(path.with_loops, torch.eye(3))[1].tolist()
    [1.0, 1.0, 1.0]
    """
    return _SymmetricProduct.apply(matrix, dense.to(matrix.dtype))  # pyright: ignore[reportReturnType]


def dropout(x: Float[Tensor, "..."], share: float, training: bool) -> Float[Tensor, "..."]:
    """What `torch.nn.functional.dropout` computes, at a third of its time on a CPU, which draws Bernoulli numbers singly."""
    if not training or not share:
        return x
    return x * ((torch.rand(x.shape, device=x.device) >= share) * (1.0 / (1.0 - share)))


def mean_of_neighbours(structure: Structure, x: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
    """The mean over a node and its neighbours (GraphSAGE's "gcn" aggregator, Hamilton et al., 2017)."""
    return symmetric_product(structure.with_loops, x) / structure.degree[:, None]


def convolve(structure: Structure, x: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
    """One symmetric-normalised propagation with self-loops (Kipf and Welling, 2017)."""
    return symmetric_product(structure.normalised, x)


KINDS = ("mlp", "gcn", "sage", "sgc", "appnp", "gat")


@dataclass(frozen=True)
class Net:
    """A graph network: `kind` mlp, gcn, sage, sgc, appnp, gat, or pyg:CLASS for any basic model of torch-geometric.

    `dropout` precedes every layer but the first, and the first too where `dropout_input`. `embedding` is the hidden layer
    that `both` returns: 0 the first, -1 the last. `hops` belong to sgc and appnp, `teleport` to appnp, `heads` to gat.
    """

    kind: str = "gcn"
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.5
    dropout_input: bool = False
    embedding: int = -1
    hops: int = 2
    teleport: float = 0.1
    heads: int = 8


class GraphNet(nn.Module):
    """Layers of linear maps with a propagation before or after each, whichever is narrower."""

    def __init__(self, net: Net, features: int, classes: int) -> None:
        super().__init__()
        self.net = net
        widths = [features, *[net.hidden] * (net.layers - 1), classes]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Float[Tensor, "n d"], structure: Structure) -> Float[Tensor, "n c"]:
        """Logits of every node."""
        return self.both(x, structure)[1]

    def both(self, x: Float[Tensor, "n d"], structure: Structure) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n c"]]:
        """The embedding (the hidden layer that the net names, after its ReLU) and the logits."""
        net, hidden = self.net, []
        if net.kind == "sgc":
            for _ in range(net.hops):
                x = convolve(structure, x)
        for number, linear in enumerate(self.linears):
            if number or net.dropout_input:
                x = dropout(x, net.dropout, self.training)
            x = self._layer(linear, x, structure)  # pyright: ignore[reportArgumentType]
            if number < len(self.linears) - 1:
                x = F.relu(x)
                hidden.append(x)
        if net.kind == "appnp":
            start = x
            for _ in range(net.hops):
                x = (1 - net.teleport) * convolve(structure, x) + net.teleport * start
        return (hidden[net.embedding] if hidden else x), x

    def _layer(self, linear: nn.Linear, x: Tensor, structure: Structure) -> Tensor:
        if self.net.kind not in ("gcn", "sage"):
            return linear(x)
        spread = convolve if self.net.kind == "gcn" else mean_of_neighbours
        if linear.out_features < linear.in_features:
            return spread(structure, F.linear(x, linear.weight)) + linear.bias
        return linear(spread(structure, x))


class Adopted(nn.Module):
    """A module of torch-geometric style, `module(x, edge_index)`, as a model of ours.

    The embedding is what its first message-passing layer returns.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Float[Tensor, "n d"], structure: Structure) -> Float[Tensor, "n c"]:
        """Logits of every node."""
        return self.module(x, structure.edges)

    def both(self, x: Float[Tensor, "n d"], structure: Structure) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n c"]]:
        """The first layer's output and the logits. Raises ModelError when no layer passes messages."""
        from torch_geometric.nn import MessagePassing

        first = next((part for part in self.module.modules() if isinstance(part, MessagePassing)), None)
        if first is None:
            raise ModelError("the module has no message-passing layer to take an embedding from", remedy="see adopt")
        seen: list[Tensor] = []
        hook = first.register_forward_hook(lambda module, given, returned: seen.append(returned))  # pyright: ignore[reportArgumentType]
        try:
            logits = self.forward(x, structure)
        finally:
            hook.remove()
        return seen[0], logits


def adopt(module: nn.Module) -> nn.Module:
    """A torch-geometric module `(x, edge_index) -> logits` as a teacher or student here; ours are returned as they are."""
    return module if hasattr(module, "both") else Adopted(module)


def make_net(net: Net, features: int, classes: int) -> nn.Module:
    """An untrained network for nodes with so many features and classes. Raises ConfigError for a kind that is not known.

    >>> make_net(Net("mlp", hidden=8), 4, 2).linears[0]
    Linear(in_features=4, out_features=8, bias=True)
    """
    if net.hidden < 1 or net.layers < 1 or net.hops < 0 or not 0 <= net.dropout < 1:
        raise ConfigError(f"no network has such a shape: {net}", remedy="hidden and layers from 1, dropout in [0, 1)")
    if net.kind == "gat" or net.kind.startswith("pyg:"):
        model: nn.Module = Adopted(_of_pyg(net, features, classes))
    elif net.kind in KINDS:
        model = GraphNet(net, features, classes)
    else:
        raise ConfigError(f"unknown network {net.kind!r}", remedy=suggestion(net.kind, [*KINDS, "pyg:CLASS"]))
    remember(model, {"kind": "graph-net", "net": asdict(net), "features": features, "classes": classes})
    return model


def _of_pyg(net: Net, features: int, classes: int) -> nn.Module:
    try:
        from torch_geometric.nn import models
    except ImportError as error:
        raise ConfigError(f"{net.kind} needs torch-geometric", remedy="pip install heredity[graph]") from error
    if net.kind == "gat":
        kind: Any = models.GAT
        more: dict[str, Any] = {"heads": net.heads}
    else:
        known = {name for name in vars(models) if _is_basic(getattr(models, name))}
        name = net.kind.removeprefix("pyg:")
        if name not in known:
            raise ConfigError(f"torch-geometric has no basic model {name!r}", remedy=suggestion(name, known))
        kind, more = getattr(models, name), {}
    return kind(features, net.hidden, net.layers, classes, dropout=net.dropout, **more)


def _is_basic(kind: Any) -> bool:
    from torch_geometric.nn.models.basic_gnn import BasicGNN

    return isinstance(kind, type) and issubclass(kind, BasicGNN) and kind is not BasicGNN


class WithConstants(nn.Module):
    """A student as it is deployed: its input is the features and a few constants, the same for every node.

    `constants` is [1, k]. (An ablation keeps a row a node, [n, k]: such a student knows one graph only.)
    """

    def __init__(self, student: nn.Module, constants: Float[Tensor, "rows k"]) -> None:
        super().__init__()
        self.student = student
        self.register_buffer("constants", constants)

    def forward(self, x: Float[Tensor, "n d"], structure: Structure) -> Float[Tensor, "n c"]:
        """Logits of every node."""
        return self.student(with_columns(x, self.constants), structure)  # pyright: ignore[reportArgumentType]


def with_columns(x: Float[Tensor, "n d"], columns: Float[Tensor, "rows k"]) -> Float[Tensor, "n d+k"]:
    """Features with further columns: a row a node, or one row for all."""
    return torch.cat([x, columns.expand(len(x), columns.shape[1])], dim=1) if columns.shape[1] else x


Builders = Mapping[str, Callable[[Mapping[str, Any]], nn.Module]]
"""How further kinds of noted architecture are built, by kind; a builder raises ModelError for a damaged note."""


def build_graph_model(architecture: Mapping[str, Any], builders: Builders | None = None) -> nn.Module:
    """An untrained model from what `make_net` or a deployed student noted. Raises ModelError for a damaged note."""
    known = builders or {}
    if architecture.get("kind") in known:
        model = known[architecture["kind"]](architecture)
        remember(model, architecture)
        return model
    damaged = ModelError("the architecture record is damaged", remedy="the file was not written by heredity")
    sizes = [architecture.get(name) for name in ("features", "classes")]
    if architecture.get("kind") == "graph-net" and all(type(size) is int and 0 < size < 10**6 for size in sizes):
        net = from_plain(Net, architecture.get("net"))
        # A file must not make its reader build a network that no memory holds.
        if net.hidden**2 * net.layers * net.heads > 10**9 or max(net.layers, net.hops, net.heads) > 1000:
            raise damaged
        return make_net(net, *sizes)  # pyright: ignore[reportArgumentType]
    if architecture.get("kind") == "with-constants" and isinstance(inner := architecture.get("student"), dict):
        noted = architecture.get("constants")
        shape = noted if isinstance(noted, list) and all(type(k) is int and 0 <= k < 10**8 for k in noted) else []
        if inner.get("kind") in ("graph-net", *known) and len(shape) == 2 and shape[0] * shape[1] < 10**9:
            student = WithConstants(build_graph_model(inner, known), torch.zeros(*shape))
            remember(student, architecture)
            return student
    raise damaged


def load_graph_model(path: Path, builders: Builders | None = None) -> nn.Module:
    """A graph model from a file that heredity wrote, with its lineage. Raises ModelError for any other file."""
    _, metadata = load_tensors(path)
    try:
        architecture = json.loads(metadata[ARCHITECTURE_KEY])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} does not say how its model is built", remedy="give a file heredity wrote") from error
    if not isinstance(architecture, dict):
        raise ModelError(f"{path} does not say how its model is built", remedy="give a file heredity wrote")
    return load_model(path, build_graph_model(architecture, builders)).eval()
