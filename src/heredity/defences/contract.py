"""What every defence takes and gives, so that all of them fit into one table.

Four kinds. A *model scan* looks at a model and a few clean images and returns a `ModelVerdict`. An *input filter* is
fitted on clean images and then scores single inputs (`InputFilter`, `InputVerdict`). A *data filter* scores training
samples (`DataVerdict`). A *repair* returns a changed model (`Repair`). All are pure functions with a frozen config and a
generator.

Images are uint8, or float in [0, 1]; always n x c x h x w. Models are the house's: any `nn.Module` that takes pixels of
0..255, uint8 or float, and scales them itself (`nn.encoders.Normalised`). Wrap a foreign model that wants [0, 1] as
`Normalised(model, mean=0.0, std=1.0)`. Scores are higher where something is more suspicious.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heredity.core.errors import DataError, ModelError
from heredity.metrics.detection import threshold_at


@dataclass(frozen=True)
class Threshold:
    """What a score must exceed to be flagged, and how that number came about.

    `false_positive_rate` (0..1) is the probability that a clean one is flagged: stated where `clean` clean scores were
    measured, None where the number is only a paper's.
    """

    value: float
    source: Literal["paper", "clean models", "clean images", "clean training samples"]
    false_positive_rate: float | None = None
    clean: int = 0

    def flags(self, score: float) -> bool:
        """Whether this score is too high."""
        return score > self.value


def calibrate(
    clean_scores: Sequence[float],
    rate: float,
    *,
    source: Literal["clean models", "clean images", "clean training samples"],
) -> Threshold:
    """A threshold with a false-positive rate that holds whatever the scores' distribution is (see `threshold_at`).

    Raises DataError when there are too few clean scores to state so small a rate.

    >>> calibrate([0.1 * score for score in range(19)], 0.05, source="clean models").false_positive_rate
    0.05
    """
    value, stated = threshold_at(clean_scores, rate)
    return Threshold(value, source, stated, len(clean_scores))


@dataclass(frozen=True)
class Cost:
    """What an examination took: wall-clock seconds, and images that the model was asked about."""

    seconds: float
    queries: int


@dataclass(frozen=True)
class Trigger:
    """A pattern that an examination recovered: stamped images are (1 - mask) image + mask pattern, pixels in [0, 1]."""

    mask: Float[Tensor, "1 h w"]
    pattern: Float[Tensor, "c h w"]

    def stamp(self, images: Tensor) -> Tensor:
        """The images (uint8 or [0, 1]) under the trigger, in the dtype they came in."""
        stamped = (1 - self.mask) * as_unit(images) + self.mask * self.pattern
        return (255.0 * stamped).round().to(torch.uint8) if images.dtype == torch.uint8 else stamped


@dataclass(frozen=True)
class ModelVerdict:
    """A model scan's finding. `class_scores` and `suspects` only where the detector looks at classes.

    `measures` are the detector's own numbers under the names of its paper.
    """

    detector: str
    score: float
    threshold: Threshold
    cost: Cost
    class_scores: tuple[float, ...] = ()
    suspects: tuple[int, ...] = ()
    triggers: tuple[Trigger, ...] = field(default=(), repr=False)
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def flagged(self) -> bool:
        """The verdict: whether the score exceeds the threshold."""
        return self.threshold.flags(self.score)


@dataclass(frozen=True)
class InputVerdict:
    """An input filter's finding about some images: a score each, and which of them it rejects."""

    detector: str
    scores: Float[Tensor, "n"]
    threshold: Threshold
    cost: Cost

    @property
    def rejected(self) -> Bool[Tensor, "n"]:
        """Which images score above the threshold."""
        return self.scores > self.threshold.value


@dataclass(frozen=True)
class InputFilter:
    """A fitted input filter: call it with images. `cost` is what fitting took."""

    detector: str
    threshold: Threshold
    cost: Cost
    examine: Callable[[Tensor], tuple[Tensor, Cost]] = field(repr=False)

    def __call__(self, images: Tensor) -> InputVerdict:
        """Score images (uint8 or [0, 1]); an image's score does not depend on the others."""
        scores, cost = self.examine(images)
        return InputVerdict(self.detector, scores, self.threshold, cost)


