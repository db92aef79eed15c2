"""Attention concentration: an input whose attention gathers in one small window, more than any clean input's does.

A trigger that was made to catch attention (DBIA) shows in exactly this quantity; a plain white patch need not. The measure is
ours; the attention is the rollout of Abnar and Zuidema, ACL 2020 (Swin: attention received in the last stage).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import Cost, InputFilter, as_unit, calibrate, clean_images, examining
from heredity.nn.attention_maps import heaviest_window, patch_attention


@dataclass(frozen=True)
class AttentionConcentration:
    """`window` is the side of the window in patches; `rejection` the share of clean inputs that may be turned away."""

    window: int = 2
    rejection: float = 0.01


def fit(
    model: nn.Module, images: Tensor, config: AttentionConcentration | None = None, *, generator: torch.Generator
) -> InputFilter:
    """A filter from clean images (uint8 or [0, 1]): one half gives median and deviation, the other sets the threshold.

    An input's score is the share of attention in its heaviest window, in median absolute deviations above the clean median.
    Raises ModelError for a model without readable attention, DataError when half of the images cannot state the rejection
    rate: 1 % needs 99 in each half.
    """
    config = config or AttentionConcentration()
    if config.window < 1:
        raise ConfigError(f"a window of {config.window} patches", remedy="count from 1")
    unit = clean_images(images, at_least=4)
    order = torch.randperm(len(unit), generator=generator)
    known, held_out = unit[order[: len(unit) // 2]], unit[order[len(unit) // 2 :]]
    usual, described = window_attention(model, known, config.window)
    middle = usual.median()
    deviation = 1.4826 * (usual - middle).abs().median() + 1e-12

    def examine(inputs: Tensor) -> tuple[Float[Tensor, "n"], Cost]:
        held, cost = window_attention(model, as_unit(inputs), config.window)
        return (held - middle) / deviation, cost

    scores, asked = examine(held_out)
    cost = Cost(described.seconds + asked.seconds, described.queries + asked.queries)
    threshold = calibrate(scores.tolist(), config.rejection, source="clean images")
    return InputFilter("attention concentration", threshold, cost, examine)


def window_attention(model: nn.Module, unit: Float[Tensor, "n c h w"], window: int) -> tuple[Float[Tensor, "n"], Cost]:
    """The share of attention in each input's heaviest window, on the CPU."""
    with examining(model) as ask, torch.no_grad():
        parts = []
        for part in unit.split(256):
            held = patch_attention(model, 255.0 * part.to(ask.device), upto=-1)
            parts.append(heaviest_window(held, window)[0].cpu())
        ask.queries += len(unit)
        return torch.cat(parts), ask.cost()
