"""Neural attention distillation (Li et al., ICLR 2021): a briefly fine-tuned copy teaches the suspect where to look."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.defences.contract import Repair, examining
from heredity.defences.repairing import Tuning, accuracy_of, check_classes, copy_of, labelled_clean, signed, tune
from heredity.defences.stages import watching_stages


@dataclass(frozen=True)
class AttentionDistillation:
    """How teacher and student are trained, and how strongly their attention is tied at three depths.

    "norm" is the paper's distance (equation 3, a mean of Euclidean norms), "squares" that of the published code (a mean over
    all entries). The published `betas` are 500, 1000 and 1000, for wide residual nets; small nets came apart under them, and
    a tenth is the default. A teacher tuned at a fifth of its rate keeps the backdoor, and so does its student. `shift` is the
    largest random shift of the training images as a share of their side (4 of 32 pixels in the paper) and `flip` mirrors
    half of them: only for a model that was trained so.
    """

    teacher: Tuning = field(default_factory=lambda: Tuning(epochs=10, batch=64, learning_rate=5e-2, weight_decay=1e-4))
    student: Tuning = field(
        default_factory=lambda: Tuning(epochs=20, batch=64, learning_rate=1e-2, weight_decay=1e-4, drop_every=10)
    )
    betas: tuple[float, ...] = (50.0, 100.0, 100.0)
    distance: Literal["squares", "norm"] = "squares"
    shift: float = 0.0
    flip: bool = False


def repair(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: AttentionDistillation | None = None,
    *,
    generator: torch.Generator,
) -> Repair:
    """A copy that was distilled from a fine-tuned copy of itself by the places both look at.

    `images` are clean ones, uint8 or [0, 1], with one class number each. Measures: accuracy on these images of the suspect,
    the teacher and the result (all seen in training: measure on others). Raises ModelError for a model without three
    stages whose outputs are maps or tokens.
    """
    config = config or AttentionDistillation()
    if not config.betas or min(config.betas) < 0 or not 0 <= config.shift < 1:
        raise ConfigError("NAD needs betas of 0 or more and a shift in [0, 1)", remedy="see betas and shift")
    unit, labels = labelled_clean(images, labels, per_class=1)
    teacher, student = copy_of(model), copy_of(model)
    with examining(teacher) as taught, examining(student) as ask:
        check_classes(ask.all(unit[:2]), labels)
        before = accuracy_of(ask, unit, labels)

        def views(batch: Tensor) -> Tensor:
            return _shifted(batch, config, generator)

        tune(taught, unit, labels, config.teacher, generator, views=views)
        teacher.requires_grad_(False)
        count = len(config.betas)
        with watching_stages(teacher, count) as theirs, watching_stages(student, count) as ours:

            def loss(batch: Tensor, logits: Tensor, wanted: Tensor) -> Tensor:
                theirs.clear()
                with torch.no_grad():
                    taught(batch)
                maps = [(attention(a), attention(b)) for a, b in zip(theirs, ours, strict=True)]
                ours.clear()
                apart = [distance(a, b, config.distance) for a, b in maps]
                tied = sum(beta * value for beta, value in zip(config.betas, apart, strict=True))
                return F.cross_entropy(logits, wanted) + tied

            tune(ask, unit, labels, config.student, generator, loss=loss, views=views)
        measures = {
            "accuracy before": before,
            "accuracy of the teacher": accuracy_of(taught, unit, labels),
            "accuracy tuned": accuracy_of(ask, unit, labels),
        }
        ask.queries += taught.queries
        cost = ask.cost()
    student.eval()
    return Repair("nad", signed(student, model, "nad", config), cost, measures)


def attention(stage: Float[Tensor, "n channels places"]) -> Float[Tensor, "n places"]:
    """Where a stage looks: at every place the sum of squares over channels (section 3.2 of the paper, p = 2)."""
    return stage.square().sum(dim=1)


def distance(
    teacher: Float[Tensor, "n places"], student: Float[Tensor, "n places"], kind: Literal["squares", "norm"]
) -> Float[Tensor, ""]:
    """How far apart two sets of attention maps are, each map scaled to norm 1.

    >>> float(distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]), "squares"))
    1.0
    """
    apart = F.normalize(teacher, dim=1) - F.normalize(student, dim=1)
    # The norm of a difference of 0 has no gradient.
    return apart.square().mean() if kind == "squares" else (apart.square().sum(dim=1) + 1e-12).sqrt().mean()


def _shifted(
    batch: Float[Tensor, "n c h w"], config: AttentionDistillation, generator: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Each image moved by a few pixels, black coming in, and mirrored or not."""
    margin = round(config.shift * batch.shape[-1])
    padded = F.pad(batch, (margin,) * 4)
    moves = torch.randint(0, 2 * margin + 1, (len(batch), 2), generator=generator).tolist()
    height, width = batch.shape[-2:]
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, moves, strict=True)]
    mirrored = torch.rand(len(batch), generator=generator) < (0.5 if config.flip else 0.0)
    return torch.stack([image.flip(2) if turn else image for image, turn in zip(moved, mirrored, strict=True)])
