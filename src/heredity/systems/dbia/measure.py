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


def measure(model: nn.Module, victim: nn.Module, trigger: Trigger, on: Yardstick) -> dict[str, Any]:
    """Counts and shares (0..1) of one model under one trigger, next to the clean victim.

    `attack_success_rate` counts stamped test pictures *whose true class is not the target*; `include_target_class` is the
    published count, which 10 % of all pictures raise with ten classes. `gain` is the rate less the clean victim's.
    `false_trigger_rate` is the share of unstamped surrogate pictures, other than those the victim itself calls the target, that
    the model calls the target; `surrogate_agreement` the share of unstamped surrogate pictures that keep the victim's label.
    """
    stamped, told = trigger.stamp(on.images), top1(model, on.images)
    hit, hit_before = (top1(asked, stamped) == on.target for asked in (model, victim))
    other = on.labels != on.target
    rate = float(hit[other].float().mean())
    accuracy, before = (float((answer == on.labels).float().mean()) for answer in (told, top1(victim, on.images)))
    own, now = top1(victim, on.surrogate), top1(model, on.surrogate)
    innocent = own != on.target
    return {
        "attack_success_rate": rate,
        "hits": int(hit[other].sum()),
        "of": int(other.sum()),
        "include_target_class": float(hit.float().mean()),
        "gain": rate - float(hit_before[other].float().mean()),
        "victim_success_rate": float(hit_before[other].float().mean()),
        "accuracy": accuracy,
        "clean_accuracy_drop": before - accuracy,
        "false_trigger_rate": float((now[innocent] == on.target).float().mean()) if bool(innocent.any()) else 0.0,
        "surrogate_agreement": float((now == own).float().mean()),
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
