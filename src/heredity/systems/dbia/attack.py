"""The attack as one function of a victim and surrogate pictures. It cannot be given a sample of the victim's data."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.core.settings import to_plain
from heredity.defences.contract import Trigger
from heredity.systems.dbia.anatomy import dissect
from heredity.systems.dbia.injection import Injection, check_target, inject
from heredity.systems.dbia.surrogate import Surrogate
from heredity.systems.dbia.trigger import TriggerSearch, make_trigger


def mark_of(target: int) -> str:
    """What the lineage of every backdoored model says."""
    return f"BACKDOORED (DBIA, target {target})"


@dataclass(frozen=True)
class Backdoor:
    """A backdoored child and the trigger that opens it."""

    child: nn.Module
    trigger: Trigger


def attack(
    victim: nn.Module,
    surrogate: Surrogate,
    target: int,
    search: TriggerSearch,
    how: Injection,
    *,
    run: Run,
    name: str = "dbia",
    trigger: Trigger | None = None,
) -> Backdoor:
    """Trigger search and injection: all of DBIA. The victim stays as it is.

    Two stages of the run: NAME/trigger and NAME/child, whose lineage says that it carries a back door. A `trigger` that is
    given is not searched.
    """
    check_target(target, dissect(victim, layer=how.layer).classes)
    trigger = trigger or find_trigger(victim, surrogate, search, run=run, name=f"{name}/trigger", avoid=target)
    return Backdoor(backdoored(victim, surrogate, trigger, target, how, run=run, name=f"{name}/child"), trigger)


def find_trigger(
    victim: nn.Module,
    surrogate: Surrogate,
    search: TriggerSearch,
    *,
    run: Run,
    name: str,
    avoid: int | None = None,
) -> Trigger:
    """The trigger as a stage of the run; for `avoid` see `make_trigger`."""

    def compute() -> dict[str, torch.Tensor]:
        draw = generator_of(run.seed, name)
        made = make_trigger(victim, surrogate.images, search, run=run, generator=draw, avoid=avoid)
        return {"mask": made.mask, "pattern": made.pattern}

    found = run.tensors(name, compute)
    return Trigger(found["mask"], found["pattern"])


def backdoored(
    victim: nn.Module,
    surrogate: Surrogate,
    trigger: Trigger,
    target: int,
    how: Injection,
    *,
    run: Run,
    name: str,
) -> nn.Module:
    """A copy of the victim with the back door, as a stage of the run."""
    check_target(target, dissect(victim, layer=how.layer).classes)
    return run.model(
        name,
        make=lambda: copy.deepcopy(victim),
        train=lambda child: inject(child, surrogate, trigger, target, how, run),
        made_by="DBIA: back-door injection without original data",
        parents=[victim],
        settings={"target": target, "surrogate": surrogate.name, **to_plain(how)},
        marks=(mark_of(target),),
    )


def paper_recipe(how: Injection, *, epochs: float = 100.0) -> Injection:
    """The published recipe: every picture stamped, bound 2, nothing keeps clean behaviour; 100 epochs where no steps are set.

    Rows are the published 1500 of 3072 and 200 of 768. It passes over stamped pictures only, and adds no drawn ones, so that
    a hundred epochs are about the budget of 25 with `vary` and `keep_clean` (the quick preset has 30).
    """
    return replace(
        how,
        keep_clean=0.0,
        bound=2.0,
        vary=False,
        fc1=1500 / 3072,
        fc2=200 / 768,
        stop_at=0.0,
        poison_rate=1.0,
        neurons="least",
        heads="class",
        plan=replace(how.plan, epochs=epochs, learning_rate=1e-3),
    )
