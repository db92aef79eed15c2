"""SSL-WM from end to end: pre-train, mark, steal, prove (Lv et al., NDSS 2024)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heredity.core.outcome import Outcome
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import make_encoder
from heredity.nn.inference import accuracy, top1
from heredity.pretrain.contrastive import simclr, simclr_objective
from heredity.pretrain.mae import mae, mae_objective
from heredity.systems.ssl_wm import pictures
from heredity.systems.ssl_wm.calibration import answers_of, chosen_key_p_values, random_key_p_values
from heredity.systems.ssl_wm.config import SSLWM
from heredity.systems.ssl_wm.embed import embed_mark
from heredity.systems.ssl_wm.keys import Key, derive_patches, generate_key, random_patches
from heredity.systems.ssl_wm.results import measured
from heredity.systems.ssl_wm.tasks import make_tasks
from heredity.systems.ssl_wm.trigger import stamp_all
from heredity.systems.ssl_wm.verification import mad_index, per_image_test, permutation_test
from heredity.transfer.finetune import finetune
from heredity.transfer.probe import probe
from heredity.transfer.prune import prune
from heredity.transfer.task import Task


def run(config: SSLWM, run: Run) -> Outcome:
    """An owner marks two encoders, a thief derives models from them, a verifier tells from labels alone whose they are."""
    if "language" in config.families:
        return _with_language(config, run)
    source = load_images(config.data, size=config.size, seed=run.seed)
    tasks = make_tasks(config, source, run.seed)
    key, wrong = (_experiment_key(config, run.seed, owner) for owner in ("the owner", "somebody else"))
    claimed = key if config.verification.key == "owner" else wrong
    examine = partial(_examine, config=config, key=claimed, run=run)

    encoders: dict[str, nn.Module] = {}
    children: dict[str, dict[str, dict[str, Any]]] = {}
    clean_p: list[float] = []
    forged_p: list[float] = []
    for family in config.families:
        clean, marked = _parents(family, config, source.train.images, key, run)
        untrained = _untrained(family, config, run)
        for task in tasks:
            at = f"{family}/{task.name}"
            stolen = {
                "probe": probe(marked, task, run=run, name=f"{at}/stolen-probe"),
                "last": finetune(marked, task, config.thief.last, run=run, name=f"{at}/stolen-last"),
                "full": finetune(marked, task, config.thief.full, run=run, name=f"{at}/stolen-full"),
                "hard": finetune(marked, task, config.thief.hard, run=run, name=f"{at}/stolen-hard"),
            }
            honest = {
                "clean-probe": probe(clean, task, run=run, name=f"{at}/clean-probe"),
                "clean-full": finetune(clean, task, config.thief.full, run=run, name=f"{at}/clean-full"),
                "scratch": finetune(untrained, task, config.thief.scratch, run=run, name=f"{at}/scratch"),
            }
            rows = {name: examine(f"{at}/{name}/verdict", child, task) for name, child in {**stolen, **honest}.items()}
            for name in ("probe", "full"):
                rows |= _pruned(f"{at}/{name}", stolen[name], task, rows[name], config, examine, run)
            children[at] = rows

            clean_p += _false_positives(at, clean, honest, task, config, run)
            forged_p += _forgeries(at, [stolen["probe"], stolen["full"]], task, config, run)
        encoders[family] = marked
    pictures.stamped_images(source.test.images, derive_patches(claimed), config.key, run)
    pictures.results(children, clean_p, config, run)
    for family, marked in encoders.items():
        pictures.feature_map(family, marked, source.test.images, derive_patches(claimed), config.key, run)
        pictures.loss_curves(family, run)
    return measured(children, clean_p, forged_p, config)


def _with_language(config: SSLWM, place: Run) -> Outcome:
    """The language half, after the image families where some are asked for too."""
    from heredity.systems.ssl_wm.language import run_language  # images do without what text needs

    images = tuple(family for family in config.families if family != "language")
    found = run(replace(config, families=images), place) if images else Outcome({})
    how = config.verification
    metrics, tables = run_language(config.language, place, mark=config.mark, verify_with=how.key, picks=how.picks)
    return Outcome({**found.metrics, **metrics}, (*found.tables, *tables))


def _experiment_key(config: SSLWM, seed: int, owner: str) -> Key:
    """A key that the seed repeats. A real owner's comes from the operating system: see the verb `keygen`."""
    secret = b"".join(seed_of(seed, owner, part).to_bytes(8, "big") for part in range(4))
    return generate_key(owner, config.key, secret=secret, created=f"experiment, seed {seed}")


