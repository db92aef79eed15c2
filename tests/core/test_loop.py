import itertools
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor, nn

from heredity.core.errors import ConfigError, TrainingError
from heredity.core.loop import History, Plan, Turn, fit, learning_rate_at
from heredity.core.randomness import Draws
from heredity.core.run import Machine, Run

FABRIC = Machine(accelerator="cpu").fabric()
INPUTS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


class StopError(Exception):
    pass


def a_run(directory: Path, **settings: float) -> Run:
    return Run(directory, fabric=FABRIC, seed=3, checkpoint_seconds=0.0, **settings)  # pyright: ignore[reportArgumentType]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))


def train(run: Run, plan: Plan, *, stop_at: int | None = None, poison: int | None = None) -> nn.Module:
    calls = [0]

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == stop_at:
            raise StopError
        noise = draws.normal(len(rows), 4) * 0.1
        loss = (model(INPUTS[rows] + noise) - TARGETS[rows]).square().mean()
        return {"error": loss * (float("nan") if calls[0] == poison else 1.0)}

    def validate(model: nn.Module) -> float:
        return -float((model(INPUTS) - TARGETS).square().mean())

    def fitted(model: nn.Module) -> History:
        return fit(model, step, rows=50, plan=plan, run=run, validate=validate)

    return run.model("net", make=net, train=fitted, made_by="test")


