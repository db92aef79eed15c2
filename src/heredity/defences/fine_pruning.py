"""Fine-Pruning (Liu et al., RAID 2018): units that sleep on clean images may be what a trigger wakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import Examination, Repair, clean_images, examining
from heredity.defences.repairing import (
    Tuning,
    accuracy_of,
    check_classes,
    copy_of,
    halves,
    labelled_clean,
    signed,
    tune,
)
from heredity.defences.units import Units, mean_activity, switch_off, units_of

CONVOLUTIONAL = Tuning(epochs=20, batch=32, learning_rate=1e-2, drop_every=10)
TRANSFORMER = Tuning(epochs=10, batch=32, optimiser="adamw", learning_rate=1e-4)


@dataclass(frozen=True)
class FinePruning:
    """How far is pruned: while accuracy on a validation half falls by no more than `tolerance` (0..1), in `levels` steps.

    `tuning` is what follows, by default SGD for convolutional nets and AdamW for transformers; its epochs may be 0.
    """

    tolerance: float = 0.04
    levels: int = 20
    tuning: Tuning | None = None


@dataclass(frozen=True)
class CurvePoint:
    """What a model is worth with a share of its units pruned (0..1), by the caller's measures."""

    share: float
    measured: Mapping[str, float]


def repair(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: FinePruning | None = None,
    *,
    generator: torch.Generator,
) -> Repair:
    """A copy without the units that clean images use least, fine-tuned on them; what was pruned stays zero.

    `images` are clean ones, uint8 or [0, 1], with one class number each. One half ranks the units, the other decides how
    far to prune; the fine-tuning sees both. Measures: the share of units pruned, and the accuracy on the deciding half
    before, after pruning, and (no longer held out) after fine-tuning. Measure the result on other images. Raises DataError
    for a class with fewer than two images, ModelError for a model without prunable units.
    """
    config = config or FinePruning()
    if not 0 <= config.tolerance <= 1 or config.levels < 1:
        raise ConfigError("Fine-Pruning needs a tolerance in 0..1 and levels", remedy="see tolerance and levels")
    unit, labels = labelled_clean(images, labels, per_class=2)
    child = copy_of(model)
    units = units_of(child)
    with examining(child) as ask:
        check_classes(ask.all(unit[:2]), labels)
        ranking, deciding = halves(labels, generator)
        order = mean_activity(ask, units, unit[ranking]).argsort(stable=True)
        before = accuracy_of(ask, unit[deciding], labels[deciding])
        trial = Examination(copy_of(child))
        pruned, after = _how_far(
            trial, units, order, config, lambda: accuracy_of(trial, unit[deciding], labels[deciding])
        )
        ask.queries += trial.queries
        off = order[:pruned]
        switch_off(child, units, off)
        how = config.tuning or (TRANSFORMER if units.kind == "hidden units" else CONVOLUTIONAL)
        tune(ask, unit, labels, how, generator, after_step=lambda: switch_off(child, units, off))
        measures = {
            "share pruned": pruned / units.count,
            "accuracy before": before,
            "accuracy pruned": after,
            "accuracy tuned": accuracy_of(ask, unit[deciding], labels[deciding]),
        }
        cost = ask.cost()
    child.eval()
    return Repair("fine-pruning", signed(child, model, "fine-pruning", config, pruned=pruned), cost, measures)


def _how_far(
    trial: Examination, units: Units, order: Int[Tensor, "units"], config: FinePruning, judge: Callable[[], float]
) -> tuple[int, float]:
    """How many units can go, and the accuracy then."""
    whole = judge()
    best, kept = 0, whole
    for level in range(1, config.levels + 1):
        count = min(units.count - 1, round(level / config.levels * units.count))
        switch_off(trial.model, units, order[:count])
        accuracy = judge()
        if whole - accuracy > config.tolerance:
            break
        best, kept = count, accuracy
    return best, kept


def pruning_curve(
    model: nn.Module,
    images: Tensor,
    measures: Mapping[str, Callable[[nn.Module], float]],
    *,
    shares: Sequence[float] = tuple(step / 20 for step in range(20)),
) -> tuple[CurvePoint, ...]:
    """What the model is worth after each share of its units is pruned, least active on `images` first; no fine-tuning.

    `measures` are functions of a model, such as its clean accuracy and the success of an attack that the caller knows.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> clean = torch.rand(6, 1, 2, 2)
    >>> curve = pruning_curve(net, clean, {"zeros": lambda m: float((m[3].weight == 0).float().mean())}, shares=(0, 0.5))
    >>> [(point.share, point.measured["zeros"]) for point in curve]
    [(0.0, 0.0), (0.5, 0.5)]
    """
    if not all(0 <= share <= 1 for share in shares):
        raise ConfigError("a share to prune lies outside 0..1", remedy="give shares such as 0.5")
    units = units_of(model)
    with examining(model) as ask:
        order = mean_activity(ask, units, clean_images(images, at_least=1)).argsort(stable=True)
    points = []
    for share in shares:
        trial = copy_of(model)
        count = round(share * units.count)
        switch_off(trial, units, order[:count])
        points.append(CurvePoint(count / units.count, {name: measure(trial) for name, measure in measures.items()}))
    return tuple(points)
