"""Artificial brain stimulation (ABS; Liu et al., CCS 2019): a neuron that, driven hard, lifts one class."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import (
    Examination,
    ModelVerdict,
    Threshold,
    Trigger,
    classes_of,
    clean_images,
    examining,
)
from heredity.defences.reverse import stamp
from heredity.defences.units import Units, units_of, watching

PAPER = Threshold(0.88, "paper")


@dataclass(frozen=True)
class NeuronStimulation:
    """How neurons are driven and what is done with those that answer.

    Each of at most `neurons` units is set to 0, 1/8 ... `loudest` times the most that clean images give any unit of the
    layer (the published code's `same_range`: one that sleeps on all clean images would not be driven by its own most). For
    the `candidates` that lift one class most, a patch of at most `area` (share of the picture) is searched that wakes the
    unit. `others` weighs how much the patch may change the other units; the paper takes a small weight, here it is 0.
    """

    neurons: int = 256
    loudest: float = 2.0
    candidates: int = 16
    area: float = 0.06
    others: float = 0.0
    steps: int = 80
    batch: int = 16
    learning_rate: float = 0.1


def scan(
    model: nn.Module,
    images: Tensor,
    config: NeuronStimulation | None = None,
    *,
    generator: torch.Generator,
    threshold: Threshold = PAPER,
) -> ModelVerdict:
    """Search units of the last layer whose stimulation leads to one class, and patches that stimulate them.

    `images` are clean ones of any class, uint8 or [0, 1]. The score is the highest share of images of other classes that
    such a patch sends to its unit's class (REASR); a class's score is the highest of its units, 0 where it has no
    candidate. Measures: that unit's number and how much its stimulation lifts the class above the next. The paper's
    threshold has no known false-positive rate: calibrate on clean models of the same kind. Raises ModelError for fewer
    than three classes or a model whose last units cannot be found.
    """
    config = config or NeuronStimulation()
    if not 0 < config.area <= 1 or config.candidates < 1 or config.loudest <= 0:
        raise ConfigError("the scan needs an area in 0..1 and candidates", remedy="see area, candidates and loudest")
    units = units_of(model)
    with examining(model) as ask:
        clean = clean_images(images, at_least=2)
        logits = ask.all(clean)
        classes = classes_of(logits)
        lift, lifted = stimulate(ask, units, clean, logits, config, generator)
        chosen = lift.argsort(descending=True, stable=True)[: config.candidates]
        masks, patterns = _patches(ask, units, clean, chosen, config, generator)
        rates = []
        for place, unit in enumerate(chosen.tolist()):
            target = int(lifted[unit])
            others = clean[logits.argmax(dim=1) != target]
            stamped = Trigger(masks[place], patterns[place]).stamp(others) if len(others) else others
            rates.append(float((ask.all(stamped).argmax(dim=1) == target).float().mean()) if len(others) else 0.0)
        best = max(range(len(rates)), key=rates.__getitem__)
        class_scores = [0.0] * classes
        for unit, rate in zip(chosen.tolist(), rates, strict=True):
            class_scores[int(lifted[unit])] = max(class_scores[int(lifted[unit])], rate)
        ranked = sorted(range(classes), key=lambda label: -class_scores[label])
        return ModelVerdict(
            detector="neuron stimulation (ABS)",
            score=rates[best],
            threshold=threshold,
            cost=ask.cost(),
            class_scores=tuple(class_scores),
            suspects=tuple(label for label in ranked if threshold.flags(class_scores[label])),
            triggers=(Trigger(masks[best], patterns[best]),),
            measures={
                "unit": float(chosen[best]),
                "lift": float(lift[chosen[best]]),
                "largest lift": float(lift.max()),
            },
        )


@contextmanager
def overwritten(model: nn.Module, units: Units, values: list[tuple[int, Tensor]]) -> Iterator[None]:
    """While this lasts, the batch is as many equal parts as `values` has entries, and in each one unit has that value."""

    def change(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        by_unit = inputs[0].clone().unflatten(-1, (units.count, units.columns))
        for part, (unit, value) in zip(by_unit.chunk(len(values)), values, strict=True):
            part[..., unit, :] = value.to(part.device)
        return (by_unit.flatten(-2), *inputs[1:])

    hook = model.get_submodule(units.reader).register_forward_pre_hook(change)
    try:
        yield
    finally:
        hook.remove()


def stimulate(
    ask: Examination,
    units: Units,
    clean: Float[Tensor, "n c h w"],
    logits: Float[Tensor, "n classes"],
    config: NeuronStimulation,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "units"], Int[Tensor, "units"]]:
    """How much each unit's stimulation lifts one class above the next best, and which class (section 4 of the paper).

    The lift of a class is the least, over one image of each answered class, of its logit's largest rise. Units that were
    not drawn have minus infinity.
    """
    answers = logits.argmax(dim=1)
    one_each = torch.stack([torch.nonzero(answers == label)[0, 0] for label in answers.unique()])
    probes, usual = clean[one_each], logits[one_each]
    with watching(ask.model, units) as seen:
        ask.all(clean, batch=128)
    most = max(float(part.abs().max()) for part in seen)
    levels = torch.arange(0, config.loudest + 1e-9, 0.125)
    drawn = torch.randperm(units.count, generator=generator)[: config.neurons].sort().values
    lift = torch.full((units.count,), -torch.inf)
    lifted = torch.zeros(units.count, dtype=torch.long)
    at_once = max(1, 1024 // (len(levels) * len(probes)))
    for some in drawn.split(at_once):
        values = [(int(unit), level * most) for unit in some for level in levels]
        with overwritten(ask.model, units, values):
            driven = ask.all(probes.repeat(len(values), 1, 1, 1), batch=len(values) * len(probes))
        risen = driven.unflatten(0, (len(some), len(levels), len(probes))) - usual
        best = risen.amax(dim=1).amin(dim=1).topk(2, dim=1)
        lift[some], lifted[some] = best.values[:, 0] - best.values[:, 1], best.indices[:, 0]
    return lift, lifted


def _patches(
    ask: Examination,
    units: Units,
    clean: Float[Tensor, "n c h w"],
    chosen: Int[Tensor, "k"],
    config: NeuronStimulation,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "k 1 h w"], Float[Tensor, "k c h w"]]:
    """For each chosen unit a patch that wakes it, all searched in one batch."""
    channels, height, width = clean.shape[1:]
    with watching(ask.model, units) as seen:
        ask.all(clean, batch=128)
    usual = torch.cat([part.mean(dim=2).cpu() for part in seen])
    scale = usual.std(dim=0).clamp(min=1e-6 + 1e-3 * float(usual.abs().mean()))
    start = torch.rand(1 + channels, height, width, generator=generator).clamp(0.01, 0.99).logit()
    raw = start.expand(len(chosen), -1, -1, -1).clone().to(ask.device).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=config.learning_rate, betas=(0.5, 0.9))

    def limited(area: float) -> tuple[Tensor, Tensor]:
        mask = raw[:, :1].sigmoid()
        share = mask.mean(dim=(1, 2, 3), keepdim=True)
        return mask * (area / share).clamp(max=1.0), raw[:, 1:].sigmoid()

    with watching(ask.model, units) as seen:
        for step in range(config.steps):
            # The patch shrinks over the first half: under a small faint one a sleeping rectifier passes no gradient.
            area = config.area ** min(1.0, 2 * step / config.steps)
            rows = torch.randperm(len(clean), generator=generator)[: config.batch]
            masks, patterns = limited(area)
            seen.clear()
            ask(stamp(clean[rows].to(ask.device), masks, patterns).flatten(0, 1))
            now = seen[-1].mean(dim=2).unflatten(0, (len(chosen), -1))
            change = (now - usual[rows].to(ask.device)) / scale.to(ask.device)
            woken = change[torch.arange(len(chosen)), :, chosen.to(ask.device)].mean(dim=1)
            raw.grad = torch.autograd.grad((config.others * change.abs().mean(dim=(1, 2)) - woken).sum(), raw)[0]
            optimiser.step()
    masks, patterns = limited(config.area)
    return masks.detach().cpu(), patterns.detach().cpu()
