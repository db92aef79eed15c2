"""STRIP (Gao et al., ACSAC 2019): an input whose label survives any other image laid over it carries a trigger."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError
from heredity.defences.contract import Cost, InputFilter, as_unit, calibrate, clean_images, examining


@dataclass(frozen=True)
class Strip:
    """`overlays` clean images are laid over each input: clip(`weight` input + `overlay` other), by default as in the paper.

    Halves keep the contrast of both pictures, but halve the patch too, and a net that learnt the whole patch may not know
    half of it. `rejection` is the share of clean inputs that may be turned away.
    """

    overlays: int = 32
    weight: float = 1.0
    overlay: float = 1.0
    rejection: float = 0.01


def fit(model: nn.Module, images: Tensor, config: Strip | None = None, *, generator: torch.Generator) -> InputFilter:
    """A filter from clean images (uint8 or [0, 1]): some are the overlays, the rest set the threshold.

    An input's score is minus the mean entropy (bits) of the answers to its blends. Raises DataError when too few images are
    left to state the rejection rate: 1 % needs 99.
    """
    config = config or Strip()
    if config.overlays < 1 or config.weight <= 0 or config.overlay <= 0:
        raise ConfigError("STRIP needs overlays and positive weights", remedy="see overlays, weight and overlay")
    unit = clean_images(images, at_least=config.overlays + 1)
    order = torch.randperm(len(unit), generator=generator)
    others, held_out = unit[order[: config.overlays]], unit[order[config.overlays :]]
    scores, cost = _scores(model, held_out, others, config)

    def examine(inputs: Tensor) -> tuple[Tensor, Cost]:
        given = as_unit(inputs)
        if given.shape[1:] != others.shape[1:]:
            raise DataError(
                f"inputs of shape {tuple(given.shape[1:])}",
                remedy=f"the filter was fitted on {tuple(others.shape[1:])}",
            )
        return _scores(model, given, others, config)

    threshold = calibrate(scores.tolist(), config.rejection, source="clean images")
    return InputFilter("STRIP", threshold, cost, examine)


def _scores(model: nn.Module, inputs: Tensor, others: Tensor, config: Strip) -> tuple[Float[Tensor, "n"], Cost]:
    parts = []
    with examining(model) as ask:
        for part in inputs.split(max(1, 2048 // len(others))):
            blends = (config.weight * part[:, None] + config.overlay * others).clamp(0, 1)
            answers = ask.all(blends.flatten(0, 1)).log_softmax(dim=1).unflatten(0, (len(part), -1))
            parts.append((answers.exp() * answers).sum(dim=2).mean(dim=1) / torch.log(torch.tensor(2.0)))
        return torch.cat(parts), ask.cost()
