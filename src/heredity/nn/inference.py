"""Running a model over many images without training it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode without gradients; its mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(was_training)


def outputs(model: nn.Module, images: Tensor, *, batch: int = 512) -> Tensor:
    """The model's outputs for images (N x C x H x W), on the CPU, in batches."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        return torch.cat([model(part.to(device)).float().cpu() for part in images.split(batch)])


def top1(model: nn.Module, images: Tensor, *, batch: int = 512) -> Int[Tensor, "images"]:
    """The predicted class of each image: what a black-box service would answer."""
    return outputs(model, images, batch=batch).argmax(dim=1)


def accuracy(model: nn.Module, images: Tensor, labels: Int[Tensor, "images"]) -> float:
    """Share of images whose predicted class is their label, 0..1."""
    return float((top1(model, images) == labels).float().mean())
