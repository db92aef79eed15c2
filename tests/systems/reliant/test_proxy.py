"""The proxies: who moves them, whom they move, and what is left of them and of the groups when a student is deployed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import lineage_of
from heredity.core.run import Machine, Run
from heredity.data.graphs import load_graph
from heredity.nn.graph import Net, Structure, make_net
from heredity.systems.reliant import distil as distil_module
from heredity.systems.reliant.adversary import fairgnn
from heredity.systems.reliant.akd import akd
from heredity.systems.reliant.config import passes
from heredity.systems.reliant.cpf import cpf
from heredity.systems.reliant.distil import distil, train_teacher
from heredity.systems.reliant.frameworks import Framework, Task, kd, make_task
from heredity.systems.reliant.proxy import READINGS, Debiased, Debiasing, first_proxies

GRAPH = load_graph("biased-sbm?nodes=200,degree=6,train=0.3", seed=1)
WIDTH = GRAPH.features.shape[1]
FABRIC = Machine(accelerator="cpu").fabric()
PLAN = passes(8)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TASK = make_task(GRAPH, 3 * numbers(200, 2), numbers(200, 8, seed=1))
NET = Net("mlp", hidden=8)
FRAMEWORKS = {"kd": kd(NET), "cpf": cpf(NET), "akd": akd(NET)}


def a_game(framework: Framework, how: Debiasing) -> Debiased:
    torch.manual_seed(0)
    columns = first_proxies(how, TASK, torch.Generator().manual_seed(0))
    student = framework.student(WIDTH + columns.shape[1], TASK)
    return Debiased(student, columns, framework, TASK, how).eval()


def a_run(directory: Path, every: float = 5.0) -> Run:
    return Run(directory, fabric=FABRIC, seed=3, checkpoint_seconds=every)


def student_of(directory: Path, framework: Framework = FRAMEWORKS["kd"], task: Task = TASK, **how: Any) -> nn.Module:
    return distil(GRAPH, task, framework, Debiasing(**how), PLAN, run=a_run(directory), name="student")


def gradients(game: Debiased, party: Any) -> dict[str, Tensor]:
    game.zero_grad()
    torch.stack(list(game(party).values())).sum().backward()
    return {name: item.grad for name, item in game.named_parameters() if item.grad is not None}


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("reading", ["code", "absorb", "absorb-only"])
def test_proxies_raise_the_bias_of_what_is_predicted_with_them(name: str, reading: str) -> None:
    game = a_game(FRAMEWORKS[name], Debiasing(reading=reading, alpha=10.0, absorbs=False))
    x, structure = TASK.features, TASK.structure

    def bias() -> float:
        return float(game.bias(game.student(game.proxies(x, "node"), structure), "unlabelled").detach())

    before, student = bias(), {key: value.clone() for key, value in game.student.state_dict().items()}
    optimiser = torch.optim.SGD(game.proxies.parameters(), lr=1e-2 / game._weight)
    for _ in range(3):
        optimiser.zero_grad()
        game("proxies")["bias"].backward()
        optimiser.step()
    assert bias() > before
    assert all(torch.equal(value, student[key]) for key, value in game.student.state_dict().items())


def test_the_students_losses_reach_proxies_only_where_the_reading_shows_them() -> None:
    """In the published code the student is trained on wiped proxies alone, from which no gradient comes back."""
    assert "proxies.columns" not in gradients(a_game(FRAMEWORKS["kd"], Debiasing("code")), "student")
    assert "proxies.columns" not in gradients(a_game(FRAMEWORKS["kd"], Debiasing("oracle")), "student")
    assert "proxies.columns" in gradients(a_game(FRAMEWORKS["kd"], Debiasing("absorb")), "student")
    moved = gradients(a_game(FRAMEWORKS["kd"], Debiasing("code")), "proxies")
    assert moved["proxies.columns"].abs().sum() > 0


def test_the_code_reading_is_the_penalty_with_two_constant_inputs() -> None:
    """What makes the published proxies inert: fix the mean, and every loss of the student is that of `penalty`."""
    game = a_game(FRAMEWORKS["kd"], Debiasing("code", alpha=2.0))
    constants = game.deployed_columns().expand(200, 2)
    fixed = replace(TASK, features=torch.cat([TASK.features, constants], dim=1))
    how = Debiasing("penalty", alpha=2.0)
    penalty = Debiased(game.student, torch.zeros(200, 0), FRAMEWORKS["kd"], fixed, how).eval()
    for term, value in game("student").items():
        assert torch.equal(value, penalty("student")[term])


def test_proxies_known_beforehand() -> None:
    assert torch.equal(first_proxies(Debiasing("oracle"), TASK, torch.Generator()).argmax(dim=1), GRAPH.sensitive)
    residual = first_proxies(Debiasing("residual"), TASK, torch.Generator())
    means = torch.stack([TASK.logits[GRAPH.sensitive == s].mean(dim=0) for s in (0, 1)]) - TASK.logits.mean(dim=0)
    assert torch.allclose(residual, means[GRAPH.sensitive], atol=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_nothing_of_the_proxies_is_left_but_their_mean(tmp_path: Path, reading: str) -> None:
    student = student_of(tmp_path, reading=reading)
    kept = [value for name, value in student.state_dict().items() if not name.startswith("student.")]
    assert len(kept) == 1
    assert kept[0].shape[0] == 1
    assert kept[0].shape[1] == (0 if READINGS[reading].proxy == "none" else 2)
    # It therefore answers for a graph that it never saw, of another size.
    other = load_graph("biased-sbm?nodes=90,degree=6,train=0.3", seed=8)
    assert student(other.features, Structure(90, other.edges)).shape == (90, 2)


def test_inference_never_receives_the_group(tmp_path: Path) -> None:
    """Without the group among the features, deployed students answer the same whatever groups the nodes are said to be in."""
    graph = load_graph("biased-sbm?nodes=200,degree=6,train=0.3,include_sensitive=false", seed=1)
    task = make_task(graph, TASK.logits, TASK.embedding)
    for name, framework in FRAMEWORKS.items():
        place = tmp_path / name
        student = distil(graph, task, framework, Debiasing("absorb"), PLAN, run=a_run(place), name="student").eval()
        answers = student(graph.features, Structure(200, graph.edges))
        lied_to = replace(graph, sensitive=1 - graph.sensitive)
        assert torch.equal(student(lied_to.features, Structure(200, lied_to.edges)), answers)
        # In training it is used: with other groups another student comes out.
        flipped = replace(
            task, sensitive=task.sensitive[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
        )
        other = distil(graph, flipped, framework, Debiasing("absorb"), PLAN, run=a_run(place / "x"), name="student")
        assert not torch.equal(other(graph.features, Structure(200, graph.edges)), answers)


def test_weights_and_mean_are_of_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code deploys the best epoch's weights with the last epoch's mean. Ours scores what it deploys."""
    best: list[float] = []
    fit = distil_module.fit

    def watched(*arguments: Any, **more: Any) -> Any:
        history = fit(*arguments, **more)
        best.append(history.best)
        return history

    monkeypatch.setattr(distil_module, "fit", watched)
    student = student_of(tmp_path, reading="absorb", proxy_rate=0.5).eval()
    guessed = student(GRAPH.features, TASK.structure).argmax(dim=1)[GRAPH.validation]
    assert float((guessed == GRAPH.labels[GRAPH.validation]).float().mean()) == pytest.approx(best[0])