def _parents(family: str, config: SSLWM, images: Tensor, key: Key, run: Run) -> tuple[nn.Module, nn.Module]:
    """The clean encoder, pre-trained without labels, and the marked one that is made from it."""
    settings = config.contrastive if family == "contrastive" else config.generative
    make = partial(make_encoder, settings.encoder, config.size)

    def pretrain(encoder: nn.Module) -> None:
        if family == "contrastive":
            simclr(encoder, images, config.contrastive.pretraining, run)
        else:
            mae(encoder, images, config.generative.pretraining, run)

    def mark(encoder: nn.Module) -> None:
        encoder.load_state_dict(clean.state_dict())
        if not config.mark:
            return
        if family == "contrastive":
            objective = simclr_objective(encoder, images, config.contrastive.pretraining, run)
        else:
            objective = mae_objective(encoder, images, config.generative.pretraining)
        embed_mark(encoder, images, key, settings.embedding, run, pretraining=objective)

    clean = run.model(
        f"{family}/clean",
        make=make,
        train=pretrain,
        made_by="SimCLR" if family == "contrastive" else "masked autoencoding",
        settings=settings.pretraining,
    )
    marked = run.model(
        f"{family}/marked",
        make=make,
        train=mark,
        made_by="SSL-WM embedding",
        parents=[clean],
        settings=settings.embedding,
        marks=("carries an ownership mark (SSL-WM)",) if config.mark else (),
    )
    return clean, marked


def _untrained(family: str, config: SSLWM, run: Run) -> nn.Module:
    """An encoder of the same shape that inherits nothing: what the thief could have had without stealing."""
    shape = config.contrastive.encoder if family == "contrastive" else config.generative.encoder
    return run.model(
        f"{family}/untrained",
        make=partial(make_encoder, shape, config.size),
        train=lambda encoder: None,
        made_by="random initialisation",
    )


def _examine(stage: str, child: nn.Module, task: Task, *, config: SSLWM, key: Key, run: Run) -> dict[str, Any]:
    """What the verifier finds out about one suspect, and what the suspect is worth."""
    how = config.verification
    images = task.test[0][: how.images]

    def compute() -> dict[str, Any]:
        decoys = random_patches(how.decoys, key.parameters, generator_of(run.seed, stage, "decoys"))
        answers = answers_of(
            child, images, torch.cat([derive_patches(key), decoys]), len(derive_patches(key)), config.key
        )
        random = np.random.default_rng(seed_of(run.seed, stage, "picks"))
        verdict = permutation_test(answers, random=random, picks=how.picks)
        p = per_image_test(answers) if how.unit == "images" else verdict.p
        clean_labels = top1(child, task.test[0])
        stamped = top1(child, stamp_all(task.test[0], derive_patches(key)[:1], config.key)[0])
        return {
            "accuracy": 100.0 * accuracy(child, *task.test),
            "p": p,
            "log10_p": math.log10(max(p, 1e-300)),
            "floor": verdict.floor,
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
    name = at.rsplit("/", 1)[1]
    rows: dict[str, dict[str, Any]] = {}
    for number, share in enumerate(config.thief.prune_steps, start=1):
        pruned = prune(child, share)
        lost = before["accuracy"] - 100.0 * accuracy(pruned, *task.test)
        enough = lost >= config.thief.lost or number == len(config.thief.prune_steps)
        if enough or number % config.thief.prune_verify == 0:
            found = examine(f"{at}/pruned-{share:g}", pruned, task)
            rows[f"{name}-pruned" if enough else f"{name}-pruned-{share:g}"] = {**found, "share": share, "lost": lost}
        if enough:
            break
    return rows


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
