"""Unlearning (Wang et al., S&P 2019, section 6.2): images under the recovered trigger, trained with their true labels."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences import neural_cleanse
from heredity.defences.contract import Repair, Trigger, examining
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
from heredity.defences.units import mean_activity, switch_off, units_of


@dataclass(frozen=True)
class Unlearning:
    """How the trigger is taken out of the model.

    "fine-tuning" trains on clean images of which `stamped` (0..1) carry the trigger and keep their label. "pruning"
    switches off the units that the trigger wakes most, until it turns fewer than `turned` of the images or accuracy on a
    validation half has fallen by `tolerance`. `search` is how Neural Cleanse looks for the trigger, where none is given.
    """

    by: Literal["fine-tuning", "pruning"] = "fine-tuning"
    stamped: float = 0.2
    tuning: Tuning = field(default_factory=lambda: Tuning(epochs=5, batch=32, learning_rate=1e-2))
    turned: float = 0.05
    tolerance: float = 0.05
    search: neural_cleanse.NeuralCleanse = field(default_factory=neural_cleanse.NeuralCleanse)


def repair(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: Unlearning | None = None,
    *,
    generator: torch.Generator,
    trigger: Trigger | None = None,
) -> Repair:
    """A copy that has learnt to ignore a trigger: the given one, or the smallest that Neural Cleanse finds.

    `images` are clean ones, uint8 or [0, 1], with one class number each. Measures: the trigger's size in pixels, the
    share of images (of a half held out of pruning's choice, of all for fine-tuning) whose answer it changes before and
    after, and accuracy there before and after. The trigger is Neural Cleanse's: how the true attack fares, the caller
    measures.
    """
    config = config or Unlearning()
    if not 0 <= config.stamped <= 1:
        raise ConfigError(f"a share of {config.stamped:g} stamped images", remedy="give one in 0..1")
    unit, labels = labelled_clean(images, labels, per_class=2)
    queries = 0
    if trigger is None:
        found = neural_cleanse.scan(model, unit, config.search, generator=generator)
        trigger, queries = found.triggers[0], found.cost.queries
    child = copy_of(model)
    name = "unlearning" if config.by == "fine-tuning" else "unlearning by pruning"
    with examining(child) as ask:
        ask.queries += queries
        check_classes(ask.all(unit[:2]), labels)
        stamped = trigger.stamp(unit)

        def turned(rows: Tensor) -> float:
            changed = ask.all(stamped[rows]).argmax(dim=1) != ask.all(unit[rows]).argmax(dim=1)
            return float(changed.float().mean())

        learning, deciding = halves(labels, generator)
        before = (turned(deciding), accuracy_of(ask, unit[deciding], labels[deciding]))
        if config.by == "fine-tuning":

            def views(batch: Tensor) -> Tensor:
                marked = torch.rand(len(batch), generator=generator) < config.stamped
                return torch.where(marked[:, None, None, None], trigger.stamp(batch), batch)

            tune(ask, unit, labels, config.tuning, generator, views=views)
        else:
            units = units_of(child)
            waking = mean_activity(ask, units, stamped[learning]) - mean_activity(ask, units, unit[learning])
            for unit_number in waking.argsort(descending=True, stable=True):
                if turned(deciding) < config.turned:
                    break
                kept = {key: value.clone() for key, value in child.state_dict().items()}
                switch_off(child, units, unit_number[None])
                if before[1] - accuracy_of(ask, unit[deciding], labels[deciding]) > config.tolerance:
                    child.load_state_dict(kept)
                    break
        measures = {
            "trigger's size": float(trigger.mask.sum()),
            "turned before": before[0],
            "turned after": turned(deciding),
            "accuracy before": before[1],
            "accuracy after": accuracy_of(ask, unit[deciding], labels[deciding]),
        }
        cost = ask.cost()
    child.eval()
    return Repair(name, signed(child, model, name, config), cost, measures)
