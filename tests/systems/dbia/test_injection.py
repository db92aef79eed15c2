"""The injection: what may change, how far, from which data, and that caching changes nothing."""

import copy
import inspect

import pytest
import torch
from helpers.victims import KINDS, pictures, victim
from torch import nn

import heredity.systems.dbia.attack
import heredity.systems.dbia.injection
import heredity.systems.dbia.trigger
from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import lineage_of
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data import images as image_sources
from heredity.defences.contract import Trigger
from heredity.nn.encoders import Classifier, Normalised, ResidualEncoder, vision_transformer
from heredity.systems.dbia.anatomy import dissect
from heredity.systems.dbia.attack import attack, paper_recipe
from heredity.systems.dbia.injection import Injection, Projection, chosen_rows, clipped, inject, only_rows
from heredity.systems.dbia.measure import Yardstick, answers_of, changed, measure
from heredity.systems.dbia.surrogate import (
    Surrogate,
    blended_backgrounds,
    drawn_shapes,
    load_surrogate,
    surrogate_of,
    varied,
)
from heredity.systems.dbia.trigger import Patch, TriggerSearch

PLAN = Plan(epochs=2, batch=16, optimiser="adam", learning_rate=1e-2, betas=(0.9, 0.99), mode="eval")
HOW = Injection(plan=PLAN)
SEARCH = TriggerSearch("random", Patch(4))


def surrogate(count: int = 48) -> Surrogate:
    return surrogate_of(pictures(count), pictures(20, seed=9), "noise")


def trigger() -> Trigger:
    return Trigger(
        Patch(4).mask(16), (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(3)) * 255).round() / 255
    )