def test_every_reading_begins_with_the_same_student(tmp_path: Path) -> None:
    begun = []
    for reading in ("code", "absorb", "absorb-only"):
        run = Run(tmp_path / reading, fabric=FABRIC, seed=3)
        still = distil(GRAPH, TASK, kd(NET), Debiasing(reading), passes(1, rate=0.0), run=run, name=reading)
        begun.append(still.student.linears[0].weight)  # pyright: ignore[reportAttributeAccessIssue,reportIndexIssue]
    assert torch.equal(begun[0], begun[1])
    assert torch.equal(begun[0], begun[2])


class StopError(Exception):
    pass


@pytest.mark.parametrize("name", ["kd", "akd", "fairgnn"])
@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_resumed_student_is_the_same_in_every_bit(tmp_path: Path, name: str, stop_at: int) -> None:
    framework = {**FRAMEWORKS, "fairgnn": fairgnn(kd(NET), 8, alpha=1.0)}[name]
    how = Debiasing("plain") if name == "fairgnn" else Debiasing("absorb")
    calls = [0]

    def loss(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        if calls[0] == stop_at:
            raise StopError
        return framework.loss(student, rival, x, task)

    stopped = replace(framework, loss=loss)
    whole = distil(GRAPH, TASK, framework, how, PLAN, run=a_run(tmp_path / "whole"), name="s")
    with pytest.raises(StopError):
        distil(GRAPH, TASK, stopped, how, PLAN, run=a_run(tmp_path / "cut", every=0.0), name="s")
    again = distil(GRAPH, TASK, framework, how, PLAN, run=a_run(tmp_path / "cut"), name="s")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat", "sgc", "appnp", "mlp", "pyg:GIN"])
def test_any_network_teaches_and_learns(tmp_path: Path, kind: str) -> None:
    run = a_run(tmp_path)
    teacher = train_teacher(GRAPH, Net(kind, hidden=8, layers=2), passes(4), run=run, name="teacher")
    with torch.no_grad():
        embedding, logits = teacher.both(GRAPH.features, TASK.structure)  # pyright: ignore[reportCallIssue]
    task = make_task(GRAPH, logits, embedding)
    for framework in (kd(Net(kind, hidden=8)), akd(Net(kind, hidden=8)), cpf(Net(kind, hidden=8))):
        student = distil(
            GRAPH, task, framework, Debiasing(), passes(3), run=run, name=framework.name, parents=[teacher]
        )
        assert torch.isfinite(student(GRAPH.features, TASK.structure)).all()
        assert lineage_of(student).parents[0].name == "teacher"


def test_a_framework_of_ones_own_needs_a_few_lines(tmp_path: Path) -> None:
    def mean_squared(student: nn.Module, rival: nn.Module | None, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        logits = student(x, task.structure)
        return F.mse_loss(logits, task.logits), logits

    learnable = make_task(GRAPH, torch.stack([-GRAPH.features[:, 0], GRAPH.features[:, 0]], dim=1))
    mine = Framework("mine", lambda width, task: make_net(NET, width, task.classes), mean_squared)
    biases = []
    for reading in ("plain", "code"):
        run, how = a_run(tmp_path / reading), Debiasing(reading, alpha=10.0, phi="identity", rows="all")
        student = distil(GRAPH, learnable, mine, how, passes(60), run=run, name=reading).eval()
        p = student(GRAPH.features, TASK.structure).softmax(dim=1)[:, 1]
        biases.append(float((p[GRAPH.sensitive == 1].mean() - p[GRAPH.sensitive == 0].mean()).abs().detach()))
    assert biases[1] < biases[0]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="knows 3 classes, column 'label' has 2"):
        make_task(GRAPH, numbers(200, 3))
    with pytest.raises(ModelError, match="for 199 nodes, biased-sbm has 200"):
        make_task(GRAPH, numbers(199, 2))
    broken = numbers(200, 2)
    broken[17, 0] = float("nan")
    with pytest.raises(DataError, match="node 17 is not finite"):
        make_task(GRAPH, broken)
    with pytest.raises(ConfigError, match="did you mean 'absorb'"):
        student_of(tmp_path, reading="absorbs")
    assert not (tmp_path / "stages").exists() or not list((tmp_path / "stages").rglob("model.safetensors"))
