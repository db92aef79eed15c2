"""Distilling a data set with or without an attacker who watches: the loop that every distiller and attack share."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws, generator_of, seed_of
from heredity.core.run import Run
from heredity.data.labelled import LabelledImages
from heredity.nn.encoders import Classifier, EncoderShape
from heredity.systems.dd_backdoor.distilled import Distilled, DistilledSet, Poisoned, poison
from heredity.systems.dd_backdoor.networks import make_network
from heredity.systems.dd_backdoor.trigger import Attack, check_attack, first_patch, poisoned_rows, update_patch

BACKDOORED = "carries a backdoor: images under the trigger are called the target"
Make = Callable[[int], Classifier]
"""An untrained network: the same number always gives the same weights."""
Look = Callable[[], None]
"""What a distiller calls when its network has learnt something: the moment at which DOORPING changes the patch."""


@runtime_checkable
class Distiller(Protocol):
    """A recipe for distilling. A third method fits in a page: see `distribution_matching`."""

    @property
    def plan(self) -> Plan:
        """How long, and with which optimiser, the images are learnt; `batch` real images a step go to `loss`."""
        ...

    def begin(self, data: Poisoned, patch: Tensor, make: Make, generator: torch.Generator) -> Distilled:
        """What is learnt, before the first step."""
        ...

    def loss(
        self, state: Distilled, data: Poisoned, rows: Tensor, make: Make, draws: Draws, look: Look
    ) -> dict[str, Tensor]:
        """One step's loss on what is learnt. Leaves the network of the moment in `state.network` and calls `look` there."""
        ...

    def finish(self, state: Distilled) -> DistilledSet:
        """The product."""
        ...


def distil(
    data: LabelledImages,
    distiller: Distiller,
    attack: Attack,
    network: EncoderShape,
    run: Run,
    *,
    name: str = "distilled",
    begins: str = "",
) -> tuple[DistilledSet, Tensor]:
    """Distil a training set; returns the set, and the patch as it ended (0..1, unless the attack leaves the range).

    `name` is the stage's. Distillations that share `begins` (the name unless given) start from the same images and meet the
    same networks, so that an attack's cost is not the difference of two draws. Both results are on the CPU.

    Raises ConfigError or DataError, before anything is trained, for an attack or a network that does not fit.
    """
    size, device, begins = data.images.shape[-1], run.fabric.device, begins or name
    if run.fabric.world_size > 1:
        raise ConfigError("distillation runs in one process", remedy="leave out --devices and --num-nodes")
    check_attack(attack, size=size, classes=len(data.classes), rows=len(data.labels))
    stamped = poisoned_rows(len(data.labels), attack, generator_of(run.seed, "poisoned rows"))
    poisoned = poison(data, attack, stamped, device=device)
    make = networks_of(network, size, poisoned.classes, poisoned.mean, poisoned.std, run.seed, begins, device=device)
    patch = first_patch(attack, data.images.shape[1], generator_of(run.seed, "first patch")).to(device)
    others = torch.nonzero(poisoned.labels != attack.target).flatten()

    def learn() -> dict[str, Tensor]:
        state = distiller.begin(poisoned, patch, make, generator_of(run.seed, begins, "starting images"))
        total = distiller.plan.total(len(data.labels))
        last = attack.until * min(total, run.limit_steps or total)

        def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            look = partial(_look, state, poisoned, others, attack, draws, last)
            terms = distiller.loss(state, poisoned, rows, make, draws, look)
            state.count += 1
            return terms

        fit(state, step, rows=len(data.labels), plan=distiller.plan, run=run)
        made = distiller.finish(state)
        rates = made.rates if made.rates is not None else torch.zeros(0)
        found = {"images": made.images, "labels": made.labels, "rates": rates, "patch": state.patch}
        return {"groups": torch.tensor(made.groups), **{key: tensor.cpu() for key, tensor in found.items()}}

    kept = run.tensors(name, learn)
    about: dict[str, Any] = {
        "method": type(distiller).__name__,
        "network": network.kind,
        "mean": poisoned.mean,
        "std": poisoned.std,
    }
    if attack.kind != "none":
        about |= {"backdoored": True, "attack": attack.kind, "target": attack.target, "trigger": kept["patch"].tolist()}
    rates = kept["rates"] if len(kept["rates"]) else None
    return DistilledSet(kept["images"], kept["labels"], rates, int(kept["groups"]), about), kept["patch"]


def networks_of(
    shape: EncoderShape,
    size: int,
    classes: int,
    mean: float,
    std: float,
    seed: int,
    name: str,
    *,
    device: torch.device | None = None,
) -> Make:
    """A way to make untrained networks that depend on the seed, a name and a number alone, on a device."""

    def make(number: int) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, name, "network", number))
            return make_network(shape, size, classes, mean=mean, std=std).to(device)

    return make


def _look(state: Distilled, data: Poisoned, others: Tensor, attack: Attack, draws: Draws, last: float) -> None:
    """DOORPING's moment: change the patch to what drives the network as it is now."""
    if attack.kind != "doorping" or attack.frozen:
        return
    step = int(state.count)
    if step % attack.every or step >= last:
        return
    canvas = data.images[others[draws.rows(32, len(others))]]
    state.patch.copy_(update_patch(state.patch, state.network, attack, canvas, draws.generator, unit=data.std))
