"""One outer step of gradient matching with DOORPING: as the published loop computes it, and as we do.

    python benchmarks/dd_backdoor.py [--turns 5]

The peer is the arithmetic of the published loop as our specification of it says, written here: gradients class by class
through autograd, and a trigger update of 1000 steps that registers another forward hook at every step and never
takes one away. Both sides have the same network, images and batches; they take turns in one process, on one thread.
Before anything is timed, both losses and both gradients of the images are compared.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.randomness import Draws, generator_of
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor.distil import Make, networks_of
from heredity.systems.dd_backdoor.distilled import Poisoned, poison
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching
from heredity.systems.dd_backdoor.networks import hidden_layer, put, weights_of
from heredity.systems.dd_backdoor.trigger import Attack, first_patch, paste, poisoned_rows, update_patch

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


def published_update(patch: Tensor, network: nn.Module, attack: Attack, size: int, unit: float) -> Tensor:
    """1000 steps on the patch alone; one more forward hook at every step.

    The published update stops when the loss is below 0.5, which a neuron near zero is from the start: then it does nothing,
    and takes no time. What is timed is an update that does something, read and aimed as ours.
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
        goal = attack.gain * hidden.detach().abs().clamp(min=0.1) if goal is None else goal
        loss = F.mse_loss(hidden, goal)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for hook in hooks:
        hook.remove()
    network.zero_grad()
    return moved.detach()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    torch.set_num_threads(1)

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
    rows = [members[draws.rows(REAL, len(members))] for members in map(data.of_class, range(data.classes))]
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
