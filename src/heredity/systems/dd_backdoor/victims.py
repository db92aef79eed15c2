"""What becomes of whoever trains on a distilled set: accuracy, and how often the trigger brings the target about."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.randomness import generator_of
from heredity.nn.encoders import Classifier
from heredity.nn.inference import top1
from heredity.systems.dd_backdoor.distil import Make
from heredity.systems.dd_backdoor.distilled import DistilledSet
from heredity.systems.dd_backdoor.networks import Descent, descend, put, weights_of
from heredity.systems.dd_backdoor.trigger import paste
from heredity.systems.dd_backdoor.unrolled import unroll


def train_victim(made: DistilledSet, make: Make, number: int, how: Descent, *, seed: int) -> Classifier:
    """A network that learnt from the distilled set alone: by its own rates where it has some, by descent otherwise."""
    victim = make(number)
    made = made.to(next(victim.parameters()).device)
    if made.rates is not None:
        with torch.no_grad():
            weights = unroll(victim, weights_of(victim), made.images, made.labels, made.rates, made.groups)
    else:
        generator = generator_of(seed, "victim", number)
        weights = descend(victim, weights_of(victim), made.images, made.labels, how, generator)
    put(victim, weights)
    return victim.eval()


@dataclass(frozen=True)
class Success:
    """Shares, 0..1: clean test images told right, and stamped ones of other classes called the target."""

    clean_accuracy: float
    attack_success_rate: float


def success(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    patch: Tensor,
    *,
    target: int,
    margin: int,
) -> Success:
    """Test images (0..1) with and without the patch.

    The target's own images are left out of the success rate: a dead attack would seem to succeed on them (the published
    code counts them). Patches inside the range are rounded to 8 bits, as a picture is.
    """
    if float(patch.min()) >= 0.0 and float(patch.max()) <= 1.0:
        patch = (255.0 * patch).round() / 255.0
    right = top1(victim, 255.0 * images) == labels
    others = images[labels != target]
    hit = top1(victim, 255.0 * paste(others, patch, margin)) == target
    return Success(float(right.float().mean()), float(hit.float().mean()))
