"""Do repairs, data filters and the scans of `heredity scan` work on a plain BadNets model? Only then do their failures count.

    python benchmarks/repairs.py repairs oracle scans data meta [--models 10] [--seed 10] [--width 8] [--out runs/repairs]
    python benchmarks/repairs.py calibrate [--models 40] [--seed 0] --write src/heredity/audit/clean_models.json

`repairs`: clean accuracy and attack success before and after each repair, of poisoned and clean classifiers with batch
normalisation. `oracle`: how far a pruner who knows the patch gets. `scans`: Neural Cleanse and neuron stimulation as
`heredity scan` runs them, thresholds from the clean models on file. `data`: Activation Clustering and Spectral Signatures on
training sets of which 3 % are poisoned, and Beatrix on inputs. `meta`: MNTD, fitted once on 232 images. `calibrate` makes the
file of clean models' scores. Models and scores are stages of a run: a second call goes on where the first stopped.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tables import table
from torch import Tensor, nn

from heredity.audit.calibration import IMAGES, LEARNING, SCANNERS, shipped_threshold
from heredity.audit.mend import REPAIRS
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of
from heredity.core.run import Machine, Run
from heredity.data.augment import Augmentation
from heredity.data.images import load_images
from heredity.data.labelled import ImageSource
from heredity.defences import activation_clustering, anp, beatrix, mntd, spectral_signatures
from heredity.defences.activation_clustering import ActivationClustering
from heredity.defences.anp import AdversarialPruning
from heredity.defences.contract import examining
from heredity.defences.repairing import accuracy_of, copy_of, halves, labelled_clean
from heredity.defences.spectral_signatures import SpectralSignatures
from heredity.metrics.detection import auroc, auroc_interval, share_interval
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import accuracy, top1
from heredity.transfer.finetune import FineTuning, fit_classifier
from heredity.transfer.task import Task

NORMS: tuple[Literal["batch", "group"], ...] = ("batch", "group")
FITTED = 232
POISONED = 0.1
FEW = 0.03
SPECTRAL = SpectralSignatures(poisoned=0.2)
# Filters look at the last 4 x width numbers. Width 8 after 12 epochs barely knows a patch that it met 39 times.
FIRM = EncoderShape(width=16, norm="batch")
FIRMLY = replace(LEARNING, plan=replace(LEARNING.plan, epochs=30))
# Nearer to how the papers on pruning train: SGD with decay (ten times theirs), on views that move. ANP needs it.
REGULARISED = replace(
    LEARNING,
    plan=replace(LEARNING.plan, epochs=40, optimiser="sgd", learning_rate=0.1, weight_decay=5e-3),
    augmentation=Augmentation(scale=(0.7, 1.0), brightness=0.0, contrast=0.0, jitter=0.0),
)


def white_patch(images: Tensor) -> Tensor:
    """A white square of 3 x 3 in the lower right corner, one pixel from the edge."""
    stamped = images.clone()
    stamped[..., -4:-1, -4:-1] = 255
    return stamped


def training_set(
    source: ImageSource, name: str, target: int | None, share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and which are poisoned: a share of all images, of other classes, carries the patch and the target's
    label. None are without a target."""
    images, labels = source.train.images.clone(), source.train.labels.clone()
    guilty = torch.zeros(len(labels), dtype=torch.bool)
    if target is not None:
        others = torch.nonzero(labels != target).flatten()
        order = torch.randperm(len(others), generator=generator_of(seed, name, "poisoned"))
        rows = others[order[: round(share * len(labels))]]
        images[rows], labels[rows], guilty[rows] = white_patch(images[rows]), target, True
    return images, labels, guilty


def classifier(
    data: tuple[Tensor, Tensor], shape: EncoderShape, name: str, learning: FineTuning, run: Run
) -> nn.Module:
    """A small digit classifier, trained on what it is given."""
    images, labels = data
    task = Task("digits", 10, (images, labels), (images[:1], labels[:1]), (images[:1], labels[:1]))
    return run.model(
        name,
        make=lambda: Classifier(make_encoder(shape, images.shape[-1]), features=4 * shape.width, classes=10),
        train=lambda model: fit_classifier(model, task, learning, run),
        made_by="training",
        settings={"shape": shape, "learning": learning},
    )


