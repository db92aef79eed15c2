"""Semantic segmentation with a light head: what a pre-trained transformer knows about every patch."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.lineage import architecture_of, remember
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.nn.encoders import Normalised
from heredity.nn.inference import outputs
from heredity.transfer.layerwise import layer_groups


@dataclass(frozen=True)
class Segmentation:
    """The plan, and the decay of the rate from block to block."""

    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=200, batch=50, learning_rate=4e-3, weight_decay=0.05, schedule="one-cycle", optimiser="adamw"
        )
    )
    layer_decay: float = 0.8


class Segmenter(nn.Module):
    """A vision transformer and one linear map from each patch's token to the classes of its pixels.

    uint8 images -> scores, batch x classes x height x width. Raises ModelError for an encoder without patches in one grid.
    """

    def __init__(self, encoder: Normalised, classes: int) -> None:
        super().__init__()
        vit: Any = encoder.inner
        if not hasattr(vit, "patch_embed") or not hasattr(vit, "num_prefix_tokens"):
            raise ModelError("segmentation reads a token for every patch", remedy="give a timm VisionTransformer")
        self.encoder, self.classes = encoder, classes
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.patch, self.prefix = int(vit.patch_embed.patch_size[0]), int(vit.num_prefix_tokens)
        self.norm = nn.LayerNorm(vit.embed_dim, eps=1e-6)
        self.head = nn.Linear(vit.embed_dim, classes * self.patch**2)
        if (inner := architecture_of(encoder)) is not None:
            remember(self, {"kind": "segmenter", "encoder": inner, "classes": classes})

    def forward(self, images: Tensor) -> Float[Tensor, "batch classes height width"]:
        pixels = (images.float() / 255.0 - self.encoder.mean) / self.encoder.std
        tokens = self.encoder.inner.forward_features(pixels)[:, self.prefix :]  # pyright: ignore
        scores = self.head(self.norm(tokens)).transpose(1, 2)
        return F.pixel_shuffle(scores.reshape(len(images), -1, *self.grid), self.patch)


def segment(
    encoder: Normalised,
    images: UInt8[Tensor, "n c h w"],
    masks: Int[Tensor, "n h w"],
    how: Segmentation,
    *,
    classes: int,
    run: Run,
    name: str,
    ignore: int = 255,
) -> Any:
    """A segmenter fine-tuned on images with a class for every pixel (`ignore` for none), as a stage of the run."""

    def train(model: nn.Module) -> None:
        def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            wanted = masks[rows.cpu()].to(rows.device)
            scores = model(images[rows.cpu()].to(rows.device))
            return {"cross_entropy": F.cross_entropy(scores, wanted, ignore_index=ignore)}

        assert isinstance(model, Segmenter)
        head = nn.ModuleList([model.norm, model.head])
        groups = layer_groups(model.encoder.inner, head, how.plan, how.layer_decay)
        fit(model, step, rows=len(images), plan=how.plan, run=run, groups=groups)

    return run.model(
        name,
        make=lambda: Segmenter(copy.deepcopy(encoder), classes),
        train=train,
        made_by="fine-tuning for segmentation",
        parents=[encoder],
        settings={"classes": classes, **asdict(how)},
    )


def segmented(model: nn.Module, images: UInt8[Tensor, "n c h w"], *, batch: int = 256) -> Int[Tensor, "n h w"]:
    """The class of every pixel."""
    parts: Sequence[Tensor] = [outputs(model, part).argmax(dim=1) for part in images.split(batch)]
    return torch.cat(list(parts))
