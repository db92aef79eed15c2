"""CPF: a student that propagates labels and mixes in what it predicts from features (Yang, Liu and Shi, WWW 2021).

Attention scores depend on the source node alone, so that propagation is two sparse products and no per-edge tensor exists.
The published code agrees in evaluation; in training its attention dropout drops edges, ours drops sources.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.lineage import remember
from heredity.core.settings import from_plain
from heredity.nn.graph import Net, Structure, dropout, make_net, symmetric_product
from heredity.systems.reliant.frameworks import Framework, Task

_LOWEST = -60.0


class LabelPropagation(nn.Module):
    """h_v <- relu(sig(b_v) sum_u w_uv h_u + (1 - sig(b_v)) f(x)_v), w the softmax of <x_u, a> over neighbours u.

    Training nodes keep their labels, others begin at 1 / classes. `f` is any network of features. What it learns of `b` and
    of the labels belongs to the nodes of this graph.
    """

    def __init__(
        self, net: Net, features: int, one_hot: Float[Tensor, "n c"], steps: int, drop: float, attention: float
    ) -> None:
        super().__init__()
        self.net = make_net(replace(net, dropout_input=True), features, one_hot.shape[1])
        self.attention = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, features), nn.init.calculate_gain("relu")))
        self.balance = nn.Parameter(torch.zeros(len(one_hot), 1))
        self.register_buffer("one_hot", one_hot)
        self.steps, self.dropout, self.attention_dropout = steps, drop, attention

    def forward(self, x: Float[Tensor, "n d"], structure: Structure) -> Float[Tensor, "n c"]:
        """What is propagated in the end, taken for logits."""
        one_hot: Tensor = self.one_hot  # pyright: ignore[reportAssignmentType]
        known = one_hot.sum(dim=1, keepdim=True) > 0
        score = F.linear(dropout(x, self.dropout, self.training), self.attention)
        source = (score - score.max()).clamp(min=_LOWEST).exp()
        share, own = self.balance.sigmoid(), self.net(x, structure)
        h = torch.where(known, one_hot, 1.0 / one_hot.shape[1])
        for _ in range(self.steps):
            kept = dropout(source, self.attention_dropout, self.training)
            gathered = symmetric_product(structure.with_loops, torch.cat([kept * h, source], dim=1))
            h = F.relu(share * gathered[:, :-1] / gathered[:, -1:] + (1 - share) * own)
            h = torch.where(known, one_hot, h)
        return h


def cpf(
    net: Net, *, steps: int = 4, dropout: float = 0.5, attention_dropout: float = 0.2, strength: float = 2.0
) -> Framework:
    """CPF with any network in place of its MLP. Its loss grows with the root of the number of unlabelled nodes."""

    def student(width: int, task: Task) -> nn.Module:
        one_hot = torch.zeros(len(task.labels), task.classes, device=task.labels.device)
        one_hot[task.train] = F.one_hot(task.labels[task.train], task.classes).float()
        made = LabelPropagation(net, width, one_hot, steps, dropout, attention_dropout)
        shape = {"features": width, "nodes": len(one_hot), "classes": task.classes}
        how = {"net": asdict(net), "steps": steps, "dropout": dropout, "attention": attention_dropout}
        remember(made, {"kind": "label-propagation", **shape, **how})
        return made

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        logits = student(x, task.structure)
        return frobenius(logits.softmax(dim=1)[task.unlabelled], task.log_probabilities[task.unlabelled].exp()), logits

    return Framework("cpf", student, loss, strength=strength, scale=lambda task: len(task.unlabelled) ** 0.5)


def build_propagation(noted: Mapping[str, Any]) -> nn.Module:
    """An untrained student from what `cpf` noted in a file. Raises ModelError for a damaged note."""
    sizes = [noted.get(name) for name in ("features", "nodes", "classes", "steps")]
    shares = [noted.get(name) for name in ("dropout", "attention")]
    if not all(type(size) is int and 0 < size < 10**8 for size in sizes) or not all(type(x) is float for x in shares):
        raise ModelError("the architecture record is damaged", remedy="the file was not written by heredity")
    features, nodes, classes, steps = sizes
    one_hot = torch.zeros(nodes, classes)  # pyright: ignore[reportArgumentType,reportCallIssue]
    return LabelPropagation(from_plain(Net, noted.get("net")), features, one_hot, steps, *shares)  # pyright: ignore


def frobenius(student: Float[Tensor, "u c"], teacher: Float[Tensor, "u c"]) -> Float[Tensor, ""]:
    """||p_s - p_t||_F: the root of the sum, not of the mean, of squared differences of probabilities.

    >>> round(float(frobenius(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))), 4)
    1.4142
    """
    return torch.linalg.vector_norm(student - teacher)
