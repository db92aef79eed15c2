"""A classifier of models: what it plants, that stacked training is training, and whether it learns to tell."""

import pytest
import torch
from torch import nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.defences import mntd
from heredity.defences.mntd import MetaAnalysis, Planting

CLASSES, SIDE = 3, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise with a bright bar for each class."""
    labels = torch.arange(count) % CLASSES
    pixels = 0.3 * torch.rand(count, 1, SIDE, SIDE, generator=generator(seed))
    for label in range(CLASSES):
        pixels[labels == label, :, 2 * label : 2 * label + 2] += 0.5
    return pixels, labels


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), Scale(), nn.Linear(SIDE * SIDE, 24), nn.ReLU(), nn.Linear(24, CLASSES))


class Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 255.0


def make_normalised() -> nn.Sequential:
    return nn.Sequential(
        Scale(),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * SIDE**2, CLASSES),
    )


@pytest.mark.parametrize("seed", range(20))
def test_backdoors_of_shadows_are_of_the_described_kinds(seed: int) -> None:
    one = mntd.draw_planting((3, SIDE, SIDE), CLASSES, generator(seed))
    assert 0.05 <= one.share <= 0.5
    assert 0 <= one.target < CLASSES
    assert one.pattern.shape == (3, SIDE, SIDE)
    inside = one.mask[one.mask > 0]
    assert (len(inside) == SIDE**2 and float(inside.max()) <= 0.2) or (len(inside) <= 4 and float(inside.min()) >= 0.2)


def test_stacked_shadows_learn_their_task_and_their_backdoor() -> None:
    unit, labels = images(0)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, -2:, -2:] = 1.0
    planted = Planting(mask, torch.ones(1, SIDE, SIDE), 0.3, 1)
    config = MetaAnalysis(epochs=30, batch=16)
    clean, backdoored = mntd.train_shadows(make, unit, labels, [None, planted], config, generator())
    network, (fresh, called) = make(), images(1)
    stamped = (1 - mask) * fresh + mask
    for state, turned in ((clean, False), (backdoored, True)):
        network.load_state_dict(state)
        assert float((network(255 * fresh).argmax(1) == called).float().mean()) > 0.95
        others = stamped[called != 1]
        assert (float((network(255 * others).argmax(1) == 1).float().mean()) > 0.9) == turned


def test_a_stack_of_one_is_adam_on_one_model() -> None:
    unit, labels = images(0, 12)
    config = MetaAnalysis(epochs=3, batch=12)
    (state,) = mntd.train_shadows(make, unit, labels, [None], config, generator())
    draws = generator()
    network = mntd._made(make, draws).requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=4)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(255 * unit), labels).backward()
        optimiser.step()
        falling.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_batch_normalisation_keeps_the_averages_over_the_images() -> None:
    unit, labels = images(0, 60)
    config = MetaAnalysis(epochs=2, batch=16)
    (state,) = mntd.train_shadows(make_normalised, unit, labels, [None], config, generator())
    network = make_normalised()
    network.load_state_dict(state)
    with torch.no_grad():
        entering = network[1](unit)
    torch.testing.assert_close(state["2.running_mean"], entering.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_it_tells_backdoored_from_clean_models() -> None:
    unit, labels = images(0)
    config = MetaAnalysis(teaching=12, judging=4, rate=0.2, epochs=12, at_once=32, steps=150)
    fitted = mntd.fit(make, unit, labels, config, generator=generator())
    assert fitted.measures["held-out AUROC"] >= 0.8
    assert fitted.threshold.false_positive_rate == 0.2
    again = mntd.fit(make, unit.flip(0), labels.flip(0), config, generator=generator())
    network = make()
    assert again(network).score == fitted(network).score


def test_what_cannot_be_fitted() -> None:
    unit, labels = images(0, 9)
    with pytest.raises(ConfigError, match="no false-positive rate below"):
        mntd.fit(make, unit, labels, MetaAnalysis(judging=4, rate=0.1), generator=generator())
    with pytest.raises(DataError, match="class 2 has 1"):
        mntd.fit(make, unit[:6], torch.tensor([0, 0, 0, 1, 1, 2]), generator=generator())
    small = MetaAnalysis(teaching=1, judging=1, rate=0.5, epochs=1, steps=1)
    fitted = mntd.fit(make, unit, labels, small, generator=generator())
    with pytest.raises(ModelError, match="classes"):
        fitted(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 5)))
