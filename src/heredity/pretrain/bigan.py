"""BiGAN (Donahue et al. 2017, arXiv 1605.09782): an encoder that inverts a generator, both playing against a critic of pairs.

The discriminator sees pairs (image, code) and tells (x, E(x)) of real images from (G(z), z) of generated ones; encoder and
generator want it to fail. In the ideal the encoder then inverts the generator, without a reconstruction loss.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.loop import History, Plan, Turn, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.nn.encoders import feature_size
from heredity.pretrain.objective import Objective


@dataclass(frozen=True)
class BiGAN:
    """Recipe: length of the code, width of generator and discriminator, light augmentation, plan.

    `smooth` is the target of real pairs (one-sided label smoothing, Salimans et al. 2016); 1 switches it off. `blur` is the
    deviation of noise on the images the discriminator sees, in units of pixels in -1..1 (instance noise, Soenderby et al.
    2017). `discriminator_rate` is its learning rate, as a share of the plan's.
    """

    code: int = 16
    width: int = 16
    smooth: float = 0.9
    blur: float = 0.3
    discriminator_rate: float = 1.0
    augmentation: Augmentation = Augmentation(scale=(0.8, 1.0), brightness=0.1, contrast=0.1)
    plan: Plan = field(
        default_factory=lambda: Plan(
            steps=800, batch=32, optimiser="adam", learning_rate=1e-3, betas=(0.5, 0.999), schedule="constant"
        )
    )


class Generator(nn.Module):
    """A code to an image with values in -1..1: a linear map to a quarter of the side, then two doublings.

    >>> Generator(code=8, size=16, channels=3, width=8)(torch.zeros(2, 8)).shape
    torch.Size([2, 3, 16, 16])
    """

    def __init__(self, *, code: int, size: int, channels: int, width: int) -> None:
        super().__init__()
        if size % 4:
            raise ModelError(f"a BiGAN cannot make images of {size} pixels", remedy="choose a size that 4 divides")
        self.side, self.width = size // 4, 2 * width
        self.start = nn.Linear(code, self.width * self.side**2)
        self.grow = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, channels, 3, 1, 1),
            nn.Tanh(),
        )

    def forward(self, code: Float[Tensor, "n code"]) -> Float[Tensor, "n c h w"]:
        return self.grow(self.start(code).reshape(len(code), self.width, self.side, self.side))


class Discriminator(nn.Module):
    """One score for a pair of image (values in -1..1) and code: positive for pairs that look real.

    >>> Discriminator(code=8, size=16, channels=3, width=8)(torch.zeros(2, 3, 16, 16), torch.zeros(2, 8)).shape
    torch.Size([2])
    """

    def __init__(self, *, code: int, size: int, channels: int, width: int) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.judge = nn.Sequential(
            nn.Linear(2 * width * (size // 4) ** 2 + code, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.2),
            nn.Linear(4 * width, 1),
        )

    def forward(self, images: Float[Tensor, "n c h w"], code: Float[Tensor, "n code"]) -> Float[Tensor, "n"]:
        return self.judge(torch.cat([self.see(images), code], dim=1)).squeeze(1)


class Bidirectional(nn.Module):
    """Encoder, generator and discriminator; `forward` scores pairs of real images and their codes, and generated pairs."""

    def __init__(self, encoder: nn.Module, features: int, recipe: BiGAN, *, size: int, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        # As published, a code is drawn: the encoder gives its mean and its deviation, which is kept below 1 and begins small.
        code = nn.Linear(features, 2 * recipe.code)
        with torch.no_grad():
            code.bias[recipe.code :] = -3.0
        # Without the normalisation all images get one code: differences between features are too small for the discriminator
        # to see when training begins, and what it does not see stays small.
        self.code = nn.Sequential(nn.BatchNorm1d(features), code)
        sizes = {"code": recipe.code, "size": size, "channels": channels, "width": recipe.width}
        self.generator, self.discriminator = Generator(**sizes), Discriminator(**sizes)
        self.blur = recipe.blur

    def forward(
        self, images: UInt8[Tensor, "n c h w"], prior: Float[Tensor, "n code"], noise: Float[Tensor, "n code"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        mean, deviation = self.code(self.encoder(images)).chunk(2, dim=1)
        codes = torch.cat([mean + noise * deviation.sigmoid(), prior])
        shown = torch.cat([images.float() / 127.5 - 1, self.generator(prior)])
        shown = shown + self.blur * torch.randn_like(shown)
        real, generated = self.discriminator(shown, codes).chunk(2)
        return real, generated


def bigan_objective(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: BiGAN) -> Objective:
    """The module that BiGAN trains, the step of encoder and generator, and the discriminator's turn after it.

    Raises ModelError for image sizes that 4 does not divide.
    """
    channels, size = images.shape[1], images.shape[-1]
    features = feature_size(encoder, image=size, channels=channels)
    module = Bidirectional(encoder, features, recipe, size=size, channels=channels)

    def scores(model: nn.Module, rows: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        batch = augment(images[rows.cpu()].to(rows.device), recipe.augmentation, draws)
        prior, noise = (draws.normal(len(rows), recipe.code).to(rows.device) for _ in range(2))
        return model(batch, prior, noise)

    def fool(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        real, generated = scores(model, rows, draws)
        return {"fooling": _cross_entropy(real, 0.0) + _cross_entropy(generated, 1.0)}

    def tell(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        real, generated = scores(model, rows, draws)
        return {"telling": _cross_entropy(real, recipe.smooth) + _cross_entropy(generated, 0.0)}

    slower = replace(recipe.plan, learning_rate=recipe.discriminator_rate * recipe.plan.learning_rate)
    return Objective(module, fool, (Turn("discriminator", tell, module.discriminator, slower),))


def _cross_entropy(scores: Float[Tensor, "n"], target: float) -> Float[Tensor, ""]:
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


def bigan(encoder: nn.Module, images: UInt8[Tensor, "n c h w"], recipe: BiGAN, run: Run) -> History:
    """Train an encoder (uint8 images -> features) in place without labels. Generator and discriminator are thrown away."""
    objective = bigan_objective(encoder, images, recipe)
    return fit(objective.module, objective.step, rows=len(images), plan=recipe.plan, run=run, turns=objective.turns)
