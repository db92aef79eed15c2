"""The attention-catching trigger: one patch that draws the attention of the tokens the head reads (spec, section 2.2).

No label, no logit and no target class enters its search; only the choice among several finished searches asks whether the
clean victim answers the target already. The patch lives in pixels and is rounded to 8 bit before anybody looks at it, so
that what is evaluated is a picture a camera or a file can deliver.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, TrainingError
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.defences.contract import Trigger
from heredity.nn.attention_maps import Objective, layout_of, patch_attention, token_weights
from heredity.nn.encoders import Normalised
from heredity.nn.inference import top1
from heredity.systems.dbia.anatomy import in_eval_mode
from heredity.systems.dbia.surrogate import blended_backgrounds, drawn_shapes

Kind = Literal["attention", "official", "random", "white"]
Position = Literal["bottom-right", "bottom-left", "top-right", "top-left", "centre"]


@dataclass(frozen=True)
class Patch:
    """A square of `size` pixels in a corner. `aligned` puts it on the border; the paper leaves 2 of 224 pixels free."""

    size: int = 12
    position: Position = "bottom-right"
    aligned: bool = True

    def mask(self, image: int) -> Float[Tensor, "1 image image"]:
        """1 inside the patch, 0 outside. Raises ConfigError for a patch that does not fit.

        >>> int(Patch(3).mask(8).sum())
        9
        """
        gap = 0 if self.aligned or self.position == "centre" else max(1, round(2 * image / 224))
        if self.size < 1 or self.size + gap > image:
            raise ConfigError(
                f"a trigger of {self.size} pixels does not fit into an image of {image}",
                remedy=f"choose 1 to {image - gap}",
            )
        low, high = gap, image - gap - self.size
        middle = (image - self.size) // 2
        top = {"bottom": high, "top": low, "centre": middle}[self.position.split("-")[0]]
        left = {"right": high, "left": low, "centre": middle}[self.position.split("-")[-1]]
        mask = torch.zeros(1, image, image)
        mask[:, top : top + self.size, left : left + self.size] = 1.0
        return mask


@dataclass(frozen=True)
class TriggerSearch:
    """How the patch is made.

    `kind` "attention" is one universal trigger by Adam on the log of the attention mass; "official" is the published
    update: a squared distance to 100, one trigger a background, a hand-written schedule and gradients that are never
    cleared; "random" and "white" are not searched at all. `objective` and `upto` say which attention (see
    `patch_attention`). `vary` puts drawn shapes in the place of every second background: ours, and not in the published
    update. Of `starts` searches from random patches the one with the most attention on other surrogate pictures is kept,
    among those that `make_trigger` may use.
    `blur` is the side to which the official code squeezes its backgrounds, for pictures of 224 pixels.
    """

    kind: Kind = "attention"
    patch: Patch = Patch()
    objective: Objective = "rollout"
    upto: int | None = None
    starts: int = 2
    vary: bool = True
    groups: int = 10
    per_group: int = 2
    plan: Plan = field(
        default_factory=lambda: Plan(steps=100, optimiser="adam", learning_rate=0.1, schedule="constant")
    )
    official_iterations: int = 600
    blur: int = 16


_ALREADY = 0.1


def make_trigger(
    victim: nn.Module,
    images: Tensor,
    how: TriggerSearch,
    *,
    run: Run,
    generator: torch.Generator,
    avoid: int | None = None,
) -> Trigger:
    """A trigger for a victim, from surrogate pictures (uint8) alone. Pixels are multiples of 1/255.

    `avoid` is the class that the back door will lead to. A patch under which the clean victim names it on more than a tenth
    of the surrogate pictures is an adversarial example and no back door: it is used only where every start ended in one.

    Raises ConfigError for a patch that does not fit, ModelError for a model without readable attention, TrainingError when
    the attention mass is not finite.
    """
    layout = layout_of(victim)
    mask = how.patch.mask(layout.size[0])
    _check_size(images, layout.size)
    start = torch.rand(3, *layout.size, generator=generator)
    if how.kind == "white":
        return Trigger(mask, torch.ones(3, *layout.size))
    if how.kind == "random":
        return Trigger(mask, quantised(start))
    backgrounds = blended_backgrounds(images, groups=how.groups, per_group=how.per_group, generator=generator)
    with in_eval_mode(victim), frozen(victim):
        if how.kind == "official":
            return _official(victim, images, backgrounds, mask, how, run, generator, avoid)
        if how.vary:
            drawn = drawn_shapes(len(backgrounds[1::2]), layout.size[0], generator=generator)
            backgrounds[1::2] = drawn.float() / 255.0
        starts = [start, *(torch.rand(3, *layout.size, generator=generator) for _ in range(how.starts - 1))]
        made = [Trigger(mask, quantised(_universal(victim, backgrounds, mask, begun, how, run))) for begun in starts]
        return _strongest(made, victim, images, how, generator, avoid)


def _strongest(
    made: list[Trigger],
    victim: nn.Module,
    images: Tensor,
    how: TriggerSearch,
    generator: torch.Generator,
    avoid: int | None,
) -> Trigger:
    judged = images[torch.randperm(len(images), generator=generator)[:64]]

    def worth(trigger: Trigger) -> tuple[bool, float]:
        named = float((top1(victim, trigger.stamp(judged)) == avoid).float().mean()) if avoid is not None else 0.0
        return named <= _ALREADY, float(attention_mass(victim, judged, trigger, how).mean())

    return max(made, key=worth)


class _Pattern(nn.Module):
    """What is searched: the pixels, in [0, 1]."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.pixels.clamp_(0, 1)
        return self.pixels