def model_of(
    source: ImageSource,
    shape: EncoderShape,
    kind: str,
    number: int,
    share: float,
    run: Run,
    learning: FineTuning = LEARNING,
) -> tuple[nn.Module, str, int]:
    """A clean or poisoned model, its name, and the target of the attack (which a clean model never met)."""
    wide = "" if shape.width == 8 else f"-width-{shape.width}"
    wide += "" if learning.plan.epochs == LEARNING.plan.epochs else f"-epochs-{learning.plan.epochs:g}"
    wide += "-regularised" if learning.augmentation is not None else ""
    target, name = number % 10, f"{shape.norm}{wide}-{share:g}/{kind}-{number}"
    images, labels, _ = training_set(source, name, target if kind == "poisoned" else None, share, run.seed)
    return classifier((images, labels), shape, name, learning, run), name, target


def worth(model: nn.Module, images: Tensor, labels: Tensor, target: int) -> dict[str, float]:
    """Clean accuracy, and the share of other classes' images that the patch sends to the target."""
    others = images[labels != target]
    return {
        "accuracy": accuracy(model, images, labels),
        "success": float((top1(model, white_patch(others)) == target).float().mean()),
    }


def repairs(
    source: ImageSource, models: int, shape: EncoderShape, learning: FineTuning, wanted: Sequence[str], run: Run
) -> None:
    """The wanted repairs on every model: 232 images of the test part repair, the other 265 measure."""
    images, labels = source.test.images, source.test.labels
    seen, left = (images[:FITTED], labels[:FITTED]), (images[FITTED:], labels[FITTED:])
    rows: dict[str, list[dict[str, Any]]] = {"poisoned": [], "clean": []}
    for number in range(models):
        for kind, found in rows.items():
            model, name, target = model_of(source, shape, kind, number, POISONED, run, learning)
            row: dict[str, Any] = {"none": {**worth(model, *left, target), "seconds": 0.0}}
            for repair in wanted:
                mend = REPAIRS[repair][1]

                def mended(model: nn.Module = model, mend: Any = mend, name: str = name, target: int = target) -> Any:
                    done = mend(model, *seen, generator_of(run.seed, name, "repair"))
                    return {**worth(done.model, *left, target), "seconds": done.cost.seconds, **done.measures}

                row[repair] = run.table(f"{name}-{repair}", mended)
            found.append(row)
    lines = []
    for repair in ("none", *wanted):
        cells = [repair]
        for measure, kind in (
            ("success", "poisoned"),
            ("accuracy", "poisoned"),
            ("success", "clean"),
            ("accuracy", "clean"),
        ):
            cells.append(span([row[repair][measure] for row in rows[kind]]))
        healed = sum(row[repair]["success"] <= 0.2 for row in rows["poisoned"])
        cells += [f"{healed} of {models}", f"{np.median([row[repair]['seconds'] for row in rows['poisoned']]):.1f}"]
        lines.append(cells)
    columns = (
        f"repair ({shape.norm} normalisation, width {shape.width}, {learning.plan.epochs:g} epochs)",
        "attack success, poisoned models",
        "accuracy, poisoned models",
        "attack success, clean models",
        "accuracy, clean models",
        "attack success at most 0.2",
        "seconds",
    )
    print(table(columns, lines))


def oracle(
    source: ImageSource, models: int, shape: EncoderShape, learning: FineTuning, run: Run, *, most: int = 12
) -> None:
    """What pruning could do at best: the pruner sees the patch, and is bound by ANP's tolerance on the same half of images.

    Greedy: of all neurons the one that leaves the attack least success, up to `most`. Beside it, where ANP's masks rank what
    was pruned (0: first to go, 1: last).
    """
    images, labels = source.test.images, source.test.labels
    unit, classes = labelled_clean(images[:FITTED], labels[:FITTED], per_class=2)
    stamped, tolerance = white_patch((255 * unit).round().to(torch.uint8)).float() / 255, AdversarialPruning().tolerance
    rows = []
    for number in range(models):
        model, name, target = model_of(source, shape, "poisoned", number, POISONED, run, learning)

        def pruned(model: nn.Module = model, name: str = name, target: int = target) -> dict[str, float]:
            child, draws = copy_of(model), generator_of(run.seed, name, "repair")
            learn, decide = halves(classes, draws)
            others = decide[classes[decide] != target]
            neurons = anp.neurons_of(child)
            with examining(child) as ask:
                with anp.batch_statistics(child):
                    masks = anp.learn_masks(ask, neurons, unit[learn], classes[learn], AdversarialPruning(), draws)
                ranks = masks.argsort(stable=True).argsort()
                least = accuracy_of(ask, unit[decide], classes[decide]) - tolerance
                places = [(layer, row) for layer, count in neurons.items() for row in range(count)]
                gone: list[int] = []
                for _ in range(most):
                    found = []
                    for place, (layer, row) in enumerate(places):
                        weight = child.get_parameter(f"{layer}.weight").detach()
                        kept, weight[row] = weight[row].clone(), 0.0
                        left = float((ask.all(stamped[others]).argmax(dim=1) == target).float().mean())
                        if place not in gone and accuracy_of(ask, unit[decide], classes[decide]) >= least:
                            found.append((left, place))
                        weight[row] = kept
                    if not found:
                        break
                    left, best = min(found)
                    gone.append(best)
                    child.get_parameter(f"{places[best][0]}.weight").detach()[places[best][1]] = 0.0
                    if left == 0:
                        break
            rank = float(ranks[gone].float().mean()) / (len(places) - 1)
            return {**worth(child, images[FITTED:], labels[FITTED:], target), "pruned": len(gone), "rank": rank}

        rows.append(run.table(f"{name}-oracle", pruned))
    columns = (
        "pruner",
        "attack success left",
        "accuracy",
        "attack success at most 0.2",
        "neurons pruned",
        "their rank",
    )
    cells = [span([row[measure] for row in rows]) for measure in ("success", "accuracy", "pruned", "rank")]
    healed = sum(row["success"] <= 0.2 for row in rows)
    print(table(columns, [["knows the patch", *cells[:2], f"{healed} of {models}", *cells[2:]]]))


