"""Model extraction: a student that never sees the stolen weights, only what they answer to the thief's own images.

By labels (Tramer et al. 2016; Orekondy et al. 2019, "knockoff nets"): ask the deployed child for top-1 labels and train on
them. By features (Dziedzic et al. 2022; the "stolen encoder" of Liu et al. 2022): imitate the encoder's output, which an
interface that answers features gives away. The student may have another architecture.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import Plan, fit
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.augment import Augmentation, augment
from heredity.nn.encoders import Classifier, feature_size
from heredity.nn.inference import accuracy, outputs, top1
from heredity.transfer.probe import fit_head
from heredity.transfer.task import Task


@dataclass(frozen=True)
class Extraction:
    """What the extractor spends: `queries` images without labels, and a training plan; views of a query cost nothing.

    Features are asked for every view where `augmentation` is given (a thief who queries with his augmentations): then the
    number of queries is that of the views.
    """

    queries: int = 1000
    augmentation: Augmentation | None = None
    plan: Plan = field(default_factory=lambda: Plan(epochs=30, batch=64, optimiser="adam", learning_rate=1e-3))


def extract_by_labels(
    victim: nn.Module,
    make_student: Callable[[], nn.Module],
    images: UInt8[Tensor, "n c h w"],
    task: Task,
    how: Extraction,
    *,
    run: Run,
    name: str,
) -> Classifier:
    """A student trained on the victim's top-1 labels for unlabelled images, which is all that a label service gives away.

    `victim` is a classifier (uint8 images -> scores), `make_student` gives an untrained encoder. The task's training and
    validation labels are not looked at: early stopping watches agreement with the victim on the last tenth of the queries.
    """
    asked, watched = _queries(images, how, run.seed, name)
    answers, watched_answers = top1(victim, asked), top1(victim, watched)

    def train(student: nn.Module) -> None:
        def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            batch = _views(asked[rows.cpu()].to(rows.device), how, draws)
            return {"cross_entropy": F.cross_entropy(model(batch), answers[rows.cpu()].to(rows.device))}

        agreement: Callable[[nn.Module], float] = lambda model: accuracy(model, watched, watched_answers)  # noqa: E731
        fit(student, step, rows=len(asked), plan=how.plan, run=run, validate=agreement)

    return _extracted("labels", victim, partial(_student, make_student, images, task), train, task, how, run, name)


def extract_by_features(
    victim: nn.Module,
    make_student: Callable[[], nn.Module],
    images: UInt8[Tensor, "n c h w"],
    task: Task,
    how: Extraction,
    *,
    run: Run,
    name: str,
) -> Classifier:
    """A student encoder that imitates the victim encoder's features (mean squared error), with a linear probe on top.

    `victim` is an encoder (uint8 images -> features). A student of another width gets a linear map to the victim's features,
    which is thrown away. The head is fitted on the thief's own labelled images, as for a stolen encoder.
    """
    asked, _ = _queries(images, how, run.seed, name)
    scale = float(outputs(victim, asked).std())

    def train(student: nn.Module) -> None:
        assert isinstance(student, Classifier)
        wanted = feature_size(victim, image=images.shape[-1], channels=images.shape[1])
        imitator = nn.Sequential(student.encoder, nn.Linear(student.head.in_features, wanted))

        def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
            batch = _views(asked[rows.cpu()].to(rows.device), how, draws)
            with torch.no_grad():
                target = victim(batch)
            return {"imitation": F.mse_loss(model(batch) / scale, target / scale)}

        fit(imitator, step, rows=len(asked), plan=how.plan, run=run)
        weight, bias = fit_head(outputs(student.encoder, task.train[0]), task.train[1], classes=task.classes)
        with torch.no_grad():
            student.head.weight.copy_(weight)
            student.head.bias.copy_(bias)

    return _extracted("features", victim, partial(_student, make_student, images, task), train, task, how, run, name)


def _student(make_student: Callable[[], nn.Module], images: UInt8[Tensor, "n c h w"], task: Task) -> Classifier:
    """An untrained encoder with a head for the task's classes."""
    encoder = make_student()
    features = feature_size(encoder, image=images.shape[-1], channels=images.shape[1])
    return Classifier(encoder, features=features, classes=task.classes)


def _extracted(
    by: str,
    victim: nn.Module,
    make: Callable[[], Classifier],
    train: Callable[[nn.Module], None],
    task: Task,
    how: Extraction,
    run: Run,
    name: str,
) -> Classifier:
    return run.model(
        name,
        make=make,
        train=train,
        made_by=f"extraction by {by}",
        parents=[victim],
        settings={"task": task.name, **asdict(how)},
    )


def _queries(
    images: UInt8[Tensor, "n c h w"], how: Extraction, seed: int, name: str
) -> tuple[UInt8[Tensor, "asked c h w"], UInt8[Tensor, "watched c h w"]]:
    """The images the thief spends his budget on: nine tenths to train on, the last tenth to stop by."""
    if how.queries < 10 or len(images) < 10:
        raise ConfigError(
            f"{min(how.queries, len(images))} queries are too few to extract a model", remedy="allow at least 10"
        )
    rows = torch.randperm(len(images), generator=generator_of(seed, name, "queries"))[: how.queries]
    watched = max(1, len(rows) // 10)
    return images[rows[watched:]], images[rows[:watched]]


def _views(images: Tensor, how: Extraction, draws: Draws) -> Tensor:
    return images if how.augmentation is None else augment(images, how.augmentation, draws)
