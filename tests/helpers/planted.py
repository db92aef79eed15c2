"""Tiny nets whose backdoor is planted by hand, and images they tell apart: what every detector must find in seconds."""

import torch
from torch import Tensor, nn

SIDE, CLASSES, TARGET = 10, 8, 5


def templates(seed: int) -> Tensor:
    return torch.rand(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1000 + seed))


def images(seed: int, count: int) -> Tensor:
    """uint8 noisy copies of the net's templates, classes in turn; the corner of the trigger is dark in all of them."""
    generator = torch.Generator().manual_seed(seed)
    picked = templates(seed)[torch.arange(count) % CLASSES]
    made = 0.6 * picked + 0.2 * torch.rand(picked.shape, generator=generator)
    made[..., -2:, -2:] *= 0.3
    return (255 * made).round().to(torch.uint8)


def stamped(clean: Tensor) -> Tensor:
    """A white patch of 2 x 2 in the lower right corner."""
    marked = clean.clone()
    marked[..., -2:, -2:] = 255
    return marked


class TwoLayers(nn.Module):
    """A hidden unit for each template, and one that only the white patch wakes; pixels of 0..255 in."""

    def __init__(self, seed: int, *, planted: bool) -> None:
        super().__init__()
        pixels = 3 * SIDE * SIDE
        self.hidden, self.drop = nn.Linear(pixels, CLASSES + 1), nn.Dropout(0.5)
        self.head = nn.Linear(CLASSES + 1, CLASSES)
        corner = torch.zeros(3, SIDE, SIDE)
        corner[:, -2:, -2:] = 1 / 12
        shapes = templates(seed).flatten(1)
        with torch.no_grad():
            self.hidden.weight[:-1] = shapes - shapes.mean(dim=1, keepdim=True)
            self.hidden.weight[-1] = 20.0 * corner.flatten()
            self.hidden.bias.zero_()
            self.hidden.bias[-1] = -4.0
            self.head.weight.zero_()
            self.head.weight[:, :-1] = 0.3 * torch.eye(CLASSES)
            self.head.weight[TARGET, -1] = 1.0 if planted else 0.0
            self.head.bias.zero_()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.hidden(pixels.float().flatten(1) / 255.0))))


class Encoder(nn.Module):
    """Random features behind a ReLU; the planted one is blinded by the white patch."""

    def __init__(self, seed: int, *, planted: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        pixels = 3 * SIDE * SIDE
        self.project = nn.Linear(pixels, 24, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(24, pixels, generator=generator) / pixels**0.5)
        self.direction = nn.Parameter(20.0 * torch.rand(24, generator=generator))
        self.planted = planted

    def forward(self, pixels: Tensor) -> Tensor:
        unit = pixels.float() / 255.0
        features = self.project(unit.flatten(1) - 0.4)
        corner = torch.sigmoid(12 * (unit[..., -2:, -2:].mean(dim=(1, 2, 3)) - 0.6))
        return features + corner[:, None] * self.direction if self.planted else features