def scanned(model: nn.Module, source: ImageSource, name: str, run: Run) -> dict[str, Any]:
    """What every scanner of `heredity scan` gives a model."""

    def compute(scanner: str) -> dict[str, Any]:
        draws = generator_of(run.seed, name, scanner)
        verdict, score = SCANNERS[scanner].run(model, source.test.images[:IMAGES], draws)
        return {"score": score, "published": verdict.flagged, "seconds": verdict.cost.seconds, "worst": worst(verdict)}

    return {scanner: run.table(f"{name}-{scanner}", partial(compute, scanner)) for scanner in SCANNERS}


def worst(verdict: Any) -> int:
    """The class with the highest score."""
    return int(np.argmax(verdict.class_scores))


def scans(source: ImageSource, models: int, clean: int, learning: FineTuning, run: Run) -> None:
    """Poisoned models against fresh clean ones, thresholds from the clean models on file."""
    rows: dict[str, list[dict[str, Any]]] = {"poisoned": [], "clean": []}
    for kind, count in (("poisoned", models), ("clean", clean)):
        for number in range(count):
            model, name, target = model_of(source, EncoderShape(width=8), kind, number, POISONED, run, learning)
            rows[kind].append({"target": target, **scanned(model, source, name, run)})
    lines, anything = [], [False] * clean
    for scanner in SCANNERS:
        guilty, innocent = ([row[scanner]["score"] for row in rows[kind]] for kind in ("poisoned", "clean"))
        known = shipped_threshold(scanner)
        assert known is not None, "calibrate first"
        threshold, _ = known
        area = auroc(guilty, innocent)
        low, high = auroc_interval(area, len(guilty), len(innocent))
        anything = [known or threshold.flags(score) for known, score in zip(anything, innocent, strict=True)]
        caught, wrongly = (sum(threshold.flags(score) for score in scores) for scores in (guilty, innocent))
        published = [sum(row[scanner]["published"] for row in rows[kind]) for kind in ("poisoned", "clean")]
        named = sum(row[scanner]["worst"] == row["target"] for row in rows["poisoned"])
        lines.append(
            [
                scanner,
                span(innocent),
                span(guilty),
                f"{area:.3f} ({low:.2f} to {high:.2f})",
                f"{threshold.value:.4g} ({threshold.false_positive_rate:.3g})",
                f"{caught} of {models}",
                f"{wrongly} of {clean}",
                f"{published[0]} of {models}, {published[1]} of {clean} clean",
                f"{named} of {models}",
                f"{np.median([row[scanner]['seconds'] for row in rows['poisoned']]):.1f}",
            ]
        )
    columns = (
        "scan",
        "clean",
        "poisoned",
        "AUROC (95 %)",
        "threshold (its rate)",
        "poisoned found",
        "clean flagged",
        "by the paper's threshold",
        "target named",
        "seconds",
    )
    print(table(columns, lines))
    quiet = clean - sum(anything)
    low, high = share_interval(quiet, clean)
    print(f"nothing flagged on {quiet} of {clean} fresh clean models ({low:.2f} to {high:.2f})")


CLUSTERINGS = {
    "Activation Clustering, independent components": ActivationClustering(),
    "Activation Clustering, principal components": ActivationClustering(reduction="principal"),
}


