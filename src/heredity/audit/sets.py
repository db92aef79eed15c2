"""`heredity scan` on a distilled or otherwise foreign training set: its pixels, its samples, and a model made from it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from heredity.audit.calibration import IMAGES, LEARNING, SCANNERS, judged, shipped_threshold
from heredity.audit.models import ImageSet
from heredity.audit.scan import Finding
from heredity.core.errors import DataError
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.defences import activation_clustering, spectral_signatures
from heredity.defences.activation_clustering import ActivationClustering
from heredity.defences.contract import DataVerdict
from heredity.defences.spectral_signatures import SpectralSignatures
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.transfer.finetune import fit_classifier
from heredity.transfer.task import Task

SHAPE = EncoderShape(width=8)
_LEAST_STEPS = 250


def scan_set(
    found: ImageSet, *, clean: Tensor | None = None, seed: int = 0, reporter: Reporter | None = None
) -> list[Finding]:
    """Look at a set's pixels, train a small model on it, and ask the data filters and the model scans about both.

    `clean` are trusted images for the model scans; without them the set's own are taken. Raises DataError for a set of
    fewer than three classes.
    """
    reporter = reporter or Reporter(quiet=True)
    counts = torch.bincount(found.labels)
    classes = int((counts > 0).sum())
    if classes < 3:
        raise DataError(f"the set has {classes} classes", remedy="the detectors compare at least three")
    findings = [
        Finding(
            "pixel-range",
            "data",
            found.outside > 0,
            found.outside,
            0.0,
            "by definition",
            0.0,
            note="share of values outside [0, 1], where no picture has any; clamped for what follows",
        )
    ]
    reporter.say("  training a small model on the set")
    model = train_on(found, seed, reporter)
    bytes_ = (255 * found.images).round().to(torch.uint8)
    few = int(counts[counts > 0].min())
    tiny = few < 20
    note = f"; only {few} samples in a class, where it can hardly see anything" if tiny else ""
    few_said = f"; no verdict on what so few images a class teach ({few})" if tiny else ""
    clusters = activation_clustering.scan(
        model, bytes_, found.labels, ActivationClustering(allow_tiny=True), generator=generator_of(seed, "clusters")
    )
    findings.append(_clusters(clusters, tiny, note))
    spectral = spectral_signatures.scan(model, bytes_, found.labels, SpectralSignatures(allow_tiny=True))
    rate = spectral.threshold.false_positive_rate
    findings.append(
        Finding(
            "spectral-signatures",
            "data",
            None,
            note=f"drops the {rate or 0:.0%} of every class that lie farthest out, clean ones too{note}",
            seconds=spectral.cost.seconds,
            queries=spectral.cost.queries,
            measures={"dropped": spectral.measures["dropped"]},
        )
    )
    trusted = bytes_ if clean is None else clean
    for name, scanner in SCANNERS.items():
        reporter.say(f"  asking {name}")
        verdict, score = scanner.run(model, trusted[:IMAGES], generator_of(seed, "scan", name))
        score, threshold, measured_on = judged(verdict, score, shipped_threshold(name))
        findings.append(
            Finding(
                name,
                "model",
                # A net that learnt from a handful of images gives way to small patches, whether they are honest or not.
                None if tiny or threshold.false_positive_rate is None else threshold.flags(score),
                score,
                threshold.value,
                measured_on,
                threshold.false_positive_rate,
                (),
                verdict.cost.seconds,
                verdict.cost.queries,
                verdict.measures,
                f"of a small model trained on the set; {scanner.title}{few_said}",
            )
        )
    return findings


def _clusters(found: DataVerdict, tiny: bool, note: str) -> Finding:
    known = shipped_threshold("activation-clustering")
    threshold, measured_on = known or (found.threshold, "the paper: not measured")
    score = found.measures["highest silhouette"]
    flagged = tuple(label for label, value in enumerate(found.class_scores) if threshold.flags(value))
    return Finding(
        "activation-clustering",
        "data",
        None if tiny or known is None else bool(flagged),
        score,
        threshold.value,
        measured_on,
        threshold.false_positive_rate,
        flagged,
        found.cost.seconds,
        found.cost.queries,
        {**found.measures, "published threshold": found.threshold.value},
        f"highest silhouette of a class in two unequal groups{note}",
    )


def train_on(found: ImageSet, seed: int, reporter: Reporter | None = None) -> nn.Module:
    """A small classifier of the set's images; small sets are seen as often as larger ones."""
    images, classes = (255 * found.images).round().to(torch.uint8), int(found.labels.max()) + 1
    task = Task(
        "the set", classes, (images, found.labels), (images[:1], found.labels[:1]), (images[:1], found.labels[:1])
    )
    epochs = max(LEARNING.plan.epochs, _LEAST_STEPS * LEARNING.plan.batch / len(images))
    how = replace(LEARNING, plan=replace(LEARNING.plan, epochs=epochs))
    with Run.temporary(seed=seed, reporter=reporter) as run:
        return run.model(
            "model",
            make=lambda: Classifier(make_encoder(SHAPE, images.shape[-1]), features=4 * SHAPE.width, classes=classes),
            train=lambda model: fit_classifier(model, task, how, run),
            made_by="training on the set",
        )
