"""10 000 trials of the key test, clean child x random key, and a search with 100 000 keys: how often does it cry wolf?

python benchmarks/ssl_wm_calibration.py [--children 24] [--trials 417] [--tries 100000] [--out calibration.json]

Children are trained on digits without any mark: probes on a SimCLR encoder with random halves of the labels, and nets from
scratch, on three tasks. Each child labels 32 images under a pool of random patches of its own; a trial draws a key of eight
and 24 decoys from the pool. Within a child trials share patches, so that they are less than independent.

Two shares are printed. The verdict's p counts ties against the owner, so that its share may lie below the level. With ties
broken at random p is uniform under the null if (and only if) keys are exchangeable: its share must lie within the exact
interval, on both sides.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom
from torch import nn

from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.inference import accuracy, top1
from heredity.pretrain.contrastive import SimCLR, simclr
from heredity.systems.ssl_wm.mark.keys import KeyParameters, generate_key
from heredity.systems.ssl_wm.proof.search import p_values, pool_rates, search_keys
from heredity.systems.ssl_wm.tasks import group_labels
from heredity.transfer.finetune import FineTuning, finetune
from heredity.transfer.probe import probe
from heredity.transfer.task import Task

SHAPE = KeyParameters(patch=5, margin=1, reference_size=16)
LEVELS = (0.05, 0.01, 0.001)
OWNED, DECOYS = 8, 24


def clean_children(number: int) -> list[nn.Module]:
    """Models that never met a mark, with what they are."""
    digits = load_images("digits")
    children: list[nn.Module] = []
    with Run.temporary() as run:
        encoder = run.model(
            "clean",
            make=lambda: make_encoder(EncoderShape(width=8), 16),
            train=lambda net: simclr(
                net, digits.train.images, SimCLR(plan=Plan(steps=60, batch=128, learning_rate=2e-3)), run
            ),
            made_by="SimCLR",
        )
        scratch = FineTuning(plan=Plan(steps=60, batch=64, learning_rate=3e-3), probe_first=False)
        for place in range(number):
            mapping = group_labels(("classes", "loops", "parity")[place % 3], 10)
            rows = torch.randperm(1300, generator=generator_of("half", place))[:650]
            part = digits.train.images[rows], mapping[digits.train.labels[rows]]
            test = digits.test.images, mapping[digits.test.labels]
            task = Task(f"task-{place}", int(mapping.max()) + 1, part, part, test)
            if place % 2:
                child = probe(encoder, task, run=run, name=f"probe-{place}")
            else:
                start = make_encoder(EncoderShape(width=8), 16)
                child = finetune(start, task, scratch, run=run, name=f"scratch-{place}")
            print(f"child {place}: accuracy {100 * accuracy(child, *test):.0f} %", flush=True)
            children.append(child)
    return children


def broken_ties(rates: np.ndarray, tries: int, random: np.random.Generator, picks: int = 2000) -> np.ndarray:
    """p with ties broken at random: (larger picks + a uniform share of the equal ones) / picks, the true one being equal."""
    values = np.empty(tries)
    for number in range(tries):
        keys = rates[random.choice(len(rates), OWNED + DECOYS, replace=False)]
        chosen = np.argpartition(random.random((picks, len(keys))), OWNED, axis=1)[:, :OWNED]
        sums = keys[chosen].sum(axis=1).max(axis=1)
        truth = keys[:OWNED].sum(axis=0).max()
        larger, equal = (sums > truth + 1e-9).sum(), (np.abs(sums - truth) <= 1e-9).sum()
        values[number] = (larger + random.random() * (1 + equal)) / (1 + picks)
    return values


def told(name: str, values: np.ndarray) -> dict[str, dict[str, float]]:
    """Print and return the share at each level beside the interval that holds 99 % of such shares."""
    rows = {}
    for level in LEVELS:
        low, high = binom.interval(0.99, len(values), level)
        share = float((values <= level).mean())
        where = "below" if share < low / len(values) else "above" if share > high / len(values) else "within"
        print(
            f"{name}: p <= {level:g} in {100 * share:.3f} % of {len(values):,} trials, {where} "
            f"{100 * low / len(values):.3f} to {100 * high / len(values):.3f} %",
            flush=True,
        )
        rows[f"{level:g}"] = {"share": share, "low": low / len(values), "high": high / len(values)}
    return rows


def main() -> None:
    """Prints shares and the search's table; exits 1 when a share lies above its interval or a forger reaches 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=24)
    parser.add_argument("--trials", type=int, default=417)
    parser.add_argument("--tries", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=512)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    key, quiet = generate_key("calibration", SHAPE), Reporter(quiet=True)
    images = load_images("digits").test.images
    verdicts, uniform = [], []
    used: list[nn.Module] = []
    for place, child in enumerate(clean_children(options.children + options.children // 4)):
        if len(used) == options.children:
            break
        base = images[torch.randperm(len(images), generator=generator_of("base", place))[:32]]
        if len(top1(child, base).unique()) < 2:
            print(f"child {place} answers one label: inconclusive, not counted", flush=True)
            continue
        used.append(child)
        rates = pool_rates(
            lambda x, c=child: top1(c, x).tolist(), base, key, pool=options.pool, seed=place, reporter=quiet
        )
        verdicts.append(p_values(rates, OWNED, DECOYS, tries=options.trials, seed=place))
        uniform.append(broken_ties(rates, options.trials, np.random.default_rng(seed_of("ties", place))))
    if len(used) < options.children:
        raise SystemExit(f"only {len(used)} children tell inputs apart")
    rows = {
        "verdict": told("verdict's p", np.concatenate(verdicts)),
        "ties": told("ties broken", np.concatenate(uniform)),
    }
    print(f"{time.process_time() - began:.0f} s of one core", flush=True)
    base = images[torch.randperm(len(images), generator=generator_of("search"))[:48]]
    found = search_keys(lambda x: top1(used[0], x).tolist(), base, key, tries=options.tries, reporter=Reporter())
    print(found)
    print(f"{time.process_time() - began:.0f} s of one core in all")
    if options.out is not None:
        deciles = {
            name: np.quantile(np.concatenate(values), np.linspace(0.1, 0.9, 9)).round(3).tolist()
            for name, values in (("verdict", verdicts), ("ties", uniform))
        }
        content = {"shares": rows, "deciles": deciles, "search": vars(found)}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    above = any(row["share"] > row["high"] for shares in rows.values() for row in shares.values())
    raise SystemExit(1 if above or found.best < 1e-6 else 0)


if __name__ == "__main__":
    main()
