"""The language half from end to end: pre-train a small BERT, mark it, steal it, prove it (spec sections 2.3 and 5.3)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from heredity.core.errors import ConfigError, HeredityError, suggestion
from heredity.core.outcome import Bars, Metric, Table
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.core.system import Needs
from heredity.data.text import TextSource, TextTask, check_source, load_text
from heredity.nn.inference import accuracy
from heredity.nn.text import TextEncoder, labels_of, make_text_encoder, train_reader
from heredity.pretrain.mlm import mlm
from heredity.systems.ssl_wm.calibration import LEVELS, excess, rejections
from heredity.systems.ssl_wm.language_config import Language
from heredity.systems.ssl_wm.mark.embed_text import embed_text_mark
from heredity.systems.ssl_wm.mark.keys import Key, generate_key
from heredity.systems.ssl_wm.mark.text_keys import (
    TextKeyParameters,
    Words,
    choose_pool,
    derive_words,
    random_words,
)
from heredity.systems.ssl_wm.mark.text_trigger import stamp
from heredity.systems.ssl_wm.pictures import loss_curves
from heredity.systems.ssl_wm.proof.verification import Answers, clopper_pearson, permutation_test
from heredity.transfer.finetune import finetune
from heredity.transfer.probe import probe
from heredity.transfer.task import Task

MARK = "carries an ownership mark (SSL-WM)"
CHILDREN = {
    "probe": "stolen, linear probe",
    "full": "stolen, fully fine-tuned",
    "hard": "stolen, fully fine-tuned at a high rate",
    "clean-probe": "clean encoder, linear probe",
    "clean-full": "clean encoder, fully fine-tuned",
    "scratch": "trained from scratch (nothing stolen)",
}
_STOLEN, _HONEST = ("probe", "full", "hard"), ("clean-probe", "clean-full", "scratch")


@dataclass(frozen=True)
class SentenceTask:
    """A downstream task with the held-out sentences themselves: a verifier sends text, not token numbers."""

    task: Task
    held_out: tuple[str, ...]


def run_language(
    config: Language, run: Run, *, mark: bool = True, verify_with: str = "owner", picks: int = 200_000
) -> tuple[dict[str, Metric], list[Table]]:
    """An owner marks a BERT, a thief fine-tunes it for two tasks, a verifier sends sentences and reads labels.

    `mark` false and `verify_with` "wrong" take ideas out. Metrics come under `language/` and `verified/language/`.
    """
    source = load_text(config.corpus, seed=run.seed)
    reader = train_reader(source.corpus, config.encoder)
    pool = choose_pool(source.corpus, known=reader.whole, rarest=config.mark.rarest, most=config.mark.pool)
    shape = TextKeyParameters(config.mark.sub_keys, config.mark.words, config.mark.within, pool)
    key, wrong = (_experiment_key(shape, run.seed, owner) for owner in ("the owner", "somebody else"))
    claimed = key if verify_with == "owner" else wrong
    clean, marked, untrained = _parents(config, source, reader, key, mark, run)

    children: dict[str, dict[str, dict[str, Any]]] = {}
    clean_p: list[float] = []
    for sentence_task in text_tasks(config, source, clean, run.seed):
        task = sentence_task.task
        at = f"language/{task.name}"
        tune = partial(finetune, task=task, run=run)
        models: dict[str, nn.Module] = {
            "probe": probe(marked, task, run=run, name=f"{at}/stolen-probe"),
            "full": tune(marked, how=config.thief.full, name=f"{at}/stolen-full"),
            "hard": tune(marked, how=config.thief.hard, name=f"{at}/stolen-hard"),
            "clean-probe": probe(clean, task, run=run, name=f"{at}/clean-probe"),
            "clean-full": tune(clean, how=config.thief.full, name=f"{at}/clean-full"),
            "scratch": tune(untrained, how=config.thief.scratch, name=f"{at}/scratch"),
        }
        children[at] = {
            name: _examine(f"{at}/{name}/verdict", model, sentence_task, claimed, config, picks, run)
            for name, model in models.items()
        }
        for name in _HONEST:
            clean_p += _random_keys(f"{at}/{name}/random-keys", models[name], sentence_task, shape, config, run)
    _draw(children, run)
    return _metrics(children, clean_p), _tables(children, clean_p, key, source)


def _experiment_key(shape: TextKeyParameters, seed: int, owner: str) -> Key:
    """A key that the seed repeats. A real owner's comes from the operating system: see the verb `keygen`."""
    secret = b"".join(seed_of(seed, owner, "text", part).to_bytes(8, "big") for part in range(4))
    return generate_key(owner, shape, secret=secret, created=f"experiment, seed {seed}")