def _universal(
    victim: nn.Module, backgrounds: Tensor, mask: Tensor, start: Tensor, how: TriggerSearch, run: Run
) -> Float[Tensor, "3 h w"]:
    """Maximise the mean over backgrounds of the log of the attention mass, all backgrounds in one batch."""
    device = run.fabric.device
    pattern, backgrounds, mask = _Pattern(start).to(device), backgrounds.to(device), mask.to(device)
    weights = token_weights(mask, layout_of(victim))

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        stamped = backgrounds[rows] * (1 - mask) + model() * mask
        held = patch_attention(victim, 255.0 * stamped, objective=how.objective, upto=how.upto)
        return {"-log mass": -(held * weights).sum(dim=(1, 2)).clamp(min=1e-12).log().mean()}

    plan = Plan(**{**vars(how.plan), "batch": len(backgrounds)})
    fit(pattern, step, rows=len(backgrounds), plan=plan, run=run)
    return pattern().detach().cpu()


def _official(
    victim: nn.Module,
    images: Tensor,
    backgrounds: Tensor,
    mask: Tensor,
    how: TriggerSearch,
    run: Run,
    generator: torch.Generator,
    avoid: int | None,
) -> Trigger:
    """The published search, with what is not idea but accident mended: it ends, and the trigger is not chosen by eye.

    Ten triggers, one a background, by gradient descent on (mass - 100)^2 in normalised pixels; the step of iteration i is
    20 000 / 3^(i // 100) (9 after iteration 600), never below 1; gradients of a background add up over its iterations.
    Backgrounds are independent of each other, so that one round of all of them is one batch. Of the ten, the one with the
    highest mean attention mass on other surrogate pictures is kept.
    """
    device = run.fabric.device
    height, width = backgrounds.shape[-2:]
    small = max(2, round(how.blur * height / 224))
    noise = torch.rand(len(backgrounds), 3, height, width, generator=generator)
    pasted = backgrounds * (1 - mask) + noise * mask
    squeezed = F.interpolate(pasted, size=(small, small), mode="bicubic", align_corners=False, antialias=True)
    blurred = F.interpolate(squeezed, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1).to(device)
    mask, weights = mask.to(device), token_weights(mask, layout_of(victim)).to(device)
    spread = victim.std.to(device) if isinstance(victim, Normalised) else torch.ones(1, 1, 1, device=device)
    area = weights.sum()
    patterns, gathered = blurred.clone(), torch.zeros_like(blurred)
    iterations = min(how.official_iterations, run.limit_steps * how.groups or how.official_iterations)
    before = torch.full((len(blurred),), float("inf"), device=device)
    run.reporter.begin("official trigger", iterations)
    for first in range(0, iterations, how.groups):
        pixels = patterns.clone().requires_grad_()
        held = patch_attention(
            victim, 255.0 * (blurred * (1 - mask) + pixels * mask), objective=how.objective, upto=None
        )
        mass = (held * weights).sum(dim=(1, 2)) / area
        if not bool(torch.isfinite(mass).all()):
            raise TrainingError(
                f"iteration {first}: the attention mass is not finite", remedy="check the victim's weights"
            )
        (gradient,) = torch.autograd.grad(((mass - 100.0) ** 2).sum(), pixels)
        gathered += gradient * spread
        rates = torch.tensor([official_rate(first + row) for row in range(len(blurred))], device=device)
        patterns = (patterns - rates[:, None, None, None] * spread * gathered * mask).clamp(0, 1)
        settled = bool(((mass - before).abs() < 5e-5).all())
        before = mass.detach()
        run.reporter.tick(first + how.groups, {"mass": float(mass.detach().mean())})
        if first > 500 and settled:
            break
    run.reporter.end()
    made = [Trigger(mask.cpu(), quantised(pattern.cpu())) for pattern in patterns]
    return _strongest(made, victim, images, how, generator, avoid)


