"""GraphAKD: a student that must deceive three critics who know the teacher (He et al., KDD 2022)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.graph import Net, Structure, make_net
from heredity.systems.reliant.frameworks import Framework, Task


class Critics(nn.Module):
    """Who tells teacher from student: by the logits of a node, by pairs of neighbours, by nodes against the whole graph."""

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(classes, classes)
        self.outer = nn.Linear(classes, classes + 1, bias=False)
        self.edge = nn.Parameter(torch.ones(hidden))
        self.edge_scale = nn.Parameter(torch.tensor(0.5))
        self.graph = nn.Parameter(torch.ones(hidden))
        self.graph_scale = nn.Parameter(torch.tensor(0.5))

    def of_logits(self, z: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"]]:
        """A classification of the node, and whether its logits are the teacher's."""
        judged = self.outer(F.relu(z + self.inner(z)))
        return judged[:, :-1], judged[:, -1]

    def of_edges(self, h: Float[Tensor, "n h"], structure: Structure) -> Float[Tensor, "e"]:
        """Of every undirected edge, whether the embeddings of its ends are the teacher's."""
        once = structure.edges[:, structure.edges[0] < structure.edges[1]]
        unit = F.normalize(h, dim=1)
        return self.edge_scale * (unit.index_select(0, once[0]) * unit.index_select(0, once[1])) @ self.edge

    def of_graph(self, h: Float[Tensor, "n h"], summary: Float[Tensor, "h"]) -> Float[Tensor, "n"]:
        """Of every node, whether it belongs to the graph that the summary describes."""
        return self.graph_scale * (F.normalize(h, dim=1) * self.graph) @ summary


def summary_of(h: Float[Tensor, "n h"]) -> Float[Tensor, "h"]:
    """The whole graph as one vector: the sigmoid of the mean embedding."""
    return h.mean(dim=0).sigmoid()


def real(scores: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Binary cross-entropy against "this is the teacher's", from raw scores."""
    return F.softplus(-scores).mean()


def fake(scores: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Binary cross-entropy against "this is the student's", from raw scores.

    >>> round(float(fake(torch.zeros(3))), 4)
    0.6931
    """
    return F.softplus(scores).mean()


def critics_loss(critics: Critics, z: Tensor, h: Tensor, task: Task) -> Float[Tensor, ""]:
    """What the critics minimise, the student's logits `z` and embedding `h` being given."""
    teacher_z, teacher_h = task.log_probabilities, embedding_of(task)
    labels = task.labels[task.train]
    (theirs, true), (ours, false) = critics.of_logits(teacher_z), critics.of_logits(z)
    of_logits = real(true) + fake(false)
    of_logits = of_logits + F.cross_entropy(theirs[task.train], labels) + F.cross_entropy(ours[task.train], labels)
    of_edges = real(critics.of_edges(teacher_h, task.structure)) + fake(critics.of_edges(h, task.structure))
    teacher_q, student_q = summary_of(teacher_h), summary_of(h)
    of_graph = real(critics.of_graph(teacher_h, teacher_q)) + fake(critics.of_graph(h, teacher_q))
    of_graph = of_graph + fake(critics.of_graph(teacher_h, student_q)) + real(critics.of_graph(h, student_q))
    return of_logits / 2 + of_edges + of_graph


def student_loss(critics: Critics, z: Tensor, h: Tensor, task: Task, *, centred: bool) -> Float[Tensor, ""]:
    """What the student minimises. As in the published code, the last pair of terms is not turned round for the student.

    The teacher's logits are known up to a constant, as log-probabilities: `centred` compares like with like, the published
    code (False) compares the student's raw logits with them.
    """
    labels, teacher_h = task.labels[task.train], embedding_of(task)
    given, score = critics.of_logits(z)
    deceive = real(score) + F.cross_entropy(given[task.train], labels)
    near = ((z.log_softmax(dim=1) if centred else z) - task.log_probabilities).abs().sum() / len(z)
    teacher_q, student_q = summary_of(teacher_h), summary_of(h)
    of_graph = real(critics.of_graph(h, teacher_q))
    of_graph = of_graph + fake(critics.of_graph(teacher_h, student_q)) + real(critics.of_graph(h, student_q))
    own = F.cross_entropy(z[task.train], labels)
    return own + deceive / 2 + near + real(critics.of_edges(h, task.structure)) + of_graph


def akd(net: Net, *, strength: float = 10.0, centred: bool = True) -> Framework:
    """GraphAKD for any student network whose embedding is as wide as the teacher's."""

    def critics(task: Task) -> nn.Module:
        return Critics(task.classes, embedding_of(task).shape[1])

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        h, z = student.both(x, task.structure)  # pyright: ignore[reportCallIssue]
        _same_width(h, task)
        assert isinstance(rival, Critics)
        return student_loss(rival, z, h, task, centred=centred), z

    def rival_loss(student: nn.Module, rival: nn.Module, x: Tensor, task: Task) -> Tensor:
        with torch.no_grad():
            h, z = student.both(x, task.structure)  # pyright: ignore[reportCallIssue]
        assert isinstance(rival, Critics)
        return critics_loss(rival, z, h, task)

    def student(width: int, task: Task) -> nn.Module:
        return make_net(net, width, task.classes)

    return Framework("akd", student, loss, critics, rival_loss, strength)


def embedding_of(task: Task) -> Tensor:
    """The teacher's embedding. Raises ModelError where only its answers are known."""
    if task.embedding is None:
        raise ModelError("GraphAKD needs the teacher's embedding, not its answers alone", remedy="use kd or cpf")
    return task.embedding


def _same_width(h: Tensor, task: Task) -> None:
    wanted = embedding_of(task).shape[1]
    if h.shape[1] != wanted:
        raise ModelError(
            f"the student's embedding has width {h.shape[1]}, the teacher's {wanted}",
            remedy=f"set the student's hidden width to {wanted}",
        )