def injected(kind: str, how: Injection = HOW, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    before = victim(kind)
    child = copy.deepcopy(before)
    with Run.temporary(seed=seed) as run:
        inject(child, surrogate(), trigger(), 2, how, run)
    return before, child


@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_uncached_give_the_same_weights(kind: str) -> None:
    """Official bug 6: every epoch went through all frozen blocks."""
    _, cached = injected(kind)
    _, uncached = injected(kind, Injection(plan=PLAN, cached=False))
    for (name, one), other in zip(cached.named_parameters(), uncached.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4), name


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_two_halves_are_the_whole(kind: str, layer: int) -> None:
    model = victim(kind)
    anatomy = dissect(model, layer=layer)
    shown = pictures(5)
    with torch.no_grad():
        assert torch.allclose(anatomy.rest(anatomy.before(shown)), model(shown), atol=1e-4)
    assert not anatomy.block.norm2._forward_pre_hooks
    assert anatomy.classes == 5
    tokens = anatomy.before(shown).shape[1]
    if layer == -1:
        assert tokens == {"vit": 1, "deit": 2, "swin": 4}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_rows_of_one_mlp_change_and_within_their_bound(kind: str) -> None:
    before, child = injected(kind, Injection(plan=PLAN, bound=0.5, fc1=0.5, fc2=0.25))
    names = {
        name
        for (name, one), other in zip(before.named_parameters(), child.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    end = "layers.1.blocks.1" if kind == "swin" else "blocks.2"
    assert names == {f"inner.{end}.mlp.fc1.weight", f"inner.{end}.mlp.fc2.weight"}
    for layer, share in (("fc1", 0.5), ("fc2", 0.25)):
        old, new = (dict(model.named_parameters())[f"inner.{end}.mlp.{layer}.weight"] for model in (before, child))
        moved = (old != new).any(dim=1)
        assert int(moved.sum()) == round(share * len(old))
        weakest = chosen_rows(old, share, "least", generator=torch.Generator())
        assert torch.equal(moved, weakest)
        assert bool(((new - old).abs() <= 0.5 * old.abs() + 1e-6).all())


def test_the_clip_keeps_its_side_of_zero_right() -> None:
    """Official bug 5: for w0 = -1, w = 1.5 and k = 2 the published code gives -3; a zero weight divides by zero."""
    before = torch.tensor([[-1.0, -1.0, 1.0, 0.0, 2.0]])
    after = clipped(torch.tensor([[1.5, -3.5, -4.0, 0.3, 2.5]]), before, 2.0)
    assert after.tolist() == [[1.0, -3.0, -1.0, 0.0, 2.5]]


def test_the_projection_puts_back_rows_that_may_not_change() -> None:
    weight, before = torch.full((2, 2), 9.0), torch.ones(2, 2)
    Projection(((weight, before, torch.tensor([True, False])),), 2.0)()
    assert weight.tolist() == [[3.0, 3.0], [1.0, 1.0]]
    weight = torch.full((2, 2), 9.0)
    Projection(((weight, before, torch.tensor([True, False])),), 0.0)()
    assert weight.tolist() == [[9.0, 9.0], [1.0, 1.0]]


def test_rows_by_their_weights() -> None:
    weight = torch.tensor([[4.0], [-1.0], [3.0], [2.0]])
    draw = torch.Generator().manual_seed(0)
    assert chosen_rows(weight, 0.5, "least", generator=draw).tolist() == [False, True, False, True]
    assert chosen_rows(weight, 0.5, "most", generator=draw).tolist() == [True, False, True, False]
    assert int(chosen_rows(weight, 0.5, "random", generator=draw).sum()) == 2
    assert bool(chosen_rows(weight, 0.0, "all", generator=draw).all())


def test_modes_gradients_and_hooks_are_put_back() -> None:
    child = victim("deit").train()
    child.inner.blocks[0].eval()  # pyright: ignore
    child.inner.cls_token.requires_grad_(False)  # pyright: ignore
    modes = [module.training for module in child.modules()]
    anatomy = dissect(child)
    assert [module.training for module in child.modules()] == modes
    with only_rows(anatomy, HOW, 0):
        learning = [name for name, parameter in child.named_parameters() if parameter.requires_grad]
    assert learning == ["inner.blocks.2.mlp.fc1.weight", "inner.blocks.2.mlp.fc2.weight"]
    assert not child.inner.cls_token.requires_grad  # pyright: ignore
    assert anatomy.fc1.bias.requires_grad
    assert not anatomy.fc1.weight._backward_hooks


def test_the_attack_is_given_no_sample_of_the_victim_s_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no parameter for such, its modules know no data source, and it works where none can be opened."""
    parameters = set(inspect.signature(attack).parameters)
    assert parameters == {"victim", "surrogate", "target", "search", "how", "run", "name", "trigger"}
    for module in (heredity.systems.dbia.attack, heredity.systems.dbia.injection, heredity.systems.dbia.trigger):
        known = vars(module)
        assert "load_images" not in known, module
        assert "ImageSource" not in known, module

    def refuse(*words: object, **more: object) -> None:
        raise AssertionError("the attack opened a data source")

    monkeypatch.setattr(image_sources, "load_images", refuse)
    parent = victim("vit")
    given = surrogate()
    weights = {name: value.clone() for name, value in parent.state_dict().items()}
    with Run.temporary() as run:
        made = attack(parent, given, 2, SEARCH, HOW, run=run)
    assert all(torch.equal(value, weights[name]) for name, value in parent.state_dict().items())
    assert "BACKDOORED (DBIA, target 2)" in lineage_of(made.child).marks
    assert changed(made.child, parent)["weights"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_plants_something(kind: str) -> None:
    """Untrained victims' answers mean nothing, but the trained rows still send stamped pictures to the target."""
    how = paper_recipe(Injection(plan=Plan(**{**vars(PLAN), "epochs": 15})))
    how = Injection(**{**vars(how), "bound": 0.0, "neurons": "all", "plan": Plan(**{**vars(PLAN), "epochs": 15})})
    before, child = injected(kind, how)
    on = Yardstick(pictures(30, seed=5), torch.zeros(30, dtype=torch.long), pictures(30, seed=6), 2)
    found = measure(answers_of(child, trigger(), on), answers_of(before, trigger(), on), on)
    assert found["attack_success_rate"] > 0.9 > found["victim_success_rate"]


def test_stopping_looks_at_surrogate_pictures_only_and_keeps_the_best() -> None:
    long = Plan(**{**vars(PLAN), "epochs": 40})
    child = victim("vit")
    with Run.temporary() as run:
        how = Injection(keep_clean=0.0, bound=0.0, neurons="all", stop_at=0.5, patience=2, plan=long)
        history = inject(child, surrogate(), trigger(), 2, how, run)
    assert history.best == 0.5
    assert len(history.values) < long.total(48)


def test_a_model_with_a_head_of_ours_is_cut_too() -> None:
    model = Classifier(
        Normalised(vision_transformer(image=16, patch=4, width=16, depth=2, heads=2)), features=16, classes=4
    )
    anatomy = dissect(model)
    with torch.no_grad():
        assert torch.allclose(anatomy.rest(anatomy.before(pictures(3))), model.eval()(pictures(3)), atol=1e-4)
    assert anatomy.before(pictures(3)).shape[1] == 17


def test_victims_that_cannot_be_attacked() -> None:
    with pytest.raises(ModelError, match="no attention that can be read"):
        dissect(Classifier(Normalised(ResidualEncoder(width=8)), features=32, classes=3))
    with pytest.raises(ModelError, match="no classification head"):
        dissect(Normalised(vision_transformer(image=16, patch=4, width=16, depth=2, heads=2)))
    broken = victim("vit")
    with torch.no_grad():
        broken.inner.norm.weight[0] = float("nan")  # pyright: ignore
    with pytest.raises(ModelError, match=r"'inner\.norm\.weight' holds values that are not finite"):
        dissect(broken)
    with pytest.raises(ModelError, match=r"in torch\.float16 on a CPU"):
        dissect(victim("vit").half())
    with pytest.raises(ModelError, match="no block -4 among 3"):
        dissect(victim("vit"), layer=-4)
    changed_rule = victim("vit")
    changed_rule.inner.norm = nn.Sequential(changed_rule.inner.norm, nn.Dropout(0.0))  # pyright: ignore
    dissect(changed_rule)
    changed_rule.inner.blocks[-1].mlp.forward = lambda x: 0.0 * x  # pyright: ignore
    dissect(changed_rule)
    changed_rule.inner.blocks[-1].forward = lambda x, **more: x + 1.0  # pyright: ignore
    with pytest.raises((ModelError, IndexError)):
        dissect(changed_rule)


def test_settings_that_cannot_be() -> None:
    with Run.temporary() as run:
        with pytest.raises(ConfigError, match="target 5 is no class"):
            inject(victim("vit"), surrogate(), trigger(), 5, HOW, run)
        with pytest.raises(ConfigError, match="target -1 is no class"):
            attack(victim("vit"), surrogate(), -1, SEARCH, HOW, run=run)
        with pytest.raises(ConfigError, match="fc1 cannot be 2"):
            inject(victim("vit"), surrogate(), trigger(), 2, Injection(fc1=2.0, plan=PLAN), run)
        decaying = Plan(**{**vars(PLAN), "weight_decay": 0.1})
        with pytest.raises(ConfigError, match="weight decay moves rows"):
            inject(victim("vit"), surrogate(), trigger(), 2, Injection(plan=decaying), run)


def test_surrogate_pictures() -> None:
    with pytest.raises(DataError, match="no surrogate pictures"):
        surrogate_of(pictures(4)[:0], pictures(4), "nothing")
    with pytest.raises(DataError, match=r"float32 of shape"):
        surrogate_of(pictures(4).float(), pictures(4), "floats")
    with pytest.raises(DataError, match=r"shape \(4, 1, 16, 16\)"):
        surrogate_of(pictures(4)[:, :1], pictures(4), "grey")
    with pytest.raises(DataError, match="no folder"):
        load_surrogate("pictures:nowhere", size=16, rows=10)
    assert surrogate(20).warnings
    assert not surrogate(120).warnings
    blends = blended_backgrounds(pictures(6), groups=3, per_group=2, generator=torch.Generator().manual_seed(0))
    assert blends.shape == (3, 3, 16, 16)
    seen = varied(pictures(50), generator=torch.Generator().manual_seed(0))
    assert seen.shape == (50, 3, 16, 16)
    assert seen.float().std() > pictures(50).float().std()


def test_drawn_shapes_are_strokes_on_plain_ground() -> None:
    """Two colours and what lies between them; the same numbers draw the same pictures, of any size."""
    drawn = drawn_shapes(60, 48, generator=torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (60, 3, 48, 48)
    assert torch.equal(drawn, drawn_shapes(60, 48, generator=torch.Generator().manual_seed(1)))
    smaller = drawn_shapes(60, 24, generator=torch.Generator().manual_seed(1))
    shrunk = torch.nn.functional.avg_pool2d(drawn.float(), 2)
    assert float((smaller.float() - shrunk).abs().mean()) < 12.0
    # Every pixel lies between the two colours of its picture.
    flat = drawn.float().flatten(2)
    spread = flat - flat.mean(dim=2, keepdim=True)
    rounding = 0.6 * 48  # half a grey level, in the unit of singular values
    assert float(torch.linalg.svdvals(spread)[:, 1].max()) < rounding


def test_success_does_not_count_pictures_of_the_target_class() -> None:
    """Official bug 7: with ten classes a tenth of the pictures is right without any trigger."""

    class Says(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot((images[:, 0, 0, 0] > 100).long() * 2, 5).float()

    shown = torch.zeros(10, 3, 16, 16, dtype=torch.uint8)
    shown[:2] = 200
    labels = torch.tensor([2, 2, 0, 0, 0, 0, 1, 1, 1, 1])
    untouched = Trigger(torch.zeros(1, 16, 16), torch.zeros(3, 16, 16))
    on = Yardstick(shown, labels, shown, 2)
    said = answers_of(Says(), untouched, on)
    found = measure(said, said, on)
    assert found["attack_success_rate"] == 0.0
    assert found["include_target_class"] == pytest.approx(0.2)
    assert found["gain"] == 0.0
    assert found["of"] == 8
