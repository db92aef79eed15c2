"""Everything follows the run's device, tried on torch's "meta" device, which refuses to meet a tensor of the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from heredity.core.randomness import Draws
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor.distil import Distiller, networks_of
from heredity.systems.dd_backdoor.distilled import DistilledSet, Poisoned
from heredity.systems.dd_backdoor.distribution_matching import DistributionMatching
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching
from heredity.systems.dd_backdoor.networks import Descent
from heredity.systems.dd_backdoor.trigger import Attack, update_patch
from heredity.systems.dd_backdoor.unrolled import Unrolled
from heredity.systems.dd_backdoor.victims import train_victim

META = torch.device("meta")
SHAPE = EncoderShape(kind="convnet", width=4, depth=2, hidden=6)
INNER = Descent(steps=2)
RECIPES: dict[str, Distiller] = {
    "dd": Unrolled(groups=2, epochs=1),
    "dc": GradientMatching(per_class=2, outer=2, real=4, inner=INNER),
    "dm": DistributionMatching(per_class=2, real=4, start="noise", inner=INNER),
}


def make(number: int) -> Any:
    return networks_of(SHAPE, 8, 3, 0.5, 0.3, 0, "networks", device=META)(number)


def elsewhere() -> tuple[Poisoned, Tensor]:
    labels = torch.arange(30, device=META) % 3
    members = tuple(torch.arange(label, 30, 3, device=META) for label in range(3))
    stamped = torch.zeros(30, dtype=torch.bool, device=META)
    images = torch.rand(30, 3, 8, 8, device=META)
    return Poisoned(images, labels, stamped, members, 0.5, 0.3, Attack("doorping")), torch.rand(3, 2, 2, device=META)


@pytest.mark.parametrize("method", RECIPES)
def test_a_step_of_distillation_stays_on_its_device(method: str) -> None:
    data, patch = elsewhere()
    recipe = RECIPES[method]
    state: Any = recipe.begin(data, patch, make, torch.Generator()).to(META)
    state.count = torch.ones((), dtype=torch.long)  # the one number that is read, and "meta" has no values
    seen: list[int] = []
    terms = recipe.loss(state, data, torch.arange(5), make, Draws(torch.Generator()), lambda: seen.append(1))
    torch.stack(list(terms.values())).sum().backward()
    assert seen
    assert state.images.grad.device == META


@pytest.mark.parametrize("chosen", ["strongest", "random"])
def test_a_trigger_is_updated_where_the_network_is(chosen: Any) -> None:
    data, patch = elsewhere()
    attack = Attack("doorping", objective="margin", chosen=chosen, pixels="valid", steps=2)
    assert update_patch(patch, make(0), attack, data.images[:5], torch.Generator()).device == META


@pytest.mark.parametrize("rates", [None, torch.ones(2)])
def test_a_victim_learns_where_it_is_from_a_set_on_the_cpu(rates: Tensor | None) -> None:
    made = DistilledSet(torch.rand(6, 3, 8, 8), torch.arange(6) % 3, rates, groups=2 if rates is not None else 1)
    victim = train_victim(made, make, 0, INNER, seed=0)
    assert next(victim.parameters()).device == META
