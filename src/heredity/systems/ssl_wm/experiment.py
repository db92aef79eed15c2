"""SSL-WM from end to end: pre-train, mark, steal, prove (Lv et al., NDSS 2024)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heredity.core.outcome import Outcome
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.inference import accuracy, top1
from heredity.systems.ssl_wm import pictures
from heredity.systems.ssl_wm.attacks import attack, dispute, overwrite, quantised
from heredity.systems.ssl_wm.calibration import answers_of, chosen_key_p_values, random_key_p_values
from heredity.systems.ssl_wm.config import SSLWM
from heredity.systems.ssl_wm.detection import detection
from heredity.systems.ssl_wm.mark.keys import Key, derive_patches, random_patches
from heredity.systems.ssl_wm.mark.trigger import stamp_all
from heredity.systems.ssl_wm.parents import experiment_key, make_parents
from heredity.systems.ssl_wm.proof.verification import mad_index, per_image_test, permutation_test
from heredity.systems.ssl_wm.results import Found, measured
from heredity.systems.ssl_wm.tasks import make_tasks
from heredity.transfer.finetune import FineTuning, finetune
from heredity.transfer.probe import probe
from heredity.transfer.prune import prune
from heredity.transfer.task import Task


def run(config: SSLWM, run: Run) -> Outcome:
    """The parts that the config asks for: image encoders and their thieves, language encoders, detectors of marks."""
    parts = []
    if "image" in config.modalities:
        parts.append(_images(config, run))
    if "text" in config.modalities:
        from heredity.systems.ssl_wm.language import run_language  # images do without what text needs

        how = config.verification
        metrics, tables = run_language(config.language, run, mark=config.mark, verify_with=how.key, picks=how.picks)
        parts.append(Outcome(metrics, tuple(tables)))
    if config.detectors:
        source = load_images(config.data, size=config.size, seed=run.seed)
        [task] = make_tasks(replace(config, tasks=config.tasks[:1]), source, run.seed)
        parts.append(detection(task, source.train.images, config.key, config.detection, run))
    metrics = {name: metric for part in parts for name, metric in part.metrics.items()}
    return Outcome(metrics, tuple(table for part in parts for table in part.tables))


def _images(config: SSLWM, run: Run) -> Outcome:
    """An owner marks encoders, a thief derives models from them, a verifier tells from labels alone whose they are."""
    source = load_images(config.data, size=config.size, seed=run.seed)
    images = source.train.images
    tasks = make_tasks(config, source, run.seed)
    key, wrong, thief = (experiment_key(config, run.seed, name) for name in ("the owner", "somebody else", "the thief"))
    claimed = key if config.verification.key == "owner" else wrong
    examine = partial(_examine, config=config, key=claimed, run=run)

    found = Found()
    encoders: dict[str, nn.Module] = {}
    for family in (*config.families, *config.further):
        clean, marked, untrained = make_parents(family, config, images, key, run)
        encoders[family] = marked
        everything, attacked = family in config.families, bool(config.attacks.tasks)
        overwritten = overwrite(family, marked, images, thief, config, run) if everything and attacked else marked
        for task in tasks if everything else tasks[:1]:
            at = f"{family}/{task.name}"
            stolen = _stolen(at, marked, task, config, run, everything)
            honest = _honest(at, clean, untrained, task, config, run, everything)
            rows = {name: examine(f"{at}/{name}/verdict", child, task) for name, child in {**stolen, **honest}.items()}
            served = {name: stolen[name] for name in ("probe", "full")}
            if everything:
                for name, child in served.items():
                    rows |= _pruned(f"{at}/{name}", child, task, rows[name], config, examine, run)
                found.clean_p.extend(_false_positives(at, clean, honest, task, config, run))
                found.forged_p.extend(_forgeries(at, list(served.values()), task, config, run))
            found.children[at] = rows
            if attacked:
                found.attacked[at] = quantised(at, served, task, config, examine)
            if everything and task.name in config.attacks.tasks:
                second = probe(overwritten, task, run=run, name=f"{at}/stolen-overwritten")
                models = (marked, stolen["probe"], second)
                found.attacked[at] |= attack(at, *models, task, images, config, examine, run)
                found.disputes[at] = dispute(at, (claimed, thief), (marked, overwritten), second, task, config, run)

    pictures.stamped_images(source.test.images, derive_patches(claimed), config.key, run)
    pictures.results(found.children, found.clean_p, config, run)
    pictures.prices(found, config, run)
    for family, marked in encoders.items():
        pictures.feature_map(family, marked, source.test.images, derive_patches(claimed), config.key, run)
        pictures.loss_curves(family, run)
    return measured(found, config)


def _stolen(at: str, marked: nn.Module, task: Task, config: SSLWM, run: Run, everything: bool) -> dict[str, nn.Module]:
    """What a thief makes of the marked encoder."""
    children: dict[str, nn.Module] = {"probe": probe(marked, task, run=run, name=f"{at}/stolen-probe")}
    for name in ("last", "full", "hard") if everything else ("full",):
        how: FineTuning = getattr(config.thief, name)
        children[name] = finetune(marked, task, how, run=run, name=f"{at}/stolen-{name}")
    return children


def _honest(
    at: str, clean: nn.Module, untrained: nn.Module, task: Task, config: SSLWM, run: Run, everything: bool
) -> dict[str, nn.Module]:
    """What others make of the encoder before it was marked, and what the thief could have had without stealing."""
    children: dict[str, nn.Module] = {"clean-probe": probe(clean, task, run=run, name=f"{at}/clean-probe")}
    if everything:
        children["clean-full"] = finetune(clean, task, config.thief.full, run=run, name=f"{at}/clean-full")
    return children | {"scratch": finetune(untrained, task, config.thief.scratch, run=run, name=f"{at}/scratch")}


def _examine(stage: str, child: nn.Module, task: Task, *, config: SSLWM, key: Key, run: Run) -> dict[str, Any]:
    """What the verifier finds out about one suspect, and what the suspect is worth."""
    how = config.verification
    images = task.test[0][: how.images]

    def compute() -> dict[str, Any]:
        decoys = random_patches(how.decoys, key.parameters, generator_of(run.seed, stage, "decoys"))
        owned = derive_patches(key)
        answers = answers_of(child, images, torch.cat([owned, decoys]), len(owned), config.key)
        random = np.random.default_rng(seed_of(run.seed, stage, "picks"))
        verdict = permutation_test(answers, random=random, picks=how.picks)
        p = per_image_test(answers) if how.unit == "images" else verdict.p
        clean_labels = top1(child, task.test[0])
        right = clean_labels == task.test[1]
        stamped = top1(child, stamp_all(task.test[0], owned[:1], config.key)[0])
        return {
            "accuracy": 100.0 * float(right.float().mean()),
            "right": "".join(map(str, right.int().tolist())),
            "p": p,
            "log10_p": math.log10(max(p, 1e-300)),
            "floor": verdict.floor,
            "interval": verdict.interval,
            "flip_true": verdict.flip_true,
            "flip_decoy": verdict.flip_decoy,
            "queries": verdict.queries,
            "mad_index": _published_index(clean_labels, task.test[1], stamped),
        }

    return run.table(stage, compute)


def _published_index(clean: Tensor, truth: Tensor, stamped: Tensor) -> float:
    """The published statistic, or not-a-number where the held-out part is too small for its ten balanced subsets."""
    counts = torch.bincount(truth)
    enough = int(counts[counts > 0].min()) >= 10
    return mad_index(clean.numpy(), truth.numpy(), stamped.numpy()) if enough else math.nan


def _pruned(
    at: str, child: nn.Module, task: Task, before: dict[str, Any], config: SSLWM, examine: Any, run: Run
) -> dict[str, dict[str, Any]]:
    """The child pruned ever further, verified at each step, until the thief has lost the agreed points of accuracy."""
    name, how = at.rsplit("/", 1)[1], config.thief
    rows: dict[str, dict[str, Any]] = {}

    @cache
    def lost_at(share: float) -> float:
        return before["accuracy"] - 100.0 * accuracy(prune(child, share), *task.test)

    kept = 0.0
    for number, step in enumerate(how.prune_steps, start=1):
        share, costly = step, lost_at(step) >= how.lost
        if costly:
            share = _first(lambda share: lost_at(share) >= how.lost, kept, step, how.prune_halvings)
        last = costly or number == len(how.prune_steps)
        if last or number % how.prune_verify == 0:
            found = examine(f"{at}/pruned-{share:g}", prune(child, share), task)
            rows[f"{name}-pruned" if last else f"{name}-pruned-{share:g}"] = {
                **found,
                "share": share,
                "lost": lost_at(share),
            }
        if last:
            break
        kept = step
    return rows


def _first(reached: Callable[[float], bool], low: float, high: float, halvings: int) -> float:
    """The least value above `low` where something is reached, as it is at `high`, within (high - low) / 2^halvings."""
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _false_positives(
    at: str, clean: nn.Module, honest: Mapping[str, nn.Module], task: Task, config: SSLWM, run: Run
) -> list[float]:
    """p of random keys on children that never met a mark, among them probes on random halves of the thief's images."""
    how = config.calibration
    children: dict[str, nn.Module] = dict(honest)
    images, labels = task.train
    for number in range(how.probes):
        half = torch.randperm(len(images), generator=generator_of(run.seed, at, "half", number))[: len(images) // 2]
        smaller = Task(task.name, task.classes, (images[half], labels[half]), task.validation, task.test)
        children[f"half-{number}"] = probe(clean, smaller, run=run, name=f"{at}/clean-half-{number}")

    def compute() -> list[float]:
        values: list[float] = []
        for name, child in children.items():
            generator = generator_of(run.seed, at, name, "random keys")
            values += random_key_p_values(
                child,
                task.test[0][: how.images],
                config.key,
                trials=how.keys,
                decoys=config.verification.decoys,
                picks=how.picks,
                per_image=config.verification.unit == "images",
                generator=generator,
            )
        return values

    return run.table(f"{at}/false-positives", compute)


def _forgeries(at: str, stolen: Sequence[nn.Module], task: Task, config: SSLWM, run: Run) -> list[float]:
    """p of keys that a forger claims on stolen children: derived as the rules demand, or (an ablation) chosen by asking."""
    how, verification = config.calibration, config.verification

    def compute() -> list[float]:
        values: list[float] = []
        for number, child in enumerate(stolen):
            generator = generator_of(run.seed, at, number, "forged keys")
            images = task.test[0][: how.images]
            if verification.forgery == "chosen":
                probing = task.train[0][: how.images]
                choose = partial(
                    chosen_key_p_values, child, probing, images, config.key, candidates=512, generator=generator
                )
                values += choose(decoys=verification.decoys, picks=verification.picks)
            else:
                values += random_key_p_values(
                    child,
                    images,
                    config.key,
                    trials=how.forged,
                    decoys=verification.decoys,
                    picks=max(how.picks, 20_000),
                    per_image=verification.unit == "images",
                    generator=generator,
                )
        return values

    return run.table(f"{at}/forged-keys", compute)
