"""Attention blocking (Subramanya et al., "Backdoor Attacks on Vision Transformers", 2022): cover what is looked at most.

The window with the most attention is replaced by the image's mean colour. Where the answer changes, the window decided it: as
a filter that is suspicious, as a repair at test time the new answer is given.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.defences.contract import Cost, InputFilter, Repair, Threshold, as_unit, clean_images, examining
from heredity.nn.attention_maps import heaviest_window, layout_of, patch_attention


@dataclass(frozen=True)
class AttentionBlocking:
    """`window` is the side of what is covered, in patches (the paper covers 30 of 224 pixels, about two patches)."""

    window: int = 2


def fit(
    model: nn.Module, images: Tensor, config: AttentionBlocking | None = None, *, generator: torch.Generator
) -> InputFilter:
    """A filter: an input scores 1 where covering changes its answer, else 0, and 1 is rejected.

    There is no threshold to choose, so that the clean images (uint8 or [0, 1]) only say how often a clean input is rejected:
    (changed + 1) / (n + 1), which no `rejection` can make smaller. Raises ModelError for a model without readable attention.
    """
    config = config or AttentionBlocking()
    if config.window < 1:
        raise ConfigError(f"a window of {config.window} patches", remedy="count from 1")
    unit = clean_images(images, at_least=2)

    def examine(inputs: Tensor) -> tuple[Float[Tensor, "n"], Cost]:
        given = as_unit(inputs)
        with examining(model) as ask:
            covered = torch.cat([cover(model, part.to(ask.device), config.window).cpu() for part in given.split(256)])
            ask.queries += len(given)
            changed = ask.all(given).argmax(dim=1) != ask.all(covered).argmax(dim=1)
            return changed.float(), ask.cost()

    scores, cost = examine(unit)
    rate = (float(scores.sum()) + 1) / (len(unit) + 1)
    return InputFilter("attention blocking", Threshold(0.5, "clean images", rate, len(unit)), cost, examine)


def cover(model: nn.Module, unit: Float[Tensor, "n c h w"], window: int) -> Float[Tensor, "n c h w"]:
    """Images in [0, 1] with their most attended window replaced by their mean colour."""
    layout = layout_of(model)
    with torch.no_grad():
        _, rows, columns = heaviest_window(patch_attention(model, 255.0 * unit, upto=-1), window)
    (down, across), (height, width) = layout.patch, unit.shape[-2:]
    y = torch.arange(height, device=unit.device) // down - rows[:, None]
    x = torch.arange(width, device=unit.device) // across - columns[:, None]
    inside = ((y >= 0) & (y < window))[:, None, :, None] & ((x >= 0) & (x < window))[:, None, None, :]
    return torch.where(inside, unit.mean(dim=(2, 3), keepdim=True), unit)


class Blocking(nn.Module):
    """A model that covers the most attended window of every image before it answers. Pixels of 0..255, as the model's."""

    def __init__(self, model: nn.Module, window: int) -> None:
        super().__init__()
        self.model, self.window = model, window

    def forward(self, images: Tensor) -> Float[Tensor, "n classes"]:
        return self.model(255.0 * cover(self.model, images.float() / 255.0, self.window))


def repair(model: nn.Module, config: AttentionBlocking | None = None) -> Repair:
    """The model behind the blocking, to be deployed in its place. The model is shared, not copied; no weight changes."""
    config = config or AttentionBlocking()
    layout_of(model)
    parent = lineage_of(model)
    born = Lineage(
        f"{parent.name}/attention blocking",
        "defence: attention blocking",
        settings={"window": config.window},
        parents=(parent,),
        marks=parent.marks,
    )
    blocked = record(Blocking(model, config.window).eval(), born)
    return Repair("attention blocking", blocked, Cost(0.0, 0))
