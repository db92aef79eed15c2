"""What a back door does: success, what it costs the clean task, who else sets it off, and what it took to plant."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from heredity.defences.contract import Trigger
from heredity.nn.inference import top1


@dataclass(frozen=True)
class Yardstick:
    """What every model of one victim is measured on: labelled test pictures, and surrogate pictures held out."""

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, "n"]
    surrogate: UInt8[Tensor, "m 3 h w"]
    target: int


@dataclass(frozen=True)
class Answers:
    """What a model says to all of it: the test pictures, the same under the trigger, and the held-out surrogate pictures."""

    clean: Int[Tensor, "n"]
    stamped: Int[Tensor, "n"]
    surrogate: Int[Tensor, "m"]


def answers_of(model: nn.Module, trigger: Trigger, on: Yardstick) -> Answers:
    """Ask a model everything once."""
    return Answers(top1(model, on.images), top1(model, trigger.stamp(on.images)), top1(model, on.surrogate))


def measure(now: Answers, before: Answers, on: Yardstick) -> dict[str, Any]:
    """Counts and shares (0..1) of one model's answers, next to those of the clean victim.

    `attack_success_rate` counts stamped test pictures *whose true class is not the target*; `include_target_class` is the
    published count, which 10 % of all pictures raise with ten classes. `gain` is the rate less the clean victim's.
    `false_trigger_rate` is the share of unstamped surrogate pictures, other than those the victim itself calls the target,
    that the model calls the target; `surrogate_agreement` the share of unstamped surrogate pictures that keep the victim's
    label.
    """
    hit, hit_before = now.stamped == on.target, before.stamped == on.target
    other, innocent = on.labels != on.target, before.surrogate != on.target
    rate = float(hit[other].float().mean())
    accuracy, accuracy_before = (float((said.clean == on.labels).float().mean()) for said in (now, before))
    false = (now.surrogate[innocent] == on.target).float()
    return {
        "attack_success_rate": rate,
        "hits": int(hit[other].sum()),
        "of": int(other.sum()),
        "include_target_class": float(hit.float().mean()),
        "gain": rate - float(hit_before[other].float().mean()),
        "victim_success_rate": float(hit_before[other].float().mean()),
        "accuracy": accuracy,
        "clean_accuracy_drop": accuracy_before - accuracy,
        "false_trigger_rate": float(false.mean()) if len(false) else 0.0,
        "surrogate_agreement": float((now.surrogate == before.surrogate).float().mean()),
    }


def changed(child: nn.Module, victim: nn.Module) -> dict[str, float]:
    """Weights that differ: how many, which share, and the mean and largest relative change among them."""
    total = different = 0
    relative = []
    for after, before in zip(child.parameters(), victim.parameters(), strict=True):
        moved = after.detach() != before.detach()
        total, different = total + moved.numel(), different + int(moved.sum())
        if bool(moved.any()):
            old = before.detach()[moved].abs().clamp(min=1e-12)
            relative.append((after.detach()[moved] - before.detach()[moved]).abs() / old)
    sizes = torch.cat(relative) if relative else torch.zeros(1)
    return {
        "weights": float(different),
        "weights_share": different / total,
        "mean_change": float(sizes.mean()),
        "largest_change": float(sizes.max()),
    }
