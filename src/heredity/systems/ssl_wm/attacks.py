"""What a thief can do to a stolen model, and what each attack costs him: the rows of the price table.

Every attack gives a suspect that the verifier asks like any other; its price is the accuracy that it loses against the
stolen child as it was. The rows of fine-tuning and pruning come from the children that the experiment examines anyway.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from heredity.core.randomness import seed_of
from heredity.core.run import Run
from heredity.nn.encoders import make_encoder
from heredity.nn.inference import outputs, top1
from heredity.systems.ssl_wm.config import SSLWM, Parent
from heredity.systems.ssl_wm.mark.embed import embed_mark
from heredity.systems.ssl_wm.mark.keys import Key
from heredity.systems.ssl_wm.proof.ambiguity import ambiguity
from heredity.transfer.extract import extract_by_features, extract_by_labels
from heredity.transfer.inputs import Treatment, treated
from heredity.transfer.quantise import quantise
from heredity.transfer.task import Task

Examine = Callable[[str, nn.Module, Task], dict[str, Any]]
"""(stage, suspect, task) -> what the verifier finds out: accuracy, p, flip rates and so on."""
Row = dict[str, Any]


def quantised(at: str, children: dict[str, nn.Module], task: Task, config: SSLWM, examine: Examine) -> dict[str, Row]:
    """Stolen children after post-training quantisation to int8, calibrated on the thief's own images.

    The head stays in floating point, as is usual: where an encoder (BiGAN's) gives all images nearly the same features, int8
    inputs of the head would tell none of them apart.
    """
    calibration = task.train[0][: config.attacks.calibration]
    return {
        f"{name}-int8": examine(f"{at}/{name}-int8/verdict", quantise(child, calibration, skip=("head",)), task)
        for name, child in children.items()
    }


def attack(
    at: str,
    marked: nn.Module,
    child: nn.Module,
    overwritten: nn.Module,
    task: Task,
    images: Tensor,
    config: SSLWM,
    examine: Examine,
    run: Run,
) -> dict[str, Row]:
    """Extraction by labels and by features, overwriting, and what a service may do to its inputs.

    `marked` is the stolen encoder and `child` a probe on it, `overwritten` a probe on the encoder under a second mark;
    `images` are what the thief has without labels.
    """
    how = config.attacks
    student = partial(make_encoder, how.student, config.size)
    by_labels = extract_by_labels(child, student, images, task, how.by_labels, run=run, name=f"{at}/extracted-labels")
    by_features = extract_by_features(
        marked, student, images, task, how.by_features, run=run, name=f"{at}/extracted-features"
    )
    suspects: dict[str, nn.Module] = {
        "extracted-labels": by_labels,
        "extracted-features": by_features,
        "overwritten": overwritten,
    }
    for text in how.treatments:
        suspects[f"input {text}"] = treated(child, Treatment.parse(text), seed=run.seed)
    return {name: examine(f"{at}/{name.replace(' ', '-')}/verdict", who, task) for name, who in suspects.items()}


def overwrite(family: str, marked: nn.Module, images: Tensor, thief: Key, config: SSLWM, run: Run) -> nn.Module:
    """The stolen encoder with a second mark embedded over the first, by a thief who does not know the owner's key."""
    parent: Parent = getattr(config, family)
    plan = replace(parent.embedding.plan, steps=config.attacks.overwriting_steps)
    how = replace(parent.embedding, loss=replace(parent.embedding.loss, kind="robust"), plan=plan)

    def mark_again(encoder: nn.Module) -> None:
        encoder.load_state_dict(marked.state_dict())
        embed_mark(encoder, images, thief, how, run, point="a thief's anchor point")

    return run.model(
        f"{family}/overwritten",
        make=partial(make_encoder, parent.encoder, config.size),
        train=mark_again,
        made_by="SSL-WM embedding",
        parents=[marked],
        settings=how,
        marks=("carries a second ownership mark (SSL-WM), a thief's",),
    )


def dispute(
    at: str,
    keys: tuple[Key, Key],
    encoders: tuple[nn.Module, nn.Module],
    suspect: nn.Module,
    task: Task,
    config: SSLWM,
    run: Run,
) -> Row:
    """Two keys pass on one model: the 2x2 table that tells whose mark came first, with the verdict on it.

    `keys` are the owner's and the thief's, `encoders` the one that the owner committed to and the thief's, of which an
    ablation lets the owner show the wrong one.
    """
    (owner, thief), shown = keys, encoders[0] if config.verification.encoder == "committed" else encoders[1]

    def compute() -> Row:
        table = ambiguity(
            owner,
            thief,
            partial(outputs, shown),
            lambda inputs: top1(suspect, inputs),
            task.test[0][: config.verification.images],
            decoys=config.verification.decoys,
            alpha=config.verification.dispute_alpha,
            nonce=f"{seed_of(run.seed, at, 'dispute'):032x}",
            other_name="the thief's key",
        )
        return {
            "owner_on_encoder": table.owner_on_encoder,
            "other_on_encoder": table.other_on_encoder,
            "owner_on_suspect": table.owner_on_suspect,
            "other_on_suspect": table.other_on_suspect,
            "resolved": table.resolved,
            "sentence": table.sentence,
        }

    return run.table(f"{at}/dispute", compute)
