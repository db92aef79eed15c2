"""Every defence against one model: fitted on the owner's clean pictures, measured on others under the trigger."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from heredity.core.randomness import generator_of
from heredity.defences import (
    attention_blocking,
    attention_concentration,
    fine_pruning,
    neural_cleanse,
    outlier,
    patch_drop,
    strip,
)
from heredity.defences.contract import InputFilter, Trigger
from heredity.metrics.detection import auroc, share_interval
from heredity.nn.inference import top1
from heredity.systems.dbia.config import Defences
from heredity.systems.dbia.measure import Yardstick

Verdict = Mapping[str, Any]
"""One defence's finding: `kind`, `stopped` (the share of the attack that it ends) and its `interval`, `false_alarms`."""


def defended(model: nn.Module, trigger: Trigger, on: Yardstick, config: Defences, seed: int) -> dict[str, Verdict]:
    """All defences on a model under a trigger. The first half of the test pictures is the owner's, the second is attacked.

    `stopped` is what comparison needs in one unit: the share of stamped pictures of other classes that an input filter
    rejects; the share of the attack's success that a repair takes away; 1 or 0 for a model scan that flags or passes the
    model. `false_alarms` is the share of clean pictures rejected, or points of accuracy lost (0..1); a scan's is None: one
    model has none.
    """
    half = len(on.images) // 2
    images, labels = on.images[:half][: config.images], on.labels[:half][: config.images]
    clean, truth = on.images[half:][: config.attacked], on.labels[half:][: config.attacked]
    stamped = trigger.stamp(on.images[half:][on.labels[half:] != on.target][: config.attacked])

    def draw(what: str) -> torch.Generator:
        return generator_of(seed, "defences", what)

    found: dict[str, Verdict] = {}
    verdict = neural_cleanse.scan(model, images, config.neural_cleanse, generator=draw("neural cleanse"))
    found["Neural Cleanse"] = {
        "kind": "model scan",
        "stopped": float(verdict.flagged),
        "interval": None,
        "false_alarms": None,
        "score": verdict.score,
        "suspects_target": on.target in verdict.suspects,
        "smallest": verdict.measures["smallest"],
        "seconds": verdict.cost.seconds,
    }
    filters = {
        "STRIP": lambda: strip.fit(model, images, config.strip, generator=draw("strip")),
        "outlier (Mahalanobis)": lambda: outlier.fit(model, images, config.outlier, generator=draw("outlier")),
        "attention blocking, filter": lambda: attention_blocking.fit(
            model, images, config.attention_blocking, generator=draw("blocking")
        ),
        "attention concentration": lambda: attention_concentration.fit(
            model, images, config.attention_concentration, generator=draw("concentration")
        ),
        "PatchDrop": lambda: patch_drop.fit(model, images, config.patch_drop, generator=draw("drop")),
    }
    for name, fit in filters.items():
        found[name] = _filtered(fit(), stamped, clean)
    blocked = attention_blocking.repair(model, config.attention_blocking)
    found["attention blocking, repair"] = _repaired(blocked.model, model, stamped, clean, truth, on.target)
    pruned = fine_pruning.repair(model, images, labels, config.fine_pruning, generator=draw("pruning"))
    found["Fine-Pruning"] = _repaired(pruned.model, model, stamped, clean, truth, on.target) | {
        "seconds": pruned.cost.seconds,
        "share_pruned": pruned.measures["share pruned"],
    }
    return found


def pruning(model: nn.Module, trigger: Trigger, on: Yardstick, images: int) -> dict[str, list[float]]:
    """What is left of the attack and of accuracy after each share of hidden units is pruned, without fine-tuning."""
    half = len(on.images) // 2
    clean, truth = on.images[half:], on.labels[half:]
    stamped = trigger.stamp(clean[truth != on.target])
    measures = {
        "attack success": lambda asked: float((top1(asked, stamped) == on.target).float().mean()),
        "clean accuracy": lambda asked: float((top1(asked, clean) == truth).float().mean()),
    }
    curve = fine_pruning.pruning_curve(
        model, on.images[:half][:images], measures, shares=[step / 10 for step in range(11)]
    )
    return {"share": [point.share for point in curve]} | {
        name: [point.measured[name] for point in curve] for name in measures
    }


def _filtered(entrance: InputFilter, stamped: Tensor, clean: Tensor) -> Verdict:
    guilty, innocent = entrance(stamped), entrance(clean)
    rejected = int(guilty.rejected.sum())
    return {
        "kind": "input filter",
        "stopped": rejected / len(stamped),
        "interval": list(share_interval(rejected, len(stamped))),
        "false_alarms": float(innocent.rejected.float().mean()),
        "stated_rate": entrance.threshold.false_positive_rate,
        "auroc": auroc(guilty.scores.tolist(), innocent.scores.tolist()),
        "seconds": entrance.cost.seconds + guilty.cost.seconds,
    }


def _repaired(
    repaired: nn.Module, model: nn.Module, stamped: Tensor, clean: Tensor, truth: Tensor, target: int
) -> dict[str, Any]:
    hit, hit_before = (top1(asked, stamped) == target for asked in (repaired, model))
    right, right_before = (float((top1(asked, clean) == truth).float().mean()) for asked in (repaired, model))
    # Of the pictures that the attack turned, how many the repair turns back.
    turned, left = int(hit_before.sum()), int((hit & hit_before).sum())
    return {
        "kind": "repair",
        "stopped": 1.0 - left / turned if turned else None,
        "interval": list(share_interval(turned - left, turned)) if turned else None,
        "false_alarms": right_before - right,
        "attack_success_rate": float(hit.float().mean()),
        "accuracy": right,
        "seconds": 0.0,
    }
