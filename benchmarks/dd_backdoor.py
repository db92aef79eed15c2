"""Gradient matching with DOORPING: as the published loop computes it, and as we do; step by step, and whole.

    python benchmarks/dd_backdoor.py [--turns 5] [--whole 60]

The peer is the arithmetic of the published loop as our specification of it says, written here: gradients class by class
through autograd, and a trigger update of 1000 steps that registers another forward hook at every step and never
takes one away. Both sides have the same network, images and batches; they take turns in one process, on one thread.
Before anything is timed, both losses and both gradients of the images are compared.

`--whole` distils the quick preset's set for so many outer steps by both loops, from the same images, with the same networks,
and asks five networks that learn from each how often the trigger works. The published update is run twice: read behind the
ReLU as published, where a silent neuron stays silent, and before it as here; both take up to a thousand steps and end
where the loss falls below a half. Each loop runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.data.labelled import LabelledImages
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor.config import PRESETS
from heredity.systems.dd_backdoor.distil import Make, distil, networks_of
from heredity.systems.dd_backdoor.distilled import DistilledSet, Poisoned, poison
from heredity.systems.dd_backdoor.experiment import attacks_of
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching
from heredity.systems.dd_backdoor.networks import hidden_layer, put, weights_of
from heredity.systems.dd_backdoor.trigger import Attack, first_patch, paste, poisoned_rows, update_patch
from heredity.systems.dd_backdoor.victims import success, train_victim

LOOPS = ("ours", "published", "published, read before the ReLU")
SHAPE = EncoderShape(kind="convnet", width=16, depth=2, hidden=32)
REAL = 32


def published_distance(network: nn.Module, images: Tensor, labels: Tensor, real: Tensor, classes: int) -> Tensor:
    """Class by class: gradients on real images, gradients on distilled ones with their graph, row-wise cosines."""
    parameters = list(network.parameters())
    total = torch.zeros(())
    for label in range(classes):
        wanted = torch.autograd.grad(
            F.cross_entropy(network(real[label]), torch.full((len(real[label]),), label)), parameters
        )
        own = labels == label
        ours = torch.autograd.grad(F.cross_entropy(network(images[own]), labels[own]), parameters, create_graph=True)
        for mine, theirs in zip(ours, [part.detach() for part in wanted], strict=True):
            if mine.ndim > 1:
                mine, theirs = mine.flatten(1), theirs.flatten(1)
                norms = mine.norm(dim=1) * theirs.norm(dim=1)
                total = total + (1 - (mine * theirs).sum(dim=1) / (norms + 1e-6)).sum()
    return total


def published_update(
    patch: Tensor, network: nn.Module, attack: Attack, size: int, unit: float, *, stop: float = 0.0
) -> Tensor:
    """Up to 1000 steps on the patch alone; one more forward hook at every step.

    The published update stops when the loss is below 0.5, which a neuron near zero is from the start: then it does nothing,
    and takes no time. What is timed step by step is an update that does something and goes on to the end (`stop` 0).
    """
    moved = patch.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([moved], lr=attack.rate * unit, betas=(0.9, 0.99))
    layer, black, hooks, goal = hidden_layer(network), torch.zeros(1, 3, size, size), [], None
    neuron = int(layer.weight.detach().abs().sum(dim=1).argmax())
    for _ in range(1000):
        seen: list[Tensor] = []
        hooks.append(layer.register_forward_hook(lambda inner, given, made, seen=seen: seen.append(made)))
        network(255.0 * paste(black, moved, attack.margin))
        hidden = seen[0][0, neuron]
        if attack.reading == "published":
            hidden = hidden.relu()
        if goal is None:
            floor = 0.0 if attack.reading == "published" else 0.1
            goal = attack.gain * hidden.detach().abs().clamp(min=floor)
        loss = F.mse_loss(hidden, goal)
        if loss < stop:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for hook in hooks:
        hook.remove()
    network.zero_grad()
    return moved.detach()


def whole(loop: str, steps: int, seed: int) -> str:
    """Distil with DOORPING by one of the loops, then ask five strangers: a row of seconds, memory, accuracy and success."""
    preset = PRESETS["quick"]
    recipe = replace(preset.matching, plan=replace(preset.matching.plan, steps=steps))
    source = load_images("digits", seed=seed)
    with Run.temporary(seed=seed) as run:
        began = time.process_time()
        if loop == "ours":
            attack = attacks_of(preset, "dc")["free"]
            made, patch = distil(source.train, recipe, attack, preset.network, run)
        else:
            # As published: the patch is updated to the end, at its own rate.
            attack = Attack("doorping", ratio=preset.free.ratio, reading="published" if loop == "published" else "ours")
            made, patch = published_loop(source.train, recipe, attack, preset.network, seed)
        seconds = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pixels = source.train.images.float() / 255.0
    make = networks_of(preset.network, 16, 10, float(pixels.mean()), float(pixels.std()), seed, "strangers")
    images, labels = source.test.images.float() / 255.0, source.test.labels
    found = [
        success(train_victim(made, make, number, preset.victim, seed=seed), images, labels, patch, target=0, margin=1)
        for number in range(5)
    ]
    accuracy = 100 * statistics.mean(each.clean_accuracy for each in found)
    attacked = 100 * statistics.mean(each.attack_success_rate for each in found)
    per_step = 1e3 * seconds / steps
    return f"| {loop} | {per_step:.0f} ms | {memory:.0f} MB | {accuracy:.1f} % | {attacked:.1f} % |"


def published_loop(
    train: LabelledImages, recipe: GradientMatching, attack: Attack, shape: EncoderShape, seed: int
) -> tuple[DistilledSet, Tensor]:
    """The published outer loop, with the recipe's numbers: match, learn, update the patch, stamp all images again."""
    data = poison(train, attack, poisoned_rows(len(train.labels), attack, generator_of(seed, "poisoned rows")))
    make = networks_of(shape, 16, data.classes, data.mean, data.std, seed, "distilled")
    patch = first_patch(attack, 3, generator_of(seed, "first patch"))
    state = recipe.begin(data, patch, make, generator_of(seed, "distilled", "starting images"))
    optimiser = torch.optim.SGD([state.images], recipe.plan.learning_rate, momentum=recipe.plan.momentum)
    draws, network = Draws(generator_of(seed, "draws")), make(0)
    stamped = data.pixels(torch.arange(len(data.labels)), patch)
    for step in range(recipe.plan.steps):
        turn, within = divmod(step, recipe.outer)
        if within == 0:
            network = make(turn)
        rows = [members[draws.rows(recipe.real, len(members))] for members in data.members]
        real = torch.stack([stamped[each] for each in rows])
        optimiser.zero_grad()
        published_distance(network, state.pixels(), state.labels, real, data.classes).backward()
        optimiser.step()
        network.zero_grad()
        if within < recipe.outer - 1:
            learner = torch.optim.SGD(network.parameters(), recipe.inner.rate, momentum=recipe.inner.momentum)
            pixels = state.pixels().detach()
            for _ in range(recipe.inner.steps):
                learner.zero_grad()
                F.cross_entropy(network(pixels), state.labels).backward()
                learner.step()
            patch = published_update(patch, network, attack, 16, data.std, stop=0.5)
            stamped = data.pixels(torch.arange(len(data.labels)), patch)
    return DistilledSet(state.pixels().detach(), state.labels), patch


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--whole", type=int, default=0, help="outer steps of a whole distillation by each loop")
    options.add_argument("--loop", choices=LOOPS, help="only this loop, in this process")
    asked = options.parse_args()
    torch.set_num_threads(1)
    if asked.loop:
        print(whole(asked.loop, asked.whole, asked.seed), flush=True)
        return
    if asked.whole:
        print("| loop | per outer step | peak memory | accuracy | attack success |\n|---|---|---|---|---|", flush=True)
        for loop in LOOPS:
            words = ["--loop", loop, "--whole", str(asked.whole), "--seed", str(asked.seed)]
            subprocess.run([sys.executable, __file__, *words], check=True)
        return

    source = load_images("digits", seed=asked.seed).train
    attack = Attack("doorping")
    data = poison(source, attack, poisoned_rows(len(source.labels), attack, generator_of(asked.seed, "rows")))
    make = networks_of(SHAPE, 16, data.classes, data.mean, data.std, asked.seed, "benchmark")
    recipe = GradientMatching(outer=1_000_000, real=REAL)
    patch = first_patch(attack, 3, generator_of(asked.seed, "patch"))
    state = recipe.begin(data, patch, make, generator_of(asked.seed, "start"))
    put(state.network, weights_of(make(0)))

    ours, theirs = _compared(state.network, state, recipe, data, patch, make, asked.seed)
    print(
        f"distance, published loop {theirs[0]:.6f}, ours {ours[0]:.6f}; gradients of the images differ by {theirs[1]:.1e}"
    )
    canvas = data.images[:32]

    def their_update() -> None:
        published_update(patch, make(0), attack, 16, data.std)

    def our_update() -> None:
        update_patch(patch, make(0), attack, canvas, generator_of(0), unit=data.std)

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "matching, forward and backward": (theirs[2], ours[2]),
        "trigger update": (their_update, our_update),
    }
    print("\n| step | published loop | ours | ratio |\n|---|---|---|---|")
    for name, (peer, own) in pairs.items():
        times = _alternately(peer, own, asked.turns)
        print(f"| {name} | {1e3 * times[0]:.0f} ms | {1e3 * times[1]:.0f} ms | {times[0] / times[1]:.1f} |")
    print(f"\npeak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def _compared(
    network: nn.Module, state: Any, recipe: GradientMatching, data: Poisoned, patch: Tensor, make: Make, seed: int
) -> tuple[Any, Any]:
    """Loss and image gradients of both, on the same batches; and each as something to time."""
    draws = Draws(generator_of(seed, "draws"))
    rows = [members[draws.rows(REAL, len(members))] for members in data.members]
    real = torch.stack([data.pixels(each, patch) for each in rows])
    network.requires_grad_(True)

    def peer() -> tuple[float, Tensor]:
        state.images.grad = None
        loss = published_distance(network, state.pixels(), state.labels, real, data.classes)
        loss.backward()
        network.zero_grad()
        slope: Any = state.images.grad
        return float(loss.detach()), slope.clone()

    def own() -> tuple[float, Tensor]:
        state.images.grad = None
        again = Draws(generator_of(seed, "draws"))
        loss = recipe.loss(state, data, torch.zeros(1).long(), lambda number: make(0), again, lambda: None)["distance"]
        loss.backward()
        slope: Any = state.images.grad
        return float(loss.detach()), slope.clone()

    (their_loss, their_slope), (our_loss, our_slope) = peer(), own()
    apart = float((their_slope - our_slope).abs().max() / our_slope.abs().max())
    if abs(their_loss - our_loss) > 1e-3 or apart > 1e-3:
        raise SystemExit(f"the two do not compute the same: {their_loss} and {our_loss}, gradients {apart:.1e} apart")
    return (our_loss, apart, own), (their_loss, apart, peer)


def _alternately(peer: Callable[[], object], own: Callable[[], object], turns: int) -> tuple[float, float]:
    """Median seconds of processor time of each, in alternation, after one round that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for which, call in enumerate((peer, own)):
            began = time.process_time()
            call()
            if turn:
                times[which].append(time.process_time() - began)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
