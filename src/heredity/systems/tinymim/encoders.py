"""Untrained encoders as the published code begins with them (spec, section 2.3)."""

from typing import Any

import torch
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from torch import nn

from heredity.nn.encoders import EncoderShape, Normalised, make_encoder
from heredity.systems.tinymim.distil import adapt_last_block


def untrained(shape: EncoderShape, size: int, *, last_heads: int = 0) -> Normalised:
    """A vision transformer with sin-cos positions and Xavier weights; its last block may have another number of heads.

    Weights come from torch's generator, which a stage of a run has seeded.
    """
    encoder = make_encoder(shape, size)
    if last_heads and shape.width % last_heads == 0:
        adapt_last_block(encoder, last_heads)
    initialise(encoder.inner)
    return encoder


def initialise(vit: Any) -> None:
    """Xavier-uniform linear layers and patch kernel, zero biases, class token N(0, 0.02), 2-D sin-cos positions, in place.

    Positions stay fixed while a model is pre-trained, and learn when it is fine-tuned.
    """
    for layer in vit.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    kernel = vit.patch_embed.proj.weight
    nn.init.xavier_uniform_(kernel.view(kernel.shape[0], -1))
    if vit.patch_embed.proj.bias is not None:
        nn.init.zeros_(vit.patch_embed.proj.bias)
    if vit.cls_token is not None:
        nn.init.normal_(vit.cls_token, std=0.02)
    rows, columns = vit.patch_embed.grid_size
    width = vit.embed_dim
    if vit.pos_embed is not None and rows == columns and width % 4 == 0:
        table = get_2d_sine_cosine_positional_embedding(width, rows, num_prefix_tokens=int(vit.num_prefix_tokens))
        if table.shape[0] == vit.pos_embed.shape[1]:
            with torch.no_grad():
                vit.pos_embed.copy_(torch.from_numpy(table)[None].to(vit.pos_embed))
