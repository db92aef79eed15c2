"""Beatrix (Ma et al., NDSS 2023): an input whose feature channels go together as no clean input's of its class do."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError
from heredity.defences.contract import Cost, InputFilter, as_unit, calibrate, clean_images, examining
from heredity.defences.stages import watching_stages


@dataclass(frozen=True)
class Beatrix:
    """Gram matrices of orders 1 to `orders` of the last stage's output, its channels turned into `channels` random
    directions where there are more. What lies within `tolerated` median absolute deviations of the class's median counts
    nothing.

    A class with fewer than `least` clean images is described by all clean images together. `rejection` is the share of
    clean inputs that may be turned away.
    """

    orders: int = 4
    channels: int = 64
    tolerated: float = 10.0
    least: int = 5
    rejection: float = 0.01


def fit(model: nn.Module, images: Tensor, config: Beatrix | None = None, *, generator: torch.Generator) -> InputFilter:
    """A filter from clean images (uint8 or [0, 1], no labels: classes are those the model answers). One half describes
    the Gram matrices of each class, the other sets the threshold.

    An input's score is how far the entries of its Gram matrices lie outside, in deviations, on average. The paper's scan
    of classes needs a stream of inputs with the trigger among them and is not part of this. Raises DataError when half
    the images cannot state the rejection rate: 1 % needs 99 in each half.
    """
    config = config or Beatrix()
    if config.orders < 1 or config.channels < 1 or config.tolerated < 0:
        raise ConfigError("Beatrix needs orders and channels of at least 1", remedy="see orders, channels, tolerated")
    unit = clean_images(images, at_least=4)
    order = torch.randperm(len(unit), generator=generator)
    known, held_out = unit[order[: len(unit) // 2]], unit[order[len(unit) // 2 :]]
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    grams, answers, described = _grams(model, known, config, seed)
    usual = {-1: _usual(grams)}
    for label in answers.unique().tolist():
        if int((answers == label).sum()) >= config.least:
            usual[label] = _usual(grams[answers == label])

    def examine(inputs: Tensor) -> tuple[Float[Tensor, "n"], Cost]:
        given = as_unit(inputs)
        if given.shape[1:] != known.shape[1:]:
            raise DataError(
                f"inputs of shape {tuple(given.shape[1:])}", remedy=f"the filter was fitted on {tuple(known.shape[1:])}"
            )
        theirs, labels, cost = _grams(model, given, config, seed)
        scores = torch.zeros(len(given))
        for label in labels.unique().tolist():
            rows = labels == label
            middle, spread = usual.get(label, usual[-1])
            away = ((theirs[rows] - middle).abs() - config.tolerated * spread).clamp(min=0) / spread
            scores[rows] = away.mean(dim=1).float()
        return scores, cost

    scores, asked = examine(held_out)
    cost = Cost(described.seconds + asked.seconds, described.queries + asked.queries)
    return InputFilter("Beatrix", calibrate(scores.tolist(), config.rejection, source="clean images"), cost, examine)


def _grams(
    model: nn.Module, unit: Float[Tensor, "n c h w"], config: Beatrix, seed: int
) -> tuple[Float[Tensor, "n entries"], Int[Tensor, "n"], Cost]:
    """Every image's Gram entries, and the class that the model answers."""
    with examining(model) as ask, watching_stages(model, 1) as seen:
        rows, answers = [], []
        for part in unit.split(128):
            seen.clear()
            answers.append(ask.all(part).argmax(dim=1))
            rows.append(gram_entries(fewer_channels(seen[-1].cpu().double(), config.channels, seed), config.orders))
        return torch.cat(rows), torch.cat(answers), ask.cost()


def fewer_channels(stage: Float[Tensor, "n c places"], count: int, seed: int) -> Float[Tensor, "n k places"]:
    """The stage's output along `count` random orthogonal directions, where it has more channels."""
    channels = stage.shape[1]
    if channels <= count:
        return stage
    draws = torch.randn(channels, count, generator=torch.Generator().manual_seed(seed), dtype=stage.dtype)
    return torch.einsum("ncs,ck->nks", stage, torch.linalg.qr(draws).Q)


def gram_entries(stage: Float[Tensor, "n c places"], orders: int) -> Float[Tensor, "n entries"]:
    """Upper triangles of the Gram matrices of orders 1..`orders`: the signed p-th root of F^p (F^p)^T (equation 3).

    >>> gram_entries(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]), 2).round(decimals=3)
    tensor([[5.0000, 3.0000, 9.0000, 4.1230, 3.0000, 9.0000]])
    """
    row, column = torch.triu_indices(stage.shape[1], stage.shape[1])
    parts = []
    for order in range(1, orders + 1):
        powered = stage.pow(order)
        gram = (powered @ powered.transpose(1, 2))[:, row, column]
        parts.append(gram.sign() * gram.abs().pow(1 / order))
    return torch.cat(parts, dim=1)


def _usual(grams: Float[Tensor, "n entries"]) -> tuple[Float[Tensor, "entries"], Float[Tensor, "entries"]]:
    """Median and median absolute deviation of each entry; one that never varies gets a thousandth of a typical entry."""
    middle = grams.median(dim=0).values
    spread = (grams - middle).abs().median(dim=0).values
    return middle, spread.clamp(min=1e-3 * float(middle.abs().mean()) + 1e-12)
