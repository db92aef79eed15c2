"""PatchDrop and PatchShuffle (Doan et al., AAAI 2023): does the answer survive when patches go missing, or change places?

A patch trigger is gone in some of the trials, so that a stamped image's answer changes more often under *drop* than a clean
one's. A trigger blended over the whole picture survives a *shuffle* that no clean object does.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.randomness import generator_of
from heredity.defences.contract import Cost, InputFilter, as_unit, calibrate, clean_images, examining
from heredity.nn.attention_maps import Layout, layout_of


@dataclass(frozen=True)
class PatchDrop:
    """`trials` random changes of each input; "drop" paints each patch with probability `rate` in the image's mean colour.

    `rejection` is the share of clean inputs that may be turned away. Scores are multiples of 1 / `trials`.
    """

    kind: Literal["drop", "shuffle"] = "drop"
    trials: int = 20
    rate: float = 0.1
    rejection: float = 0.05


def fit(
    model: nn.Module, images: Tensor, config: PatchDrop | None = None, *, generator: torch.Generator
) -> InputFilter:
    """A filter from clean images (uint8 or [0, 1]), which set the threshold.

    An input's score is the share of trials that change its answer under "drop", and that do not under "shuffle". All inputs
    see the same trials. Raises ModelError for a model that is no vision transformer, DataError for too few images.
    """
    config = config or PatchDrop()
    if config.trials < 1 or not 0.0 < config.rate < 1.0:
        raise ConfigError(
            f"{config.trials} trials at rate {config.rate}", remedy="count from 1; a rate between 0 and 1"
        )
    layout = layout_of(model)
    unit = clean_images(images, at_least=2)
    seed = int(torch.randint(2**62, (1,), generator=generator))

    def examine(inputs: Tensor) -> tuple[Float[Tensor, "n"], Cost]:
        given, draw = as_unit(inputs), generator_of(seed, "trials")
        with examining(model) as ask:
            answer = ask.all(given).argmax(dim=1)
            changed = torch.zeros(len(given))
            for _ in range(config.trials):
                shown = (
                    dropped(given, layout, config.rate, draw)
                    if config.kind == "drop"
                    else shuffled(given, layout, draw)
                )
                changed += (ask.all(shown).argmax(dim=1) != answer).float()
            share = changed / config.trials
            return share if config.kind == "drop" else 1.0 - share, ask.cost()

    scores, cost = examine(unit)
    threshold = calibrate(scores.tolist(), config.rejection, source="clean images")
    return InputFilter(f"patch {config.kind}", threshold, cost, examine)


def dropped(
    unit: Float[Tensor, "n c h w"], layout: Layout, rate: float, generator: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """The same random patches of all images painted in each image's mean colour."""
    gone = torch.rand(layout.rows, layout.columns, generator=generator) < rate
    area = gone.repeat_interleave(layout.patch[0], dim=0).repeat_interleave(layout.patch[1], dim=1)
    return torch.where(area, unit.mean(dim=(2, 3), keepdim=True), unit)


def shuffled(unit: Float[Tensor, "n c h w"], layout: Layout, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """The patches of all images in one random order, which is what shuffling them before the position embedding does."""
    (down, across), (rows, columns) = layout.patch, (layout.rows, layout.columns)
    patches = unit.unflatten(3, (columns, across)).unflatten(2, (rows, down)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = patches[:, torch.randperm(rows * columns, generator=generator)]
    return patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(unit.shape)
