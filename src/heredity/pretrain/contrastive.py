"""SimCLR (Chen et al. 2020): two views of one image attract, all other images of the batch repel."""

from dataclasses import dataclass, field

import torch
from jaxtyping import UInt8
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.nn.encoders import feature_size
from heredity.pretrain.objective import Objective, two_views


@dataclass(frozen=True)
class SimCLR:
    """Recipe: temperature of the loss, size of the projection head, augmentation and training plan."""

    temperature: float = 0.5
    hidden: int = 128
    output: int = 64
    head_norm: bool = False
    augmentation: Augmentation = Augmentation()
    plan: Plan = field(default_factory=lambda: Plan(epochs=40, batch=256, learning_rate=2e-3, schedule="one-cycle"))


class Projected(nn.Module):
    """Encoder and projection head as one module, so that one forward pass serves data-parallel training."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


def simclr_objective(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: SimCLR, run: Run) -> Objective:
    """The module that SimCLR trains and its step. lightly's NTXentLoss gathers features over all processes."""
    width = feature_size(encoder, image=images.shape[-1], channels=images.shape[1])
    head = SimCLRProjectionHead(width, recipe.hidden, recipe.output, batch_norm=recipe.head_norm)
    loss = NTXentLoss(temperature=recipe.temperature, gather_distributed=run.fabric.world_size > 1)

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        views = torch.cat(two_views(images, rows, recipe.augmentation, draws))
        first, second = model(views).chunk(2)
        return {"contrast": loss(first, second)}

    return Objective(Projected(encoder, head), step)


def simclr(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: SimCLR, run: Run) -> History:
    """Train an encoder (uint8 images -> features) in place without labels. The projection head is thrown away."""
    objective = simclr_objective(encoder, images, recipe, run)
    return fit(objective.module, objective.step, rows=len(images), plan=recipe.plan, run=run)
