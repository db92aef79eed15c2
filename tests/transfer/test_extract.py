import pytest
import torch
from torch import nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.data.images import load_images
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import accuracy, outputs, top1
from heredity.transfer.extract import Extraction, extract_by_features, extract_by_labels
from heredity.transfer.task import Task

DIGITS = load_images("digits")
IMAGES, LABELS = DIGITS.train.images, DIGITS.train.labels
TASK = Task(
    "digits", 10, (IMAGES[:300], LABELS[:300]), (IMAGES[300:360], LABELS[300:360]), (IMAGES[360:600], LABELS[360:600])
)
QUERIES = IMAGES[600:1000]


def student() -> nn.Module:
    return make_encoder(EncoderShape(width=8), 16)


class Ask(nn.Module):
    """A victim that answers the brightest quarter of an image and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += len(images)
        halves = images.float().mean(dim=1).unfold(1, 8, 8).unfold(2, 8, 8).mean(dim=(3, 4))
        return halves.flatten(1)


def test_by_labels_the_student_agrees_with_the_victim_and_keeps_to_the_budget() -> None:
    victim = record(Ask(), Lineage("child", "probe", marks=("a mark",)))
    task = Task("quarters", 4, TASK.train, TASK.validation, TASK.test)
    how = Extraction(queries=300, plan=Plan(steps=60, batch=50, optimiser="adam", learning_rate=5e-3))
    with Run.temporary() as run:
        made = extract_by_labels(victim, student, QUERIES, task, how, run=run, name="labels")
        asked = victim.asked
    assert asked == 300
    held = IMAGES[1000:1200]
    agree, most = accuracy(made, held, top1(victim, held)), float(top1(victim, held).bincount().max()) / len(held)
    assert agree > most + 0.15
    assert lineage_of(made).made_by == "extraction by labels"
    assert lineage_of(made).parents[0].name == "child"


def test_by_features_a_narrower_student_learns_what_the_encoder_knows() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = record(make_encoder(EncoderShape(width=16), 16).eval(), Lineage("encoder", "somebody"))
    before = outputs(encoder, QUERIES[:8])
    how = Extraction(
        queries=400,
        augmentation=Augmentation(scale=(0.8, 1.0)),
        plan=Plan(steps=40, batch=50, optimiser="adam", learning_rate=3e-3),
    )
    with Run.temporary() as run:
        made = extract_by_features(encoder, student, QUERIES, TASK, how, run=run, name="features")
        losses = run.history("features")["imitation"]
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(outputs(encoder, QUERIES[:8]), before)
    assert isinstance(made, Classifier)
    assert made.head.in_features == 32
    assert accuracy(made, *TASK.test) > 0.5


def test_too_small_a_budget_is_refused() -> None:
    with Run.temporary() as run, pytest.raises(ConfigError, match="queries"):
        extract_by_labels(Ask(), student, QUERIES, TASK, Extraction(queries=3), run=run, name="labels")
