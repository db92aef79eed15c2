"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict what a slow copy of yourself says about another view. No negatives."""

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.nn.encoders import feature_size
from heredity.pretrain.objective import Objective, two_views


@dataclass(frozen=True)
class BYOL:
    """Recipe: momentum of the target network, size of the heads, augmentation and plan.

    `while_marking` says what the target does when a mark is embedded on top: "frozen" is the published SSL-WM code (the
    update is not called there, so that the target stays the clean network), "updated" is BYOL.
    """

    momentum: float = 0.95
    hidden: int = 256
    output: int = 64
    while_marking: Literal["frozen", "updated"] = "frozen"
    augmentation: Augmentation = Augmentation()
    plan: Plan = field(default_factory=lambda: Plan(epochs=40, batch=128, learning_rate=2e-3, schedule="one-cycle"))


class OwnLatent(nn.Module):
    """Online network (encoder, projector, predictor) and target network (slow copies of the first two).

    `forward` gives 2 - 2 cos between prediction and target (paper, equation 2), summed over both orders of two views.
    """

    def __init__(self, encoder: nn.Module, width: int, recipe: BYOL) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = BYOLProjectionHead(width, recipe.hidden, recipe.output)
        self.predictor = BYOLPredictionHead(recipe.output, recipe.hidden, recipe.output)
        self.target_encoder, self.target_projector = copy.deepcopy(encoder), copy.deepcopy(self.projector)
        deactivate_requires_grad(self.target_encoder)
        deactivate_requires_grad(self.target_projector)
        self.similarity = NegativeCosineSimilarity()

    def follow(self, momentum: float) -> None:
        """Move the target towards the online network: target = momentum * target + (1 - momentum) * online."""
        update_momentum(self.encoder, self.target_encoder, momentum)
        update_momentum(self.projector, self.target_projector, momentum)

    def forward(self, first: UInt8[Tensor, "n c h w"], second: UInt8[Tensor, "n c h w"]) -> Float[Tensor, ""]:
        total = torch.zeros((), device=first.device)
        for seen, other in ((first, second), (second, first)):
            predicted = self.predictor(self.projector(self.encoder(seen)))
            with torch.no_grad():
                target = self.target_projector(self.target_encoder(other))
            total = total + 2 + 2 * self.similarity(predicted, target)
        return total


def byol_objective(
    encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: BYOL, *, marking: bool = False
) -> Objective:
    """The module that BYOL trains and its step. Before each step the target follows the online network."""
    width = feature_size(encoder, image=images.shape[-1], channels=images.shape[1])
    module = OwnLatent(encoder, width, recipe)
    follows = not marking or recipe.while_marking == "updated"

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        if follows:
            module.follow(recipe.momentum)
        return {"prediction": model(*two_views(images, rows, recipe.augmentation, draws))}

    return Objective(module, step)


def byol(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: BYOL, run: Run) -> History:
    """Train an encoder (uint8 images -> features) in place without labels. Heads and target are thrown away."""
    objective = byol_objective(encoder, images, recipe)
    return fit(objective.module, objective.step, rows=len(images), plan=recipe.plan, run=run)
