"""Distillation by distribution matching, DM (Zhao and Bilen, WACV 2023): the proof that a third method fits in a page.

Not one of the attacked papers' methods: on random networks, distilled images of a class shall have the features that its
real images have on average.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from heredity.core.loop import Plan
from heredity.core.randomness import Draws
from heredity.systems.dd_backdoor.distil import Look, Make
from heredity.systems.dd_backdoor.distilled import Distilled, DistilledSet, Poisoned, begin_by_class
from heredity.systems.dd_backdoor.networks import Descent, descend, put, weights_of


@dataclass(frozen=True)
class DistributionMatching:
    """A fresh network every step, and `real` images of each class. An attacker is shown the network after a short `inner`."""

    per_class: int = 10
    real: int = 64
    start: Literal["noise", "real"] = "real"
    inner: Descent = Descent(steps=10, rate=0.05, momentum=0.0, decay=0.0, halved=False)
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=250, batch=1, optimiser="sgd", learning_rate=1.0, momentum=0.5, schedule="constant"
        )
    )

    def begin(self, data: Poisoned, patch: Tensor, make: Make, generator: torch.Generator) -> Distilled:
        """So many images of each class."""
        return begin_by_class(data, patch, make(0), self.per_class, self.start, generator)

    def loss(
        self, state: Distilled, data: Poisoned, rows: Tensor, make: Make, draws: Draws, look: Look
    ) -> dict[str, Tensor]:
        """The squared distance of mean features, summed over classes."""
        fresh = weights_of(make(int(state.count)))
        pixels = state.pixels()
        put(state.network, descend(state.network, fresh, pixels.detach(), state.labels, self.inner, draws.generator))
        look()
        put(state.network, fresh)
        encoder: Any = state.network.encoder
        apart = []
        for members, own in zip(data.members, pixels.split(self.per_class), strict=True):
            batch = members[draws.rows(self.real, len(members))]
            with torch.no_grad():
                wanted = encoder(data.pixels(batch, state.patch)).mean(dim=0)
            apart.append((encoder(own).mean(dim=0) - wanted).square().sum())
        return {"distance": torch.stack(apart).sum()}

    def finish(self, state: Distilled) -> DistilledSet:
        """Images to train on as one set."""
        return DistilledSet(state.pixels().detach(), state.labels)
