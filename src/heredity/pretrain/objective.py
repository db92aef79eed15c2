"""A self-supervised objective, ready to be trained alone or together with something else."""

from dataclasses import dataclass

from torch import nn

from heredity.core.loop import Step, Turn


@dataclass(frozen=True)
class Objective:
    """`module` holds the encoder and whatever the objective throws away afterwards; `step` gives its loss terms.

    `turns` are an adversary's moves that follow in every step, where the objective has one.
    """

    module: nn.Module
    step: Step
    turns: tuple[Turn, ...] = ()
