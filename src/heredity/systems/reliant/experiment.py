"""RELIANT from end to end: teachers, plain and debiased students in every cell, and fronts (Dong et al., SDM 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heredity.core.outcome import Outcome
from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.data.graphs import Graph, load_graph
from heredity.nn.graph import Net, Structure
from heredity.systems.reliant import pictures
from heredity.systems.reliant.adversary import fairgnn
from heredity.systems.reliant.akd import akd
from heredity.systems.reliant.config import Reliant
from heredity.systems.reliant.cpf import cpf
from heredity.systems.reliant.distil import distil, train_teacher
from heredity.systems.reliant.examine import examine, points_lost
from heredity.systems.reliant.frameworks import Framework, Task, kd, make_task, scratch
from heredity.systems.reliant.proxy import Debiasing
from heredity.systems.reliant.results import Cell, measured

PLAIN = Debiasing(reading="plain", alpha=0.0)


@dataclass(frozen=True)
class Bench:
    """What every student of one run has in common."""

    config: Reliant
    graph: Graph
    run: Run

    def framework(self, name: str, student: str) -> Framework:
        """One of the frameworks, for students of a kind."""
        config, net = self.config, replace(self.config.student, kind=student)
        if name == "cpf":
            how = config.propagation
            made = cpf(net, steps=how.steps, dropout=how.dropout, attention_dropout=how.attention_dropout)
        elif name == "akd":
            made = akd(net, centred=config.critics_see == "log-probabilities")
        else:
            made = kd(net)
        if not config.scaled:
            return replace(made, strength=1.0, scale=lambda task: 1.0)
        return replace(made, strength=getattr(config, name).strength)

    def student(self, at: str, task: Task, framework: Framework, how: Debiasing, parent: nn.Module | None) -> nn.Module:
        """A student, made in stage `at` by its framework's plan, or by that of plain distillation."""
        plan = getattr(self.config, framework.name, self.config.kd).plan
        parents = [parent] if parent is not None else []
        every = self.config.look_every
        return distil(self.graph, task, framework, how, plan, run=self.run, name=at, parents=parents, every=every)

    def examined(self, at: str, model: nn.Module, teacher: Tensor) -> dict[str, Any]:
        """What a model decides about the test nodes, as a stage of its own."""
        return self.run.table(
            f"{at}/examined",
            lambda: examine(
                self.logits(model), self.graph, teacher, resamples=self.config.resamples, seed=self.run.seed
            ),
        )

    def logits(self, model: nn.Module) -> Tensor:
        """What a model answers. It is given features and edges, never the groups."""
        device = self.run.fabric.device
        with torch.no_grad():
            structure = Structure(self.graph.nodes, self.graph.edges).to(device)
            return model(self.graph.features.to(device), structure).cpu()


def run(config: Reliant, run: Run) -> Outcome:
    """A company distils biased teachers, plainly and with RELIANT, in every framework; who inherits what?"""
    graph = load_graph(config.data, seed=run.seed)
    bench = Bench(config, graph, run)
    cells: dict[str, Cell] = {}
    fronts: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    teachers: dict[str, dict[str, Any]] = {}
    for kind in config.teachers:
        at = f"teacher/{kind}"
        teacher = train_teacher(graph, _of(kind, config.teacher), config.teaching, run=run, name=at)
        task, answers = _task(teacher, config, graph, run)
        teachers[kind] = bench.examined(at, teacher, answers)
        for student in config.students:
            for name in config.frameworks:
                cell = f"{kind}/{name}-{student}"
                framework = bench.framework(name, student)
                make = partial(_distilled, bench, cell, task, framework, teacher, answers)
                plain, plain_logits = make(PLAIN)
                debiased, logits = make(config.debiasing, debiased=True)
                cells[cell] = Cell(teachers[kind], plain, debiased, points_lost(logits, plain_logits, graph))
        if kind == config.front.teacher:
            fronts = _fronts(bench, task, teacher, answers)
    alone = {student: _alone(bench, task, student, answers) for student in config.students}
    pictures.results(cells, fronts, alone, graph, config, run)
    return measured(cells, fronts, alone, graph, config)


def _of(kind: str, net: Net) -> Net:
    return replace(net, kind=kind)


def _task(teacher: nn.Module, config: Reliant, graph: Graph, run: Run) -> tuple[Task, Tensor]:
    """What students are given of a teacher: logits and embedding of every node (an ablation gives those of other nodes)."""
    device = run.fabric.device
    with torch.no_grad():
        structure = Structure(graph.nodes, graph.edges).to(device)
        embedding, logits = teacher.both(graph.features.to(device), structure)  # pyright: ignore[reportCallIssue]
    answers = logits.cpu()
    order = torch.arange(graph.nodes)
    if config.knowledge == "shuffled":
        order = torch.randperm(graph.nodes, generator=generator_of(run.seed, "shuffled answers"))
    return make_task(graph, answers[order], embedding.cpu()[order]), answers


def _distilled(
    bench: Bench,
    cell: str,
    task: Task,
    framework: Framework,
    teacher: nn.Module,
    answers: Tensor,
    how: Debiasing,
    *,
    debiased: bool = False,
) -> tuple[dict[str, Any], Tensor]:
    """One student of a cell, examined, and its logits. Without distillation, the debiased one has the fairness term alone."""
    at = f"{cell}/{stage_of(how)}"
    if debiased and not bench.config.distilled:
        framework = replace(framework, loss=_nothing_of(framework))
    child = bench.student(at, task, framework, how, teacher)
    return bench.examined(at, child, answers), bench.logits(child)


def stage_of(how: Debiasing) -> str:
    """A student's name: how it was debiased, and how strongly."""
    return "plain" if how.reading == "plain" else f"{how.reading}-{how.alpha:g}"


def _nothing_of(framework: Framework) -> Any:
    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        whole, logits = framework.loss(student, rival, x, task)
        return 0.0 * whole, logits

    return loss


def _fronts(
    bench: Bench, task: Task, teacher: nn.Module, answers: Tensor
) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """For each reading one student per alpha at the same budget, and FairGNN's adversary in the same place."""
    front, config = bench.config.front, bench.config
    at = f"front/{front.teacher}/{front.framework}-{front.student}"
    framework = bench.framework(front.framework, front.student)
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    readings = dict.fromkeys((config.debiasing.reading, *front.readings))
    for reading in readings:
        found[reading] = []
        for alpha in front.alphas:
            how = replace(config.debiasing, reading=reading, alpha=alpha)
            found[reading].append((alpha, _distilled(bench, at, task, framework, teacher, answers, how)[0]))
    net = replace(config.student, kind=front.student)
    for alpha in front.adversary if front.framework == "kd" else ():
        rivalled = fairgnn(framework, net.hidden, alpha=alpha)
        stage = f"{at}/fairgnn-{alpha:g}"
        child = bench.student(stage, task, rivalled, PLAIN, teacher)
        found.setdefault("fairgnn", []).append((alpha, bench.examined(stage, child, answers)))
    return found


def _alone(bench: Bench, task: Task, student: str, answers: Tensor) -> Mapping[str, Any]:
    """A student that inherits nothing: the same network trained on the training labels."""
    at = f"scratch/{student}"
    framework = scratch(replace(bench.config.student, kind=student))
    return bench.examined(at, bench.student(at, task, framework, PLAIN, None), answers)
