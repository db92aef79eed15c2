"""What clean models score, so that a scan can say how often it flags one: measured here once, or on models made for it.

`clean_models.json` holds the scores of clean models that `benchmarks/repairs.py calibrate` trained and scanned; it says
which. Their rate holds for models of that kind. For any other kind `clean_scores` trains some.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import architecture_of
from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.data.labelled import ImageSource
from heredity.defences import neural_cleanse, neuron_stimulation
from heredity.defences.contract import ModelVerdict, Threshold, calibrate
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.neuron_stimulation import NeuronStimulation
from heredity.defences.reverse import Search
from heredity.nn.resolver import build
from heredity.transfer.finetune import FineTuning, fit_classifier
from heredity.transfer.task import Task

LEARNING = FineTuning(
    plan=Plan(epochs=12, batch=64, optimiser="adam", learning_rate=3e-3, schedule="one-cycle"), probe_first=False
)
CLEANSE = NeuralCleanse(Search(steps=150, batch=16), at_once=10)
STIMULATION = NeuronStimulation(steps=60, batch=12, candidates=12, area=0.05)
IMAGES = 128


@dataclass(frozen=True)
class Scanner:
    """A scan of a classifier as the command runs it.

    `asks` is about how many images its search asks a model of so many classes; `run` takes a model, images and a
    generator and gives the verdict and the number that is compared with clean models' (higher is worse).
    """

    title: str
    asks: Callable[[int], int]
    run: Callable[[nn.Module, torch.Tensor, torch.Generator], tuple[ModelVerdict, float]]


def _cleanse(model: nn.Module, images: torch.Tensor, generator: torch.Generator) -> tuple[ModelVerdict, float]:
    found = neural_cleanse.scan(model, images, CLEANSE, generator=generator)
    return found, -found.measures["smallest"] / (images.shape[-1] * images.shape[-2])


def _stimulate(model: nn.Module, images: torch.Tensor, generator: torch.Generator) -> tuple[ModelVerdict, float]:
    found = neuron_stimulation.scan(model, images, STIMULATION, generator=generator)
    return found, found.score


SCANNERS: Mapping[str, Scanner] = {
    "neural-cleanse": Scanner(
        "Neural Cleanse: minus the smallest patch's share of the picture",
        lambda classes: classes * CLEANSE.search.steps * CLEANSE.search.batch,
        _cleanse,
    ),
    "neuron-stimulation": Scanner(
        "neuron stimulation (ABS): share of images that a woken unit's patch turns",
        lambda classes: (
            STIMULATION.candidates * STIMULATION.steps * STIMULATION.batch + 17 * STIMULATION.neurons * classes
        ),
        _stimulate,
    ),
}


@cache
def shipped() -> Mapping[str, object]:
    """What was measured on clean models once: "models" says which, "scores" has a list for each scanner."""
    return json.loads(files("heredity.audit").joinpath("clean_models.json").read_text(encoding="utf-8"))


def shipped_threshold(scanner: str) -> tuple[Threshold, str] | None:
    """The threshold of the clean models on file, with the smallest rate they can state, and which models they are.

    None where no clean model is on file: then nobody knows how often the published threshold is wrong.
    """
    content: Any = shipped()
    scores = content["scores"].get(scanner)
    if not scores:
        return None
    return calibrate(scores, 1 / (len(scores) + 1), source="clean models"), str(content["models"])


def judged(verdict: ModelVerdict, score: float, known: tuple[Threshold, str] | None) -> tuple[float, Threshold, str]:
    """A score, its threshold, and where that comes from: clean models where there are some, else the paper.

    Without a measured rate there is no verdict.
    """
    if known is None:
        return verdict.score, verdict.threshold, "the paper; no verdict before --calibrate"
    return score, *known


def clean_scores(
    like: nn.Module, source: ImageSource, count: int, *, seed: int, reporter: Reporter
) -> dict[str, Sequence[float]]:
    """Train `count` clean models of the architecture of `like` on the source's training part; what each scanner gives
    them.

    Raises ConfigError for a model whose architecture is not on record.
    """
    architecture = architecture_of(like)
    if architecture is None:
        raise ConfigError("the model's architecture is not on record", remedy="leave out --calibrate")
    found: dict[str, list[float]] = {name: [] for name in SCANNERS}
    with Run.temporary(seed=seed, reporter=reporter) as run:
        for number in range(count):
            model = train_clean(architecture, source, f"clean-{number}", run)
            for name, scanner in SCANNERS.items():
                images = source.test.images[:IMAGES]
                found[name].append(scanner.run(model, images, generator_of(seed, "clean", number, name))[1])
    return dict(found)


def train_clean(architecture: Mapping[str, object], source: ImageSource, name: str, run: Run) -> nn.Module:
    """One clean model of an architecture, from its own random start, as a stage."""
    train, test = source.train, source.test
    task = Task(
        "clean",
        len(train.classes),
        (train.images, train.labels),
        (train.images[:1], train.labels[:1]),
        (test.images, test.labels),
    )
    return run.model(
        name,
        make=lambda: build(architecture),
        train=lambda model: fit_classifier(model, task, LEARNING, run),
        made_by="training",
    )
