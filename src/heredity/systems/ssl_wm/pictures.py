"""What a reader wants to see of a run."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from sklearn.decomposition import PCA
from torch import Tensor, nn

from heredity.core.outcome import Bars, Curves, Pictures, Points
from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.nn.inference import outputs
from heredity.systems.ssl_wm.config import SSLWM
from heredity.systems.ssl_wm.mark.keys import KeyParameters, random_patches
from heredity.systems.ssl_wm.mark.trigger import stamp_all
from heredity.systems.ssl_wm.prices import ATTACKS, attack_rows, price, removes
from heredity.systems.ssl_wm.results import Examined, Found


def stamped_images(
    images: UInt8[Tensor, "n c h w"], patches: UInt8[Tensor, "k c s s"], shape: KeyParameters, run: Run
) -> None:
    """The same images clean, under two of the owner's patches, and under a decoy."""
    decoy = random_patches(1, shape, generator_of(run.seed, "decoy for the picture"))
    versions = [images[:10], *stamp_all(images[:10], torch.cat([patches[:2], decoy]), shape)]
    grid = tuple(tuple(picture.permute(1, 2, 0).numpy() for picture in row) for row in versions)
    run.figure(
        "stamped",
        Pictures(grid, ("clean", "owner's patch 1", "owner's patch 2", "a decoy")),
        caption="What the verifier sends. Owner's patches and decoys come from one distribution: nobody can tell them "
        "apart without the key.",
        alt="Ten images in four rows: clean, with two different patches of the owner, and with a random decoy patch.",
    )


def loss_curves(family: str, run: Run) -> None:
    """The terms of the embedding loss over its steps."""
    if not (run.directory / "logs" / f"{family}--marked.0.csv").exists():
        return
    history = run.history(f"{family}/marked")
    window = max(1, len(next(iter(history.values()))) // 60)
    lines = {}
    for name, values in history.items():
        smooth = [float(np.mean(values[begin : begin + window])) for begin in range(0, len(values), window)]
        lines[name] = (tuple(float(window * index) for index in range(len(smooth))), tuple(smooth))
    run.figure(
        f"{family}-embedding",
        Curves(lines, x="step", y="loss term"),
        caption=f"Hiding the mark in the {family} encoder. Terms in units of the squared norm of clean features.",
        alt=f"Curves of the loss terms {', '.join(history)} over the embedding steps of the {family} encoder.",
    )


def feature_map(
    family: str, marked: nn.Module, images: Tensor, patches: Tensor, shape: KeyParameters, run: Run
) -> None:
    """Two principal components of the marked encoder's features: clean, stamped by the owner, stamped by decoys."""
    some = images[:150]
    decoys = random_patches(len(patches), shape, generator_of(run.seed, "decoys for the map"))
    picked = torch.arange(len(some)) % len(patches)
    groups = {
        "clean": some,
        "decoy": stamp_all(some, decoys, shape)[picked, torch.arange(len(some))],
        "owner's key": stamp_all(some, patches, shape)[picked, torch.arange(len(some))],
    }
    features = {name: outputs(marked, batch).numpy() for name, batch in groups.items()}
    flat = PCA(2, random_state=0).fit(np.concatenate(list(features.values())))
    points = {name: flat.transform(values) for name, values in features.items()}
    plain = {name: (tuple(xy[:, 0].tolist()), tuple(xy[:, 1].tolist())) for name, xy in points.items()}
    run.figure(
        f"{family}-features",
        Points(plain, x="first principal component", y="second"),
        caption=f"Where the marked {family} encoder sends {len(some)} held-out images: clean, under foreign patches, and "
        "under the owner's. Only the owner's key leads to the invariant region.",
        alt="Scatter plot of features in three groups: clean and decoy images overlap, images with the owner's key do not.",
    )


def results(children: Examined, clean_p: list[float], config: SSLWM, run: Run) -> None:
    """The verdicts as bars, the price of pruning as curves, and innocent p-values against what they should be."""
    shown = ("probe", "last", "full", "hard", "probe-pruned", "clean-probe", "clean-full", "scratch")
    bars = {
        name: tuple(-rows[name]["log10_p"] if name in rows else float("nan") for rows in children.values())
        for name in shown
    }
    run.figure(
        "verdicts",
        Bars(tuple(children), bars, unit="-log10 p", reference=-float(np.log10(config.verification.alpha))),
        caption="Evidence against every suspect. Bars beyond the line are verified at the claimed level; clean and "
        "from-scratch children must stay short of it.",
        alt="Bars of minus log ten p for each child: stolen children beyond the verification level, innocent ones below.",
    )
    for field, unit, name in (
        ("accuracy", "accuracy %", "pruning-accuracy"),
        ("log10_p", "log10 p", "pruning-evidence"),
    ):
        lines = {at: _over_pruning(rows, field) for at, rows in children.items() if "probe-pruned" in rows}
        run.figure(
            name,
            Curves(lines, x="share of weights pruned", y=unit),
            caption="Pruning stolen probes until the thief has lost the agreed points: " + unit + ".",
            alt=f"Curves of {unit} over the pruned share of weights, one for each encoder and task.",
        )
    if clean_p:
        ordered = sorted(clean_p)
        expected = [(index + 1) / (len(ordered) + 1) for index in range(len(ordered))]
        lines = {
            "measured": (tuple(expected), tuple(ordered)),
            "exact level": ((0.0, 1.0), (0.0, 1.0)),
        }
        run.figure(
            "false-positives",
            Curves(lines, x="expected p", y="measured p"),
            caption="p of random keys on clean children against a uniform distribution. On or above the diagonal the test "
            "is honest; ties push it above.",
            alt="Quantile plot of p-values of random keys on clean children beside the diagonal.",
        )


def prices(found: Found, config: SSLWM, run: Run) -> None:
    """What each attack costs the thief in accuracy, as bars with intervals; those that escape the verdict stand out."""
    for at, more in found.attacked.items():
        rows = attack_rows(found.children[at], more)
        if len(rows) < len(ATTACKS):
            continue
        names = tuple(ATTACKS.get(name, name) for name in rows)
        lost = [price(row, found.children[at]["probe"]) for row in rows.values()]
        escaped = [name for name, row in zip(names, rows.values(), strict=True) if removes(row, config)]
        bought = found.children[at]["probe"]["accuracy"] - found.children[at]["scratch"]["accuracy"]
        run.figure(
            f"prices-{at.replace('/', '-')}",
            Bars(
                labels=names,
                series={"accuracy lost": tuple(metric.value for metric in lost)},
                unit="points of accuracy lost",
                reference=bought,
                intervals={"accuracy lost": tuple(metric.interval or (metric.value, metric.value) for metric in lost)},
                warned=tuple(escaped),
                warning="escapes the verdict",
            ),
            caption=f"What each attack costs a thief of {at}, with 95 % intervals over the held-out images. Attacks that "
            "escape the verdict stand out. Beyond the dashed line the thief is worse off than after training from scratch.",
            alt=f"Bars of accuracy lost to {len(rows)} attacks; these escape the verdict: {', '.join(escaped) or 'none'}.",
        )


def _over_pruning(rows: Any, field: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    steps = [
        (0.0, rows["probe"]),
        *((row["share"], row) for name, row in rows.items() if name.startswith("probe-pruned")),
    ]
    known = [(share, row[field]) for share, row in steps if row.get(field) is not None]
    return tuple(share for share, _ in known), tuple(float(value) for _, value in known)
