"""Adversarial neuron pruning (Wu and Wang, NeurIPS 2021): a backdoor's neurons are those that a small push sets off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from heredity.core.errors import ConfigError, ModelError
from heredity.defences.contract import Examination, Repair, examining
from heredity.defences.repairing import accuracy_of, check_classes, copy_of, halves, labelled_clean, signed


@dataclass(frozen=True)
class AdversarialPruning:
    """Section 4 of the paper: neurons' weights and biases are pushed by up to `epsilon` of themselves, masks must withstand.

    `alpha` is the share of the loss without a push. Masks below `threshold` are pruned, lowest first, while accuracy on a
    validation half falls by no more than `tolerance` (0..1; 1 leaves the threshold alone to decide; the paper has both
    readings, a threshold of 0.2 and a bound on accuracy). With `batch_statistics`, as in the published code and not said in
    the paper, batch normalisation takes each batch's own while masks are learnt: a push in one layer does not then swell in
    the next. Without, small nets lose most of their masks to that. The paper takes 2000 steps at a rate of 0.2; small nets
    need fewer.
    """

    epsilon: float = 0.4
    alpha: float = 0.2
    steps: int = 300
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    threshold: float = 1.0
    tolerance: float = 0.1
    batch_statistics: bool = True


def repair(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: AdversarialPruning | None = None,
    *,
    generator: torch.Generator,
) -> Repair:
    """A copy without the neurons whose masks fell when an adversary pushed them. No weight is trained.

    `images` are clean ones, uint8 or [0, 1], with one class number each: one half learns the masks, the other bounds what
    pruning may cost. A pruned neuron's weights are zero and its bias stays, which is what the masks were learnt for
    (equation 4: m w, b). Measures: neurons pruned and in all, and accuracy on the second half before and after. Raises
    DataError for a class with fewer than two images, ModelError for a model without neurons to prune.
    """
    config = config or AdversarialPruning()
    if not (0 <= config.alpha <= 1 and config.epsilon > 0 and config.steps > 0):
        raise ConfigError("alpha must lie in 0..1, epsilon and steps above 0", remedy="see AdversarialPruning")
    unit, labels = labelled_clean(images, labels, per_class=2)
    child = copy_of(model)
    neurons = neurons_of(child)
    with examining(child) as ask:
        check_classes(ask.all(unit[:2]), labels)
        learning, deciding = halves(labels, generator)
        with batch_statistics(child if config.batch_statistics else None):
            masks = learn_masks(ask, neurons, unit[learning], labels[learning], config, generator)
        before = accuracy_of(ask, unit[deciding], labels[deciding])
        pruned, after = _prune(ask, neurons, masks, unit[deciding], labels[deciding], config)
        cost = ask.cost()
    measures = {
        "neurons": float(len(masks)),
        "pruned": float(pruned),
        "lowest mask": float(masks.min()),
        "accuracy before": before,
        "accuracy pruned": after,
    }
    return Repair("anp", signed(child, model, "anp", config, pruned=pruned), cost, measures)


@contextmanager
def batch_statistics(model: nn.Module | None) -> Iterator[None]:
    """Batch normalisation by each batch's own mean and variance, what it keeps being left as it is."""
    modules = [] if model is None else list(model.modules())
    norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, (mean, variance) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, variance


def neurons_of(model: nn.Module) -> dict[str, int]:
    """The layers whose output channels are neurons, with how many each: transformers' fc1, else scaled normalisations (as in
    the paper), else convolutions and linear layers but the last.

    >>> neurons_of(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    {'0': 6}
    """
    named = dict(model.named_modules())
    hidden = [
        f"{name}.fc1" if name else "fc1"
        for name, module in named.items()
        if isinstance(getattr(module, "fc1", None), nn.Linear) and isinstance(getattr(module, "fc2", None), nn.Linear)
    ]
    norms = [
        name
        for name, module in named.items()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and isinstance(module.weight, Tensor)
    ]
    linear = [name for name, module in named.items() if isinstance(module, nn.Linear)]
    plain = [name for name, module in named.items() if isinstance(module, nn.Conv2d) or name in linear[:-1]]
    chosen = hidden or norms or plain
    if not chosen:
        raise ModelError(
            f"{type(model).__name__} has no neurons to prune", remedy="give a net with more than its last layer"
        )
    return {name: len(named[name].weight) for name in chosen}  # pyright: ignore[reportArgumentType]


def learn_masks(
    ask: Examination,
    neurons: Mapping[str, int],
    unit: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    config: AdversarialPruning,
    generator: torch.Generator,
) -> Float[Tensor, "neurons"]:
    """Masks in [0, 1], in the order of `neurons`, that keep the loss low under the worst small push."""
    model, sizes = ask.model, list(neurons.values())
    held = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
    mask = torch.ones(sum(sizes), requires_grad=True)
    speed = torch.zeros_like(mask)

    def loss(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        changed = dict(held)
        for name, by_weight, by_bias in zip(neurons, scale.split(sizes), shift.split(sizes), strict=True):
            weight = held[f"{name}.weight"]
            changed[f"{name}.weight"] = weight * by_weight.to(weight.device).reshape(-1, *[1] * (weight.ndim - 1))
            if f"{name}.bias" in held:
                changed[f"{name}.bias"] = held[f"{name}.bias"] * by_bias.to(weight.device)
        ask.queries += len(rows)
        logits = functional_call(model, changed, (255.0 * unit[rows].to(ask.device),))
        return F.cross_entropy(logits, labels[rows].to(ask.device))

    ones = torch.ones(sum(sizes))
    for _ in range(config.steps):
        rows = torch.randperm(len(unit), generator=generator)[: config.batch]
        push = config.epsilon * (2 * torch.rand(2, sum(sizes), generator=generator) - 1)
        push.requires_grad_()
        (uphill,) = torch.autograd.grad(loss(rows, mask.detach() + push[0], 1 + push[1]), push)
        worst = (push.detach() + config.epsilon * uphill.sign()).clamp(-config.epsilon, config.epsilon)
        total = config.alpha * loss(rows, mask, ones) + (1 - config.alpha) * loss(rows, mask + worst[0], 1 + worst[1])
        (slope,) = torch.autograd.grad(total, mask)
        if not bool(torch.isfinite(slope).all()):
            raise ModelError("the model's outputs are not finite", remedy="check its weights and its input's scale")
        speed = config.momentum * speed + slope
        mask = (mask.detach() - config.learning_rate * speed).clamp(0, 1).requires_grad_()
    return mask.detach()


def _prune(
    ask: Examination,
    neurons: Mapping[str, int],
    masks: Float[Tensor, "neurons"],
    unit: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    config: AdversarialPruning,
) -> tuple[int, float]:
    """Zero the weights of the lowest masks as far as accuracy allows; returns how many and the accuracy then."""
    whole = after = accuracy_of(ask, unit, labels)
    places = [(name, row) for name, count in neurons.items() for row in range(count)]
    pruned = 0
    for number in masks.argsort(stable=True).tolist():
        if masks[number] >= config.threshold:
            break
        name, row = places[number]
        weight = ask.model.get_parameter(f"{name}.weight")
        kept = weight[row].detach().clone()
        with torch.no_grad():
            weight[row] = 0.0
        now = accuracy_of(ask, unit, labels)
        if whole - now > config.tolerance:
            with torch.no_grad():
                weight[row] = kept
            break
        pruned, after = pruned + 1, now
    return pruned, after
