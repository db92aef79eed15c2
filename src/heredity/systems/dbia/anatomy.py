"""Where the back door goes: the last MLP of a transformer, the tokens that reach it, and what follows it up to the logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.attention_maps import layout_of, transformer_in
from heredity.nn.encoders import Classifier


@dataclass(frozen=True)
class Anatomy:
    """A victim cut in two before one block's MLP. `tokens` are those that matter behind it: the head's, or all.

    Everything before is frozen, so that its output is computed once; `rest` computes the logits from it.
    """

    model: nn.Module
    block: Any
    later: tuple[Any, ...]
    tokens: slice
    spatial: tuple[int, int] | None
    classes: int

    @property
    def fc1(self) -> nn.Linear:
        """The MLP's first layer: its rows are hidden neurons."""
        return self.block.mlp.fc1

    @property
    def fc2(self) -> nn.Linear:
        """The MLP's second layer: its rows are output channels, which the published code calls neurons too."""
        return self.block.mlp.fc2

    def before(self, images: Tensor) -> Float[Tensor, "n tokens width"]:
        """The tokens that enter the MLP's residual branch (a copy), without gradients."""
        found: list[Tensor] = []
        hook = self.block.norm2.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                self.model(images)
        finally:
            hook.remove()
        return found[0][:, self.tokens].clone()

    def rest(self, tokens: Float[Tensor, "n tokens width"], *, class_head_only: bool = False) -> Float[Tensor, "n c"]:
        """Logits from what `before` gave; `class_head_only` without DeiT's distillation head, as the published loss."""
        block, inner = self.block, transformer_in(self.model)
        scaled, dropped = getattr(block, "ls2", nn.Identity()), getattr(block, "drop_path2", nn.Identity())
        x = tokens + dropped(scaled(block.mlp(block.norm2(tokens))))
        if self.spatial is not None:
            x = x.unflatten(1, self.spatial)
        for later in self.later:
            x = later(x)
        normed: Any = inner.norm(x)  # pyright: ignore[reportCallIssue]
        if class_head_only and hasattr(inner, "head_dist"):
            return inner.head(normed[:, 0])  # pyright: ignore[reportCallIssue]
        logits = inner.forward_head(normed)  # pyright: ignore[reportCallIssue]
        return self.model.head(logits) if isinstance(self.model, Classifier) else logits


def dissect(model: nn.Module, *, layer: int = -1) -> Anatomy:
    """Find the MLP of block `layer` (negative: from the end; for Swin within the last stage) and what follows it.

    Raises ModelError when there is none (a convolutional net, an encoder without a head), when the model is in half
    precision on a CPU, or when the two halves do not make the whole: then timm has changed, or this architecture is of
    another kind.
    """
    layout, inner = layout_of(model), transformer_in(model)
    stage: Any = inner.layers[-1].blocks if layout.windowed else inner.blocks  # pyright: ignore
    blocks = list(stage)
    if not -len(blocks) <= layer < len(blocks):
        raise ModelError(f"there is no block {layer} among {len(blocks)}", remedy=f"-1, the last, to {-len(blocks)}")
    block, later = blocks[layer], tuple(blocks[layer % len(blocks) + 1 :])
    for name in ("mlp", "norm2"):
        if not hasattr(block, name) or (name == "mlp" and not isinstance(getattr(block.mlp, "fc1", None), nn.Linear)):
            parts = ", ".join(name for name, _ in block.named_children())
            raise ModelError(
                f"the last block has {parts}", remedy="expected blocks[-1].norm2 and blocks[-1].mlp.fc1, fc2"
            )
    parameter = block.mlp.fc1.weight
    if parameter.dtype != torch.float32 and parameter.device.type == "cpu":
        raise ModelError(f"the model is in {parameter.dtype} on a CPU", remedy="convert it with model.float()")
    if not all(bool(torch.isfinite(value).all()) for value in model.parameters()):
        name = next(name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all()))
        raise ModelError(
            f"{name!r} holds values that are not finite", remedy="the training diverged: give other weights"
        )
    only_head = not layout.windowed and not later and layout.reads == "class token"
    tokens = slice(0, layout.prefix) if only_head else slice(None)
    spatial = tuple(block.input_resolution) if layout.windowed else None
    made = Anatomy(model, block, later, tokens, spatial, 0)
    return _checked(made, layout.size)


def _checked(made: Anatomy, size: tuple[int, int]) -> Anatomy:
    """Both halves together must be the model: one forward pass says so, and how many classes there are."""
    device = made.fc1.weight.device
    probe = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(device) * 255
    with in_eval_mode(made.model), torch.no_grad():
        try:
            whole = made.model(probe)
        except RuntimeError as error:
            raise ModelError(
                f"the model does not take RGB images of {size[1]} x {size[0]} pixels: {str(error).splitlines()[0][:120]}",
                remedy="give a model with three input channels",
            ) from error
        if not isinstance(whole, Tensor) or whole.ndim != 2:
            raise ModelError("the model does not answer with one row of scores per image", remedy="give a classifier")
        inner = transformer_in(made.model)
        headless = isinstance(getattr(inner, "head", None), nn.Identity) and not isinstance(made.model, Classifier)
        if headless or whole.shape[1] < 2:
            raise ModelError(
                "the model has no classification head", remedy="a back door needs classes: give a classifier"
            )
        halves = made.rest(made.before(probe))
        if not torch.allclose(whole, halves, atol=1e-3, rtol=1e-3):
            raise ModelError(
                f"{type(inner).__name__} cannot be cut before its last MLP: the halves differ from the whole",
                remedy="its blocks are not timm's x + mlp(norm2(x)); give a plain ViT, DeiT or Swin",
            )
    return Anatomy(made.model, made.block, made.later, made.tokens, made.spatial, whole.shape[1])


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while: dropout and drop path make cached features random. Every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
