"""The two attacks: NAIVEATTACK's fixed patch, and DOORPING's, which follows the networks of the distillation.

Whoever distils a data set stamps some of its images with a patch and calls them the target class (Liu et al., NDSS 2023,
section IV). NAIVEATTACK leaves the patch white. DOORPING changes it whenever a network has learnt a little: the patch shall
drive the hidden neurons that weigh most, so that what the network learns from it leaves a mark in the distilled images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.systems.dd_backdoor.networks import frozen, hidden_layer, hidden_values

Patch = Float[Tensor, "channels side side"]
"""A trigger, in units of the pixel range: 0 is black, 1 is white; the published update may leave that range."""


@dataclass(frozen=True)
class Attack:
    """Which patch, how many images carry it, and how DOORPING changes it.

    `size` and `margin` in pixels, from the bottom right corner; `ratio` is the share of all training images that are
    stamped and called `target`. `pixels` "free" lets the patch leave the pixel range, as the published code does; "valid"
    keeps it a picture, or within `reach` of one (0: 0..1; 1: -1..2). `objective` "neuron" drives the `neurons` hidden units
    with the largest incoming weights (`chosen` "random": any) to `gain` times their value, on the patch alone on black;
    "margin" (ours) raises the target's probability on stamped training images. `reading` "published" reads neurons behind
    the ReLU, where a silent one stays silent. `steps` Adam steps at `rate` make an update; updates come at every `every`-th
    step of the distillation, and only in its first part, `until` (a share of its steps), so that the images can settle on
    the last patch; published is 1. `frozen` never updates (the ablation).
    """

    kind: Literal["none", "naive", "random", "doorping"] = "none"
    target: int = 0
    size: int = 2
    margin: int = 1
    ratio: float = 0.05
    pixels: Literal["free", "valid"] = "free"
    reach: float = 0.0
    objective: Literal["neuron", "margin"] = "neuron"
    chosen: Literal["strongest", "random"] = "strongest"
    reading: Literal["ours", "published"] = "ours"
    neurons: int = 1
    gain: float = 10.0
    steps: int = 30
    rate: float = 0.08
    every: int = 1
    until: float = 1.0
    frozen: bool = False


def check_attack(attack: Attack, *, size: int, classes: int, rows: int) -> None:
    """Raises ConfigError for a patch that does not fit, a target that is no class, or a ratio that stamps no image."""
    if attack.kind == "none":
        return
    if attack.size < 1 or attack.size + attack.margin > size:
        raise ConfigError(
            f"a patch of {attack.size} pixels, {attack.margin} from the border, does not fit into {size}",
            remedy=f"choose a size of 1 to {size - attack.margin}",
        )
    if not 0 <= attack.target < classes:
        raise ConfigError(f"there is no class {attack.target}", remedy=f"choose a target of 0 to {classes - 1}")
    if attack.reach < 0:
        raise ConfigError(
            f"a reach of {attack.reach:g} pixel ranges", remedy="choose 0, which keeps a picture, or more"
        )
    if not 0 < attack.until <= 1:
        raise ConfigError(
            f"updates until {attack.until:g} of the distillation", remedy="choose a share above 0, up to 1"
        )
    if round(attack.ratio * rows) < 1 or attack.ratio > 1:
        raise ConfigError(
            f"a ratio of {attack.ratio:g} stamps {round(attack.ratio * rows)} of {rows} images",
            remedy=f"choose a ratio of {1 / rows:.2g} to 1",
        )


def poisoned_rows(rows: int, attack: Attack, generator: torch.Generator) -> Bool[Tensor, "rows"]:
    """Which images carry the patch: a fixed random share of all classes, the target's included."""
    chosen = torch.zeros(rows, dtype=torch.bool)
    if attack.kind != "none":
        chosen[torch.randperm(rows, generator=generator)[: round(attack.ratio * rows)]] = True
    return chosen


def first_patch(attack: Attack, channels: int, generator: torch.Generator) -> Patch:
    """White for NAIVEATTACK, random pixels otherwise."""
    shape = (channels, attack.size, attack.size)
    return torch.ones(shape) if attack.kind in ("none", "naive") else torch.rand(shape, generator=generator)


def paste(
    images: Float[Tensor, "n channels size size"], patch: Patch, margin: int
) -> Float[Tensor, "n channels size size"]:
    """Copies of the images under the patch. Gradients flow to the patch.

    >>> stamped = paste(torch.zeros(1, 3, 8, 8), torch.ones(3, 2, 2), 1)
    >>> int(stamped.sum()), float(stamped[0, 0, 6, 6]), float(stamped[0, 0, 7, 7])
    (12, 1.0, 0.0)
    """
    size, side = images.shape[-1], patch.shape[-1]
    room = (size - margin - side, margin) * 2
    inside = F.pad(torch.ones_like(patch[:1]), room)
    return images * (1 - inside) + F.pad(patch, room)


def strongest_neurons(network: nn.Module, attack: Attack, generator: torch.Generator) -> Int[Tensor, "k"]:
    """The hidden units whose incoming weights have the largest sum of magnitudes, or (an ablation) random ones."""
    weight = hidden_layer(network).weight
    if attack.chosen == "random":
        return torch.randperm(len(weight), generator=generator)[: attack.neurons]
    return weight.detach().abs().sum(dim=1).topk(min(attack.neurons, len(weight))).indices


def update_patch(
    patch: Patch,
    network: nn.Module,
    attack: Attack,
    images: Float[Tensor, "n channels size size"],
    generator: torch.Generator,
    *,
    unit: float = 1.0,
) -> Patch:
    """DOORPING's step: the patch that drives the network's chosen neurons hardest, starting from the one at hand.

    `images` (0..1, none of the target class) give the size of the canvas; the objective "margin" stamps them. `unit` is the
    standard deviation of pixels, in which the published rate is counted. The network stays as it is.
    """
    neurons = strongest_neurons(network, attack, generator)
    black = torch.zeros_like(images[:1])
    target = torch.full((len(images),), attack.target, device=images.device)
    moved = patch.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([moved], lr=attack.rate * unit, betas=(0.9, 0.99))

    def hidden() -> Tensor:
        activation = hidden_values(network, 255.0 * paste(black, moved, attack.margin))[0, neurons]
        return activation.relu() if attack.reading == "published" else activation

    with frozen(network):
        before = hidden().detach()
        # Ten times nothing is nothing: ours asks for ten times a tenth at least, and drives a silenced neuron up.
        goal = attack.gain * (before if attack.reading == "published" else before.abs().clamp(min=0.1))
        for _ in range(attack.steps):
            if attack.objective == "margin":
                loss = F.cross_entropy(network(255.0 * paste(images, moved, attack.margin)), target)
            else:
                loss = F.mse_loss(hidden(), goal)
                if loss < 0.5:
                    break
            [moved.grad] = torch.autograd.grad(loss, moved)
            optimiser.step()
            if attack.pixels == "valid":
                with torch.no_grad():
                    moved.clamp_(0.0 - attack.reach, 1.0 + attack.reach)
    return moved.detach()
