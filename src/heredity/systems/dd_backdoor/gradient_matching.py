"""Distillation by gradient matching, DC (Zhao, Mopuri, Bilen, ICLR 2021): both sets shall pull a network the same way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from heredity.core.loop import Plan
from heredity.core.randomness import Draws
from heredity.systems.dd_backdoor.distil import Look, Make
from heredity.systems.dd_backdoor.distilled import Distilled, DistilledSet, Poisoned, begin_by_class
from heredity.systems.dd_backdoor.networks import Descent, descend, gradient, put, weights_of


@dataclass(frozen=True)
class GradientMatching:
    """`outer` steps on one network before it is drawn anew; in between it learns from the images (`inner`).

    `real` images of each class are looked at in a step. `start` "noise" is the published one, "real" begins with images of
    the classes. The plan's steps count outer steps.
    """

    per_class: int = 10
    outer: int = 5
    real: int = 32
    start: Literal["noise", "real"] = "noise"
    inner: Descent = Descent(steps=10, rate=0.05, momentum=0.0, decay=0.0, halved=False)
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=250, batch=1, optimiser="sgd", learning_rate=0.5, momentum=0.5, schedule="constant"
        )
    )

    def sized(self, per_class: int) -> "GradientMatching":
        """This recipe for another number of images a class.

        The rate of SGD grows with it: every image bears one part in `per_class` of its class's loss. Adam's steps do not
        know a loss's scale, and keep theirs.

        >>> GradientMatching(per_class=10).sized(20).plan.learning_rate
        1.0
        """
        grows = per_class / self.per_class if self.plan.optimiser == "sgd" else 1.0
        plan = replace(self.plan, learning_rate=self.plan.learning_rate * grows)
        return replace(self, per_class=per_class, plan=plan)

    def begin(self, data: Poisoned, patch: Tensor, make: Make, generator: torch.Generator) -> Distilled:
        """So many images of each class."""
        return begin_by_class(data, patch, make(0), self.per_class, self.start, generator)

    def loss(
        self, state: Distilled, data: Poisoned, rows: Tensor, make: Make, draws: Draws, look: Look
    ) -> dict[str, Tensor]:
        """The distance of gradients on real and on distilled images, summed over classes."""
        turn, within = divmod(int(state.count), self.outer)
        if within == 0:
            put(state.network, weights_of(make(turn)))
        if within or self.outer == 1:
            pixels, labels = state.pixels().detach(), state.labels
            learnt = descend(state.network, weights_of(state.network), pixels, labels, self.inner, draws.generator)
            put(state.network, learnt)
            look()
        rows = torch.cat([members[draws.rows(self.real, len(members))] for members in data.members])
        per_class = vmap(partial(gradient, state.network), in_dims=(None, 0, 0))
        weights = weights_of(state.network)
        with torch.no_grad():
            real = data.pixels(rows, state.patch)
            truth = data.labels[rows].reshape(data.classes, self.real)
            wanted = per_class(weights, real.reshape(*truth.shape, *real.shape[1:]), truth)
        shape = (data.classes, self.per_class)
        pixels = state.pixels()
        ours = per_class(weights, pixels.reshape(*shape, *pixels.shape[1:]), state.labels.reshape(shape))
        return {"distance": gradient_distance(ours, wanted)}

    def finish(self, state: Distilled) -> DistilledSet:
        """Images to train on as one set."""
        return DistilledSet(state.pixels().detach(), state.labels)


def gradient_distance(ours: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """One minus cosine for each output unit's weights, summed over units, layers and classes; biases do not count.

    Gradients are stacked, one row a class.

    >>> weights = {"w": torch.eye(3)[None]}
    >>> round(float(gradient_distance(weights, weights)), 4)
    0.0
    """
    apart = []
    for name, own in ours.items():
        if own.ndim > 2:
            mine, theirs = own.flatten(2), wanted[name].flatten(2)
            norms = mine.norm(dim=2) * theirs.norm(dim=2)
            apart.append((1 - (mine * theirs).sum(dim=2) / (norms + 1e-6)).sum())
    return torch.stack(apart).sum()
