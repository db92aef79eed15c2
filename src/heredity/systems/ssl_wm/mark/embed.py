"""Training a mark into an encoder: batches of clean, stamped and decoy-stamped images, and the step that `fit` repeats."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import History, Plan, Step, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.nn.inference import outputs
from heredity.pretrain.objective import Objective
from heredity.systems.ssl_wm.mark.embedding import (
    MarkLoss,
    Views,
    anchor_point,
    invariance_loss,
    robust_loss,
    variance_loss,
)
from heredity.systems.ssl_wm.mark.keys import Key, derive_patches
from heredity.systems.ssl_wm.mark.trigger import stamp_each
from heredity.transfer.inputs import Treatment, treat

_COMPRESSED = 4


@dataclass(frozen=True)
class Embedding:
    """How a mark is hidden: the loss, the views before stamping (strong and weak, mixed), a jitter after it, the plan.

    `jpeg` are the qualities, lowest and highest, at which every fourth stamped image is compressed; none unless given. JPEG
    takes the colours out of small patches: a mark that never met it is lost behind a service that compresses pictures.
    Batch normalisation keeps its statistics ("eval" mode): marked-only batches would shift them (spec, trap 4).
    """

    loss: MarkLoss = MarkLoss()
    strong: Augmentation = Augmentation()
    weak: Augmentation = Augmentation(scale=(0.9, 1.0), brightness=0.1, contrast=0.1)
    wear_every: int = 4
    wear: Augmentation = Augmentation(scale=(0.85, 1.0), brightness=0.05, contrast=0.05, noise=0.02)
    jpeg: tuple[int, int] | None = None
    plan: Plan = field(
        default_factory=lambda: Plan(steps=600, batch=48, optimiser="adam", learning_rate=1e-3, clip=5.0, mode="eval")
    )


def embed_mark(
    encoder: nn.Module,
    images: UInt8[Tensor, "n c size size"],
    key: Key,
    how: Embedding,
    run: Run,
    *,
    pretraining: Objective | None = None,
    point: str = "anchor point",
) -> History:
    """Hide the key's mark in an encoder (uint8 images -> features), in place. No label is needed.

    The official loss continues the `pretraining` that made the encoder; the robust one needs none. `point` seeds where the
    robust loss sends marked images: two owners choose without knowing of each other. Raises ConfigError for the official
    loss without `pretraining`.
    """
    if how.loss.kind == "official":
        if pretraining is None:
            raise ConfigError(
                "the official loss continues pre-training", remedy="give pretraining=, or use the robust loss"
            )
        module, step = _official(encoder, images, key, how, pretraining)
        return fit(module, step, rows=len(images), plan=how.plan, run=run, turns=pretraining.turns)
    module, step = _robust(encoder, images, key, how, run, point)
    return fit(module, step, rows=len(images), plan=how.plan, run=run)


def _robust(
    encoder: nn.Module, images: Tensor, key: Key, how: Embedding, run: Run, point: str
) -> tuple[nn.Module, Step]:
    patches, parameters, device = derive_patches(key), key.parameters, run.fabric.device
    before = Views(copy.deepcopy(encoder)).requires_grad_(False).eval()
    target, scale = anchor_point(outputs(before, images[:512]), how.loss, generator_of(run.seed, point))
    target, scale = target.to(device), scale.to(device)

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = images[rows.cpu()].to(rows.device)
        owned = patches[draws.integers(len(rows), high=len(patches))]
        foreign = draws.integers(*owned.shape, high=256).to(torch.uint8)
        clean = _view(batch, how, draws)
        stamped = _worn(stamp_each(_view(batch, how, draws), owned, parameters), how, draws)
        plain = _view(batch, how, draws)
        decoys = _worn(stamp_each(plain, foreign, parameters), how, draws)
        # A foreign patch shall do nothing: its image keeps the features of the image without it, or (the reading of the
        # spec) those that the clean encoder gives it.
        harmless = plain if how.loss.decoy_target == "unstamped" else decoys
        clean_now, stamped_now, decoys_now = model(torch.cat([clean, stamped, decoys])).split(len(rows))
        with torch.no_grad():
            clean_before, decoys_before = before(torch.cat([clean, harmless])).split(len(rows))
        return robust_loss(clean_now, clean_before, stamped_now, decoys_now, decoys_before, target, scale, how.loss)

    return Views(encoder), step


class _AndFeatures(nn.Module):
    """A pre-training module that also gives the features of other images, behind one forward for data-parallel training."""

    def __init__(self, module: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.module, self.views = module, Views(encoder)

    def forward(self, *inputs: Tensor, features_of: Tensor | None = None) -> Any:
        return self.module(*inputs) if features_of is None else self.views(features_of)


def _official(
    encoder: nn.Module, images: Tensor, key: Key, how: Embedding, pretraining: Objective
) -> tuple[nn.Module, Step]:
    patches, loss = derive_patches(key), how.loss

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        terms = {name: loss.utility * value for name, value in pretraining.step(model, rows, draws).items()}
        batch = images[rows.cpu()].to(rows.device)
        owned = patches[draws.integers(len(rows), high=len(patches))]
        views = [stamp_each(augment(batch, how.strong, draws), owned, key.parameters) for _ in range(2)]
        features = model(features_of=torch.cat(views))
        poolings = range(features.shape[1])
        terms["invariance"] = sum((loss.anchor * invariance_loss(features[:, v]) for v in poolings), torch.zeros(()))
        if loss.variance == "offdiag":
            spread = sum((variance_loss(features[:, v]) for v in poolings), torch.zeros(()))
            terms["variance"] = loss.variance_weight * spread
        return terms

    return _AndFeatures(pretraining.module, encoder), step


def _view(images: Tensor, how: Embedding, draws: Draws) -> Tensor:
    """Half of the samples strongly, half weakly augmented. Rows come shuffled, so that any half will do."""
    half = len(images) // 2
    return torch.cat([augment(images[:half], how.strong, draws), augment(images[half:], how.weak, draws)])


def _worn(stamped: Tensor, how: Embedding, draws: Draws) -> Tensor:
    """What an API may do after stamping: every n-th image is slightly moved, rescaled and made noisy, others compressed."""
    worn = stamped.clone()
    if how.wear_every:
        worn[:: how.wear_every] = augment(stamped[:: how.wear_every], how.wear, draws)
    if how.jpeg is not None:
        lowest, highest = how.jpeg
        for row in range(1, len(stamped), _COMPRESSED):
            quality = lowest + int(draws.integers(1, high=highest - lowest + 1))
            worn[row : row + 1] = treat(stamped[row : row + 1], Treatment("jpeg", quality))
    return worn
