"""MoCo v2 (Chen et al. 2020, arXiv 2003.04297): like SimCLR, but the negatives are a queue that a slow copy fills."""

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.nn.encoders import feature_size
from heredity.pretrain.objective import Objective, two_views


@dataclass(frozen=True)
class MoCo:
    """Recipe: temperature, length of the queue, momentum of the key encoder, size of the head, augmentation and plan.

    `while_marking` says what the key encoder does when a mark is embedded on top: "frozen" is the published SSL-WM code
    (the update is commented out there), "updated" is MoCo.
    """

    temperature: float = 0.2
    queue: int = 1024
    momentum: float = 0.99
    hidden: int = 128
    output: int = 64
    while_marking: Literal["frozen", "updated"] = "frozen"
    augmentation: Augmentation = Augmentation()
    plan: Plan = field(default_factory=lambda: Plan(epochs=40, batch=128, learning_rate=2e-3, schedule="one-cycle"))


class MomentumContrast(nn.Module):
    """Query encoder, its slow copy, and the queue; `forward` gives the contrastive loss of two views.

    The queue is lightly's memory bank, made persistent so that a killed run finds it again in its checkpoint.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, recipe: MoCo, *, gather: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.key_encoder, self.key_head = copy.deepcopy(encoder), copy.deepcopy(head)
        deactivate_requires_grad(self.key_encoder)
        deactivate_requires_grad(self.key_head)
        self.loss = NTXentLoss(recipe.temperature, (recipe.queue, recipe.output), gather_distributed=gather)
        bank = self.loss.memory_bank
        for name in ("bank", "bank_ptr"):
            bank.register_buffer(name, getattr(bank, name), persistent=True)

    def follow(self, momentum: float) -> None:
        """Move the key encoder towards the query encoder: key = momentum * key + (1 - momentum) * query."""
        update_momentum(self.encoder, self.key_encoder, momentum)
        update_momentum(self.head, self.key_head, momentum)

    def forward(self, first: UInt8[Tensor, "n c h w"], second: UInt8[Tensor, "n c h w"]) -> Float[Tensor, ""]:
        query = self.head(self.encoder(first))
        with torch.no_grad():
            key = self.key_head(self.key_encoder(second))
        return self.loss(query, key)


def moco_objective(
    encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: MoCo, run: Run, *, marking: bool = False
) -> Objective:
    """The module that MoCo trains and its step. Before each step the key encoder follows the query encoder.

    The published trick of shuffling batch normalisation between devices is left out: it has no meaning on one device.
    """
    width = feature_size(encoder, image=images.shape[-1], channels=images.shape[1])
    head = MoCoProjectionHead(width, recipe.hidden, recipe.output)
    module = MomentumContrast(encoder, head, recipe, gather=run.fabric.world_size > 1)
    follows = not marking or recipe.while_marking == "updated"

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        if follows:
            module.follow(recipe.momentum)
        return {"contrast": model(*two_views(images, rows, recipe.augmentation, draws))}

    return Objective(module, step)


def moco(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: MoCo, run: Run) -> History:
    """Train an encoder (uint8 images -> features) in place without labels. Head, key encoder and queue are thrown away."""
    objective = moco_objective(encoder, images, recipe, run)
    return fit(objective.module, objective.step, rows=len(images), plan=recipe.plan, run=run)
