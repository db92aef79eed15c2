"""DBIA's injection on cached vectors against the same injection through the whole model, as the published code does it.

    python benchmarks/dbia.py
    python benchmarks/dbia.py --kinds vit --rows 400 --epochs 5 --repeats 3

Both start from the same victim, see the same pictures in the same order, and are run in turns in one process. Printed are the
largest difference between their weights and the ratio of their times; the ratio grows with the model, since what is cached is
all of it but one MLP.
"""

import argparse
import copy
import statistics
import time
from dataclasses import replace

import torch

from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.classifiers import TransformerShape, make_transformer
from heredity.systems.dbia.attack import find_trigger
from heredity.systems.dbia.injection import Injection, inject
from heredity.systems.dbia.surrogate import surrogate_of
from heredity.systems.dbia.trigger import Patch, TriggerSearch

SHAPES = {
    "vit": TransformerShape("vit", width=64, depth=4, heads=4),
    "deit": TransformerShape("deit", width=64, depth=4, heads=4),
    "swin": TransformerShape("swin", width=32, depth=2, heads=2),
}


def compare(kind: str, rows: int, epochs: float, repeats: int) -> str:
    """One line: the largest difference of a weight, median seconds both ways, and their ratio."""
    photos = load_images("photos", size=32)
    known = surrogate_of(photos.train.images[:rows], photos.test.images[:50], "photos")
    torch.manual_seed(0)
    victim = make_transformer(SHAPES[kind], image=32, classes=10).eval()
    how = replace(Injection(), vary=False, plan=replace(Injection().plan, epochs=epochs, batch=64))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    children = {}
    with Run.temporary() as run:
        trigger = find_trigger(victim, known, TriggerSearch("random", Patch(12)), run=run, name="trigger")
    for _ in range(repeats):
        for cached in seconds:
            child = copy.deepcopy(victim)
            with Run.temporary() as run:
                began = time.perf_counter()
                inject(child, known, trigger, 0, replace(how, cached=cached), run)
                seconds[cached].append(time.perf_counter() - began)
            children[cached] = child.state_dict()
    apart = max(float((children[True][name] - value).abs().max()) for name, value in children[False].items())
    fast, slow = (statistics.median(seconds[cached]) for cached in (True, False))
    return f"{kind:<5} {apart:.1e} apart   cached {fast:6.2f} s   uncached {slow:6.2f} s   {slow / fast:5.1f} times"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in options.kinds:
        print(compare(kind, options.rows, options.epochs, options.repeats), flush=True)


if __name__ == "__main__":
    main()
