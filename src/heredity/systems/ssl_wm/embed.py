"""Training a mark into an encoder: batches of clean, stamped and decoy-stamped images, and the step that `fit` repeats."""

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.nn.inference import outputs
from heredity.systems.ssl_wm.embedding import MarkLoss, Views, anchor_point, robust_loss
from heredity.systems.ssl_wm.keys import Key, derive_patches
from heredity.systems.ssl_wm.trigger import stamp_each


@dataclass(frozen=True)
class Embedding:
    """How a mark is hidden: the loss, the views before stamping (strong and weak, mixed), a jitter after it, the plan.

    Batch normalisation keeps its statistics ("eval" mode): marked-only batches would shift them (spec, trap 4).
    """

    loss: MarkLoss = MarkLoss()
    strong: Augmentation = Augmentation()
    weak: Augmentation = Augmentation(scale=(0.9, 1.0), brightness=0.1, contrast=0.1)
    stamped_jitter: float = 0.25
    jitter: Augmentation = Augmentation(scale=(0.85, 1.0), brightness=0.05, contrast=0.05, noise=0.02)
    plan: Plan = field(
        default_factory=lambda: Plan(steps=600, batch=48, optimiser="adam", learning_rate=1e-3, clip=5.0, mode="eval")
    )


def embed_mark(
    encoder: nn.Module, images: UInt8[Tensor, "n c size size"], key: Key, how: Embedding, run: Run
) -> History:
    """Hide the key's mark in an encoder (uint8 images -> features), in place. No label is needed."""
    patches, parameters = derive_patches(key), key.parameters
    before = Views(copy.deepcopy(encoder)).requires_grad_(False).eval()
    marked_views = Views(encoder)
    sample = outputs(before, images[:512])
    target, scale = anchor_point(sample, how.loss.distance, generator_of(run.seed, "anchor point"))
    target, scale = target.to(run.fabric.device), scale.to(run.fabric.device)

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        count = len(rows)
        batch = images[rows.cpu()].to(rows.device)
        owned = patches[draws.integers(count, high=len(patches))]
        foreign = draws.integers(count, *owned.shape[1:], high=256).to(torch.uint8)
        clean = _view(batch, how, draws)
        stamped = _worn(stamp_each(_view(batch, how, draws), owned, parameters), how, draws)
        decoys = _worn(stamp_each(_view(batch, how, draws), foreign, parameters), how, draws)
        features, f_stamped, f_decoys = model(torch.cat([clean, stamped, decoys])).split(count)
        with torch.no_grad():
            features_before, decoys_before = before(torch.cat([clean, decoys])).split(count)
        return robust_loss(features, features_before, f_stamped, f_decoys, decoys_before, target, scale, how.loss)

    return fit(marked_views, step, rows=len(images), plan=how.plan, run=run)


def _view(images: Tensor, how: Embedding, draws: Draws) -> Tensor:
    """Half of the samples strongly, half weakly augmented."""
    strong, weak = augment(images, how.strong, draws), augment(images, how.weak, draws)
    chosen = (draws.uniform(len(images)) < 0.5).to(images.device).reshape(-1, 1, 1, 1)
    return torch.where(chosen, strong, weak)


def _worn(stamped: Tensor, how: Embedding, draws: Draws) -> Tensor:
    """What an API may do after stamping: a share of the stamped images is slightly moved, rescaled and made noisy."""
    worn = augment(stamped, how.jitter, draws)
    chosen = (draws.uniform(len(stamped)) < how.stamped_jitter).to(stamped.device).reshape(-1, 1, 1, 1)
    return torch.where(chosen, worn, stamped)
