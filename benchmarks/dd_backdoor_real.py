"""DOORPING, NAIVEATTACK and honest distillation on real pictures: the paper's table, cell by cell.

    python benchmarks/dd_backdoor_real.py OUT.jsonl --data mnist=idx:DIR gtsrb=npz:DIR cifar10=cifar10:DIR
        [--cells mnist/convnet/dc/10 ...] [--arms naive doorping] [--seed 0] [--score test]
        [--size 16] [--narrow 4] [--depth 2]

A cell is DATA/NETWORK/METHOD/IMAGES-A-CLASS. Each is a line of OUT.jsonl as soon as it is known; cells that are there are
skipped, so that a stopped run goes on. A cell whose loss is no number is named, and the others follow. `--table` prints what
OUT.jsonl holds and computes nothing. Made for a GPU; `--size 16 --narrow 4 --depth 2` is what two cores can do.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from heredity.core.errors import TrainingError
from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.run import Machine, Run
from heredity.core.settings import to_plain
from heredity.nn.encoders import EncoderShape
from heredity.nn.inference import accuracy
from heredity.systems.dd_backdoor.config import PRESETS, DDBackdoor
from heredity.systems.dd_backdoor.distil import Distiller, distil
from heredity.systems.dd_backdoor.experiment import HONEST, KNOWN, STRANGER, Bench, source_of
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching
from heredity.systems.dd_backdoor.networks import Descent
from heredity.systems.dd_backdoor.trigger import Attack
from heredity.systems.dd_backdoor.unrolled import Unrolled
from heredity.systems.dd_backdoor.victims import train_victim

NETWORKS = {
    "convnet": EncoderShape(kind="convnet", width=128, depth=3, hidden=192),
    "alexnet": EncoderShape(kind="alexnet", width=64, hidden=192),
}
ATTACKS = {
    "naive": Attack("naive"),
    "doorping": Attack("doorping", steps=20, rate=2.0, until=0.4),
    "naive 6x6": Attack("naive", ratio=0.1, size=6),
    "doorping 6x6, valid": Attack(
        "doorping", ratio=0.1, size=6, pixels="valid", objective="margin", steps=5, until=0.5
    ),
    "frozen 6x6, valid": Attack("doorping", ratio=0.1, size=6, pixels="valid", frozen=True),
}
"""The last keeps the random pixels that DOORPING's patch starts from: what is left without its idea."""
GROUPS = {1: (1, 1), 10: (2, 5), 50: (10, 5)}
"""Images a class in a step, and steps, of unrolled distillation with so many images a class in all."""


