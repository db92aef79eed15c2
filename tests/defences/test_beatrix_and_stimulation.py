"""Gram matrices of features and driven neurons: formulas by hand, and what a planted net shows."""

import pytest
import torch
from helpers.planted import CLASSES, TARGET, TwoLayers, images, stamped
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.defences import beatrix, neuron_stimulation
from heredity.defences.contract import ModelVerdict, as_unit, examining
from heredity.defences.units import units_of
from heredity.metrics.detection import auroc

STIMULATION = neuron_stimulation.NeuronStimulation(steps=60, candidates=5, area=0.04)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Convolutional(nn.Module):
    """The hand-planted net as convolutions: one filter a template, and one for the white patch."""

    def __init__(self, seed: int, *, planted: bool) -> None:
        super().__init__()
        flat = TwoLayers(seed, planted=planted)
        self.conv = nn.Conv2d(3, CLASSES + 1, 5, stride=5)
        self.head = nn.Linear(4 * (CLASSES + 1), CLASSES)
        with torch.no_grad():
            for unit in range(CLASSES + 1):
                shape = flat.hidden.weight[unit].view(3, 10, 10)
                self.conv.weight[unit] = shape[:, 5:, 5:]
            self.conv.bias.zero_()  # pyright: ignore
            self.conv.bias[-1] = -4.0  # pyright: ignore
            self.head.weight.zero_()
            spread = self.head.weight.view(CLASSES, CLASSES + 1, 4)
            spread[:, :-1, 3] = torch.eye(CLASSES)
            spread[TARGET, -1, 3] = 2.0 if planted else 0.0
            self.head.bias.zero_()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(pixels.float() / 255.0)).flatten(1))


def scan(model: nn.Module, clean: Tensor) -> ModelVerdict:
    return neuron_stimulation.scan(model, clean, STIMULATION, generator=generator())


def test_the_driven_unit_leads_to_the_target_and_its_patch_proves_it() -> None:
    clean = [scan(TwoLayers(seed, planted=False), images(seed, 48)).score for seed in range(5)]
    for seed in (200, 201):
        found = scan(TwoLayers(seed, planted=True), images(seed, 48))
        assert found.score > max(0.88, *clean)
        assert found.flagged
        assert found.suspects[0] == TARGET
        assert found.measures["unit"] == CLASSES
        assert float(found.triggers[0].mask.sum()) <= 4.01
        assert found.cost.queries > 0


def test_lift_by_brute_force() -> None:
    model, clean = TwoLayers(0, planted=True).eval(), images(0, 24)
    how = neuron_stimulation.NeuronStimulation(loudest=1.0)
    with examining(model) as ask:
        unit = as_unit(clean)
        logits = ask.all(unit)
        lift, lifted = neuron_stimulation.stimulate(ask, units_of(model), unit, logits, how, generator())
    hidden = torch.relu(model.hidden(unit.flatten(1)))
    firsts = [int(torch.nonzero(logits.argmax(dim=1) == label)[0]) for label in logits.argmax(dim=1).unique()]
    for number in range(CLASSES + 1):
        rises = []
        for row in firsts:
            levels = []
            for level in torch.arange(0, 1.01, 0.125):
                driven = hidden[row].clone()
                driven[number] = level * hidden.max()
                levels.append(model.head(driven) - logits[row])
            rises.append(torch.stack(levels).amax(dim=0))
        least = torch.stack(rises).amin(dim=0).sort(descending=True)
        assert float(lift[number]) == pytest.approx(float(least.values[0] - least.values[1]), abs=1e-4)
        if float(lift[number]) > 1e-3:
            assert int(lifted[number]) == int(least.indices[0])


def test_grams_by_brute_force() -> None:
    stage = torch.randn(2, 3, 4, generator=generator(), dtype=torch.float64)
    found = beatrix.gram_entries(stage, 3)
    expected = []
    for order in (1, 2, 3):
        for row in range(3):
            for column in range(row, 3):
                value = (stage[:, row] ** order * stage[:, column] ** order).sum(dim=1)
                expected.append(value.sign() * value.abs() ** (1 / order))
    assert torch.allclose(found, torch.stack(expected, dim=1))
    narrow = beatrix.fewer_channels(torch.randn(2, 9, 4, generator=generator()), 5, 0)
    assert narrow.shape == (2, 5, 4)
    assert beatrix.fewer_channels(stage, 5, 0) is stage


def test_beatrix_rejects_stamped_images_and_few_others() -> None:
    clean, others = images(0, 240), images(0, 440)[240:]
    found = beatrix.fit(Convolutional(0, planted=True), clean, generator=generator())
    honest, marked = found(others), found(stamped(others))
    assert 0 < (found.threshold.false_positive_rate or 0) <= 0.01
    assert auroc(marked.scores.tolist(), honest.scores.tolist()) > 0.95
    assert float(marked.rejected.float().mean()) > 0.8
    assert float(honest.rejected.float().mean()) < 0.06
    assert marked.cost.queries == 200


def test_same_seed_same_scores_whatever_the_order_and_the_model_is_left_alone() -> None:
    model, clean = Convolutional(0, planted=True).train(), images(0, 240)
    order = torch.randperm(240, generator=generator(1))
    one, other = (beatrix.fit(model, given, generator=generator()) for given in (clean, clean[order]))
    assert torch.equal(one(clean[:9]).scores, other(clean[:9]).scores)
    brief = neuron_stimulation.NeuronStimulation(steps=3)
    first, again = (
        neuron_stimulation.scan(model, given, brief, generator=generator()) for given in (clean, clean[order])
    )
    assert (first.score, first.class_scores, dict(first.measures)) == (
        again.score,
        again.class_scores,
        dict(again.measures),
    )
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_examined_is_refused() -> None:
    model = Convolutional(0, planted=True)
    with pytest.raises(DataError, match="cannot state"):
        beatrix.fit(model, images(0, 40), generator=generator())
    with pytest.raises(ConfigError, match="orders"):
        beatrix.fit(model, images(0, 40), beatrix.Beatrix(orders=0), generator=generator())
    with pytest.raises(ModelError, match="stages to look into"):
        beatrix.fit(TwoLayers(0, planted=True), images(0, 240), generator=generator())
    with pytest.raises(ConfigError, match="area"):
        neuron_stimulation.scan(
            model, images(0, 40), neuron_stimulation.NeuronStimulation(area=0.0), generator=generator()
        )
    with pytest.raises(DataError, match="fitted on"):
        beatrix.fit(model, images(0, 240), generator=generator())(torch.zeros(2, 3, 5, 5))
    with torch.no_grad():
        model.conv.weight.fill_(torch.nan)
    for examine in (
        lambda: scan(model, images(0, 40)),
        lambda: beatrix.fit(model, images(0, 240), generator=generator()),
    ):
        with pytest.raises(ModelError, match="not finite"):
            examine()
