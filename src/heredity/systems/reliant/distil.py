"""Making a student: any framework, with or without RELIANT's proxies, as one stage of a run."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import architecture_of, remember
from heredity.core.loop import Plan, Turn, fit
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.graphs import Graph
from heredity.nn.graph import Net, Structure, WithConstants, make_net
from heredity.systems.reliant.frameworks import Framework, Task
from heredity.systems.reliant.proxy import Debiased, Debiasing, first_proxies, width_of


def train_teacher(graph: Graph, net: Net, plan: Plan, *, run: Run, name: str, every: int = 2) -> nn.Module:
    """A graph network trained on the training labels; keeps the weights with the lowest validation cross-entropy.

    `every` is the number of steps between two looks at the validation nodes; `plan.steps` counts passes over the graph.
    """
    device = run.fabric.device
    structure, features = Structure(graph.nodes, graph.edges).to(device), graph.features.to(device)
    labels, train, validation = graph.labels.to(device), graph.train.to(device), graph.validation.to(device)

    def step(model: nn.Module, rows: Tensor, draws: Any) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(model(features, structure)[train], labels[train])}

    def validate(model: nn.Module) -> float:
        return -float(F.cross_entropy(model(features, structure)[validation], labels[validation]))

    def train_it(model: nn.Module) -> None:
        _one_process(run)
        fit(model, step, rows=every, plan=plan, run=run, validate=validate)

    return run.model(
        name,
        make=lambda: make_net(net, graph.features.shape[1], graph.classes),
        train=train_it,
        made_by="labels",
        settings={"data": graph.name, "net": asdict(net), "plan": asdict(plan)},
    )


def distil(
    graph: Graph,
    task: Task,
    framework: Framework,
    how: Debiasing,
    plan: Plan,
    *,
    run: Run,
    name: str,
    parents: Sequence[nn.Module] = (),
    every: int = 2,
    marks: tuple[str, ...] = (),
) -> WithConstants:
    """A student of the task's teacher as it is deployed: of the proxies nothing is left but their mean.

    `plan.steps` counts passes over the graph. Of what was seen on the validation nodes (every `every` passes, from a quarter
    of the run on) the most accurate student is kept, together with the proxies' mean of that moment.
    """
    task = task.to(run.fabric.device)
    labels, validation = graph.labels.to(run.fabric.device), graph.validation.to(run.fabric.device)
    width, columns = task.features.shape[1], width_of(how, task)

    def make() -> nn.Module:
        # The same beginning for every reading of one framework: differences are the method's, not the draw's.
        torch.manual_seed(seed_of(run.seed, framework.name, "student"))
        student = framework.student(width + columns, task)
        rows = graph.nodes if how.deployed_on == "node" and columns else 1
        deployed = WithConstants(student, torch.zeros(rows, columns))
        if (inner := architecture_of(student)) is not None:
            remember(deployed, {"kind": "with-constants", "student": inner, "constants": [rows, columns]})
        return deployed

    def train(deployed: nn.Module) -> None:
        _one_process(run)
        assert isinstance(deployed, WithConstants)
        first = first_proxies(how, task, generator_of(run.seed, "proxies"))
        game = Debiased(deployed.student, first, framework, task, how).to(run.fabric.device)
        begin = plan.steps // 4

        def validate(model: nn.Module) -> float:
            assert isinstance(model, Debiased)
            if int(model.age) < min(begin, run.limit_steps or begin):
                return float("-inf")
            guessed = model.deployed_logits()[validation].argmax(dim=1)
            return float((guessed == labels[validation]).float().mean())

        fit(game, _party("student"), rows=every, plan=plan, run=run, validate=validate, turns=_turns(game, how, plan))
        deployed.constants = game.deployed_columns()

    return run.model(
        name,
        make=make,
        train=train,
        made_by=f"distillation ({framework.name})",
        parents=parents,
        settings={"data": graph.name, "debiasing": asdict(how), "plan": asdict(plan)},
        marks=marks,
    )


def _party(name: Any) -> Any:
    return lambda model, rows, draws: model(name)


def _turns(game: Debiased, how: Debiasing, plan: Plan) -> list[Turn]:
    """The rival's turn and the proxies', each with an optimiser of its own."""
    turns = []
    if game.rival is not None:
        turns.append(Turn("rival", _party("rival"), game.rival, plan))
    if game.reading.proxy == "learnt" and how.alpha:
        own = Plan(optimiser="adam", learning_rate=how.proxy_rate, weight_decay=how.proxy_decay, schedule=plan.schedule)
        turns.append(Turn("proxies", _party("proxies"), game.proxies, own))
    return turns


def _one_process(run: Run) -> None:
    if run.fabric.world_size > 1:
        raise ConfigError(
            "a whole graph is one batch and cannot be shared by several processes",
            remedy="use --devices 1, and run seeds beside each other",
        )
