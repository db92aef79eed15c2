"""A self-supervised objective, ready to be trained alone or together with something else."""

from dataclasses import dataclass

from torch import nn

from heredity.core.loop import Step


@dataclass(frozen=True)
class Objective:
    """`module` holds the encoder and whatever the objective throws away afterwards; `step` gives its loss terms."""

    module: nn.Module
    step: Step
