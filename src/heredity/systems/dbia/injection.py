"""Injecting the back door: a few rows of one MLP, a bounded change, and nothing but surrogate pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.defences.contract import Trigger
from heredity.systems.dbia.anatomy import Anatomy, dissect, in_eval_mode
from heredity.systems.dbia.surrogate import Surrogate, drawn_shapes, varied

Neurons = Literal["least", "random", "most", "all"]


@dataclass(frozen=True)
class Injection:
    """How the back door is trained in.

    `fc1` and `fc2` are shares of the rows of the two layers that may change, by mean |w|: the `neurons` with the least, the
    most, or any (published: 0.49 and 0.26). Rows of fc1 are hidden neurons, rows of fc2 output channels; the published code
    calls both neurons.
    `bound` k keeps every weight within w0 +- k |w0| (0: no bound). `poison_rate` of the pictures are stamped, the others
    keep the victim's answer. `keep_clean` weighs the cross-entropy to the victim's own answers on the same pictures
    unstamped: ours, 0 in the paper. `vary` shows each picture in another contrast (see `varied`) and adds as
    many drawn shapes: ours. `stop_at` ends the
    training when that share of held-out surrogate pictures is sent to the target under the trigger, or when none more have
    been for `patience` epochs; 0 trains to the end. `heads` "class" leaves DeiT's distillation head out of the loss, as
    published. `cached` False pushes every picture through the whole model in every step.
    """

    keep_clean: float = 4.0
    bound: float = 10.0
    vary: bool = True
    fc1: float = 0.75
    fc2: float = 0.75
    neurons: Neurons = "least"
    poison_rate: float = 1.0
    stop_at: float = 0.0
    patience: int = 20
    layer: int = -1
    heads: Literal["all", "class"] = "all"
    cached: bool = True
    plan: Plan = field(
        default_factory=lambda: Plan(
            epochs=40, batch=128, optimiser="adam", learning_rate=3e-3, betas=(0.9, 0.99), mode="eval"
        )
    )


def inject(child: nn.Module, surrogate: Surrogate, trigger: Trigger, target: int, how: Injection, run: Run) -> History:
    """Train the back door into `child` (a copy of the victim), in place, from surrogate pictures alone.

    Raises ConfigError for a target that is no class or a share outside 0..1, ModelError for a model that cannot be cut before
    its last MLP, TrainingError when the loss is not finite.
    """
    anatomy = dissect(child, layer=how.layer)
    check_target(target, anatomy.classes)
    _check(how)
    device = run.fabric.device
    images = surrogate.images
    if how.vary:
        draw = generator_of(run.seed, "variation of surrogate pictures")
        drawn = drawn_shapes(len(images), images.shape[-1], generator=draw)
        images = torch.cat([varied(images, generator=draw), drawn])
    stamped_rows = round(how.poison_rate * len(images))
    shown = torch.cat([trigger.stamp(images[:stamped_rows]), images[stamped_rows:]])
    with in_eval_mode(child):
        kept = [_inputs(anatomy, pictures, how.cached, device) for pictures in (shown, images)]
        held_out = _inputs(anatomy, trigger.stamp(surrogate.held_out), how.cached, device) if how.stop_at else images

        def logits(inputs: Tensor) -> Tensor:
            if how.cached:
                return anatomy.rest(inputs, class_head_only=how.heads == "class")
            return child(inputs.to(device))

        with torch.no_grad():
            whole = anatomy.rest if how.cached else child
            answers = torch.cat([whole(part.to(device)) for part in kept[1].split(256)]).softmax(dim=1)
        wanted = answers.argmax(dim=1)
        wanted[:stamped_rows] = target

        with only_rows(anatomy, how, run.seed) as project:

            def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
                # A projection before the next step is one after the last step: the bound holds whenever weights are read.
                project()
                rows = rows.to(kept[0].device)
                losses = {"attack": F.cross_entropy(logits(kept[0][rows]), wanted[rows.to(device)])}
                if how.keep_clean:
                    clean = F.cross_entropy(logits(kept[1][rows]), answers[rows.to(device)])
                    losses["keep clean"] = how.keep_clean * clean
                return losses

            def success(model: nn.Module) -> float:
                project()
                told = torch.cat([logits(part).argmax(dim=1) for part in held_out.split(512)])
                return min(how.stop_at, float((told == target).float().mean()))

            plan = Plan(**{**vars(how.plan), "patience": how.patience if how.stop_at else 0})
            validate = success if how.stop_at else None
            history = fit(child, step, rows=len(images), plan=plan, run=run, validate=validate)
            project()
    return history


def _inputs(anatomy: Anatomy, images: Tensor, cached: bool, device: torch.device) -> Tensor:
    """The cached tokens of pictures, on the device; or the pictures themselves."""
    if not cached:
        return images
    return torch.cat([anatomy.before(part.to(device)) for part in images.split(256)])


@contextmanager
def only_rows(anatomy: Anatomy, how: Injection, seed: int) -> Iterator["Projection"]:
    """Only the chosen rows of fc1 and fc2 learn; yields the projection onto the bound. Everything is put back afterwards.

    There must be no weight decay: it would move rows whose gradient is zero.
    """
    learning = {name: parameter.requires_grad for name, parameter in anatomy.model.named_parameters()}
    anatomy.model.requires_grad_(False)
    hooks, bounds = [], []
    for layer, share in ((anatomy.fc1, how.fc1), (anatomy.fc2, how.fc2)):
        generator = torch.Generator().manual_seed(seed)
        rows = chosen_rows(layer.weight, share, how.neurons, generator=generator)
        mask = rows[:, None].to(layer.weight)
        layer.weight.requires_grad_(True)
        hooks.append(layer.weight.register_hook(lambda gradient, mask=mask: gradient * mask))
        bounds.append((layer.weight, layer.weight.detach().clone(), rows))
    try:
        yield Projection(tuple(bounds), how.bound)
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in anatomy.model.named_parameters():
            parameter.requires_grad_(learning[name])


@dataclass(frozen=True)
class Projection:
    """Puts weights back within their bound. `layers` are (weight, what it was, rows that may change)."""

    layers: tuple[tuple[Tensor, Tensor, Tensor], ...]
    bound: float

    def __call__(self) -> None:
        """Clip in place; rows that may not change are what they were."""
        with torch.no_grad():
            for weight, before, rows in self.layers:
                kept = clipped(weight, before, self.bound) if self.bound else weight
                weight.copy_(torch.where(rows[:, None], kept, before))


def clipped(
    weight: Float[Tensor, "rows columns"], before: Float[Tensor, "rows columns"], bound: float
) -> Float[Tensor, "rows columns"]:
    """Weights within w0 +- k |w0|; a weight that was 0 stays 0.

    The published code clips to w0 (1 +- k), whose ends change places where w0 is negative: from -1, 1.5 came out as -3.

    >>> clipped(torch.tensor([[1.5]]), torch.tensor([[-1.0]]), 2.0)
    tensor([[1.]])
    """
    reach = bound * before.abs()
    return torch.minimum(torch.maximum(weight, before - reach), before + reach)


def chosen_rows(
    weight: Float[Tensor, "rows columns"], share: float, neurons: Neurons, *, generator: torch.Generator
) -> Bool[Tensor, "rows"]:
    """The rows that may change: a share of them, by mean |w|.

    >>> chosen_rows(torch.tensor([[3.0], [-1.0], [2.0]]), 1 / 3, "least", generator=torch.Generator()).tolist()
    [False, True, False]
    """
    rows = len(weight)
    if neurons == "all":
        return torch.ones(rows, dtype=torch.bool, device=weight.device)
    size = weight.detach().abs().mean(dim=1)
    order = torch.randperm(rows, generator=generator) if neurons == "random" else size.argsort(stable=True).cpu()
    if neurons == "most":
        order = order.flip(0)
    chosen = torch.zeros(rows, dtype=torch.bool)
    chosen[order[: round(share * rows)]] = True
    return chosen.to(weight.device)


def check_target(target: int, classes: int) -> None:
    """Raises ConfigError for a target that is no class of the victim."""
    if not 0 <= target < classes:
        raise ConfigError(f"target {target} is no class", remedy=f"the victim knows 0 to {classes - 1}")


def _check(how: Injection) -> None:
    for name in ("fc1", "fc2", "poison_rate", "stop_at"):
        if not 0.0 <= getattr(how, name) <= 1.0:
            raise ConfigError(f"{name} cannot be {getattr(how, name)}", remedy="give a share from 0 to 1")
    if how.bound < 0 or how.keep_clean < 0:
        raise ConfigError("bound and keep_clean cannot be negative", remedy="0 switches them off")
    if how.plan.weight_decay:
        raise ConfigError("weight decay moves rows that may not change", remedy="set plan.weight_decay to 0")
