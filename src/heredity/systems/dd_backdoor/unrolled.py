"""Distillation by unrolling, DD (Wang et al. 2018): images and step sizes of which a few steps make a good network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.loop import Plan
from heredity.core.randomness import Draws
from heredity.systems.dd_backdoor.distil import Look, Make
from heredity.systems.dd_backdoor.distilled import Distilled, DistilledSet, Poisoned, starting_images
from heredity.systems.dd_backdoor.networks import cross_entropy, gradient, put, weights_of


@dataclass(frozen=True)
class Unrolled:
    """`groups` sets of `per_class` images a class, one set a step, gone through `epochs` times; `rate` is the first rate.

    `initial` "known": one fixed initial network, as the attack's authors have it; a stranger's network then fares worse.
    "unknown": a fresh one in every step.
    """

    per_class: int = 1
    groups: int = 5
    epochs: int = 3
    rate: float = 0.3
    initial: Literal["known", "unknown"] = "known"
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=160, batch=256, optimiser="adam", learning_rate=0.03, betas=(0.5, 0.999), schedule="constant"
        )
    )

    def begin(self, data: Poisoned, patch: Tensor, make: Make, generator: torch.Generator) -> Distilled:
        """Noise, and one rate for every step."""
        classes = torch.arange(data.classes, device=data.images.device)
        labels = classes.repeat_interleave(self.per_class).repeat(self.groups)
        images = starting_images(data, patch, labels, "noise", generator)
        raw = torch.full((self.groups * self.epochs,), self.rate).expm1().log()
        return Distilled(images, labels, patch, make(0), data, rates=raw)

    def loss(
        self, state: Distilled, data: Poisoned, rows: Tensor, make: Make, draws: Draws, look: Look
    ) -> dict[str, Tensor]:
        """Cross-entropy on real images of the network in which the steps on the distilled ones end."""
        count = int(state.count)
        if count:
            look()
        start = weights_of(make(count if self.initial == "unknown" else 0))
        rates = F.softplus(state.rates)  # pyright: ignore[reportArgumentType]
        end = unroll(state.network, start, state.pixels(), state.labels, rates, self.groups)
        put(state.network, {name: weight.detach() for name, weight in end.items()})
        return {"cross_entropy": cross_entropy(state.network, end, data.pixels(rows, state.patch), data.labels[rows])}

    def finish(self, state: Distilled) -> DistilledSet:
        """Images in the order of their use, and the rates."""
        rates = F.softplus(state.rates.detach())  # pyright: ignore[reportOptionalMemberAccess]
        return DistilledSet(state.pixels().detach(), state.labels, rates, self.groups)


def unroll(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    pixels: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    rates: Float[Tensor, "steps"],
    groups: int,
) -> dict[str, Tensor]:
    """Weights after one descent step for each rate, on one group of the images after another. Differentiable throughout."""
    inner = dict(weights)
    parts = list(zip(pixels.chunk(groups), labels.chunk(groups), strict=True))
    for step, rate in enumerate(rates):
        slopes = gradient(network, inner, *parts[step % groups])
        inner = {name: weight - rate * slopes[name] for name, weight in inner.items()}
    return inner
