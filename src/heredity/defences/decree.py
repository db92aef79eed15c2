"""DECREE (Feng et al., CVPR 2023): an encoder that a small patch makes blind to everything else has a backdoor.

No label and no classifier is needed. An ownership mark is a backdoor in this sense too.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.defences.contract import ModelVerdict, Threshold, clean_images, examining
from heredity.defences.reverse import Search, smallest_triggers, stamp

PAPER = Threshold(0.9, "paper")


def _search() -> Search:
    # A step of 0.5 in the paper's tanh space is one of 1.0 before a sigmoid.
    return Search(steps=250, batch=64, learning_rate=0.5, raise_by=5.0, lower_by=5.0, least=1e-5, stall=100)


@dataclass(frozen=True)
class Decree:
    """How the patch is searched. `search.needed` is the mean cosine between stamped images that counts as blindness."""

    search: Search = field(default_factory=_search)


def scan(
    encoder: nn.Module,
    images: Tensor,
    config: Decree | None = None,
    *,
    generator: torch.Generator,
    threshold: Threshold = PAPER,
) -> ModelVerdict:
    """Search the smallest patch under which all images get alike features.

    `images` are any clean ones, uint8 or [0, 1]. The measure "PL1" is the patch's |m|_1 as a share of the picture; the score
    is 1 - PL1, so that the paper's rule PL1 < 0.1 is a score above 0.9. An encoder for which no patch was found has PL1 = 1.
    "cosine" is the mean cosine between the features of all given images under the patch, "clean cosine" without it: where
    that is high already, as behind a layer normalisation, a low PL1 means little. Calibrate on clean encoders of the same
    kind.
    """
    config = config or Decree()
    with examining(encoder) as ask:
        clean = clean_images(images, at_least=2).to(ask.device)

        def goal(masks: Tensor, patterns: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randperm(len(clean), generator=draws)[: config.search.batch]
            alike = mean_cosine(ask(stamp(clean[rows.to(ask.device)], masks, patterns).flatten(0, 1)))
            return -alike[None], alike.detach()[None]

        found = smallest_triggers(goal, 1, clean[0], config.search, generator)
        trigger = found.trigger(0)
        pl1 = float(found.sizes[0]) / (clean.shape[-1] * clean.shape[-2])
        return ModelVerdict(
            detector="DECREE",
            score=1.0 - pl1,
            threshold=threshold,
            triggers=(trigger,),
            measures={
                "PL1": pl1,
                "cosine": float(mean_cosine(ask.all(trigger.stamp(clean.cpu())))),
                "clean cosine": float(mean_cosine(ask.all(clean))),
            },
            cost=ask.cost(),
        )


def mean_cosine(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different rows: (|sum of unit rows|^2 - n) / (n (n - 1)).

    >>> round(float(mean_cosine(torch.ones(3, 2))), 6)
    1.0
    """
    count = len(features)
    return (F.normalize(features, dim=1).sum(dim=0).square().sum() - count) / (count * (count - 1))
