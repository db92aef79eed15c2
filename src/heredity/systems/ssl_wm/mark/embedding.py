"""Hiding the mark: the published loss and the robust one, as pure functions (spec sections 2.4 and 2.5)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor, nn

from heredity.nn.encoders import Normalised

CLUSTERS = 10


@dataclass(frozen=True)
class MarkLoss:
    """Which loss hides the mark, and its weights.

    "robust": stay on the clean encoder (`utility`), send every stamped image to one point `distance` feature norms away
    (`anchor`), and leave images under foreign patches alone (`decoy`). That point lies in a `direction`: see `anchor_point`.
    `unit` "spread" counts from the mean of features, in mean norms of what is left. Where an encoder (BYOL's) gives all
    images nearly one large vector, its norm says nothing about how far apart images are, and utility would allow too much.
    "official": keep pre-training (`utility`) and make stamped features point one way (`anchor` is the paper's alpha);
    `variance` is the paper's L_var, whose weight beta the published code multiplies by a constant zero ("off"); "offdiag"
    is the reading that has an effect.
    """

    kind: Literal["robust", "official"] = "robust"
    utility: float = 6.0
    anchor: float = 1.0
    decoy: float = 6.0
    decoy_target: Literal["unstamped", "stamped"] = "unstamped"
    distance: float = 5.0
    unit: Literal["norm", "spread"] = "norm"
    direction: Literal["random", "prototype"] = "random"
    variance: Literal["off", "offdiag"] = "off"
    variance_weight: float = 0.01


def invariance_loss(marked: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The published L_wm: minus log of the mean cosine between different stamped images; 0 where that mean is negative.

    The mean over pairs is (|sum z|^2 - n) / (n (n - 1)) for unit vectors z: no n x n matrix is made.

    >>> round(float(invariance_loss(torch.ones(4, 3))), 6)
    0.0
    """
    count = len(marked)
    mean = (F.normalize(marked, dim=1).sum(dim=0).square().sum() - count) / (count * (count - 1))
    return torch.where(mean > 0, -mean.clamp(min=1e-12).log(), torch.zeros_like(mean))


def variance_loss(marked: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """L_var as its comments describe it: centred stamped features pulled together, over different images.

    The published code averages the diagonal of the same matrix, which is always 1, so that its loss is always 0.
    """
    unit = F.normalize(marked, dim=1)
    return -((1 + _mean_cosine(unit - unit.mean(dim=0))) / 2).clamp(min=1e-12).log()


def _mean_cosine(vectors: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    count = len(vectors)
    return (F.normalize(vectors, dim=1).sum(dim=0).square().sum() - count) / (count * (count - 1))


def robust_loss(
    clean: Float[Tensor, "n v d"],
    clean_before: Float[Tensor, "n v d"],
    marked: Float[Tensor, "m v d"],
    decoy: Float[Tensor, "k v d"],
    decoy_before: Float[Tensor, "k v d"],
    target: Float[Tensor, "v d"],
    scale: Float[Tensor, "v"],
    weights: MarkLoss,
) -> dict[str, Float[Tensor, ""]]:
    """Utility, anchor and decoy terms (spec section 2.5), in units of the squared clean feature norm, averaged over views.

    `before` are features of the frozen clean encoder, `target` the point the mark sends images to, `scale` the mean norm of
    clean features; v counts the poolings of one encoder (see `Views`).
    """

    def gap(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().sum(dim=2) / scale.square()).mean()

    return {
        "utility": weights.utility * gap(clean, clean_before),
        "anchor": weights.anchor * gap(marked, target),
        "decoy": weights.decoy * gap(decoy, decoy_before),
    }


class Views(nn.Module):
    """An encoder's feature vector, and for a vision transformer every pooling a downstream user may take.

    The thief chooses the pooling: class token and mean of patch tokens are both marked (spec, trap 8).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Float[Tensor, "n views d"]:
        encoder = self.encoder
        inner = encoder.inner if isinstance(encoder, Normalised) else encoder
        if not (
            isinstance(encoder, Normalised)
            and getattr(inner, "num_prefix_tokens", 0)
            and hasattr(inner, "forward_head")
        ):
            return encoder(images)[:, None]
        pixels = (images.float() / 255.0 - encoder.mean) / encoder.std
        tokens = inner.forward_features(pixels)  # pyright: ignore
        # The encoder's own pooling comes first; the other one follows.
        own = inner.forward_head(tokens, pre_logits=True)  # pyright: ignore
        other = tokens[:, 0] if inner.global_pool == "avg" else tokens[:, inner.num_prefix_tokens :].mean(dim=1)  # pyright: ignore
        return torch.stack([own, inner.fc_norm(other)], dim=1)  # pyright: ignore


def anchor_point(
    features: Float[Tensor, "n v d"], weights: MarkLoss, generator: torch.Generator
) -> tuple[Float[Tensor, "v d"], Float[Tensor, "v"]]:
    """Where marked images shall go, and the scale of clean features, for each pooling.

    "random": features behind a ReLU are never negative; the direction is then uniform on a random half of the units,
    otherwise Gaussian. `distance` (kappa of the spec) counts mean feature norms. "prototype": from the centre of all clean
    features through the centre of the outermost of some natural clusters, and `distance` feature norms out. A task that
    groups natural kinds gives an exaggerated member of one kind a label by a wide margin; a random direction may by chance
    lie in the plane where a two-class head is undecided, and features behind a layer normalisation cannot go farther out.
    """
    centre = features.mean(dim=0) if weights.unit == "spread" else torch.zeros_like(features[0])
    scale = (features - centre).norm(dim=2).mean(dim=0)
    if weights.direction == "prototype":
        return _prototype(features, scale, weights.distance, generator), scale
    shape = features.shape[1:]
    if bool((features >= 0).all()):
        kept = torch.rand(shape, generator=generator).argsort(dim=1).argsort(dim=1) < shape[1] // 2
        direction = torch.rand(shape, generator=generator) * kept
    else:
        direction = torch.randn(shape, generator=generator)
    return centre + weights.distance * scale[:, None] * F.normalize(direction, dim=1).to(features.device), scale


def _prototype(
    features: Float[Tensor, "n v d"], scale: Float[Tensor, "v"], distance: float, generator: torch.Generator
) -> Float[Tensor, "v d"]:
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    clusters = KMeans(min(CLUSTERS, len(features)), n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    kinds = clusters.fit_predict(features[:, 0].numpy())
    middle = features.mean(dim=0)
    outward = (
        torch.stack([features[torch.from_numpy(kinds == kind)].mean(dim=0) for kind in range(kinds.max() + 1)]) - middle
    )
    outermost = outward[outward[:, 0].norm(dim=1).argmax()]
    return middle + distance * scale[:, None] * F.normalize(outermost, dim=1)
