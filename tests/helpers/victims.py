"""Small untrained transformers of every kind, and coloured noise with some structure to show them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from heredity.nn.classifiers import TransformerShape, make_transformer
from heredity.nn.encoders import Normalised

KINDS = ("vit", "deit", "swin")
SIZE = 16
SHAPES = {
    "vit": TransformerShape("vit", width=16, depth=3, heads=2),
    "deit": TransformerShape("deit", width=16, depth=3, heads=2),
    "swin": TransformerShape("swin", width=16, depth=2, heads=2, window=2),
}


def victim(kind: str, *, classes: int = 5, seed: int = 0, size: int = SIZE) -> Normalised:
    """An untrained victim with weights large enough that its attention is not even."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_transformer(SHAPES[kind], image=size, classes=classes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "pos_embed" not in name:
                    parameter.copy_(torch.randn(parameter.shape) * (1.5 / parameter.shape[-1] ** 0.5))
    return model.eval()


def pictures(count: int, *, seed: int = 0, size: int = SIZE) -> Tensor:
    """Smooth coloured pictures, uint8."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=draw)
    return (255 * F.interpolate(small, size=(size, size), mode="bilinear")).to(torch.uint8)
