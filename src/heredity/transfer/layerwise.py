"""Rates by layer: the closer to the input, the slower a pre-trained transformer learns (Clark et al. 2020, BEiT, MAE)."""

from typing import Any

from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from heredity.core.loop import Plan


def layer_groups(encoder: nn.Module, head: nn.Module, plan: Plan, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for `fit`: block i of L learns at the plan's rate times decay^(L + 1 - i), embeddings as block 0.

    The head learns at the full rate. Biases, norms, class token and positions get no weight decay. `encoder` is the timm
    model itself.

    >>> from heredity.nn.encoders import vision_transformer
    >>> groups = layer_groups(vision_transformer(image=8, patch=4, depth=2), nn.Linear(64, 2), Plan(), 0.5)
    >>> sorted({group["lr_scale"] for group in groups})
    [0.125, 0.25, 0.5, 1.0]
    """
    unchanging = ("cls_token", "pos_embed", "dist_token", "reg_token")
    groups = param_groups_layer_decay(encoder, plan.weight_decay, unchanging, layer_decay=decay)
    for single, weight_decay in ((False, plan.weight_decay), (True, 0.0)):
        own = [item for item in head.parameters() if item.requires_grad and (item.ndim <= 1) == single]
        groups += [{"params": own, "lr_scale": 1.0, "weight_decay": weight_decay}] if own else []
    return groups