def recipe(method: str, per_class: int, asked: argparse.Namespace) -> Distiller:
    """Short distillations: minutes for the published table's hours."""
    if method == "dc":
        plan = Plan(
            steps=asked.dc_steps,
            batch=1,
            optimiser=asked.dc_optimiser,
            learning_rate=asked.dc_rate,
            momentum=0.5,
            betas=(0.5, 0.999),
            schedule="constant",
        )
        inner = Descent(steps=5, rate=0.02, momentum=0.9, decay=0.0, halved=False)
        single = GradientMatching(per_class=1, outer=5, real=asked.dc_real, start="real", inner=inner, plan=plan)
        return single.sized(per_class)
    each, groups = GROUPS[per_class]
    plan = Plan(
        steps=asked.dd_steps,
        batch=512,
        optimiser="adam",
        learning_rate=asked.dd_rate,
        betas=(0.5, 0.999),
        schedule="cosine",
        clip=0.3,
    )
    return Unrolled(per_class=each, groups=groups, epochs=max(1, 10 // groups), rate=asked.dd_first, plan=plan)


def cell(name: str, asked: argparse.Namespace, sources: dict[str, str]) -> dict[str, Any]:
    """Accuracy and success of every arm, means over networks, in shares."""
    data, network, method, per_class = name.split("/")
    shape = NETWORKS[network]
    victim = Descent(steps=asked.victim_steps, rate=asked.victim_rate, halved=False)
    config = DDBackdoor(
        data=sources[data],
        size=asked.size,
        network=replace(
            shape,
            width=shape.width // asked.narrow,
            hidden=shape.hidden // asked.narrow,
            depth=min(shape.depth, asked.depth),
        ),
        victim=victim,
        strangers=asked.strangers,
        score=asked.score,
    )
    attacks = {arm: replace(ATTACKS[arm], target=asked.target) for arm in asked.arms}
    if asked.ratio is not None:
        attacks = {arm: replace(attack, ratio=asked.ratio) for arm, attack in attacks.items()}
    pace = PRESETS["quick"].matched
    if pace and method == "dc" and "doorping" in attacks:
        if asked.dc_until is not None:
            pace = replace(pace, until=asked.dc_until)
        attacks["doorping"] = pace.of(attacks["doorping"])
    began = time.monotonic()
    with Run.temporary(seed=asked.seed, reporter=Reporter(), limit_steps=asked.limit_steps) as run:
        run.fabric = Machine(accelerator=asked.accelerator).fabric()
        bench = Bench(config, source_of(config, asked.seed), run)
        distiller = recipe(method, int(per_class), asked)
        make, train = bench.make(method), bench.source.train
        numbers = [KNOWN] if method == "dd" else [STRANGER + k for k in range(asked.strangers)]
        honest, _ = distil(train, distiller, HONEST, config.network, run, name="none", begins=method)
        controls = [train_victim(honest, make, number, victim, seed=asked.seed) for number in numbers]
        found: dict[str, Any] = {"cell": name, "seed": asked.seed, "score": asked.score, "arms": {}}
        images, labels = bench.source.test.images, bench.source.test.labels
        found["honest"] = [accuracy(model, images, labels) for model in controls]
        for arm, attack in attacks.items():
            made, patch = distil(
                train,
                distiller,
                attack,
                config.network,
                run,
                name=arm.replace(" ", "-").replace(",", ""),
                begins=method,
            )
            victims = [train_victim(made, make, number, victim, seed=asked.seed) for number in numbers]
            own, others = ([bench.asked(model, patch, attack) for model in group] for group in (victims, controls))
            found["arms"][arm] = {
                "accuracy": [each.clean_accuracy for each in own],
                "success": [each.attack_success_rate for each in own],
                "success, honest set": [each.attack_success_rate for each in others],
                "pixels": [float(patch.min()), float(patch.max())],
            }
    device = torch.cuda.get_device_name() if run.fabric.device.type == "cuda" else "CPU"
    settings = {"distiller": to_plain(distiller), "attacks": {arm: to_plain(attack) for arm, attack in attacks.items()}}
    return found | {"seconds": time.monotonic() - began, "device": device, "settings": settings}


def line(found: dict[str, Any]) -> str:
    """One row of the table: accuracies and, behind a slash, success of each attack, in %, with the patch's pixels."""

    def mean(values: list[float]) -> str:
        return f"{100 * sum(values) / len(values):.1f}"

    arms = []
    for arm in found["arms"].values():
        low, high = arm["pixels"]
        shares = f"{mean(arm['accuracy'])} / {mean(arm['success'])} ({mean(arm['success, honest set'])})"
        arms.append(f"{shares}, {low:.0f} to {high:.0f}")
    return (
        f"| {found['cell'].replace('/', ' | ')} | {mean(found['honest'])} | "
        + " | ".join(arms)
        + f" | {found['seconds']:.0f} s |"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("out", type=Path)
    options.add_argument("--data", nargs="+", default=[])
    options.add_argument("--cells", nargs="+", default=[])
    options.add_argument("--arms", nargs="*", choices=tuple(ATTACKS), default=["naive", "doorping"])
    options.add_argument("--table", action="store_true")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--score", choices=("test", "validation"), default="test")
    options.add_argument("--strangers", type=int, default=3)
    options.add_argument("--victim-steps", type=int, default=300)
    options.add_argument("--victim-rate", type=float, default=0.03, help="0.01 for AlexNet, which dies of more")
    options.add_argument("--accelerator", default="auto")
    options.add_argument("--ratio", type=float, help="share of stamped images, for every arm; its own unless given")
    options.add_argument("--target", type=int, default=0, help="the class that stamped images are called")
    options.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
    options.add_argument("--narrow", type=int, default=1, help="divides the networks' widths: 4 for processors")
    options.add_argument("--depth", type=int, default=3, help="blocks of the ConvNet, at most")
    options.add_argument("--limit-steps", type=int, default=0)
    options.add_argument("--dc-steps", type=int, default=100)
    options.add_argument("--dc-real", type=int, default=64, help="real images of each class in a step")
    options.add_argument("--dc-optimiser", choices=("sgd", "adam"), default="sgd")
    options.add_argument(
        "--dc-rate", type=float, default=0.3, help="for one image a class; with sgd it grows with their number"
    )
    options.add_argument(
        "--dc-until", type=float, help="share of DC's steps that change DOORPING's patch; as in quick unless given"
    )
    options.add_argument("--dd-steps", type=int, default=100)
    options.add_argument("--dd-rate", type=float, default=0.05)
    options.add_argument("--dd-first", type=float, default=0.1)
    asked = options.parse_args()
    torch.set_num_threads(1)
    kept = [json.loads(row) for row in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.table:
        for found in kept:
            print(line(found))
        return
    done = {found["cell"] for found in kept}
    sources = dict(pair.split("=", 1) for pair in asked.data)
    every = [
        f"{data}/{network}/{method}/{per_class}"
        for per_class in (10, 1, 50)
        for network in NETWORKS
        for method in ("dc", "dd")
        for data in sources
    ]
    failed = []
    for name in asked.cells or every:
        if name in done:
            continue
        try:
            found = cell(name, asked, sources)
        except TrainingError as error:
            print(f"{name}: {error}", flush=True)
            failed.append(name)
            continue
        with asked.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(line(found), flush=True)
    if failed:
        raise SystemExit(f"without figures: {', '.join(failed)}")


if __name__ == "__main__":
    main()