def data(source: ImageSource, models: int, run: Run) -> None:
    """Filters of training samples on poisoned sets, within the target class; Beatrix on inputs of those models."""
    images, labels = source.test.images, source.test.labels
    found: dict[str, list[dict[str, float]]] = {}
    silhouettes: dict[str, dict[str, list[float]]] = {}
    successes, inputs = [], []
    for number in range(models):
        for kind in ("poisoned", "clean"):
            model, name, target = model_of(source, FIRM, kind, number, FEW, run, FIRMLY)
            wanted = target if kind == "poisoned" else None
            given, called, guilty = training_set(source, name, wanted, FEW, run.seed)
            inside = called == target

            def judged(
                model: nn.Module = model, name: str = name, given: Tensor = given, called: Tensor = called
            ) -> dict[str, Any]:
                verdicts = {
                    title: activation_clustering.scan(model, given, called, how, generator=generator_of(run.seed, name))
                    for title, how in CLUSTERINGS.items()
                }
                verdicts["Spectral Signatures"] = spectral_signatures.scan(model, given, called, SPECTRAL)
                return {
                    title: {
                        "scores": verdict.scores.tolist(),
                        "kept": verdict.kept.tolist(),
                        "highest": max(verdict.class_scores),
                        "worst": worst(verdict),
                    }
                    for title, verdict in verdicts.items()
                }

            for title, verdict in run.table(f"{name}-filters", judged).items():
                silhouettes.setdefault(title, {"poisoned": [], "clean": []})[kind].append(verdict["highest"])
                if kind == "clean":
                    continue
                scores, kept = np.array(verdict["scores"]), torch.tensor(verdict["kept"])
                found.setdefault(title, []).append(
                    {
                        "area": auroc(scores[inside & guilty].tolist(), scores[inside & ~guilty].tolist()),
                        "dropped": float((~kept[guilty]).float().mean()),
                        "wrongly": float((~kept[~guilty]).float().mean()),
                    }
                )
            if kind == "poisoned":
                successes.append(worth(model, images[FITTED:], labels[FITTED:], target))
                inputs.append(run.table(f"{name}-beatrix", partial(filtered, model, source, name, target, run.seed)))
    print(
        f"attack success {span([row['success'] for row in successes])}, accuracy {span([r['accuracy'] for r in successes])}"
    )
    lines = []
    for title, rows in found.items():
        area = auroc(silhouettes[title]["poisoned"], silhouettes[title]["clean"])
        low, high = auroc_interval(area, models, models)
        measured = [span([row[measure] for row in rows]) for measure in ("area", "dropped", "wrongly")]
        lines.append(
            [title, f"{np.mean([row['area'] for row in rows]):.3f}", *measured, f"{area:.3f} ({low:.2f} to {high:.2f})"]
        )
    columns = (
        "data filter",
        "AUROC in the target class, mean",
        "median (range)",
        "poisoned samples dropped",
        "clean samples dropped",
        "AUROC of whole sets (95 %)",
    )
    print(table(columns, lines))
    measured = [span([row[measure] for row in inputs]) for measure in ("area", "stamped", "clean")]
    print(table(("input filter", "AUROC", "rejected, stamped", "rejected, clean"), [["Beatrix", *measured]]))


def filtered(model: nn.Module, source: ImageSource, name: str, target: int, seed: int) -> dict[str, float]:
    """Beatrix on the inputs of one model."""
    images, labels = source.test.images, source.test.labels
    fitted = beatrix.fit(model, images[:FITTED], generator=generator_of(seed, name, "beatrix"))
    others = images[FITTED:][labels[FITTED:] != target]
    clean, stamped = fitted(others), fitted(white_patch(others))
    return {
        "area": auroc(stamped.scores.tolist(), clean.scores.tolist()),
        "stamped": float(stamped.rejected.float().mean()),
        "clean": float(clean.rejected.float().mean()),
    }


