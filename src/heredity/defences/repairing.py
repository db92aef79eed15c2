"""What all repairs share: checked labelled images, a copy to work on, a short training, and the copy's birth certificate.

Repairs are short and get a few hundred images, so they train here, without a run's stages and checkpoints (`core.loop`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import DataError, TrainingError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.core.settings import to_plain
from heredity.defences.contract import Examination, content_order

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images in [0, 1], logits, labels) -> a scalar."""


@dataclass(frozen=True)
class Tuning:
    """A short training of a repaired copy. `drop_every` epochs the learning rate falls to a tenth (0: never)."""

    epochs: int = 10
    batch: int = 32
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    drop_every: int = 0


def labelled_clean(
    images: Tensor, labels: Tensor, *, per_class: int
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, "n"]]:
    """Clean images in [0, 1] with their labels, in an order that depends on the images alone.

    Raises DataError for labels that are not one class number an image, or a class with fewer than `per_class` images.
    """
    unit, order = content_order(images)
    if labels.shape != (len(unit),) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype} for {len(unit)} images",
            remedy="give one class number an image",
        )
    if int(labels.min()) < 0:
        raise DataError(f"a label is {int(labels.min())}", remedy="classes count from 0")
    counts = torch.bincount(labels.cpu())
    few = [label for label, count in enumerate(counts.tolist()) if 0 < count < per_class]
    if few:
        raise DataError(
            f"class {few[0]} has {int(counts[few[0]])} clean images",
            remedy=f"give at least {per_class} of every class",
        )
    return unit, labels.cpu()[order].long()


def halves(labels: Int[Tensor, "n"], generator: torch.Generator) -> tuple[Int[Tensor, "a"], Int[Tensor, "b"]]:
    """Row numbers of two random halves with the same share of every class (the first has the odd one)."""
    first, second = [], []
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        middle = (len(rows) + 1) // 2
        first.append(rows[:middle])
        second.append(rows[middle:])
    return torch.cat(first), torch.cat(second)


def check_classes(logits: Float[Tensor, "n classes"], labels: Int[Tensor, "m"]) -> None:
    """Raises DataError for a label that the model has no class for."""
    if int(labels.max()) >= logits.shape[1]:
        raise DataError(
            f"label {int(labels.max())}, but the model has {logits.shape[1]} classes",
            remedy="give images of the classes it was trained on",
        )


def copy_of(model: nn.Module) -> nn.Module:
    """A copy to repair: eval mode, all weights free to learn. The given model is left alone."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def accuracy_of(ask: Examination, unit: Float[Tensor, "n c h w"], labels: Int[Tensor, "n"]) -> float:
    """Share of images whose highest score is their label's, 0..1."""
    return float((ask.all(unit).argmax(dim=1) == labels).float().mean())


def cross_entropy(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of plain fine-tuning."""
    return F.cross_entropy(logits, labels)


def tune(
    ask: Examination,
    unit: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    how: Tuning,
    generator: torch.Generator,
    *,
    loss: Loss = cross_entropy,
    views: Callable[[Tensor], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train `ask.model` in place and leave it in eval mode.

    `views` augments a batch (pixels in [0, 1]); `after_step` puts right what a step must not change, such as units that
    stay pruned. Raises TrainingError when the loss is not finite.
    """
    model, seed = ask.model, int(torch.randint(2**62, (1,), generator=generator))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if how.optimiser == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            parameters, lr=how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
        )
    else:
        optimiser = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(how.epochs):
            if how.drop_every and epoch and epoch % how.drop_every == 0:
                for group in optimiser.param_groups:
                    group["lr"] *= 0.1
            for rows in torch.randperm(len(unit), generator=generator).split(how.batch):
                if len(rows) == 1 and len(unit) > 1:
                    continue  # batch normalisation cannot train on one image
                batch = unit[rows] if views is None else views(unit[rows])
                value = loss(batch, ask(batch), labels[rows].to(ask.device))
                if not bool(torch.isfinite(value)):
                    raise TrainingError("the repair's loss is not finite", remedy="lower its learning rate")
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                if after_step is not None:
                    after_step()
    optimiser.zero_grad()
    model.eval()


def signed(child: nn.Module, parent: nn.Module, defence: str, settings: Any, **more: Any) -> nn.Module:
    """The repaired copy with its lineage: made by "defence: NAME" from the parent, whose marks it keeps.

    A mark stays because nobody has shown that the repair removed it.
    """
    born = lineage_of(parent)
    known: Mapping[str, Any] = {**to_plain(settings), **more}
    return record(
        child,
        Lineage(f"{born.name}/{defence}", f"defence: {defence}", settings=known, parents=(born,), marks=born.marks),
    )
