"""A self-supervised objective, ready to be trained alone or together with something else."""

from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor, nn

from heredity.core.loop import Step, Turn
from heredity.core.randomness import Draws
from heredity.data.augment import Augmentation, augment


@dataclass(frozen=True)
class Objective:
    """`module` holds the encoder and whatever the objective throws away afterwards; `step` gives its loss terms.

    `turns` are an adversary's moves that follow in every step, where the objective has one.
    """

    module: nn.Module
    step: Step
    turns: tuple[Turn, ...] = ()


def two_views(
    images: UInt8[Tensor, "n c h w"], rows: Tensor, how: Augmentation, draws: Draws
) -> tuple[UInt8[Tensor, "rows c h w"], UInt8[Tensor, "rows c h w"]]:
    """Two augmentations, drawn one after the other, of some of the images; on the rows' device."""
    batch = images[rows.cpu()].to(rows.device)
    return augment(batch, how, draws), augment(batch, how, draws)
