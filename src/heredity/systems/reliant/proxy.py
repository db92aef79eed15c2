"""RELIANT: learnable proxies of bias that accompany a student in training and are gone when it is deployed.

Dong, Zhang, Yuan, Zou, Wang, Li: "RELIANT: Fair Knowledge Distillation for Graph Neural Networks", SDM 2023, section 3.

Each node gets a few learnable columns P beside its features X. A student sees them as they are, [X, P], or wiped, every row
the mean, [X, mean(P)]; it is deployed on the wiped ones. The proxies learn to *raise* the bias of what is predicted from
[X, P], so that it need not be learnt from X. How exactly they meet the student's losses can be read in more than one way.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError, suggestion
from heredity.metrics.fairness import Phi, group_weights, soft_step, squared_gap
from heredity.nn.graph import with_columns
from heredity.systems.reliant.frameworks import Framework, Task

View = Literal["node", "mean"]


@dataclass(frozen=True)
class Reading:
    """One way to read the method: what the proxies are, and which of the two inputs each loss is computed from.

    `proxy`: none; learnt; the group itself, as an oracle; or the group's mean of the teacher's logits, its residual bias.
    `distils_on`, `penalised_on`: the student's two terms. `absorbs`: weight of the distillation loss in the proxies' own.
    """

    proxy: Literal["none", "learnt", "group", "residual"] = "learnt"
    distils_on: View = "mean"
    penalised_on: View | None = "mean"
    absorbs: float = 0.0


READINGS = {
    # Distillation alone, and with the fairness term alone: what any proxy has to beat.
    "plain": Reading("none", penalised_on=None),
    "penalty": Reading("none"),
    # What the published code does: the student is only ever trained on wiped proxies.
    "code": Reading("learnt"),
    # The paper's argument: the student learns the teacher's answers *with* the proxies, which absorb their bias.
    "absorb": Reading("learnt", "node", "mean"),
    # The proxies, too, are to explain the teacher's answers, and not only to raise bias.
    "absorb-kd": Reading("learnt", "node", "mean", absorbs=1.0),
    # The same two with no fairness term on what is deployed: the proxies are all there is.
    "absorb-only": Reading("learnt", "node", None),
    "absorb-kd-only": Reading("learnt", "node", None, absorbs=1.0),
    # Proxies that know the bias beforehand: the group itself, or the teacher's mean answer for the group.
    "oracle": Reading("group", "node", "mean"),
    "oracle-only": Reading("group", "node", None),
    "residual": Reading("residual", "node", "mean"),
}


@dataclass(frozen=True)
class Debiasing:
    """How bias is kept from a student: the reading, the weight `alpha` (times the framework's strength), and J.

    J is computed over `rows` for the student and `proxy_rows` for the proxies. `objective` "eo" needs labels: those of the
    training nodes, or the teacher's decisions on the others too (`eo_labels`). `deployed_on` "node" is an ablation.
    """

    reading: str = "code"
    alpha: float = 0.5
    objective: Literal["sp", "eo"] = "sp"
    phi: Phi = "official"
    columns: int = 2
    rows: Literal["unlabelled", "train", "all"] = "unlabelled"
    proxy_rows: Literal["unlabelled", "train", "all"] = "unlabelled"
    eo_labels: Literal["train", "teacher"] = "train"
    absorbs: bool = True
    proxy_rate: float = 0.01
    proxy_decay: float = 0.0
    deployed_on: View = "mean"


def reading_of(how: Debiasing) -> Reading:
    """The reading by its name. Raises ConfigError with a suggestion."""
    if how.reading not in READINGS:
        raise ConfigError(f"unknown reading {how.reading!r}", remedy=suggestion(how.reading, READINGS))
    return READINGS[how.reading]


def width_of(how: Debiasing, task: Task) -> int:
    """How many columns the proxies add to the input."""
    return {"none": 0, "learnt": how.columns, "group": task.groups, "residual": task.classes}[reading_of(how).proxy]


def first_proxies(how: Debiasing, task: Task, generator: torch.Generator) -> Float[Tensor, "n k"]:
    """The columns before training: uniform in [0, 1), or what the reading says they know."""
    kind = reading_of(how).proxy
    if kind == "group":
        return torch.nn.functional.one_hot(task.sensitive, task.groups).float()
    if kind == "residual":
        centred = task.logits - task.logits.mean(dim=0)
        means = group_weights(task.sensitive.cpu(), groups=task.groups).to(centred) @ centred
        return means[task.sensitive]
    # Drawn apart from everything else, so that ablations start from the same student.
    return torch.rand(len(task.features), width_of(how, task), generator=generator).to(task.features)


class Proxies(nn.Module):
    """The columns P, one row a node."""

    def __init__(self, columns: Float[Tensor, "n k"], *, learnt: bool) -> None:
        super().__init__()
        self.columns = nn.Parameter(columns, requires_grad=learnt)

    def forward(self, x: Float[Tensor, "n d"], view: View) -> Float[Tensor, "n width"]:
        """[X, P], or [X, mean(P)]."""
        return with_columns(x, self.of(view))

    def of(self, view: View) -> Tensor:
        """P, or its mean as one row for all; no gradient of the student's losses reaches the mean."""
        return self.columns if view == "node" else self.columns.detach().mean(dim=0, keepdim=True)


class Debiased(nn.Module):
    """A student in training with its proxies and its framework's rival, if it has one: three parties, three losses."""

    def __init__(
        self, student: nn.Module, columns: Float[Tensor, "n k"], framework: Framework, task: Task, how: Debiasing
    ) -> None:
        super().__init__()
        self.framework, self.task, self.how, self.reading = framework, task, how, reading_of(how)
        self.student = student
        self.proxies = Proxies(columns, learnt=self.reading.proxy == "learnt")
        self.rival = framework.rival(task) if framework.rival is not None else None
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self._means = {rows: _group_means(task, how, rows) for rows in {how.rows, how.proxy_rows}}
        self._weight = how.alpha * framework.strength * framework.scale(task)

    def forward(self, party: Literal["student", "proxies", "rival"]) -> dict[str, Tensor]:
        """The loss terms of one party."""
        if party == "student":
            self.age += 1
            return self._student()
        if party == "proxies":
            return self._proxies()
        assert self.framework.rival_loss is not None
        assert self.rival is not None
        seen = self.proxies(self.task.features, self.reading.distils_on)
        return {"loss": self.framework.rival_loss(self.student, self.rival, seen, self.task)}

    def _student(self) -> dict[str, Tensor]:
        """L_KD + alpha J, each on the input that the reading names."""
        distilled, logits = self._distil(self.reading.distils_on)
        if self.reading.penalised_on is None or not self._weight:
            return {"distillation": distilled}
        if self.reading.penalised_on != self.reading.distils_on:
            logits = self.student(self.proxies(self.task.features, self.reading.penalised_on), self.task.structure)
        return {"distillation": distilled, "bias": self._weight * self.bias(logits, self.how.rows)}

    def _proxies(self) -> dict[str, Tensor]:
        """-alpha J on [X, P], and where they are to absorb what is distilled, L_KD on it too."""
        if self.how.absorbs and self.reading.absorbs:
            distilled, logits = self._distil("node")
            terms = {"distillation": self.reading.absorbs * distilled}
        else:
            logits, terms = self.student(self.proxies(self.task.features, "node"), self.task.structure), {}
        return terms | {"bias": -self._weight * self.bias(logits, self.how.proxy_rows)}

    def _distil(self, view: View) -> tuple[Tensor, Tensor]:
        return self.framework.loss(self.student, self.rival, self.proxies(self.task.features, view), self.task)

    def bias(self, logits: Float[Tensor, "n c"], rows: str) -> Float[Tensor, ""]:
        """J of the student's probabilities over some rows: see `heredity.metrics.fairness.bias_objective`."""
        return squared_gap(self._means[rows] @ soft_step(logits.softmax(dim=1), self.how.phi))

    def deployed_columns(self) -> Float[Tensor, "rows k"]:
        """What is left of the proxies when the student is deployed: their mean."""
        return self.proxies.of(self.how.deployed_on).detach()

    def deployed_logits(self) -> Float[Tensor, "n c"]:
        """What the student would answer if it were deployed now."""
        return self.student(with_columns(self.task.features, self.deployed_columns()), self.task.structure)


def _group_means(task: Task, how: Debiasing, rows: str) -> Float[Tensor, "groups n"]:
    chosen = {"unlabelled": task.unlabelled, "train": task.train, "all": None}[rows]
    labels = None
    if how.objective == "eo":
        # Labels of validation and test nodes are not for training, though the published code reads them here.
        guessed = torch.where(task.is_train, task.labels, task.logits.argmax(dim=1))
        labels = (task.labels if how.eo_labels == "train" else guessed).cpu()
        chosen = task.train if how.eo_labels == "train" else chosen
    chosen = None if chosen is None else chosen.cpu()
    return group_weights(task.sensitive.cpu(), labels, rows=chosen, groups=task.groups).to(task.features)
