"""Recovering small triggers by gradient descent: many at once, each under its own sparsity pressure.

Neural Cleanse and DECREE differ in what a trigger must achieve; how it is made small is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heredity.defences.contract import Trigger

Goal = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(masks k x 1 x h x w, patterns k x c x h x w, generator) -> (loss k, success k): how far each trigger is from its aim, and
how well it reaches it (0..1)."""


@dataclass(frozen=True)
class Search:
    """How triggers are searched.

    A trigger whose success stays at `needed` or above for `patience` steps gets `raise_by` times the weight on its mask's
    size, one that stays below gets 1 / `lower_by` of it. The smallest mask is kept that succeeded on two batches running.
    The search ends after `steps`, or when no mask has become 1 % smaller in `stall` steps.
    """

    steps: int = 200
    batch: int = 32
    learning_rate: float = 0.1
    needed: float = 0.99
    weight: float = 1e-3
    patience: int = 5
    raise_by: float = 2.0
    lower_by: float = 2.0**1.5
    least: float = 1e-6
    stall: int = 60


@dataclass(frozen=True)
class Reversed:
    """The smallest triggers found: sizes |m|_1 in pixels (all pixels where none succeeded), and which were found."""

    masks: Float[Tensor, "k 1 h w"]
    patterns: Float[Tensor, "k c h w"]
    sizes: Float[Tensor, "k"]
    found: Bool[Tensor, "k"]

    def trigger(self, number: int) -> Trigger:
        """One of them."""
        return Trigger(self.masks[number], self.patterns[number])


def stamp(images: Float[Tensor, "b c h w"], masks: Tensor, patterns: Tensor) -> Float[Tensor, "k b c h w"]:
    """Every image under every trigger, pixels in [0, 1]."""
    return (1 - masks[:, None]) * images + masks[:, None] * patterns[:, None]


def smallest_triggers(
    goal: Goal, count: int, image: Float[Tensor, "c h w"], search: Search, generator: torch.Generator
) -> Reversed:
    """Minimise loss + weight |mask|_1 for `count` triggers by Adam, in the space before a sigmoid.

    They have the shape of `image` and are searched where it lies; those found come back to the CPU.
    All k start from the same random trigger, so that they differ by what the model makes of them only.
    """
    channels, height, width = image.shape
    device = image.device
    start = torch.rand(1 + channels, height, width, generator=generator).clamp(0.01, 0.99).logit().to(device)
    before_mask = start[:1].expand(count, -1, -1, -1).clone().requires_grad_()
    before_pattern = start[1:].expand(count, -1, -1, -1).clone().requires_grad_()
    optimiser = torch.optim.Adam([before_mask, before_pattern], lr=search.learning_rate, betas=(0.5, 0.9))
    weight = torch.full((count,), search.weight, device=device)
    above, below = torch.zeros(count, device=device), torch.zeros(count, device=device)
    best = torch.full((count,), float(height * width), device=device)
    milestone, waited = best.clone(), 0
    masks, patterns = torch.ones_like(before_mask), before_pattern.detach().sigmoid()
    found = torch.zeros(count, dtype=torch.bool, device=device)

    for _ in range(search.steps):
        mask, pattern = before_mask.sigmoid(), before_pattern.sigmoid()
        loss, success = goal(mask, pattern, generator)
        size = mask.sum(dim=(1, 2, 3))
        gradients = torch.autograd.grad((loss + weight * size).sum(), [before_mask, before_pattern])
        before_mask.grad, before_pattern.grad = gradients
        reached, size = success >= search.needed, size.detach()
        better = reached & (above >= 1) & (size < best)
        chosen = better[:, None, None, None]
        masks, patterns = torch.where(chosen, mask.detach(), masks), torch.where(chosen, pattern.detach(), patterns)
        best, found = torch.where(better, size, best), found | better
        above, below = (above + 1) * reached, (below + 1) * ~reached
        harder, softer = above >= search.patience, below >= search.patience
        weight = torch.where(harder, weight * search.raise_by, weight)
        weight = torch.where(softer, (weight / search.lower_by).clamp(min=search.least), weight)
        above, below = above * ~harder, below * ~softer
        shrunk = best < 0.99 * milestone
        milestone, waited = torch.where(shrunk, best, milestone), 0 if bool(shrunk.any()) else waited + 1
        if waited >= search.stall and bool(found.all()):
            break
        optimiser.step()
    return Reversed(masks.cpu(), patterns.cpu(), best.cpu(), found.cpu())
