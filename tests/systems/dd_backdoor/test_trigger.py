"""The patch, which images carry it, and DOORPING's update, beside what the published code gets wrong."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.nn.encoders import Classifier, EncoderShape
from heredity.systems.dd_backdoor.networks import hidden_layer, hidden_values, make_network
from heredity.systems.dd_backdoor.trigger import (
    Attack,
    check_attack,
    first_patch,
    paste,
    poisoned_rows,
    strongest_neurons,
    update_patch,
)

DOORPING = Attack("doorping", steps=20)


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return make_network(EncoderShape(kind="convnet", width=4, depth=2, hidden=6), 16, 3, mean=0.3, std=0.4)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def updated(patch: Tensor, attack: Attack, net: nn.Module) -> Tensor:
    return update_patch(patch, net, attack, torch.rand(4, 3, 16, 16, generator=dice(1)), dice(2), unit=0.4)


@given(size=st.integers(1, 6), margin=st.integers(0, 2))
def test_a_patch_lies_in_its_place_and_nowhere_else(size: int, margin: int) -> None:
    images, patch = torch.rand(2, 3, 9, 9), torch.rand(3, size, size)
    stamped = paste(images, patch, margin)
    low, high = 9 - margin - size, 9 - margin
    assert (stamped[:, :, low:high, low:high] == patch).all()
    outside = torch.ones(9, 9, dtype=torch.bool)
    outside[low:high, low:high] = False
    assert (stamped[..., outside] == images[..., outside]).all()


def test_a_fixed_share_of_all_classes_is_stamped() -> None:
    rows = poisoned_rows(1000, Attack("naive", ratio=0.05), dice())
    assert int(rows.sum()) == 50
    assert (rows == poisoned_rows(1000, Attack("doorping", ratio=0.05), dice())).all()
    assert not poisoned_rows(1000, Attack("none"), dice()).any()


def test_the_chosen_neuron_has_the_largest_weights_coming_in() -> None:
    net = network()
    with torch.no_grad():
        hidden_layer(net).weight[4] *= 50
    assert strongest_neurons(net, DOORPING, dice()).tolist() == [4]
    assert len(strongest_neurons(net, replace(DOORPING, neurons=99), dice())) == 6


def test_hidden_values_are_those_before_the_activation() -> None:
    net, pixels = network(), 255 * torch.rand(3, 3, 16, 16)
    inner: Any = net.encoder.inner  # pyright: ignore[reportAttributeAccessIssue]
    expected = F.linear(inner.blocks((pixels / 255 - 0.3) / 0.4).flatten(1), inner.hidden.weight, inner.hidden.bias)
    torch.testing.assert_close(hidden_values(net, pixels), expected)
    assert not hidden_layer(net)._forward_hooks


def test_an_update_drives_the_neuron_and_leaves_the_network() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    patch = first_patch(DOORPING, 3, dice())
    neuron = int(strongest_neurons(net, DOORPING, dice()))

    def driven(candidate: Tensor) -> float:
        black = torch.zeros(1, 3, 16, 16)
        return float(hidden_values(net, 255 * paste(black, candidate, 1))[0, neuron].detach())

    assert driven(updated(patch, DOORPING, net)) > driven(patch)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_pixels_stay_a_picture_unless_they_are_free() -> None:
    patch, hard = first_patch(DOORPING, 3, dice()), replace(DOORPING, steps=40, rate=1.0)
    free, valid = updated(patch, hard, network()), updated(patch, replace(hard, pixels="valid"), network())
    assert float(free.abs().max()) > 1
    assert float(valid.min()) >= 0
    assert float(valid.max()) <= 1


def test_a_silent_neuron_is_woken_where_the_published_reading_leaves_it_asleep() -> None:
    net = network()
    with torch.no_grad():
        hidden_layer(net).bias.fill_(-1.0)
    patch = first_patch(DOORPING, 3, dice())
    assert torch.equal(updated(patch, replace(DOORPING, reading="published"), net), patch)
    assert not torch.equal(updated(patch, DOORPING, net), patch)


def test_the_margin_objective_raises_the_target() -> None:
    net, patch = network(), torch.rand(3, 4, 4, generator=dice())
    attack = replace(DOORPING, size=4, objective="margin", steps=30, target=2)
    images = torch.rand(4, 3, 16, 16, generator=dice(1))

    def likelihood(candidate: Tensor) -> float:
        return float(net(255 * paste(images, candidate, 1)).log_softmax(dim=1)[:, 2].mean().detach())

    assert likelihood(updated(patch, attack, net)) > likelihood(patch)


def test_a_patch_stays_within_its_reach_of_a_picture() -> None:
    far = replace(DOORPING, pixels="valid", reach=1.5, rate=5.0)
    ends = updated(torch.rand(3, 2, 2, generator=dice()), far, network())
    assert float(ends.min()) >= -1.5
    assert float(ends.max()) <= 2.5
    assert float((ends - 0.5).abs().max()) > 0.5


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (Attack("naive", size=17), "does not fit into 16"),
        (Attack("naive", size=0), "does not fit"),
        (Attack("naive", target=3), "no class 3"),
        (Attack("naive", ratio=0.001), "stamps 0 of 100"),
        (Attack("doorping", until=0.0), "until 0 of the distillation"),
        (Attack("doorping", reach=-1.0), "a reach of -1"),
    ],
)
def test_attacks_that_do_not_fit_are_refused(attack: Attack, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_attack(attack, size=16, classes=3, rows=100)


def test_a_network_without_a_hidden_layer_has_no_neuron_to_drive() -> None:
    with pytest.raises(ConfigError, match="needs a hidden one"):
        hidden_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3)))
