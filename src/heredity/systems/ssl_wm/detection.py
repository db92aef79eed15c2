"""What a thief, or an adopter, finds with published detectors: marked models against clean ones (spec, section 6).

One run makes one clean and one marked encoder a family, too few to say how well anything tells the two kinds apart. This
recipe therefore makes many small ones: every encoder is pre-trained shortly from its own start, the marked ones with a
key of their own, and each gets a downstream model. Scores pooled over a run's seeds would be larger encoders, but need
ten seeds to say anything; here one run gives an AUROC with its interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import Plan
from heredity.core.outcome import Metric, Outcome, Table, bootstrap_interval
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.defences import decree, neural_cleanse, outlier, strip
from heredity.defences.contract import InputFilter, calibrate
from heredity.defences.decree import Decree
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.outlier import Outlier
from heredity.defences.reverse import Search
from heredity.defences.strip import Strip
from heredity.metrics.detection import auroc, auroc_interval, false_acceptance, share_interval
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.inference import accuracy, top1
from heredity.pretrain.contrastive import SimCLR, simclr
from heredity.systems.ssl_wm.mark.embed import Embedding, embed_mark
from heredity.systems.ssl_wm.mark.keys import Key, KeyParameters, derive_patches, generate_key
from heredity.systems.ssl_wm.mark.trigger import stamp_each
from heredity.transfer.probe import probe
from heredity.transfer.task import Task

_VIEWS = Augmentation(scale=(0.4, 1.0), aspect=1.3, rotate=15.0, brightness=0.4, contrast=0.4)
_MARK_VIEWS = Augmentation(scale=(0.5, 1.0), rotate=10.0)


@dataclass(frozen=True)
class Detection:
    """How many small models of each kind, how they are made, and how each detector looks at them.

    `rate` is the false-positive rate of the model scans; n clean models can state none below 1 / (n + 1). `scanned`
    images are what a scan sees; the filters are fitted on `fitted` clean images and judge the rest of the held-out part.
    """

    models: int = 10
    rate: float = 0.1
    scanned: int = 128
    fitted: int = 232
    encoder: EncoderShape = EncoderShape(width=8)
    pretraining: SimCLR = SimCLR(
        augmentation=_VIEWS, plan=Plan(steps=100, batch=128, learning_rate=4e-3, schedule="one-cycle")
    )
    embedding: Embedding = Embedding(
        strong=_MARK_VIEWS,
        plan=Plan(steps=300, batch=48, optimiser="adam", learning_rate=2e-3, clip=5.0, mode="eval"),
    )
    decree: Decree = Decree(replace(Decree().search, steps=150))
    neural_cleanse: NeuralCleanse = NeuralCleanse(Search(steps=150, batch=16))
    strip: Strip = Strip()
    mahalanobis: Outlier = Outlier()
    nearest: Outlier = Outlier(distance="nearest")


SCANS = {
    "decree": "DECREE, on the encoder",
    "neural_cleanse": "Neural Cleanse, on the downstream model",
    "smallest_patch": "Neural Cleanse's smallest patch (its size, not its index), on the downstream model",
}
FILTERS = {
    "strip": "STRIP, on the downstream model's inputs",
    "mahalanobis": "out of distribution, Mahalanobis, on the encoder's features",
    "nearest": "out of distribution, nearest neighbours, on the encoder's features",
}
AUTHORS = ("neural_cleanse", "strip")
"""Kinds of detectors that the authors evaluated: a patch reversed from the downstream model, and entropy of its answers."""


@dataclass(frozen=True)
class Suspect:
    """An encoder, a downstream model made from it, and the key that it carries, or (a control) that it never met."""

    name: str
    marked: bool
    encoder: nn.Module
    child: nn.Module
    key: Key


def detection(task: Task, images: Tensor, parameters: KeyParameters, how: Detection, run: Run) -> Outcome:
    """Make clean and marked models and show them to every detector.

    `images` are the owner's unlabelled pre-training images, `task` what downstream models are for: they learn its training
    part, detectors see its test part. Metrics are called detection/DETECTOR/...; `detection/authors/worst_auc` and
    `.../worst_detected` are those of the detectors the authors evaluated.
    """
    suspects = make_suspects(task, images, parameters, how, run)
    rows = [examine(suspect, task, how, run) for suspect in suspects]
    return detected(rows, how)


def make_suspects(task: Task, images: Tensor, parameters: KeyParameters, how: Detection, run: Run) -> list[Suspect]:
    """`how.models` clean and as many marked encoders, each from its own start, with a linear probe on each."""
    kinds = [
        (f"detectors/{kind}-{number}", kind == "marked") for kind in ("clean", "marked") for number in range(how.models)
    ]
    return [make_suspect(name, marked, task, images, parameters, how, run) for name, marked in kinds]


def make_suspect(
    name: str, marked: bool, task: Task, images: Tensor, parameters: KeyParameters, how: Detection, run: Run
) -> Suspect:
    """One encoder, its key and a linear probe, as stages called `name` and `name`-probe."""
    secret = b"".join(seed_of(run.seed, name, "key", part).to_bytes(8, "big") for part in range(4))
    key = generate_key("the owner", parameters, secret=secret, created=f"experiment, seed {run.seed}")

    def train(encoder: nn.Module) -> None:
        simclr(encoder, images, how.pretraining, run)
        if marked:
            embed_mark(encoder, images, key, how.embedding, run)

    encoder = run.model(
        name,
        make=partial(make_encoder, how.encoder, images.shape[-1]),
        train=train,
        made_by="SimCLR, SSL-WM embedding" if marked else "SimCLR",
        settings=how,
        marks=("carries an ownership mark (SSL-WM)",) if marked else (),
    )
    return Suspect(name, marked, encoder, probe(encoder, task, run=run, name=f"{name}-probe"), key)


def examine(suspect: Suspect, task: Task, how: Detection, run: Run) -> dict[str, Any]:
    """Every detector's scores of one suspect, as a stage of plain data.

    Filters judge images that they were not fitted on, clean and under the owner's patches (each image under one of them).
    The task needs three classes at least. Raises ConfigError when no image is left to judge.
    """
    images, labels = task.test
    if len(images) <= how.fitted:
        raise ConfigError(
            f"{len(images)} held-out images, of which filters are fitted on {how.fitted}",
            remedy="lower fitted, or hold more back",
        )
    seen, left = images[: how.fitted], images[how.fitted :]
    patches = derive_patches(suspect.key)
    stamped = stamp_each(left, patches[torch.arange(len(left)) % len(patches)], suspect.key.parameters)

    def draws(detector: str) -> torch.Generator:
        return generator_of(run.seed, suspect.name, detector)

    def compute() -> dict[str, Any]:
        scans = {
            "decree": decree.scan(suspect.encoder, images[: how.scanned], how.decree, generator=draws("decree")),
            "neural_cleanse": neural_cleanse.scan(
                suspect.child, images[: how.scanned], how.neural_cleanse, generator=draws("neural cleanse")
            ),
        }
        filters: dict[str, InputFilter] = {
            "strip": strip.fit(suspect.child, seen, how.strip, generator=draws("strip")),
            "mahalanobis": outlier.fit(suspect.encoder, seen, how.mahalanobis, generator=draws("outlier")),
            "nearest": outlier.fit(suspect.encoder, seen, how.nearest, generator=draws("outlier")),
        }
        found: dict[str, Any] = {"name": suspect.name, "marked": suspect.marked}
        before, after = top1(suspect.child, left), top1(suspect.child, stamped)
        shares = torch.bincount(after, minlength=task.classes)
        target = int(shares.argmax())
        found["accuracy"] = accuracy(suspect.child, images, labels)
        found["one_label"] = float((after[before != target] == target).float().mean())
        for name, verdict in scans.items():
            found[name] = {
                "score": verdict.score,
                "paper_flags": verdict.flagged,
                "seconds": verdict.cost.seconds,
                "queries": verdict.cost.queries,
                **verdict.measures,
            }
        for name, fitted in filters.items():
            clean, mark = fitted(left), fitted(stamped)
            found[name] = {
                "clean": clean.scores.tolist(),
                "stamped": mark.scores.tolist(),
                "rejected_clean": float(clean.rejected.float().mean()),
                "rejected_stamped": float(mark.rejected.float().mean()),
                "seconds": fitted.cost.seconds + clean.cost.seconds,
                "queries": fitted.cost.queries + clean.cost.queries,
            }
        return found

    return run.table(f"{suspect.name}-detectors", compute)


def detected(rows: Sequence[Mapping[str, Any]], how: Detection) -> Outcome:
    """From scores to metrics and a table: for every detector the AUROC with its interval, and the share it finds.

    A scan's AUROC is over models, its threshold calibrated on the clean ones. A filter's AUROC is over a model's images,
    clean against stamped, averaged over the marked models with a bootstrap interval over models; on clean models, to
    which the stamp means nothing, it is the control.
    """
    marked, clean = [row for row in rows if row["marked"]], [row for row in rows if not row["marked"]]
    drop = float(np.mean([row["accuracy"] for row in clean]) - np.mean([row["accuracy"] for row in marked]))
    metrics: dict[str, Metric] = {
        "detection/models": Metric(float(len(rows))),
        "detection/one_label": Metric(float(np.mean([row["one_label"] for row in marked])), "", True),
        "detection/accuracy_drop": Metric(100.0 * drop, "points", False),
    }
    table = []
    for name, title in SCANS.items():
        found, line = _scan_found(name, marked, clean, how.rate)
        metrics |= {f"detection/{name}/{measure}": metric for measure, metric in found.items()}
        table.append((title, "models", *line))
    for name, title in FILTERS.items():
        found, line = _filter_found(name, marked, clean)
        metrics |= {f"detection/{name}/{measure}": metric for measure, metric in found.items()}
        table.append((title, "images", *line))
    for measure in ("auc", "detected"):
        worst = max(metrics[f"detection/{name}/{measure}"].value for name in AUTHORS)
        metrics[f"detection/authors/worst_{measure}"] = Metric(worst, "", False)
    columns = (
        "detector",
        "tells apart",
        "clean score",
        "marked score",
        "AUROC",
        "95 % interval, low",
        "high",
        "marked found",
        "clean flagged",
    )
    note = (
        f"{len(clean)} clean and {len(marked)} marked small encoders. Scores are medians, higher meaning more suspicious. "
        "Scans: a clean model exceeds the threshold with the stated probability. Filters: stamped against clean images of "
        "a marked model, interval over models, share of clean images rejected as measured."
    )
    return Outcome(metrics, (Table("Detectors", columns, tuple(table), note),))


Rows = Sequence[Mapping[str, Any]]


def _scan_found(
    name: str, marked: Rows, clean: Rows, rate: float
) -> tuple[dict[str, Metric], tuple[float | None, ...]]:
    """Metrics of a detector that scores models, and its line of the table."""

    def score(row: Mapping[str, Any]) -> float:
        return -row["neural_cleanse"]["smallest"] if name == "smallest_patch" else row[name]["score"]

    guilty, innocent = [score(row) for row in marked], [score(row) for row in clean]
    threshold = calibrate(innocent, rate, source="clean models")
    area = auroc(guilty, innocent)
    interval = auroc_interval(area, len(guilty), len(innocent))
    caught = sum(threshold.flags(value) for value in guilty)
    found = {
        "auc": Metric(area, "", False, interval),
        "detected": Metric(caught / len(guilty), "", False, share_interval(caught, len(guilty))),
        "clean_score": Metric(float(np.median(innocent))),
        "marked_score": Metric(float(np.median(guilty))),
    }
    if name != "smallest_patch":
        for kind, rows in (("clean", clean), ("marked", marked)):
            flags = sum(bool(row[name]["paper_flags"]) for row in rows)
            share = Metric(flags / len(rows), "", None, share_interval(flags, len(rows)))
            found[f"paper_flags_{kind}"] = share
    medians = (found["clean_score"].value, found["marked_score"].value)
    return found, (*medians, area, *interval, caught / len(guilty), threshold.false_positive_rate)


def _filter_found(name: str, marked: Rows, clean: Rows) -> tuple[dict[str, Metric], tuple[float | None, ...]]:
    """Metrics of a detector that scores images, and its line of the table."""
    areas, controls = ([auroc(row[name]["stamped"], row[name]["clean"]) for row in kind] for kind in (marked, clean))
    caught = [row[name]["rejected_stamped"] for row in marked]
    wrongly = float(np.mean([row[name]["rejected_clean"] for row in (*marked, *clean)]))
    interval = bootstrap_interval(areas)
    found = {
        "auc": Metric(float(np.mean(areas)), "", False, interval),
        "control_auc": Metric(float(np.mean(controls)), "", None, bootstrap_interval(controls)),
        "detected": Metric(float(np.mean(caught)), "", False, bootstrap_interval(caught)),
        "clean_rejected": Metric(wrongly, "", False),
    }
    for level in (0.01, 0.05):
        missed = [false_acceptance(row[name]["stamped"], row[name]["clean"], rejection=level) for row in marked]
        found[f"false_acceptance_at_{level:g}"] = Metric(float(np.mean(missed)), "", None)
    medians = [float(np.mean([np.median(row[name][kind]) for row in marked])) for kind in ("clean", "stamped")]
    return found, (*medians, float(np.mean(areas)), *interval, float(np.mean(caught)), wrongly)
