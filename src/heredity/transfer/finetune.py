"""Fine-tuning: all layers, or the last few, together with a new head."""

import copy
from dataclasses import asdict, dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.nn.encoders import Classifier, Normalised
from heredity.nn.inference import accuracy
from heredity.transfer.probe import fit_head, outputs
from heredity.transfer.task import Task


@dataclass(frozen=True)
class FineTuning:
    """How a thief fine-tunes: the plan, how many of the last blocks learn (0 = all), and whether views are augmented."""

    plan: Plan = field(
        default_factory=lambda: Plan(epochs=20, batch=64, optimiser="adam", learning_rate=3e-4, patience=5)
    )
    last: int = 0
    augmentation: Augmentation | None = None
    probe_first: bool = True


def finetune(encoder: nn.Module, task: Task, how: FineTuning, *, run: Run, name: str) -> Classifier:
    """A classifier whose encoder learns too. It starts from the linear probe's head, or from a random one."""
    images, labels = task.train
    features = outputs(encoder, images[:2]).shape[1]

    def make() -> Classifier:
        return Classifier(copy.deepcopy(encoder), features=features, classes=task.classes)

    def train(child: nn.Module) -> None:
        assert isinstance(child, Classifier)
        if how.probe_first:
            weight, bias = fit_head(outputs(encoder, images), labels, classes=task.classes)
            child.head.weight.data.copy_(weight)
            child.head.bias.data.copy_(bias.clamp(min=-10.0))
        if how.last:
            _freeze_all_but(child.encoder, how.last)
        fit_classifier(child, task, how, run)
        child.requires_grad_(True)

    made_by = f"fine-tuning of the last {how.last} blocks" if how.last else "full fine-tuning"
    settings = {"task": task.name, **asdict(how)}
    return run.model(name, make=make, train=train, made_by=made_by, parents=[encoder], settings=settings)


def fit_classifier(child: nn.Module, task: Task, how: FineTuning, run: Run) -> None:
    """Train a classifier in place by cross-entropy; keeps the weights that were best on the validation part."""
    images, labels = task.train

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = images[rows.cpu()].to(rows.device)
        if how.augmentation is not None:
            batch = augment(batch, how.augmentation, draws)
        return {"cross_entropy": F.cross_entropy(model(batch), labels[rows.cpu()].to(rows.device))}

    fit(child, step, rows=len(images), plan=how.plan, run=run, validate=lambda model: accuracy(model, *task.validation))


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The encoder's blocks from first to last: transformer blocks, residual stages, or else its direct children.

    Raises ModelError when it has none to tell apart.
    """
    inner = encoder.inner if isinstance(encoder, Normalised) else encoder
    for attribute in ("blocks", "stages"):
        listed = getattr(inner, attribute, None)
        if isinstance(listed, nn.Sequential | nn.ModuleList) and len(listed) > 0:
            return list(listed)
    stages = [stage for index in range(1, 5) if isinstance(stage := getattr(inner, f"layer{index}", None), nn.Module)]
    children = stages or [child for child in inner.children() if any(True for _ in child.parameters())]
    if not children:
        raise ModelError("the encoder has no blocks to tell apart", remedy="use full fine-tuning (last = 0)")
    return children


def _freeze_all_but(encoder: nn.Module, last: int) -> None:
    encoder.requires_grad_(False)
    for block in blocks_of(encoder)[-last:]:
        block.requires_grad_(True)