def _parents(
    config: Language, source: TextSource, reader: Any, key: Key, mark: bool, run: Run
) -> tuple[TextEncoder, TextEncoder, TextEncoder]:
    """The clean encoder, the marked one made from it, and one of the same shape that inherits nothing."""
    make = partial(make_text_encoder, config.encoder, reader)
    tokens = reader.tokens(source.corpus)

    def pretrain(encoder: nn.Module) -> None:
        assert isinstance(encoder, TextEncoder)
        mlm(encoder, tokens, config.pretraining, run)

    def train(encoder: nn.Module) -> None:
        assert isinstance(encoder, TextEncoder)
        encoder.load_state_dict(clean.state_dict())
        if mark:
            embed_text_mark(encoder, source.corpus, key, config.embedding, run)

    clean = run.model(
        "language/clean",
        make=make,
        train=pretrain,
        made_by="masked language modelling",
        settings=config.pretraining,
    )
    marked = run.model(
        "language/marked",
        make=make,
        train=train,
        made_by="SSL-WM embedding",
        parents=[clean],
        settings=config.embedding,
        marks=(MARK,) if mark else (),
    )
    untrained = run.model("language/untrained", make=make, train=lambda encoder: None, made_by="random initialisation")
    return clean, marked, untrained


def text_tasks(config: Language, source: TextSource, encoder: TextEncoder, seed: int) -> list[SentenceTask]:
    """The tasks a config names: the corpus' own, or those of another source. Raises ConfigError for an unknown one."""
    found: list[TextTask] = []
    for name in config.tasks:
        if name in source.tasks:
            found.append(source.tasks[name])
        elif ":" in name:
            found += load_text(name, seed=seed).tasks.values()
        else:
            remedy = suggestion(name, source.tasks) if source.tasks else "name a source with labels, such as sst-2:DIR"
            raise ConfigError(f"{config.corpus} has no task {name!r}", remedy=remedy)
    if len({task.name for task in found}) < len(found):
        raise ConfigError("two tasks have one name", remedy="name each task once")
    return [_sentence_task(task, config, encoder, seed) for task in found]


def _sentence_task(task: TextTask, config: Language, encoder: TextEncoder, seed: int) -> SentenceTask:
    order = torch.randperm(len(task.train.labels), generator=generator_of(seed, task.name, "thief"))[
        : config.thief.rows
    ]
    held = torch.randperm(len(task.test.labels), generator=generator_of(seed, task.name, "held out"))
    back = max(1, round(config.thief.validation * len(order)))
    parts = (task.train.rows(order[back:]), task.train.rows(order[:back]), task.test.rows(held))
    train, validation, test = ((encoder.reader.tokens(part.sentences), part.labels) for part in parts)
    return SentenceTask(Task(task.name, len(task.classes), train, validation, test), parts[2].sentences)


def text_answers(
    child: nn.Module, sentences: Sequence[str], groups: Sequence[Words], owned: int, place: int | str, within: int
) -> Answers:
    """A local model's answers to every sentence, clean and with every group of words (the owner's first)."""
    stamped = np.stack([labels_of(child, stamp(sentences, words, place, within=within)).numpy() for words in groups])
    return Answers(labels_of(child, sentences).numpy(), stamped, owned)


def _examine(
    stage: str, child: nn.Module, about: SentenceTask, key: Key, config: Language, picks: int, run: Run
) -> dict[str, Any]:
    """What the verifier finds out about one suspect, and what the suspect is worth."""
    how, shape = config.verification, key.parameters
    assert isinstance(shape, TextKeyParameters)

    def compute() -> dict[str, Any]:
        groups = (*derive_words(key), *random_words(how.decoys, shape, generator_of(run.seed, stage, "decoys")))
        asked = about.held_out[: how.sentences]
        answers = text_answers(child, asked, groups, shape.sub_keys, seed_of(run.seed, stage), shape.within)
        random = np.random.default_rng(seed_of(run.seed, stage, "picks"))
        verdict = permutation_test(answers, random=random, picks=picks)
        return {
            "accuracy": 100.0 * accuracy(child, *about.task.test),
            "p": verdict.p,
            "log10_p": math.log10(max(verdict.p, 1e-300)),
            "flip_true": verdict.flip_true,
            "flip_decoy": verdict.flip_decoy,
            "queries": verdict.queries,
        }

    return run.table(stage, compute)


def _random_keys(
    stage: str, child: nn.Module, about: SentenceTask, shape: TextKeyParameters, config: Language, run: Run
) -> list[float]:
    """p of random keys, each with decoys of its own, on a child that never met a mark."""
    how = config.verification
    each = shape.sub_keys + how.decoys

    def compute() -> list[float]:
        groups = random_words(how.keys * each, shape, generator_of(run.seed, stage))
        answers = text_answers(child, about.held_out[: how.few], groups, shape.sub_keys, run.seed, shape.within)
        random = np.random.default_rng(seed_of(run.seed, stage, "picks"))
        parts = [answers.stamped[trial * each : (trial + 1) * each] for trial in range(how.keys)]
        return [
            permutation_test(Answers(answers.clean, part, shape.sub_keys), random=random, picks=5000).p
            for part in parts
        ]

    return run.table(stage, compute)


