"""What distillation is here: a task, and a framework as a record of functions that RELIANT wraps without looking inside.

Plain logit distillation is in this file; GLNN (Zhang et al., ICLR 2022) is plain distillation into an MLP. The paper's two,
CPF and GraphAKD, have files of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import DataError, ModelError
from heredity.data.graphs import Graph
from heredity.nn.graph import Net, Structure, make_net


@dataclass(frozen=True, eq=False)
class Task:
    """What a student may learn from: features, graph, labels of the training nodes (-1 elsewhere), and the teacher's answers.

    `sensitive` is for training only; nothing that is deployed is given it.
    """

    features: Float[Tensor, "n d"]
    structure: Structure
    labels: Int[Tensor, "n"]
    train: Int[Tensor, "t"]
    classes: int
    sensitive: Int[Tensor, "n"]
    groups: int
    logits: Float[Tensor, "n c"]
    embedding: Float[Tensor, "n h"] | None = None

    @cached_property
    def unlabelled(self) -> Int[Tensor, "u"]:
        """Every node that is not a training node, whatever is known of it."""
        return torch.nonzero(~self.is_train).flatten()

    @cached_property
    def is_train(self) -> Tensor:
        """A mask of the training nodes."""
        mask = torch.zeros(len(self.features), dtype=torch.bool, device=self.features.device)
        return mask.index_fill(0, self.train, True)

    @cached_property
    def log_probabilities(self) -> Float[Tensor, "n c"]:
        """The teacher's log-softmax."""
        return self.logits.log_softmax(dim=1)

    def to(self, device: torch.device | str) -> "Task":
        """The same task on another device."""
        if self.features.device == torch.device(device):
            return self
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Structure)}
        return replace(self, **{name: value for name, value in moved.items() if name in self.__dataclass_fields__})


def make_task(graph: Graph, logits: Float[Tensor, "n c"], embedding: Float[Tensor, "n h"] | None = None) -> Task:
    """The task that a graph and a teacher's answers make. Raises ModelError or DataError where they do not fit together."""
    if len(logits) != graph.nodes:
        raise ModelError(
            f"the teacher answered for {len(logits)} nodes, {graph.name} has {graph.nodes}",
            remedy="give the teacher's answers for the same graph, one row a node in the file's order",
        )
    if logits.shape[1] != graph.classes:
        raise ModelError(
            f"the teacher knows {logits.shape[1]} classes, column {graph.label_name!r} has {graph.classes}",
            remedy="train the teacher on the same labels",
        )
    if not bool(torch.isfinite(logits).all()):
        row = int((~torch.isfinite(logits)).any(dim=1).nonzero()[0])
        raise DataError(f"the teacher's answer for node {row} is not finite", remedy="repair or retrain the teacher")
    known = torch.full_like(graph.labels, -1)
    known[graph.train] = graph.labels[graph.train]
    return Task(
        features=graph.features,
        structure=Structure(graph.nodes, graph.edges),
        labels=known,
        train=graph.train,
        classes=graph.classes,
        sensitive=graph.sensitive,
        groups=graph.groups,
        logits=logits,
        embedding=embedding,
    )


Loss = Callable[[nn.Module, nn.Module | None, Tensor, Task], tuple[Tensor, Tensor]]
"""(student, rival, input [n, d + k], task) -> (the framework's loss, the student's logits [n, c])."""


@dataclass(frozen=True)
class Framework:
    """A way to distil. RELIANT touches it in three places: the width of the input, one more term, one more party.

    `student(width, task)` makes a student for inputs of a width, `loss` is the framework's own. A framework that trains
    adversaries has a `rival` with a loss of its own. `strength` times `scale(task)` is what a fairness weight of 1 means in
    the units of this loss: alpha is multiplied by it, so that one alpha serves all frameworks and sizes of graph.

    A framework of yours, whole:

    >>> def mean_squared(student, rival, x, task):
    ...     logits = student(x, task.structure)
    ...     return F.mse_loss(logits, task.logits), logits
    >>> mine = Framework("mine", lambda width, task: make_net(Net("mlp"), width, task.classes), mean_squared)
    """

    name: str
    student: Callable[[int, Task], nn.Module]
    loss: Loss
    rival: Callable[[Task], nn.Module] | None = None
    rival_loss: Callable[[nn.Module, nn.Module, Tensor, Task], Tensor] | None = None
    strength: float = 1.0
    scale: Callable[[Task], float] = lambda task: 1.0


def kd(net: Net, *, strength: float = 1.0) -> Framework:
    """Plain logit distillation: KL(teacher || student), mean over all nodes; with an MLP it is GLNN."""

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        logits = student(x, task.structure)
        return divergence(logits, task.log_probabilities), logits

    return Framework("kd", lambda width, task: make_net(net, width, task.classes), loss, strength=strength)


def divergence(logits: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """KL(teacher || student), mean over nodes; `teacher` are log-probabilities.

    >>> round(float(divergence(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log())), 4)
    0.1308
    """
    return F.kl_div(logits.log_softmax(dim=1), teacher, reduction="batchmean", log_target=True)


def scratch(net: Net) -> Framework:
    """No distillation at all: cross-entropy on the training labels, for the student that inherits nothing."""

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        logits = student(x, task.structure)
        return F.cross_entropy(logits[task.train], task.labels[task.train]), logits

    return Framework("scratch", lambda width, task: make_net(net, width, task.classes), loss)
