"""Small encoders: images in, one feature vector out. Larger ones come from timm through `heredity.nn.resolver`."""

from dataclasses import dataclass
from typing import Literal

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.lineage import architecture_of, remember
from heredity.core.settings import to_plain


@dataclass(frozen=True)
class EncoderShape:
    """An encoder's shape as a setting. `width` is channels of the first stage, or tokens' width of a transformer.

    "resnet18" is the one of small-image papers: 3x3 stem of stride 1, no max-pooling, 512 features. "resnet18-large-stem"
    keeps ImageNet's 7x7 stem of stride 2 and max-pooling: a twentieth of the arithmetic, for machines without a GPU.
    "convnet" and "alexnet" are the ones of dataset distillation, without normalisation; `hidden` is their last layer's width.
    """

    kind: Literal["residual", "resnet18", "resnet18-large-stem", "vit", "convnet", "alexnet"] = "residual"
    width: int = 16
    norm: Literal["batch", "group"] = "group"
    patch: int = 4
    depth: int = 4
    heads: int = 4
    hidden: int = 64


def make_encoder(shape: EncoderShape, size: int) -> "Normalised":
    """An untrained encoder for uint8 RGB images of `size` pixels.

    >>> make_encoder(EncoderShape(width=8), 16)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape
    torch.Size([1, 32])
    """
    if shape.kind == "residual":
        inner: nn.Module = ResidualEncoder(width=shape.width, norm=shape.norm)
    elif shape.kind == "vit":
        inner = vision_transformer(
            image=size, patch=shape.patch, width=shape.width, depth=shape.depth, heads=shape.heads
        )
    elif shape.kind == "convnet":
        inner = ConvNet(size, width=shape.width, depth=shape.depth, hidden=shape.hidden)
    elif shape.kind == "alexnet":
        inner = SmallAlexNet(size, width=shape.width, hidden=shape.hidden)
    else:
        inner = timm.create_model("resnet18", pretrained=False, num_classes=0)
        if shape.kind == "resnet18":
            inner.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            inner.maxpool = nn.Identity()
    encoder = Normalised(inner)
    remember(encoder, {"kind": "shape", "shape": to_plain(shape), "image": size})
    return encoder


def _norm(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(min(8, channels // 4), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, basic block)."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = _norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = _norm(norm, channels)
        straight = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if straight else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResidualEncoder(nn.Module):
    """A three-stage residual net for images of 16 to 64 pixels; features are 4 x `width` numbers after average pooling.

    >>> ResidualEncoder(width=16)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64])
    """

    def __init__(self, *, width: int = 16, channels: int = 3, norm: Literal["batch", "group"] = "group") -> None:
        super().__init__()
        self.num_features = 4 * width
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), _norm(norm, width), nn.ReLU())
        self.stages = nn.Sequential(
            ResidualBlock(width, width, 1, norm),
            ResidualBlock(width, 2 * width, 2, norm),
            ResidualBlock(2 * width, 4 * width, 2, norm),
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        return self.stages(self.stem(x)).mean(dim=(2, 3))


class ConvNet(nn.Module):
    """The network of dataset distillation (Zhao et al. 2021) with a hidden linear layer (Liu et al. 2023) and no norm.

    `depth` times convolution, ReLU and pooling that halves; features are the hidden layer's, after a ReLU.

    >>> ConvNet(16, width=8, depth=2, hidden=12)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 12])
    """

    def __init__(self, size: int, *, width: int = 128, depth: int = 3, hidden: int = 192, channels: int = 3) -> None:
        super().__init__()
        if size < 2**depth:
            raise ModelError(f"{size} pixels cannot be halved {depth} times", remedy="choose a smaller depth")
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks += [nn.Conv2d(width if block else channels, width, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(2)]
        self.num_features = hidden
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Linear(width * (size // 2**depth) ** 2, hidden)

    def forward(self, x: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch hidden"]:
        return torch.relu(self.hidden(self.blocks(x).flatten(1)))


class SmallAlexNet(nn.Module):
    """AlexNet for small images as the papers on distillation use it: two 5x5 convolutions, two linear layers.

    >>> SmallAlexNet(16, width=8, hidden=12)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 12])
    """

    def __init__(self, size: int, *, width: int = 64, hidden: int = 192, channels: int = 3) -> None:
        super().__init__()
        self.num_features = hidden

        def calm() -> nn.Module:
            return nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1.0)

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, 1)

        self.blocks = nn.Sequential(
            *(nn.Conv2d(channels, width, 5, 1, 2), nn.ReLU(), pool(), calm()),
            *(nn.Conv2d(width, width, 5, 1, 2), nn.ReLU(), calm(), pool()),
        )
        side = ((size + 1) // 2 + 1) // 2
        self.wide = nn.Linear(width * side**2, 2 * hidden)
        self.hidden = nn.Linear(2 * hidden, hidden)

    def forward(self, x: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch hidden"]:
        return torch.relu(self.hidden(torch.relu(self.wide(self.blocks(x).flatten(1)))))


def vision_transformer(
    *, image: int, patch: int, width: int = 64, depth: int = 4, heads: int = 4, channels: int = 3
) -> nn.Module:
    """A timm vision transformer of any size, with a class token and pooled features (no head).

    >>> vision_transformer(image=16, patch=4)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64])
    """
    if image % patch:
        raise ModelError(f"patches of {patch} do not tile an image of {image}", remedy="choose a patch that divides it")
    return timm.models.VisionTransformer(
        img_size=image,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        global_pool="avg",
        class_token=True,
    )


def feature_size(encoder: nn.Module, *, image: int, channels: int = 3) -> int:
    """The length of an encoder's feature vector, found by asking it. Raises ModelError when its output is not B x d."""
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        features = encoder(torch.zeros(2, channels, image, image, device=device))
    encoder.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(
            f"the encoder gives {shape}, not one vector per image",
            remedy="create it with num_classes=0 and a pooling: timm's global_pool is avg, token, map or max",
        )
    return features.shape[1]


class Normalised(nn.Module):
    """An encoder that takes uint8 images and does its own scaling: pixels in 0..255 -> (x/255 - mean) / std.

    Everything in the house hands uint8 images around, so that a stamp in pixel space means the same everywhere. Floats of
    0..255 mean the same; what is optimised over pixels (see `defences`) comes in so, and gradients flow back.

    >>> Normalised(ResidualEncoder())(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
    torch.Size([2, 64])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, inner: nn.Module, *, mean: float | tuple[float, ...] = 0.5, std: float | tuple[float, ...] = 0.5
    ) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((images.float() / 255.0 - self.mean) / self.std)


class Classifier(nn.Module):
    """An encoder with a linear head: uint8 images in, one score per class out.

    >>> Classifier(Normalised(ResidualEncoder()), features=64, classes=3)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape
    torch.Size([1, 3])
    """

    def __init__(self, encoder: nn.Module, *, features: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, classes)
        if (inner := architecture_of(encoder)) is not None:
            remember(self, {"kind": "classifier", "encoder": inner, "features": features, "classes": classes})

    def forward(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        return self.head(self.encoder(images))