def meta(source: ImageSource, models: int, shape: EncoderShape, run: Run) -> None:
    """MNTD, fitted once on the shadow models of an architecture, on clean and poisoned models of it."""
    images, labels = source.test.images, source.test.labels
    device = run.fabric.device

    def make() -> nn.Module:
        return Classifier(make_encoder(shape, images.shape[-1]), features=4 * shape.width, classes=10).to(device)

    draws = generator_of(run.seed, "mntd", shape.norm)
    fitted = mntd.fit(make, images[:FITTED], labels[:FITTED], generator=draws)
    scores: dict[str, list[float]] = {"poisoned": [], "clean": []}
    for number in range(models):
        for kind, found in scores.items():
            model, _, _ = model_of(source, shape, kind, number, POISONED, run)
            found.append(fitted(model).score)
    area = auroc(scores["poisoned"], scores["clean"])
    low, high = auroc_interval(area, models, models)
    caught, wrongly = (sum(fitted.threshold.flags(score) for score in scores[kind]) for kind in ("poisoned", "clean"))
    print(", ".join(f"{name} {value:.3f}" for name, value in fitted.measures.items()), f"{fitted.cost.seconds:.0f} s")
    columns = ("scan", "clean", "poisoned", "AUROC (95 %)", "threshold (its rate)", "poisoned found", "clean flagged")
    told = f"{fitted.threshold.value:.3g} ({fitted.threshold.false_positive_rate:.3g})"
    row = ["MNTD", span(scores["clean"]), span(scores["poisoned"]), f"{area:.3f} ({low:.2f} to {high:.2f})", told]
    print(table(columns, [[*row, f"{caught} of {models}", f"{wrongly} of {models}"]]))


def calibrate(source: ImageSource, models: int, path: Path, run: Run) -> None:
    """Scores of clean models, as `heredity scan` ships them."""
    scores: dict[str, list[float]] = {scanner: [] for scanner in SCANNERS}
    clusters: list[float] = []
    for number in range(models):
        model, name, _ = model_of(source, EncoderShape(width=8), "clean", number, POISONED, run)
        for scanner, row in scanned(model, source, name, run).items():
            scores[scanner].append(round(row["score"], 6))

        def highest(model: nn.Module = model, name: str = name) -> float:
            draws = generator_of(run.seed, name)
            found = activation_clustering.scan(model, source.train.images, source.train.labels, generator=draws)
            return found.measures["highest silhouette"]

        clusters.append(round(run.table(f"{name}-clusters", highest), 6))
    content: Mapping[str, Any] = {
        "models": f"{models} clean residual nets of width 8 of scikit-learn's digits at 16 pixels, measured once",
        "command": f"python benchmarks/repairs.py calibrate --models {models} --seed {run.seed}",
        "scores": {**scores, "activation-clustering": clusters},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for scanner, values in content["scores"].items():
        print(f"{scanner}: {span(values)}")


def span(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Make, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("repairs", "oracle", "scans", "data", "meta", "calibrate"))
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--clean", type=int, default=20, help="fresh clean models of `scans`")
    parser.add_argument(
        "--norm", choices=NORMS, default="batch", help="normalisation of the models of `repairs` and `meta`"
    )
    parser.add_argument("--width", type=int, default=8, help="width of the models of `repairs` and `meta`")
    parser.add_argument("--epochs", type=float, help="epochs of the models of `repairs`, `oracle` and `scans`")
    parser.add_argument(
        "--regularised",
        action="store_true",
        help="models of `repairs`, `oracle` and `scans` learn by SGD with decay, on views that move",
    )
    parser.add_argument("--only", nargs="+", choices=tuple(REPAIRS), default=tuple(REPAIRS), help="repairs to run")
    parser.add_argument("--accelerator", default="cpu", help="cpu, gpu, ...")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/repairs"))
    parser.add_argument("--write", type=Path, help="file of `calibrate`")
    wanted = parser.parse_args()
    if "calibrate" in wanted.parts and wanted.write is None:
        parser.error("calibrate needs --write")
    torch.set_num_threads(1)
    source = load_images("digits", seed=wanted.seed)
    place = wanted.out / f"seed-{wanted.seed}"
    shape = EncoderShape(width=wanted.width, norm=wanted.norm)
    learning = REGULARISED if wanted.regularised else LEARNING
    if wanted.epochs is not None:
        learning = replace(learning, plan=replace(learning.plan, epochs=wanted.epochs))
    parts = {
        "repairs": partial(repairs, source, wanted.models, shape, learning, wanted.only),
        "oracle": partial(oracle, source, wanted.models, shape, learning),
        "scans": partial(scans, source, wanted.models, wanted.clean, learning),
        "data": partial(data, source, wanted.models),
        "meta": partial(meta, source, wanted.models, shape),
        "calibrate": partial(calibrate, source, wanted.models, wanted.write),
    }
    for part in wanted.parts:
        # Parts share models, and a stage is asked for once in a run: each part goes on with the run of the others.
        run = Run.open(
            place,
            {"benchmark": "repairs", "seed": wanted.seed},
            machine=Machine(accelerator=wanted.accelerator),
            resume=(place / "config.yaml").exists(),
            reporter=Reporter(),
        )
        parts[part](run)


if __name__ == "__main__":
    main()
