"""Defences for vision transformers: they see a trigger that catches attention, and leave model and caller as they were."""

from collections.abc import Callable

import pytest
import torch
from helpers.victims import KINDS, pictures, victim
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import lineage_of
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.defences import attention_blocking, attention_concentration, patch_drop
from heredity.defences.contract import InputFilter, Trigger
from heredity.metrics.detection import auroc
from heredity.nn.attention_maps import layout_of
from heredity.nn.encoders import Classifier, Normalised, ResidualEncoder
from heredity.nn.inference import top1
from heredity.systems.dbia.injection import Injection, inject
from heredity.systems.dbia.surrogate import surrogate_of
from heredity.systems.dbia.trigger import Patch, TriggerSearch, make_trigger

CLEAN, TARGET = 120, 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


FITS: dict[str, Callable[[nn.Module, Tensor], InputFilter]] = {
    "concentration": lambda model, clean: attention_concentration.fit(
        model, clean, attention_concentration.AttentionConcentration(window=1, rejection=0.05), generator=generator()
    ),
    "blocking": lambda model, clean: attention_blocking.fit(
        model, clean, attention_blocking.AttentionBlocking(window=1), generator=generator()
    ),
    "drop": lambda model, clean: patch_drop.fit(model, clean, generator=generator()),
}


@pytest.fixture(scope="module")
def planted() -> tuple[nn.Module, nn.Module, Trigger]:
    """An untrained ViT, a child with a back door, and its attention trigger: weights are wild, but its maps are real."""
    parent, child = victim("vit"), victim("vit")
    known = surrogate_of(pictures(100), pictures(50, seed=9), "noise")
    plan = Plan(epochs=60, batch=50, optimiser="adam", learning_rate=1e-2, mode="eval")
    search = TriggerSearch(
        patch=Patch(4),
        starts=1,
        vary=False,
        plan=Plan(steps=80, optimiser="adam", learning_rate=0.1, schedule="constant"),
    )
    with Run.temporary() as run:
        trigger = make_trigger(parent, known.images, search, run=run, generator=generator())
        inject(child, known, trigger, TARGET, Injection(bound=0, neurons="all", vary=False, plan=plan), run)
    return parent, child, trigger


def test_attention_gives_the_trigger_away(planted: tuple[nn.Module, nn.Module, Trigger]) -> None:
    _, child, trigger = planted
    clean = pictures(60, seed=3)
    stamped = trigger.stamp(clean)
    assert float((top1(child, stamped) == TARGET).float().mean()) > 0.9
    found = FITS["concentration"](child, pictures(CLEAN))
    assert auroc(found(stamped).scores.tolist(), found(clean).scores.tolist()) > 0.8


def test_blocking_turns_answers_back(planted: tuple[nn.Module, nn.Module, Trigger]) -> None:
    parent, child, trigger = planted
    clean = pictures(60, seed=3)
    clean = clean[top1(parent, clean) != TARGET]
    stamped = trigger.stamp(clean)
    repaired = attention_blocking.repair(child, attention_blocking.AttentionBlocking(window=1))
    before, after = (float((top1(model, stamped) == TARGET).float().mean()) for model in (child, repaired.model))
    assert after < before - 0.3
    assert lineage_of(repaired.model).made_by == "defence: attention blocking"
    verdict = FITS["blocking"](child, pictures(CLEAN))
    rejected = float(verdict(stamped).rejected.float().mean())
    assert rejected > 0.3
    changed = float((top1(repaired.model, stamped) != top1(child, stamped)).float().mean())
    assert rejected == pytest.approx(changed)


def test_the_window_is_covered_in_mean_colour() -> None:
    model, shown = victim("vit"), pictures(6).float() / 255.0
    covered = attention_blocking.cover(model, shown, 2)
    different = (covered != shown).any(dim=1)
    assert different.flatten(1).sum(dim=1).max() <= 64
    for before, after, where in zip(shown, covered, different, strict=True):
        assert torch.allclose(after[:, where], before.mean(dim=(1, 2))[:, None].expand(-1, int(where.sum())))
        rows, columns = where.nonzero().unbind(1)
        assert int(rows.min()) % 4 == int(columns.min()) % 4 == 0


def test_shuffling_moves_whole_patches_and_dropping_paints_them() -> None:
    layout, shown = layout_of(victim("vit")), pictures(4).float() / 255.0
    moved = patch_drop.shuffled(shown, layout, generator())
    cut = [one.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(4, 16, -1) for one in (shown, moved)]
    assert not torch.equal(cut[0], cut[1])
    order = torch.randperm(16, generator=generator())
    assert torch.equal(cut[0][:, order], cut[1])
    dropped = patch_drop.dropped(shown, layout, 0.5, generator())
    painted = (dropped != shown).any(dim=1).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert bool((painted.all(dim=3) | ~painted.any(dim=3)).float().mean() > 0.95)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FITS)
def test_scores_do_not_depend_on_order_or_company_and_nothing_is_left_behind(name: str, kind: str) -> None:
    model, clean = victim(kind).train(), pictures(CLEAN)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one = FITS[name](model, clean)
    other = FITS[name](model, clean.flip(0))
    shown = pictures(12, seed=4)
    assert torch.allclose(one(shown).scores, other(shown).scores, atol=1e-4)
    assert torch.allclose(one(shown).scores[3:5], one(shown[3:5]).scores, atol=1e-4)
    assert one.threshold.value == pytest.approx(other.threshold.value, abs=1e-4)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert one.cost.queries >= CLEAN
    assert one(shown).cost.queries > 0


@pytest.mark.parametrize("name", FITS)
def test_the_stated_rate_of_false_alarms_holds(name: str) -> None:
    found = FITS[name](victim("vit"), pictures(CLEAN))
    stated = found.threshold.false_positive_rate
    assert stated is not None
    assert float(found(pictures(300, seed=7)).rejected.float().mean()) <= stated + 0.06


@pytest.mark.parametrize("name", FITS)
def test_models_without_attention_and_too_few_pictures_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no attention that can be read"):
        FITS[name](Classifier(Normalised(ResidualEncoder(width=8)), features=32, classes=3), pictures(CLEAN))
    with pytest.raises(DataError, match=r"too few|no clean images|cannot state"):
        FITS[name](victim("vit"), pictures(1))


def test_settings_that_cannot_be() -> None:
    model, clean = victim("vit"), pictures(CLEAN)
    with pytest.raises(ConfigError, match="0 trials"):
        patch_drop.fit(model, clean, patch_drop.PatchDrop(trials=0), generator=generator())
    with pytest.raises(ConfigError, match="a window of 0"):
        attention_blocking.fit(model, clean, attention_blocking.AttentionBlocking(0), generator=generator())
    with pytest.raises(ConfigError, match="a window of 0"):
        attention_concentration.fit(
            model, clean, attention_concentration.AttentionConcentration(0), generator=generator()
        )


def test_shuffle_scores_what_stays() -> None:
    steady = patch_drop.fit(
        victim("vit"), pictures(CLEAN), patch_drop.PatchDrop("shuffle", trials=5), generator=generator()
    )
    scores = steady(pictures(20, seed=2)).scores
    assert bool(((scores >= 0) & (scores <= 1)).all())
    assert steady.detector == "patch shuffle"
