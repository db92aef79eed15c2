"""Fine-Pruning: which units, in which order, gone for good, and what a hand-planted backdoor is worth afterwards."""

from collections.abc import Callable

import pytest
import timm
import torch
from helpers.planted import CLASSES, TARGET, TwoLayers, images, stamped
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import lineage_of
from heredity.defences.contract import as_unit, examining
from heredity.defences.fine_pruning import FinePruning, pruning_curve, repair
from heredity.defences.repairing import Tuning, halves, labelled_clean
from heredity.defences.units import mean_activity, switch_off, units_of
from heredity.nn.encoders import Classifier, EncoderShape, Normalised, make_encoder
from heredity.nn.inference import accuracy, outputs, top1

CLEAN, LABELS = images(0, 96), torch.arange(96) % CLASSES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def success(model: nn.Module) -> float:
    others = CLEAN[LABELS != TARGET]
    return float((top1(model, stamped(others)) == TARGET).float().mean())


def planted(seed: int = 0) -> TwoLayers:
    """The net whose last hidden unit sleeps on clean images and answers the white patch with the target."""
    model = TwoLayers(seed, planted=True).eval()
    with torch.no_grad():
        model.head.weight[TARGET, -1] = 4.0
    return model


def vit() -> Classifier:
    shape = EncoderShape(kind="vit", width=16, depth=2, heads=2)
    return Classifier(make_encoder(shape, 16), features=16, classes=4).eval()


def convolutional() -> Classifier:
    return Classifier(make_encoder(EncoderShape(width=8), 16), features=32, classes=4).eval()


def test_the_sleeping_unit_goes_and_the_attack_with_it() -> None:
    model = planted()
    assert success(model) == 1.0
    found = repair(model, CLEAN, LABELS, FinePruning(levels=9), generator=generator())
    assert success(found.model) < 0.2
    assert accuracy(found.model, CLEAN, LABELS) >= accuracy(model, CLEAN, LABELS) - 0.04
    assert found.measures["share pruned"] >= 1 / 9
    assert found.measures["accuracy before"] - found.measures["accuracy pruned"] <= 0.04
    assert found.cost.queries > 0
    assert success(model) == 1.0


def test_what_was_pruned_stays_zero_through_fine_tuning_biases_too() -> None:
    model = planted()
    how = FinePruning(levels=9, tuning=Tuning(epochs=3, learning_rate=0.05))
    child = repair(model, CLEAN, LABELS, how, generator=generator()).model
    assert isinstance(child, TwoLayers)
    with examining(model) as ask:
        sleepiest = int(mean_activity(ask, units_of(model), as_unit(CLEAN)).argmin())
    assert sleepiest == CLASSES
    for part in (child.hidden.weight[-1], child.hidden.bias[-1], child.head.weight[:, -1]):
        assert not part.any()
    assert not torch.equal(child.head.weight[:, 0], model.head.weight[:, 0])


def test_the_curve_by_brute_force() -> None:
    model = planted()
    activity = torch.relu(model.hidden(CLEAN.float().flatten(1) / 255)).mean(dim=0)
    order = activity.argsort()
    curve = pruning_curve(
        model,
        CLEAN,
        {"clean": lambda m: accuracy(m, CLEAN, LABELS), "attack": success},
        shares=(0.0, 1 / 9, 5 / 9, 1.0),
    )
    assert [point.share for point in curve] == pytest.approx([0.0, 1 / 9, 5 / 9, 1.0])
    for point in curve:
        by_hand = planted()
        with torch.no_grad():
            by_hand.head.weight[:, order[: round(9 * point.share)]] = 0.0
        assert point.measured == {"clean": accuracy(by_hand, CLEAN, LABELS), "attack": success(by_hand)}
    assert curve[0].measured["attack"] == 1.0
    assert curve[1].measured["attack"] < 0.2


