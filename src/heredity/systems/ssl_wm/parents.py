"""The owner's half of the experiment: pre-train an encoder without labels, and hide the mark in a copy."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from heredity.core.loop import fit
from heredity.core.randomness import seed_of
from heredity.core.run import Run
from heredity.nn.encoders import make_encoder
from heredity.pretrain.bigan import BiGAN, bigan_objective
from heredity.pretrain.byol import BYOL, byol_objective
from heredity.pretrain.contrastive import SimCLR, simclr_objective
from heredity.pretrain.mae import MAE, mae_objective
from heredity.pretrain.moco import MoCo, moco_objective
from heredity.pretrain.objective import Objective
from heredity.systems.ssl_wm.config import SSLWM, Parent
from heredity.systems.ssl_wm.mark.embed import embed_mark
from heredity.systems.ssl_wm.mark.keys import Key, generate_key

MARK = "carries an ownership mark (SSL-WM)"
METHODS = {SimCLR: "SimCLR", MAE: "masked autoencoding", MoCo: "MoCo v2", BYOL: "BYOL", BiGAN: "BiGAN"}


def experiment_key(config: SSLWM, seed: int, owner: str) -> Key:
    """A key that the seed repeats. A real owner's comes from the operating system: see the verb `keygen`."""
    secret = b"".join(seed_of(seed, owner, part).to_bytes(8, "big") for part in range(4))
    return generate_key(owner, config.key, secret=secret, created=f"experiment, seed {seed}")


def objective_of(encoder: nn.Module, images: Tensor, recipe: Any, run: Run, *, marking: bool = False) -> Objective:
    """The pre-training objective that a recipe stands for. `marking` is for the embedding that continues pre-training."""
    match recipe:
        case SimCLR():
            return simclr_objective(encoder, images, recipe, run)
        case MoCo():
            return moco_objective(encoder, images, recipe, run, marking=marking)
        case BYOL():
            return byol_objective(encoder, images, recipe, marking=marking)
        case BiGAN():
            return bigan_objective(encoder, images, recipe)
        case _:
            return mae_objective(encoder, images, recipe)


def make_parents(
    family: str, config: SSLWM, images: Tensor, key: Key, run: Run
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The clean encoder, the marked one that is made from it, and one of the same shape that inherits nothing."""
    parent: Parent = getattr(config, family)
    make = partial(make_encoder, parent.encoder, config.size)

    def pretrain(encoder: nn.Module) -> None:
        objective = objective_of(encoder, images, parent.pretraining, run)
        plan = parent.pretraining.plan
        fit(objective.module, objective.step, rows=len(images), plan=plan, run=run, turns=objective.turns)

    def mark(encoder: nn.Module) -> None:
        encoder.load_state_dict(clean.state_dict())
        if config.mark:
            objective = objective_of(encoder, images, parent.pretraining, run, marking=True)
            embed_mark(encoder, images, key, parent.embedding, run, pretraining=objective)

    clean = run.model(
        f"{family}/clean",
        make=make,
        train=pretrain,
        made_by=METHODS[type(parent.pretraining)],
        settings=parent.pretraining,
    )
    marked = run.model(
        f"{family}/marked",
        make=make,
        train=mark,
        made_by="SSL-WM embedding",
        parents=[clean],
        settings=parent.embedding,
        marks=(MARK,) if config.mark else (),
    )
    untrained = run.model(f"{family}/untrained", make=make, train=lambda encoder: None, made_by="random initialisation")
    return clean, marked, untrained
