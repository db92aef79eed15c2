"""FairGNN's adversary (Dai and Wang, WSDM 2021): a baseline that hides the group from whoever reads the embedding."""

from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.systems.reliant.frameworks import Framework, Task, divergence


class Adversary(nn.Module):
    """Guesses the group of a node from the student's embedding, and once more from its answer (for the covariance)."""

    def __init__(self, hidden: int, groups: int) -> None:
        super().__init__()
        self.guess = nn.Linear(hidden, groups)

    def forward(self, embedding: Float[Tensor, "n h"]) -> Float[Tensor, "n groups"]:
        """Logits of the groups."""
        return self.guess(embedding)


def covariance(probabilities: Float[Tensor, "n c"], groups: Float[Tensor, "n groups"]) -> Float[Tensor, ""]:
    """Sum of absolute covariances between class probabilities and group membership (its equation 7, for any numbers of both).

    >>> import torch
    >>> float(covariance(torch.eye(2), torch.eye(2)))
    1.0
    """
    answers, members = probabilities - probabilities.mean(dim=0), groups - groups.mean(dim=0)
    return (answers.T @ members / len(answers)).abs().sum()


def fairgnn(framework: Framework, hidden: int, *, alpha: float, beta: float = 1.0) -> Framework:
    """A framework whose student also deceives an adversary: its loss - alpha x the adversary's + alpha beta |covariance|.

    The published method first estimates groups from a few known ones; here they are known for all nodes, as to RELIANT.
    """
    if framework.rival is not None:
        raise ModelError(f"{framework.name} has a rival of its own", remedy="use kd")

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        embedding, logits = student.both(x, task.structure)  # pyright: ignore[reportCallIssue]
        assert rival is not None
        members = F.one_hot(task.sensitive, task.groups).float()
        hidden_group = F.cross_entropy(rival(embedding), task.sensitive)
        distilled = divergence(logits, task.log_probabilities)
        return distilled + alpha * (beta * covariance(logits.softmax(dim=1), members) - hidden_group), logits

    def rival_loss(student: nn.Module, rival: nn.Module, x: Tensor, task: Task) -> Tensor:
        embedding = student.both(x, task.structure)[0].detach()  # pyright: ignore[reportCallIssue]
        return F.cross_entropy(rival(embedding), task.sensitive)

    return replace(
        framework,
        name="fairgnn",
        loss=loss,
        rival=lambda task: Adversary(hidden, task.groups),
        rival_loss=rival_loss,
    )