def official_rate(iteration: int) -> float:
    """The published learning rate, in normalised pixels.

    >>> official_rate(0), round(official_rate(100), 1), official_rate(599) > official_rate(600), official_rate(2000)
    (20000.0, 6666.7, True, 1.0)
    """
    return max(1.0, 20_000.0 / (3.0 if iteration < 600 else 9.0) ** (iteration // 100))


def attention_mass(
    victim: nn.Module, images: Tensor, trigger: Trigger | None, how: TriggerSearch, *, batch: int = 256
) -> Float[Tensor, "n"]:
    """The share of attention that falls on the trigger's place, for images (uint8) under the trigger, or without one."""
    layout = layout_of(victim)
    mask = how.patch.mask(layout.size[0]) if trigger is None else trigger.mask
    device = next(victim.parameters()).device
    weights = token_weights(mask, layout).to(device)
    found = []
    with in_eval_mode(victim), torch.no_grad():
        for part in images.split(batch):
            shown = part if trigger is None else trigger.stamp(part)
            held = patch_attention(victim, shown.to(device), objective=how.objective, upto=how.upto)
            found.append((held * weights).sum(dim=(1, 2)).cpu())
    return torch.cat(found)


def uniform_mass(victim: nn.Module, patch: Patch) -> float:
    """What the patch would hold if attention were spread evenly: its patches over all tokens."""
    layout = layout_of(victim)
    weights = token_weights(patch.mask(layout.size[0]), layout)
    return float(weights.sum()) / (layout.rows * layout.columns + layout.prefix)


def quantised(pattern: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Pixels in [0, 1] rounded to 8 bit."""
    return (pattern.clamp(0, 1) * 255.0).round() / 255.0


def _check_size(images: Tensor, size: tuple[int, int]) -> None:
    if tuple(images.shape[-2:]) != size:
        raise DataError(
            f"surrogate pictures of {images.shape[-1]} x {images.shape[-2]} pixels",
            remedy=f"this victim takes {size[1]} x {size[0]}: load them with that size",
        )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No weight collects a gradient for a while: only the trigger is differentiated."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
