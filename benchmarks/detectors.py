"""Do the detectors work on the attacks they were made for? Only then does a miss elsewhere mean something.

    python benchmarks/detectors.py badnets anchored ssl-wm [--models 10] [--rate 0.1] [--out runs/detectors]

`badnets`: Neural Cleanse and STRIP on small digit classifiers, clean ones and ones trained with a white patch on a tenth
of the images (Gu et al. 2017). `anchored`: DECREE on small SimCLR encoders, clean ones and ones that one patch sends to
one point (as BadEncoder does, Jia et al. 2022; no decoys). `ssl-wm`: all detectors on encoders with an ownership mark,
and on models made from them; `distance=2`: the same with marked images only two feature norms out. Models are stages of a
run: a second call goes on where the first stopped.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heredity.core.loop import Plan
from heredity.core.outcome import Outcome, bootstrap_interval
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of
from heredity.core.run import Machine, Run
from heredity.data.images import load_images
from heredity.data.labelled import ImageSource
from heredity.defences import decree, neural_cleanse, strip
from heredity.defences.contract import calibrate
from heredity.metrics.detection import auroc, auroc_interval, false_acceptance
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import accuracy, top1
from heredity.systems.ssl_wm.config import QUICK
from heredity.systems.ssl_wm.detection import Detection, Suspect, detected, examine, make_suspect
from heredity.systems.ssl_wm.tasks import make_task
from heredity.transfer.finetune import FineTuning, fit_classifier
from heredity.transfer.task import Task

SHAPE = EncoderShape(width=8)
LEARNING = FineTuning(
    plan=Plan(epochs=12, batch=64, optimiser="adam", learning_rate=3e-3, schedule="one-cycle"), probe_first=False
)


def white_patch(images: Tensor) -> Tensor:
    """A white square of 3 x 3 in the lower right corner, one pixel from the edge."""
    stamped = images.clone()
    stamped[..., -4:-1, -4:-1] = 255
    return stamped


def classifier(source: ImageSource, name: str, target: int | None, run: Run) -> nn.Module:
    """A small digit classifier; with a target, a tenth of its training images carry the patch and the target's label."""
    images, labels = source.train.images.clone(), source.train.labels.clone()
    if target is not None:
        rows = torch.randperm(len(images), generator=generator_of(run.seed, name, "poisoned"))[: len(images) // 10]
        images[rows], labels[rows] = white_patch(images[rows]), target
    task = Task("digits", 10, (images, labels), (images[:1], labels[:1]), (source.test.images, source.test.labels))
    return run.model(
        name,
        make=lambda: Classifier(make_encoder(SHAPE, images.shape[-1]), features=4 * SHAPE.width, classes=10),
        train=lambda model: fit_classifier(model, task, LEARNING, run),
        made_by="training" if target is None else "training on poisoned data (BadNets)",
        settings={"target": target, "learning": LEARNING},
    )


BLENDS = {"as in the paper": strip.Strip(), "halves": strip.Strip(weight=0.5, overlay=0.5)}


def badnets(source: ImageSource, models: int, run: Run) -> list[dict[str, Any]]:
    """Scores of Neural Cleanse (the model) and STRIP (its inputs) for clean and poisoned classifiers."""
    images, labels = source.test.images, source.test.labels
    how = Detection()
    seen, left = images[: how.fitted], images[how.fitted :]
    rows = []
    for kind in ("clean", "poisoned"):
        for number in range(models):
            name, target = f"badnets/{kind}-{number}", number % 10
            model = classifier(source, name, target if kind == "poisoned" else None, run)
            draws = partial(generator_of, run.seed, name)
            others = left[labels[how.fitted :] != target]

            def scanned(model: nn.Module = model, draws: Any = draws, kind: str = kind) -> dict[str, Any]:
                scan = neural_cleanse.scan(model, images[: how.scanned], how.neural_cleanse, generator=draws("cleanse"))
                return {
                    "poisoned": kind == "poisoned",
                    "neural_cleanse": scan.score,
                    "paper_flags": scan.flagged,
                    "suspects": list(scan.suspects),
                    "size": -scan.measures["smallest"],
                    "cost": [scan.cost.seconds, scan.cost.queries],
                }

            def filtered(model: nn.Module = model, draws: Any = draws, others: Tensor = others) -> dict[str, Any]:
                found = {}
                for reading, blend in BLENDS.items():
                    fitted = strip.fit(model, seen, blend, generator=draws("strip"))
                    clean, stamped = fitted(others), fitted(white_patch(others))
                    found[reading] = {
                        "clean": clean.scores.tolist(),
                        "stamped": stamped.scores.tolist(),
                        "rejected_clean": float(clean.rejected.float().mean()),
                        "rejected_stamped": float(stamped.rejected.float().mean()),
                    }
                return found

            row = run.table(f"{name}-detectors", scanned) | {"strip": run.table(f"{name}-strip", filtered)}
            row["accuracy"] = accuracy(model, images, labels)
            row["success"] = float((top1(model, white_patch(others)) == target).float().mean())
            rows.append({**row, "target": target})
    return rows


def maker(source: ImageSource, run: Run) -> Callable[[str, int], Suspect]:
    """Encoders by kind and number, each made once: "clean", "marked", "anchored", or "distance=D" for a nearer mark."""
    task = make_task("classes", QUICK, source, run.seed)

    @cache
    def make(kind: str, number: int) -> Suspect:
        how, shape = Detection(), QUICK.key
        if kind == "anchored":
            how, shape = with_loss(how, decoy=0.0), replace(shape, sub_keys=1)
        if kind.startswith("distance="):
            how = with_loss(how, distance=float(kind.partition("=")[2]))
        name = f"detectors/{kind}-{number}"
        return make_suspect(name, kind != "clean", task, source.train.images, shape, how, run)

    return make


def with_loss(how: Detection, **changes: float) -> Detection:
    """The recipe with another loss."""
    loss = replace(how.embedding.loss, **changes)  # pyright: ignore[reportArgumentType]
    return replace(how, embedding=replace(how.embedding, loss=loss))


def anchored(source: ImageSource, models: int, make: Callable[[str, int], Suspect], run: Run) -> list[dict[str, Any]]:
    """DECREE's scores of clean encoders and of encoders that one patch blinds."""
    how = Detection()
    images = source.test.images[: how.scanned]
    rows = []
    for number in range(models):
        for kind in ("clean", "anchored"):
            suspect = make(kind, number)

            def compute(suspect: Suspect = suspect) -> dict[str, Any]:
                draws = generator_of(run.seed, suspect.name, "decree")
                found = decree.scan(suspect.encoder, images, how.decree, generator=draws)
                cost = {"seconds": found.cost.seconds, "queries": found.cost.queries}
                return {"score": found.score, "paper_flags": found.flagged, **found.measures, **cost}

            rows.append({"poisoned": suspect.marked, **run.table(f"{suspect.name}-decree", compute)})
    return rows


def show_scan(title: str, rows: Sequence[dict[str, Any]], score: str, rate: float) -> None:
    """One line of a table: a scan's scores of clean and poisoned models."""
    guilty = [row[score] for row in rows if row["poisoned"]]
    innocent = [row[score] for row in rows if not row["poisoned"]]
    area, threshold = auroc(guilty, innocent), calibrate(innocent, rate, source="clean models")
    low, high = auroc_interval(area, len(guilty), len(innocent))
    caught = sum(threshold.flags(value) for value in guilty)
    flags = [sum(row["paper_flags"] for row in rows if row["poisoned"] == kind) for kind in (False, True)]
    paper = f"{flags[1]} of {len(guilty)}, {flags[0]} of {len(innocent)} clean" if score != "size" else "has none"
    print(
        f"| {title} | {span(innocent)} | {span(guilty)} | {area:.3f} ({low:.2f} to {high:.2f}) | {caught} of {len(guilty)} "
        f"at {threshold.false_positive_rate:.3g} | {paper} |"
    )


def show_filter(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """One line of a table: a filter on the inputs of every model."""
    areas = [auroc(row["stamped"], row["clean"]) for row in rows]
    low, high = bootstrap_interval(areas)
    missed = {
        level: float(np.mean([false_acceptance(row["stamped"], row["clean"], rejection=level) for row in rows]))
        for level in (0.01, 0.05)
    }
    rejected = float(np.mean([row["rejected_clean"] for row in rows]))
    print(
        f"| {title} | {np.mean(areas):.3f} ({low:.3f} to {high:.3f}) | {min(areas):.3f} | {missed[0.01]:.3f} | "
        f"{missed[0.05]:.3f} | {np.mean([row['rejected_stamped'] for row in rows]):.3f} | {rejected:.3f} |"
    )


def show_outcome(kind: str, outcome: Outcome) -> None:
    """Everything that the room measures."""
    print(f"\n{kind}")
    for name, metric in outcome.metrics.items():
        ends = "" if metric.interval is None else f" ({metric.interval[0]:.3f} to {metric.interval[1]:.3f})"
        print(f"{name}: {metric.value:.4g}{ends}")
    table = outcome.tables[0]
    print("| " + " | ".join(table.columns) + " |")
    for row in table.rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def span(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Make, scan, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", help="badnets, anchored, ssl-wm, or distance=D")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument(
        "--rate", type=float, default=0.1, help="false-positive rate of scans, 1 / (models + 1) at least"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/detectors"))
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    source = load_images("digits", seed=wanted.seed)
    identity = {"benchmark": "detectors", "seed": wanted.seed}
    place = wanted.out / f"seed-{wanted.seed}"
    run = Run.open(
        place,
        identity,
        machine=Machine(accelerator="cpu"),
        resume=(place / "config.yaml").exists(),
        reporter=Reporter(quiet=True),
    )
    how, make, examined = Detection(rate=wanted.rate), maker(source, run), {}
    scans = "| detector | clean | poisoned | AUROC (95 %) | found at the stated false-positive rate | the paper's threshold |"
    filters = "| detector | AUROC, mean of models (95 %) | worst | missed at 1 % | at 5 % | rejected, stamped | clean |"
    if "badnets" in wanted.parts:
        rows = badnets(source, wanted.models, run)
        for kind in (False, True):
            found = [row for row in rows if row["poisoned"] == kind]
            print(
                f"{'poisoned' if kind else 'clean'} classifiers: accuracy {span([row['accuracy'] for row in found])}, "
                f"attack success {span([row['success'] for row in found])}"
            )
        named = sum(row["target"] in row["suspects"][:1] for row in rows if row["poisoned"])
        print(f"Neural Cleanse names the target first in {named} of {wanted.models}")
        print(scans)
        show_scan("Neural Cleanse, anomaly index", rows, "neural_cleanse", how.rate)
        show_scan("Neural Cleanse, smallest patch (pixels, negative)", rows, "size", how.rate)
        print(filters)
        for reading in BLENDS:
            for kind in (True, False):
                found = [row["strip"][reading] for row in rows if row["poisoned"] == kind]
                show_filter(f"STRIP, {reading}, {'poisoned' if kind else 'clean'} models", found)
    if "anchored" in wanted.parts:
        rows = anchored(source, wanted.models, make, run)
        print(f"clean cosine of clean encoders {span([row['clean cosine'] for row in rows if not row['poisoned']])}")
        print(scans)
        show_scan("DECREE (1 - PL1)", rows, "score", how.rate)
    task = make_task("classes", QUICK, source, wanted.seed)
    for kind in [part for part in wanted.parts if part not in ("badnets", "anchored")]:
        kind = "marked" if kind == "ssl-wm" else kind
        suspects = [make(made, number) for made in ("clean", kind) for number in range(wanted.models)]
        if not examined:
            examined.update((suspect.name, examine(suspect, task, how, run)) for suspect in suspects[: wanted.models])
        rows = [examined[suspect.name] for suspect in suspects[: wanted.models]]
        rows += [examine(suspect, task, how, run) for suspect in suspects[wanted.models :]]
        show_outcome(kind, detected(rows, how))


if __name__ == "__main__":
    main()