PLANS = [
    Plan(epochs=6, batch=16, optimiser="adamw", learning_rate=0.01, weight_decay=0.1, schedule="one-cycle"),
    Plan(steps=20, batch=12, optimiser="sgd", learning_rate=0.05, clip=1.0, accumulate=3),
    Plan(epochs=12, batch=25, optimiser="adam", learning_rate=0.02, schedule="constant", patience=2),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("stop_at", [1, 2, 7, 13])
def test_a_resumed_fit_ends_in_the_same_bits(tmp_path: Path, plan: Plan, stop_at: int) -> None:
    whole = train(a_run(tmp_path / "whole"), plan)
    with pytest.raises(StopError):
        train(a_run(tmp_path / "cut"), plan, stop_at=stop_at)
    resumed_run = a_run(tmp_path / "cut")
    resumed = train(resumed_run, plan)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    logs = [(tmp_path / kind / "logs" / "net.0.csv").read_text() for kind in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_it_learns(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    train(run, Plan(epochs=60, batch=25, optimiser="adam", learning_rate=0.02))
    errors = run.history("net")["error"]
    assert errors[-1] < 0.2 * errors[0]


def test_patience_keeps_the_best_weights(tmp_path: Path) -> None:
    model = train(
        a_run(tmp_path), Plan(epochs=40, batch=25, optimiser="sgd", learning_rate=0.3, patience=3, schedule="constant")
    )
    assert torch.isfinite(model(INPUTS)).all()


def test_every_row_is_seen_once_an_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        seen.extend(rows.tolist())
        return {"loss": model(INPUTS[rows]).square().mean()}

    fit(nn.Linear(4, 1), step, rows=50, plan=Plan(steps=10, batch=15), run=a_run(tmp_path))
    assert sorted(seen[:50]) == list(range(50))
    assert sorted(seen[50:100]) == list(range(50))


def test_limit_steps_stops_every_loop(tmp_path: Path) -> None:
    run = a_run(tmp_path, limit_steps=2)
    train(run, PLANS[0])
    assert len(run.history("net")["error"]) == 2


def test_a_loss_that_is_not_a_number_names_stage_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"stage net#0, step 4: loss 'error' is nan"):
        train(a_run(tmp_path), PLANS[0], poison=5)


def test_a_gradient_that_cannot_be_clipped_is_told_in_one_line(tmp_path: Path) -> None:
    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        # The square root of nothing: a loss of zero with an infinite slope.
        return {"error": (model(INPUTS[rows]) * 0).square().sum().sqrt()}

    with pytest.raises(TrainingError, match=r"step 0: the gradient's norm is nan"):
        fit(nn.Linear(4, 1), step, rows=50, plan=Plan(steps=2, batch=5, clip=1.0), run=a_run(tmp_path))


def half_precision_run(directory: Path) -> Run:
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    return Run(
        directory,
        fabric=Fabric(accelerator="cpu", devices=1, plugins=[scaled]),
        seed=3,
        checkpoint_seconds=0.0,
    )


def test_a_resumed_fit_in_half_precision_scales_as_before(tmp_path: Path) -> None:
    def steep(directory: Path, stop_at: int) -> nn.Module:
        calls = [0]

        def step(wrapped: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            calls[0] += 1
            if calls[0] == stop_at:
                raise StopError
            return {"error": (wrapped(INPUTS[rows]) * 1e4).sum()}

        plan = Plan(steps=20, batch=5, optimiser="sgd", learning_rate=1e-7, schedule="constant")
        run = half_precision_run(directory)

        def fitted(model: nn.Module) -> History:
            return fit(model, step, rows=50, plan=plan, run=run)

        return run.model("net", make=lambda: nn.Linear(4, 1), train=fitted, made_by="test")

    whole = steep(tmp_path / "whole", stop_at=0)
    with pytest.raises(StopError):
        steep(tmp_path / "cut", stop_at=15)
    resumed = steep(tmp_path / "cut", stop_at=0)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_overflow_in_half_precision_costs_a_step_and_not_the_training(tmp_path: Path) -> None:
    # torch's own scale of 65 536 overflows at once where the slope is 10 000; the scaler halves it until it does not.
    run = half_precision_run(tmp_path)
    kept: list[bool] = []
    model = nn.Linear(4, 1, bias=False)
    before = [model.weight.detach().clone()]

    def step(wrapped: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        kept.append(torch.equal(model.weight, before[-1]))
        before.append(model.weight.detach().clone())
        return {"error": (wrapped(torch.ones(len(rows), 4)) * 1e4).sum()}

    plan = Plan(steps=20, batch=5, clip=1.0, optimiser="sgd", learning_rate=1e-3, schedule="constant")
    fit(model, step, rows=50, plan=plan, run=run)
    assert kept[1]
    assert not kept[-1]
    assert torch.isfinite(model.weight).all()


def test_learning_rates() -> None:
    one_cycle = Plan(learning_rate=1.0, schedule="one-cycle", warm_up=0.2)
    rates = [learning_rate_at(one_cycle, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert learning_rate_at(Plan(learning_rate=2.0, schedule="constant"), 9, 10) == 2.0


def test_refusals(tmp_path: Path) -> None:
    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"loss": model(INPUTS[rows]).mean()}

    with pytest.raises(ConfigError, match="nothing to train on"):
        fit(nn.Linear(4, 1), step, rows=0, plan=Plan(), run=a_run(tmp_path))
    with pytest.raises(ConfigError, match="frozen"):
        fit(nn.Linear(4, 1).requires_grad_(False), step, rows=5, plan=Plan(batch=1), run=a_run(tmp_path))
    with pytest.raises(ConfigError, match="cannot be shared"):
        fit(nn.Linear(4, 1), step, rows=5, plan=Plan(batch=5, accumulate=2), run=a_run(tmp_path))


class Game(nn.Module):
    """A learner and a rival who pulls the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.learner = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.rival = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.learner(inputs) + self.rival(inputs)


def play(run: Run, *, stop_at: int | None = None, rate: float = 0.05) -> Game:
    calls = [0]

    def error(model: nn.Module, rows: Tensor, draws: Draws) -> Tensor:
        calls[0] += 1
        if calls[0] == stop_at:
            raise StopError
        return (model(INPUTS[rows] + 0.1 * draws.normal(len(rows), 4)) - TARGETS[rows]).square().mean()

    def fitted(model: nn.Module) -> History:
        assert isinstance(model, Game)
        rival = Turn(
            "rival",
            lambda game, rows, draws: {"gain": -0.1 * error(game, rows, draws)},
            model.rival,
            Plan(optimiser="sgd", learning_rate=rate, schedule="constant"),
        )
        plan = Plan(steps=12, batch=20, optimiser="adam", learning_rate=0.02, accumulate=2)
        own = lambda game, rows, draws: {"error": error(game, rows, draws)}  # noqa: E731
        return fit(model, own, rows=50, plan=plan, run=run, turns=[rival])

    return run.model("game", make=Game, train=fitted, made_by="test")


@pytest.mark.parametrize("stop_at", [1, 2, 4, 7, 23, 42])
def test_two_parties_resume_in_the_same_bits_wherever_they_are_stopped(tmp_path: Path, stop_at: int) -> None:
    whole = play(a_run(tmp_path / "whole"))
    with pytest.raises(StopError):
        play(a_run(tmp_path / "cut"), stop_at=stop_at)
    resumed = play(a_run(tmp_path / "cut"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert set(a_run(tmp_path / "whole").history("game")) == {"error", "rival/gain"}


def test_each_party_moves_its_own_parameters_only(tmp_path: Path) -> None:
    still = play(a_run(tmp_path / "still"), rate=0.0)
    moving = play(a_run(tmp_path / "other"), rate=0.05)
    assert not torch.equal(still.rival.weight, moving.rival.weight)
    untouched = Game()
    fit(
        untouched,
        lambda game, rows, draws: {"error": game(INPUTS[rows]).square().mean()},
        rows=50,
        plan=Plan(steps=2, batch=10),
        run=a_run(tmp_path / "frozen"),
        turns=[Turn("rival", lambda game, rows, draws: {"none": game(INPUTS[rows]).mean()}, untouched.rival, Plan())],
    )
    assert all(parameter.requires_grad and parameter.grad is None for parameter in untouched.parameters())