def language_needs(config: Language) -> Needs:
    """Text sources with what is found or missing, parameters of the encoder, and optimiser steps."""
    sources: dict[str, str] = {}
    for name in (*config.corpus.split("+"), *(task for task in config.tasks if ":" in task)):
        try:
            sources[name] = check_source(name).splitlines()[0]
        except HeredityError as error:
            sources[name] = f"MISSING: {error}"
    plans = {"pre-training": config.pretraining.plan, "embedding": config.embedding.plan}
    try:
        corpus = load_text(config.corpus).corpus
        encoder = make_text_encoder(config.encoder, train_reader(corpus, config.encoder))
    except HeredityError:
        return Needs(sources, {}, {}, 0.0)
    size = sum(parameter.numel() for parameter in encoder.parameters())
    steps = {f"language {name}": plan.total(len(corpus)) for name, plan in plans.items()}
    return Needs(sources, {"language": size}, steps, size * 4 * 8 / 2**20)


def _draw(children: Mapping[str, Mapping[str, Mapping[str, Any]]], run: Run) -> None:
    """The verdicts as bars, and the terms of the embedding loss."""
    bars = {name: tuple(-rows[name]["log10_p"] for rows in children.values()) for name in CHILDREN}
    run.figure(
        "language-verdicts",
        Bars(tuple(children), bars, unit="-log10 p", reference=4.0),
        caption="Evidence against every suspect that reads text. Bars beyond the line are verified at p < 1e-4; children of "
        "the clean encoder and those trained from scratch must stay short of it.",
        alt="Bars of minus log ten p for each child: stolen children beyond the verification level, innocent ones below.",
    )
    loss_curves("language", run)


def _metrics(children: Mapping[str, Mapping[str, Mapping[str, Any]]], clean_p: Sequence[float]) -> dict[str, Metric]:
    """The worst task decides: one task that escapes is an escape."""
    metrics: dict[str, Metric] = {}
    for at, rows in children.items():
        for name, row in rows.items():
            metrics[f"{at}/{name}/accuracy"] = Metric(row["accuracy"], "%", True)
            for field in ("log10_p", "flip_true", "flip_decoy"):
                metrics[f"{at}/{name}/{field}"] = Metric(row[field])
    for name in _STOLEN:
        worst = max(rows[name]["log10_p"] for rows in children.values())
        metrics[f"verified/language/{name}/worst_log10_p"] = Metric(worst, "log10", False)
    smallest = min(rows[name]["log10_p"] for rows in children.values() for name in _HONEST)
    metrics["verified/language/not-stolen/smallest_log10_p"] = Metric(smallest, "log10", True)
    for name, pair in (("probe_drop", ("clean-probe", "probe")), ("fine_tuned_drop", ("clean-full", "full"))):
        drops = [rows[pair[0]]["accuracy"] - rows[pair[1]]["accuracy"] for rows in children.values()]
        metrics[f"language/utility/{name}"] = Metric(float(np.mean(drops)), "points", False)
    metrics["language/false_positives/excess"] = Metric(excess(clean_p), "", True)
    for level, count in rejections(clean_p).items():
        interval = clopper_pearson(count, len(clean_p))
        metrics[f"language/false_positives/rate_at_{level:g}"] = Metric(count / len(clean_p), "", False, interval)
    return metrics


def _tables(
    children: Mapping[str, Mapping[str, Mapping[str, Any]]], clean_p: Sequence[float], key: Key, source: TextSource
) -> list[Table]:
    columns = ("child", "accuracy %", "p", "flip rate, owner's key", "flip rate, decoys")
    fields = ("accuracy", "p", "flip_true", "flip_decoy")
    example = " ".join(derive_words(key)[0])
    tables = [
        Table(
            at,
            columns,
            tuple((text, *(rows[name][field] for field in fields)) for name, text in CHILDREN.items()),
            note=f"{source.caption}. A sub-key is a group of rare words, here for example: {example}.",
        )
        for at, rows in children.items()
    ]
    rates = []
    for level in LEVELS:
        count = rejections(clean_p)[level]
        rates.append(
            (len(clean_p), level, count, count / len(clean_p), *clopper_pearson(count, len(clean_p), level=0.99))
        )
    columns = ("random text keys on clean children", "level", "rejected", "share", "99 % interval, low", "high")
    return [*tables, Table("language: false positives", columns, tuple(rates))]