@pytest.mark.parametrize(
    ("make", "size", "kind", "count"),
    [
        (vit, 16, "hidden units", 64),
        (convolutional, 16, "channels", 32),
        (lambda: Normalised(timm.create_model("resnet18", num_classes=4)).eval(), 32, "channels", 512),
        (
            lambda: Normalised(
                timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, img_size=32, depth=1)
            ).eval(),
            32,
            "hidden units",
            768,
        ),
        (
            lambda: Normalised(
                timm.create_model(
                    "swin_tiny_patch4_window7_224", num_classes=4, img_size=32, window_size=2, depths=(1, 1)
                )
            ).eval(),
            32,
            "hidden units",
            768,
        ),
    ],
)
def test_units_of_the_houses_nets_and_of_timms(make: Callable[[], nn.Module], size: int, kind: str, count: int) -> None:
    model, generator_ = make(), generator()
    units = units_of(model)
    assert (units.kind, units.count) == (kind, count)
    pictures = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator_)
    with examining(model) as ask:
        before = mean_activity(ask, units, as_unit(pictures))
        assert before.shape == (count,)
        which = torch.arange(0, count, 2)
        switch_off(model, units, which)
        if kind == "hidden units":
            assert not mean_activity(ask, units, as_unit(pictures))[which].any()
    after = outputs(model, pictures)
    reader = model.get_submodule(units.reader)
    hook = reader.register_forward_pre_hook(lambda _, inputs: (_noise(inputs[0], which, units.columns),))
    assert torch.allclose(outputs(model, pictures), after, atol=1e-5)
    hook.remove()


def _noise(values: Tensor, which: Tensor, columns: int) -> Tensor:
    """Whatever a pruned unit says, nothing may change."""
    changed = values.clone().unflatten(-1, (-1, columns))
    changed[..., which, :] += 100.0
    return changed.flatten(-2)


def test_channels_that_are_flattened_take_a_block_of_columns() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 8), nn.Linear(8, 4))
    units = units_of(net)
    assert (units.kind, units.count, units.reader, units.columns) == ("channels", 5, "3", 16)
    clean = torch.rand(6, 3, 4, 4, generator=generator())
    with examining(net) as ask:
        found = mean_activity(ask, units, clean)
    assert torch.allclose(found, net[:2](255 * clean).mean(dim=(0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("make", [vit, convolutional])
def test_a_repair_depends_on_seed_and_content_alone_and_leaves_its_model_as_it_was(
    make: Callable[[], nn.Module],
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pictures = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator())
    labels, order = torch.arange(40) % 4, torch.randperm(40, generator=generator(1))
    how = FinePruning(tolerance=0.1, tuning=Tuning(epochs=1))
    one = repair(model, pictures, labels, how, generator=generator())
    other = repair(model, pictures[order], labels[order], how, generator=generator())
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())
    assert one.measures == other.measures
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in one.model.modules())
    hooked = [*model.modules(), *one.model.modules()]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in hooked)
    born = lineage_of(one.model)
    assert (born.made_by, born.parents[0].name) == ("defence: fine-pruning", lineage_of(model).name)


def test_halves_keep_the_share_of_every_class() -> None:
    labels = torch.tensor([0] * 7 + [1] * 4 + [3] * 2)
    first, second = halves(labels, generator())
    assert sorted(torch.cat([first, second]).tolist()) == list(range(13))
    assert torch.bincount(labels[first]).tolist() == [4, 2, 0, 1]
    assert torch.bincount(labels[second]).tolist() == [3, 2, 0, 1]


def test_labels_follow_their_images() -> None:
    order = torch.randperm(96, generator=generator(2))
    unit, labels = labelled_clean(CLEAN, LABELS, per_class=1)
    mixed, moved = labelled_clean(CLEAN[order], LABELS[order], per_class=1)
    assert torch.equal(unit, mixed)
    assert torch.equal(labels, moved)


def test_what_cannot_be_repaired_is_refused() -> None:
    def mend(model: nn.Module, clean: Tensor, labels: Tensor, how: FinePruning | None = None) -> None:
        repair(model, clean, labels, how, generator=generator())

    with pytest.raises(DataError, match="class 0 has 1 clean images"):
        mend(planted(), CLEAN[:8], LABELS[:8])
    with pytest.raises(DataError, match="label 9, but the model has 8 classes"):
        mend(planted(), CLEAN[:4], torch.tensor([9, 9, 1, 1]))
    with pytest.raises(DataError, match="a label is -1"):
        mend(planted(), CLEAN[:2], torch.tensor([-1, -1]))
    with pytest.raises(DataError, match="labels of shape"):
        mend(planted(), CLEAN[:4], LABELS[:3])
    with pytest.raises(DataError, match="labels of shape"):
        mend(planted(), CLEAN[:4], LABELS[:4].float())
    with pytest.raises(ModelError, match="no layer of units"):
        mend(nn.Sequential(nn.Flatten(), nn.Linear(300, 8)), CLEAN, LABELS)
    with pytest.raises(ConfigError, match="tolerance"):
        mend(planted(), CLEAN, LABELS, FinePruning(tolerance=2.0))
    with pytest.raises(ConfigError, match="outside"):
        pruning_curve(planted(), CLEAN, {}, shares=(1.5,))
    broken = planted()
    with torch.no_grad():
        broken.hidden.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        mend(broken, CLEAN, LABELS)
