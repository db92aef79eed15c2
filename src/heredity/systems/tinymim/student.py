"""The student while it learns: drop path, its unused tail, and one forward pass for all losses (paper, section 3.1.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from heredity.core.randomness import Draws
from heredity.nn.attention import attention_blocks, number_of
from heredity.nn.encoders import Normalised
from heredity.pretrain.mae import MAE, MaskedAutoencoder, reconstruction_loss
from heredity.systems.tinymim.targets import Comparison, Target, read_target


class PathDrop(nn.Module):
    """Stochastic depth whose draws belong to samples, so that two processes drop what one would (timm's do not)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws: Draws | None = None

    def forward(self, branch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Drop a sample's branch with probability `rate`, and scale the others up, while training."""
        if not self.training or self.rate == 0 or self.draws is None:
            return branch
        keep = self.draws.uniform(len(branch)) >= self.rate
        return branch * (keep.to(branch) / (1 - self.rate)).reshape(-1, *[1] * (branch.ndim - 1))


@contextmanager
def path_drops(model: nn.Module, rate: float, blocks: int) -> Iterator[list[PathDrop]]:
    """Let the first blocks drop their branches at a constant rate (the published code's); afterwards as before."""
    places = [(block, name) for block in attention_blocks(model)[:blocks] for name in ("drop_path1", "drop_path2")]
    before = [getattr(block, name) for block, name in places]
    drops = [PathDrop(rate) for _ in places] if rate else []
    for (block, name), drop in zip(places, drops, strict=False):
        setattr(block, name, drop)
    try:
        yield drops
    finally:
        for (block, name), module in zip(places, before, strict=True):
            setattr(block, name, module)


class Pupil(nn.Module):
    """A student with what its losses need; `forward` gives loss terms for images and what was read of the teacher.

    With relations the forward pass ends at the last block's queries, keys and values. What lies behind gets no gradient: it
    is frozen while the student is distilled, so that no optimiser and no other process waits for it.
    """

    def __init__(
        self, student: Normalised, comparison: Comparison, target: Target, *, block: int, recipe: MAE | None
    ) -> None:
        super().__init__()
        self.student, self.comparison = student, comparison
        self.target, self.block, self.recipe = target, block, recipe
        self.reconstruction = 0.0
        self.autoencoder = MaskedAutoencoder(student.inner, recipe) if recipe is not None else None

    def forward(
        self, images: UInt8[Tensor, "b c h w"], taught: Tensor, kept: Int[Tensor, "b kept"] | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss terms by name."""
        read = read_target(self.student, images, self.target, self.block, kept=kept)
        terms = dict(self.comparison(read, taught))
        if self.autoencoder is not None and self.recipe is not None and kept is not None:
            pixels = (images.float() / 255.0 - self.student.mean) / self.student.std
            predicted = self.autoencoder(pixels, kept)
            hidden = _others(kept, self.autoencoder.patches)
            loss = reconstruction_loss(predicted, pixels, hidden, self.autoencoder.patch, self.recipe)
            terms["reconstruction"] = self.reconstruction * loss
        return terms


def _others(kept: Int[Tensor, "b kept"], patches: int) -> Int[Tensor, "b hidden"]:
    """The patches that are not kept, in ascending order."""
    hidden = torch.ones(len(kept), patches, dtype=torch.bool, device=kept.device).scatter(1, kept, value=False)
    return hidden.nonzero()[:, 1].reshape(len(kept), -1)


@contextmanager
def tail_frozen(student: nn.Module, target: Target, block: int, *, whole: bool) -> Iterator[list[str]]:
    """Freeze what lies behind the place that is read (nothing where the `whole` student has a loss); gives its names."""
    frozen = [] if whole else unused_names(student, target, block)
    known = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    try:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(known[name] and name not in frozen)
        yield frozen
    finally:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(known[name])


def unused_names(student: nn.Module, target: Target, block: int) -> list[str]:
    """Names of the parameters that lie behind what the target reads of a block, in order."""
    blocks = attention_blocks(student)
    number = number_of(block, len(blocks))
    reads_qkv = target.kind == "relations" or (target.kind == "feature" and target.place == "qkv")
    behind: list[Any] = list(blocks[number:])
    last: Any = blocks[number - 1]
    if reads_qkv:
        behind += [last.attn.proj, last.ls1, last.norm2, last.mlp, last.ls2]
    elif target.kind == "feature" and target.place in ("attention-branch", "attention-residual"):
        behind += [last.norm2, last.mlp, last.ls2]
    unused = {id(parameter) for module in behind for parameter in module.parameters()}
    ends = ("norm", "fc_norm", "head") if target.kind != "cls" else ("fc_norm", "head")
    vit = next(module for module in student.modules() if hasattr(module, "blocks"))
    for name in ends:
        unused |= {id(parameter) for parameter in getattr(vit, name, nn.Identity()).parameters()}
    return [name for name, parameter in student.named_parameters() if id(parameter) in unused]
