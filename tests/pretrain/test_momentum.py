"""MoCo v2 and BYOL: the slow copy, the queue, the losses, and what a killed run finds again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Machine, Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.inference import outputs
from heredity.pretrain.bigan import BiGAN, bigan_objective
from heredity.pretrain.byol import BYOL, OwnLatent, byol, byol_objective
from heredity.pretrain.moco import MoCo, MomentumContrast, moco, moco_objective
from heredity.pretrain.objective import Objective
from heredity.transfer.probe import fit_head

DIGITS = load_images("digits")
IMAGES, LABELS = DIGITS.train.images, DIGITS.train.labels
PLAN = Plan(steps=4, batch=32, learning_rate=2e-3)


def encoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_encoder(EncoderShape(width=8), 16)


def weights_of(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def test_the_moco_loss_is_the_papers() -> None:
    """He et al. 2020, equation 1: the key of the same image against the queue, all of unit length."""
    with Run.temporary() as run:
        module = moco_objective(encoder(), IMAGES, MoCo(queue=16), run).module
    assert isinstance(module, MomentumContrast)
    first, second = IMAGES[:6], IMAGES[6:12]
    queue = module.loss.memory_bank.bank.clone()
    found = module(first, second)
    with torch.no_grad():
        query = F.normalize(module.head(module.encoder(first)), dim=1)
        key = F.normalize(module.key_head(module.key_encoder(second)), dim=1)
    scores = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / 0.2
    assert float(found) == pytest.approx(float(F.cross_entropy(scores, torch.zeros(6).long())), rel=1e-5)
    assert torch.allclose(module.loss.memory_bank.bank[:6], key, atol=1e-6)
    assert torch.equal(module.loss.memory_bank.bank[6:], queue[6:])


def test_the_byol_loss_is_the_papers() -> None:
    """Grill et al. 2020, equation 2: the squared distance of unit vectors, over both orders of the views."""
    module = byol_objective(encoder(), IMAGES, BYOL(hidden=32, output=16)).module
    assert isinstance(module, OwnLatent)
    first, second = IMAGES[:16], IMAGES[16:32]
    module.eval()
    total = 0.0
    with torch.no_grad():
        for seen, other in ((first, second), (second, first)):
            predicted = F.normalize(module.predictor(module.projector(module.encoder(seen))), dim=1)
            target = F.normalize(module.target_projector(module.target_encoder(other)), dim=1)
            total += float((predicted - target).square().sum(dim=1).mean())
        assert float(module(first, second)) == pytest.approx(total, rel=1e-4)


def objectives(run: Run, *, marking: bool, while_marking: str) -> list[tuple[Objective, str, str]]:
    moco_recipe: Any = MoCo(queue=32, momentum=0.9, while_marking=while_marking)  # pyright: ignore
    byol_recipe: Any = BYOL(hidden=32, output=16, momentum=0.9, while_marking=while_marking)  # pyright: ignore
    return [
        (moco_objective(encoder(), IMAGES, moco_recipe, run, marking=marking), "encoder", "key_encoder"),
        (byol_objective(encoder(), IMAGES, byol_recipe, marking=marking), "encoder", "target_encoder"),
    ]


@pytest.mark.parametrize(
    ("marking", "while_marking", "moves"), [(False, "frozen", True), (True, "frozen", False), (True, "updated", True)]
)
def test_the_slow_copy_follows_unless_it_is_frozen_while_marking(
    marking: bool, while_marking: str, moves: bool
) -> None:
    with Run.temporary() as run:
        for objective, fast, slow in objectives(run, marking=marking, while_marking=while_marking):
            ours, copy = objective.module.get_submodule(fast), objective.module.get_submodule(slow)
            with torch.no_grad():
                next(ours.parameters()).add_(1.0)
            before, ahead = weights_of(copy), weights_of(ours)
            objective.step(objective.module, torch.arange(8), Draws(generator_of(0)))
            expected = 0.9 * before + 0.1 * ahead if moves else before
            assert torch.allclose(weights_of(copy), expected, atol=1e-6)
            assert all(not parameter.requires_grad for parameter in copy.parameters())


Recipe = MoCo | BYOL | BiGAN


def objective_of(recipe: Recipe, net: nn.Module, run: Run) -> Objective:
    if isinstance(recipe, MoCo):
        return moco_objective(net, IMAGES[:128], recipe, run)
    return (
        byol_objective(net, IMAGES[:128], recipe)
        if isinstance(recipe, BYOL)
        else bigan_objective(net, IMAGES[:128], recipe)
    )


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize(
    "recipe",
    [MoCo(queue=48, plan=PLAN), BYOL(hidden=32, output=16, plan=PLAN), BiGAN(code=8, width=8, plan=PLAN)],
    ids=["moco", "byol", "bigan"],
)
def test_killed_and_resumed_it_ends_in_the_same_bits(recipe: Recipe, tmp_path: Path) -> None:
    """Queue, pointer, slow copies and both optimisers are in the checkpoint."""

    def train(place: Path, *, resume: bool, die_at: int = 0) -> dict[str, torch.Tensor]:
        identity = {"system": "test", "seed": 0}
        run = Run.open(place, identity, machine=Machine(accelerator="cpu"), resume=resume, checkpoint_seconds=0.0)
        kept: dict[str, torch.Tensor] = {}

        def compute(net: nn.Module) -> None:
            objective = objective_of(recipe, net, run)
            calls = 0

            def step(model: nn.Module, rows: torch.Tensor, draws: Draws) -> Any:
                nonlocal calls
                calls += 1
                if calls == die_at:
                    raise KilledError
                return objective.step(model, rows, draws)

            fit(objective.module, step, rows=128, plan=recipe.plan, run=run, turns=objective.turns)
            kept.update(objective.module.state_dict())

        run.model("parent", make=encoder, train=compute, made_by="test")
        return kept

    whole = train(tmp_path / "whole", resume=False)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", resume=False, die_at=3)
    again = train(tmp_path / "killed", resume=True)
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def probed(net: nn.Module) -> float:
    """Held-out accuracy of a linear probe with 300 labels."""
    weight, bias = fit_head(outputs(net, IMAGES[:300]), LABELS[:300], classes=10)
    scores = outputs(net, DIGITS.test.images) @ weight.T + bias
    return float((scores.argmax(dim=1) == DIGITS.test.labels).float().mean())


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        (moco, MoCo(queue=256, plan=Plan(steps=30, batch=64, learning_rate=4e-3, schedule="one-cycle"))),
        (byol, BYOL(hidden=64, output=32, plan=Plan(steps=20, batch=64, learning_rate=4e-3, schedule="one-cycle"))),
    ],
    ids=["moco", "byol"],
)
def test_it_learns_more_than_the_untrained_encoder_knows(train: Callable[..., Any], recipe: Any) -> None:
    net = encoder()
    before, names = probed(net), set(net.state_dict())
    with Run.temporary() as run:
        run.table("train", lambda: train(net, IMAGES, replace(recipe), run).values[-1].tolist())
    assert set(net.state_dict()) == names
    assert probed(net) > before + 0.03
