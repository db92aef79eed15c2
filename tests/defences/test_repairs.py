"""Repairs by adversarial pruning, attention distillation and unlearning: what each formula says, and what it does."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.planted import CLASSES, TARGET, TwoLayers, images, stamped
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import lineage_of
from heredity.defences import anp, nad, unlearning
from heredity.defences.contract import Examination, Repair, Trigger, as_unit
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.repairing import Tuning
from heredity.defences.reverse import Search
from heredity.defences.stages import stages_of, watching_stages
from heredity.nn.classifiers import TransformerShape, make_transformer
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import accuracy, top1

CLEAN, LABELS = images(0, 96), torch.arange(96) % CLASSES
PICTURES = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def success(model: nn.Module) -> float:
    others = CLEAN[LABELS != TARGET]
    return float((top1(model, stamped(others)) == TARGET).float().mean())


def planted() -> TwoLayers:
    model = TwoLayers(0, planted=True).eval()
    with torch.no_grad():
        model.head.weight[TARGET, -1] = 4.0
        model.hidden.bias[-1] = -2.0
    return model


def convolutional() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = EncoderShape(width=8, norm="batch")
        return Classifier(make_encoder(shape, 16), features=32, classes=4).eval()


PATCH = Trigger(torch.zeros(1, 10, 10), torch.ones(3, 10, 10))
PATCH.mask[:, -2:, -2:] = 1.0


def test_adversarial_pruning_takes_the_unit_that_a_push_sets_off() -> None:
    model = planted()
    assert success(model) == 1.0
    found = anp.repair(
        model, CLEAN, LABELS, anp.AdversarialPruning(steps=100, batch=48, epsilon=1.0), generator=generator()
    )
    assert success(found.model) < 0.2
    assert accuracy(found.model, CLEAN, LABELS) >= accuracy(model, CLEAN, LABELS) - 0.05
    assert found.measures["neurons"] == CLASSES + 1
    assert isinstance(found.model, TwoLayers)
    assert not found.model.hidden.weight[-1].any()
    assert torch.equal(found.model.hidden.bias, model.hidden.bias)


def test_one_step_of_the_masks_by_hand() -> None:
    first = nn.Linear(12, 5)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(5, 3))
    unit, labels = torch.rand(6, 3, 2, 2, generator=generator()), torch.tensor([0, 1, 2, 0, 1, 2])
    how = anp.AdversarialPruning(steps=1, batch=6, epsilon=0.3, alpha=0.2, learning_rate=0.05)
    found = anp.learn_masks(Examination(net), {"1": 5}, unit, labels, how, generator(3))

    draws = generator(3)
    rows = torch.randperm(6, generator=draws)
    push = (0.3 * (2 * torch.rand(2, 5, generator=draws) - 1)).requires_grad_()
    mask = torch.ones(5, requires_grad=True)

    def loss(scale: Tensor, shift: Tensor) -> Tensor:
        hidden = F.linear(255 * unit[rows].flatten(1), first.weight * scale[:, None], first.bias * shift)
        return F.cross_entropy(net[3](hidden.relu()), labels[rows])

    (slope,) = torch.autograd.grad(loss(1 + push[0], 1 + push[1]), push)
    worst = (push.detach() + 0.3 * slope.sign()).clamp(-0.3, 0.3)
    total = 0.2 * loss(mask, torch.ones(5)) + 0.8 * loss(mask + worst[0], 1 + worst[1])
    (slope,) = torch.autograd.grad(total, mask)
    assert torch.allclose(found, (1 - 0.05 * slope).clamp(0, 1), atol=1e-5)


def test_neurons_are_normalised_channels_hidden_units_or_rows() -> None:
    assert sum(anp.neurons_of(convolutional()).values()) == 8 + 2 * (8 + 16 + 32)
    vit = make_transformer(TransformerShape(width=16, depth=2, heads=2), image=16, classes=3)
    assert list(anp.neurons_of(vit).values()) == [64, 64]
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 4), nn.Linear(4, 3))
    assert anp.neurons_of(plain) == {"0": 5, "2": 4}
    with pytest.raises(ModelError, match="no neurons"):
        anp.neurons_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))


def test_unlearning_a_known_trigger() -> None:
    model = planted()
    for how in (
        unlearning.Unlearning(tuning=Tuning(epochs=20, batch=16, learning_rate=0.05)),
        unlearning.Unlearning("pruning"),
    ):
        found = unlearning.repair(model, CLEAN, LABELS, how, generator=generator(), trigger=PATCH)
        assert found.measures["turned before"] > 0.8
        assert found.measures["turned after"] < 0.2
        assert success(found.model) < 0.2
        assert accuracy(found.model, CLEAN, LABELS) >= accuracy(model, CLEAN, LABELS) - 0.05


def test_unlearning_finds_its_trigger_itself() -> None:
    how = unlearning.Unlearning("pruning", search=NeuralCleanse(Search(steps=100, batch=16)))
    found = unlearning.repair(planted(), CLEAN, LABELS, how, generator=generator())
    assert found.measures["trigger's size"] < 10
    assert success(found.model) < 0.3


def test_distilled_attention_is_nearer_to_the_teachers() -> None:
    model, labels = convolutional(), torch.arange(24) % 4
    teacher = Tuning(epochs=3, batch=12, learning_rate=0.05)
    still = nad.AttentionDistillation(teacher, Tuning(epochs=0), shift=0.0)
    moved = nad.AttentionDistillation(
        teacher, Tuning(epochs=15, batch=12, learning_rate=1e-3), betas=(300.0, 300.0, 300.0), shift=0.0
    )
    taught = nad.repair(model, PICTURES, labels, still, generator=generator())
    assert taught.measures["accuracy tuned"] == taught.measures["accuracy before"]
    found = nad.repair(model, PICTURES, labels, moved, generator=generator())

    def maps(net: nn.Module) -> list[Tensor]:
        with watching_stages(net, 3) as seen, torch.no_grad():
            net(PICTURES)
        return [nad.attention(stage) for stage in seen]

    # Both runs draw the same teacher; training it again with plain fine-tuning gives its attention.
    alone = nad.repair(
        model,
        PICTURES,
        labels,
        nad.AttentionDistillation(Tuning(epochs=0), teacher, betas=(0.0, 0.0, 0.0), shift=0.0),
        generator=generator(),
    )
    apart = [
        sum(
            float(nad.distance(ours, theirs, "squares"))
            for ours, theirs in zip(maps(net), maps(alone.model), strict=True)
        )
        for net in (model, found.model)
    ]
    assert apart[1] < apart[0]


def test_attention_and_its_two_distances_by_hand() -> None:
    one, other = torch.rand(4, 3, 5, generator=generator()), torch.rand(4, 3, 5, generator=generator(1))
    ours, theirs = nad.attention(one), nad.attention(other)
    assert torch.allclose(ours, sum(one[:, channel] ** 2 for channel in range(3)))  # pyright: ignore
    scaled = [found / found.norm(dim=1, keepdim=True) for found in (ours, theirs)]
    assert torch.allclose(nad.distance(ours, theirs, "squares"), F.mse_loss(scaled[0], scaled[1]))
    assert torch.allclose(nad.distance(ours, theirs, "norm"), (scaled[0] - scaled[1]).norm(dim=1).mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "places"),
    [
        (TransformerShape("vit", width=16, depth=3, heads=2), [16, 16, 16]),
        (TransformerShape("deit", width=16, depth=3, heads=2), [16, 16, 16]),
        (TransformerShape("swin", patch=2, width=8, depth=1, heads=2, stages=3, window=2), [64, 16, 4]),
    ],
)
def test_stages_of_transformers_are_patch_tokens(shape: TransformerShape, places: list[int]) -> None:
    model = make_transformer(shape, image=16, classes=3).eval()
    with watching_stages(model, 3) as seen, torch.no_grad():
        model(PICTURES)
    assert [stage.shape[2] for stage in seen] == places
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_are_spread_evenly() -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(6)))
    assert [stage for stage, _ in stages_of(net, 3)] == [net[1], net[3], net[5]]
    with pytest.raises(ModelError, match="0 stages"):
        stages_of(nn.Sequential(nn.Linear(2, 2)), 1)


def brief_anp(model: nn.Module, clean: Tensor, labels: Tensor) -> Repair:
    return anp.repair(
        model, clean, labels, anp.AdversarialPruning(steps=3, threshold=1.1, tolerance=1), generator=generator()
    )


def brief_nad(model: nn.Module, clean: Tensor, labels: Tensor) -> Repair:
    how = nad.AttentionDistillation(Tuning(epochs=1), Tuning(epochs=1), shift=0.1, flip=True)
    return nad.repair(model, clean, labels, how, generator=generator())


def brief_unlearning(model: nn.Module, clean: Tensor, labels: Tensor) -> Repair:
    how = unlearning.Unlearning(search=NeuralCleanse(Search(steps=3)), tuning=Tuning(epochs=1))
    return unlearning.repair(model, clean, labels, how, generator=generator())


@pytest.mark.parametrize("mend", [brief_anp, brief_nad, brief_unlearning])
def test_a_repair_depends_on_seed_and_content_alone(mend: Callable[[nn.Module, Tensor, Tensor], Repair]) -> None:
    model, labels = convolutional().train(), torch.arange(24) % 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    order = torch.randperm(24, generator=generator(1))
    one, other = mend(model, PICTURES, labels), mend(model, PICTURES[order], labels[order])
    assert one.measures == other.measures
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
        assert torch.equal(model.state_dict()[name], before[name])
    assert any(not torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in one.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (model, one.model) for m in net.modules())
    assert lineage_of(one.model).made_by == f"defence: {one.defence}"


@pytest.mark.parametrize("mend", [brief_anp, brief_nad, brief_unlearning])
def test_what_cannot_be_repaired_is_refused(mend: Callable[[nn.Module, Tensor, Tensor], Repair]) -> None:
    model, labels = convolutional(), torch.arange(24) % 4
    with pytest.raises(DataError, match="but the model has 4 classes"):
        mend(model, PICTURES, labels + 1)
    with pytest.raises(DataError, match="labels of shape"):
        mend(model, PICTURES, labels[:3])
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        mend(model, PICTURES, labels)


def test_settings_that_mean_nothing_are_refused() -> None:
    model, labels = convolutional(), torch.arange(24) % 4
    with pytest.raises(ConfigError, match="alpha"):
        anp.repair(model, PICTURES, labels, anp.AdversarialPruning(alpha=2.0), generator=generator())
    with pytest.raises(ConfigError, match="betas"):
        nad.repair(model, PICTURES, labels, nad.AttentionDistillation(betas=()), generator=generator())
    with pytest.raises(ConfigError, match="share of 7"):
        unlearning.repair(model, PICTURES, labels, unlearning.Unlearning(stamped=7.0), generator=generator())
    with pytest.raises(ModelError, match="stages to look into"):
        nad.repair(planted(), CLEAN, LABELS, generator=generator())
    assert as_unit(PICTURES).shape == PICTURES.shape
