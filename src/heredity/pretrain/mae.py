"""Masked autoencoder (He et al. 2022): encode a quarter of the patches, reconstruct the rest."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
from lightly.models.utils import get_at_index, patchify
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.loop import History, Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.data.pictures import Pictures
from heredity.nn.encoders import Normalised
from heredity.pretrain.objective import Objective


@dataclass(frozen=True)
class MAE:
    """Recipe: share of masked patches, decoder size, whether targets are normalised per patch, augmentation and plan."""

    mask: float = 0.75
    decoder_width: int = 48
    decoder_depth: int = 2
    decoder_heads: int = 4
    normalise_targets: bool = True
    augmentation: Augmentation = Augmentation(brightness=0.0, contrast=0.0)
    plan: Plan = field(
        default_factory=lambda: Plan(epochs=60, batch=256, learning_rate=2e-3, schedule="one-cycle", weight_decay=0.05)
    )


class MaskedAutoencoder(nn.Module):
    """A timm vision transformer that sees only the kept patches, and lightly's decoder that fills in the others.

    `forward(pixels, kept)` takes normalised pixels and the numbers of the kept patches, and predicts all patches.
    """

    def __init__(self, vit: nn.Module, recipe: MAE) -> None:
        super().__init__()
        self.vit = vit
        self.patch = int(vit.patch_embed.patch_size[0])  # pyright: ignore
        self.patches = int(vit.patch_embed.num_patches)  # pyright: ignore
        width, channels = int(vit.embed_dim), int(vit.patch_embed.proj.in_channels)  # pyright: ignore
        self.narrow = nn.Linear(width, recipe.decoder_width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=self.patches,
            embed_dim=recipe.decoder_width,
            depth=recipe.decoder_depth,
            num_heads=recipe.decoder_heads,
        )
        self.predict = nn.Linear(recipe.decoder_width, self.patch**2 * channels)

    def forward(
        self, pixels: Float[Tensor, "b c h w"], kept: Int[Tensor, "b kept"]
    ) -> Float[Tensor, "b patches values"]:
        vit, decoder = self.vit, self.decoder
        tokens = vit._pos_embed(vit.patch_embed(pixels))  # pyright: ignore
        prefix = torch.zeros(len(kept), 1, dtype=kept.dtype, device=kept.device)
        tokens = get_at_index(tokens, torch.cat([prefix, kept + 1], dim=1))
        tokens = vit.norm(vit.blocks(vit.norm_pre(tokens)))  # pyright: ignore
        narrow = self.narrow(tokens)
        full = decoder.mask_token.expand(len(kept), self.patches, -1).to(narrow.dtype)
        full = full.scatter(1, kept[:, :, None].expand(-1, -1, narrow.shape[2]), narrow[:, 1:])
        whole = torch.cat([narrow[:, :1], full], dim=1)
        return self.predict(decoder.decode(decoder.add_pos_embed(whole))[:, 1:])


def mae_objective(encoder: nn.Module, images: UInt8[Tensor, "n c h w"] | Pictures, recipe: MAE) -> Objective:
    """The module that masked autoencoding trains and its step.

    Raises ModelError when the encoder is not a normalised vision transformer with one class token.
    """
    vit = encoder.inner if isinstance(encoder, Normalised) else None
    is_transformer = hasattr(vit, "patch_embed") and hasattr(vit, "_pos_embed")
    if vit is None or not isinstance(encoder, Normalised) or not is_transformer or vit.num_prefix_tokens != 1:
        raise ModelError(
            "masked autoencoding needs a timm vision transformer with one class token", remedy="choose a ViT"
        )
    model = MaskedAutoencoder(vit, recipe)
    shown = max(1, round(model.patches * (1 - recipe.mask)))

    def step(wrapped: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = augment(images[rows.cpu()].to(rows.device), recipe.augmentation, draws)
        pixels = (batch.float() / 255.0 - encoder.mean) / encoder.std
        order = draws.uniform(len(rows), model.patches).argsort(dim=1).to(rows.device)
        kept, hidden = order[:, :shown], order[:, shown:]
        return {"reconstruction": reconstruction_loss(wrapped(pixels, kept), pixels, hidden, model.patch, recipe)}

    return Objective(model, step)


def mae(encoder: nn.Module, images: UInt8[Tensor, "n c h w"] | Pictures, recipe: MAE, run: Run) -> History:
    """Train a normalised timm vision transformer in place without labels. The decoder is thrown away."""
    objective = mae_objective(encoder, images, recipe)
    return fit(objective.module, objective.step, rows=len(images), plan=recipe.plan, run=run)


def reconstruction_loss(
    predicted: Float[Tensor, "b patches values"],
    pixels: Float[Tensor, "b c h w"],
    hidden: Int[Tensor, "b hidden"],
    patch: int,
    recipe: MAE,
) -> Float[Tensor, ""]:
    """Mean squared error on the hidden patches, against pixels normalised within each patch (paper, section 4.1)."""
    target = get_at_index(patchify(pixels, patch), hidden)
    if recipe.normalise_targets:
        target = (target - target.mean(dim=2, keepdim=True)) / (target.var(dim=2, keepdim=True) + 1e-6).sqrt()
    return nn.functional.mse_loss(get_at_index(predicted, hidden), target)