@dataclass(frozen=True)
class DataVerdict:
    """A data filter's finding about training samples: a score each, and which of them are kept.

    `class_scores` and `suspects` where the filter judges whole classes; `measures` are its paper's own numbers.
    """

    detector: str
    scores: Float[Tensor, "n"]
    kept: Bool[Tensor, "n"]
    threshold: Threshold
    cost: Cost
    class_scores: tuple[float, ...] = ()
    suspects: tuple[int, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Repair:
    """A repaired copy of a model, with lineage ("defence: NAME"). The caller measures what it did to accuracy and
    attack."""

    defence: str
    model: nn.Module
    cost: Cost
    measures: Mapping[str, float] = field(default_factory=dict)


def as_unit(images: Tensor) -> Float[Tensor, "n c h w"]:
    """Checked images as floats in [0, 1]. Raises DataError for none at all, another shape or type, or pixels out of range.

    >>> as_unit(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max()
    tensor(1.)
    """
    if images.ndim != 4:
        raise DataError(f"images of shape {tuple(images.shape)}", remedy="give them as n x channels x height x width")
    if not len(images):
        raise DataError("there are no clean images", remedy="give some that the model should treat normally")
    if images.dtype == torch.uint8:
        return images.float() / 255.0
    if not images.is_floating_point():
        raise DataError(f"images of type {images.dtype}", remedy="give uint8, or floats between 0 and 1")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(f"pixels from {low:g} to {high:g}", remedy="give uint8, or floats between 0 and 1")
    return images.float()


def clean_images(images: Tensor, *, at_least: int) -> Float[Tensor, "n c h w"]:
    """Clean images in [0, 1], in an order that depends on their content alone, so that no verdict depends on the caller's.

    Raises DataError for fewer than `at_least`.
    """
    unit, _ = content_order(images)
    if len(unit) < at_least:
        raise DataError(f"{len(unit)} clean images are too few", remedy=f"give at least {at_least}")
    return unit


def content_order(images: Tensor) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, "n"]]:
    """Images in [0, 1] sorted by their content, and which rows of the given ones they are."""
    unit = as_unit(images)
    names = [hashlib.sha256(image.numpy().tobytes()).digest() for image in unit.cpu()]
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__))
    return unit[order], order


class Examination:
    """The door through which a defence asks a model: images in [0, 1] go in, finite rows come out, and all is counted."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.queries = 0
        self._began = time.perf_counter()

    def __call__(self, unit: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """The model's outputs. Gradients flow where the caller enables them.

        Raises ModelError for outputs that are not one row per image or not finite.
        """
        self.queries += len(unit)
        outputs = self.model(255.0 * unit.to(self.device))
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(unit):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ModelError(f"the model gives {shape}, not one row per image", remedy="wrap it so that it does")
        if not bool(torch.isfinite(outputs).all()):
            raise ModelError(
                "the model's outputs are not finite", remedy="check its weights and the scale of its input"
            )
        return outputs.float()

    def all(self, unit: Float[Tensor, "n c h w"], *, batch: int = 512) -> Float[Tensor, "n d"]:
        """Outputs of many images without gradients, on the CPU."""
        with torch.no_grad():
            return torch.cat([self(part).cpu() for part in unit.split(batch)])

    def cost(self) -> Cost:
        """What it has taken so far."""
        return Cost(time.perf_counter() - self._began, self.queries)


@contextmanager
def examining(model: nn.Module) -> Iterator[Examination]:
    """The model in eval mode, asked through one counted door. Every module's own mode is put back afterwards.

    Weights collect no gradients: defences differentiate with `torch.autograd.grad` with respect to their own variables.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield Examination(model)
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def features_before_head(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that each forward pass extends by the input of the last linear layer (a copy). The hook goes with the block.

    Raises ModelError for a model without a linear layer.
    """
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise ModelError("the model has no linear head", remedy="give an encoder's features instead")
    seen: list[Tensor] = []
    hook = heads[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def classes_of(logits: Float[Tensor, "n classes"]) -> int:
    """The number of classes. Raises ModelError for fewer than three: an outlier among two cannot be told."""
    if logits.shape[1] < 3:
        raise ModelError(
            f"the model has {logits.shape[1]} classes",
            remedy="a detector that compares classes needs at least three; use an input filter",
        )
    return logits.shape[1]
