"""Reading queries, keys and values of timm's transformers through hooks, without a change to timm's files.

What is read is what timm's own attention multiplies: `softmax(query key^T * scale) value` of the record is the block's
attention before its output projection (tested against timm, so that an upgrade which moves these names fails loudly). Swin
adds a bias by relative position to the product; its records hold one row of the batch for each window.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError

_ALTERED = {
    "q_bias": "adds its bias outside of qkv",
    "rotate_half": "rotates queries and keys by position",
    "proj_l": "mixes its heads before the softmax",
}


@dataclass(frozen=True)
class Attention:
    """What one block attends with. `scale` multiplies query-key products before the softmax.

    >>> read = split_heads(torch.zeros(2, 5, 3 * 8), 2)
    >>> read.query.shape, read.scale
    (torch.Size([2, 2, 5, 4]), 0.5)
    """

    query: Float[Tensor, "batch heads tokens width"]
    key: Float[Tensor, "batch heads tokens width"]
    value: Float[Tensor, "batch heads tokens width"]
    scale: float

    @property
    def heads(self) -> int:
        """How many heads."""
        return self.query.shape[1]

    def with_heads(self, heads: int) -> "Attention":
        """The same numbers cut into another number of heads, with that number's scale. Raises ModelError if uneven."""
        joined = [part.transpose(1, 2).flatten(2) for part in (self.query, self.key, self.value)]
        return split_heads(torch.cat(joined, dim=2), heads)


@dataclass(frozen=True)
class Reached:
    """How far `run_up_to` went: the tokens that enter the block, and its queries, keys and values."""

    tokens: Float[Tensor, "batch tokens width"]
    attention: Attention


def split_heads(qkv: Float[Tensor, "batch tokens threefold"], heads: int) -> Attention:
    """Queries, keys and values of the output of a `qkv` layer (in this order, heads next to each other within each).

    Raises ModelError when the width does not divide by the heads.
    """
    width = qkv.shape[2] // 3
    if heads < 1 or width % heads:
        fits = [count for count in range(1, width + 1) if width % count == 0 and width // count >= 4]
        raise ModelError(
            f"a width of {width} cannot be split into {heads} heads",
            remedy="choose from " + ", ".join(str(count) for count in fits) + ", or another width",
        )
    query, key, value = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return Attention(query, key, value, (width // heads) ** -0.5)


def attention_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks whose `attn.qkv` can be read, in the order in which they run. The model may be wrapped.

    Raises ModelError, saying what was seen, when there is none (a convolutional net) or when one attends in a way that its
    `qkv` does not tell (rotary positions, a bias outside, mixed heads).
    """
    found: list[nn.Module] = []
    refused: Counter[str] = Counter()
    for module in model.modules():
        attention = getattr(module, "attn", None)
        if not isinstance(attention, nn.Module) or not hasattr(attention, "proj"):
            continue
        reason = _unreadable(attention)
        if reason:
            refused[f"{type(attention).__name__}, which {reason}"] += 1
        else:
            found.append(module)
    if refused or not found:
        seen = [f"{count} x {what}" for what, count in refused.items()]
        kinds = Counter(type(module).__name__ for module in model.modules() if not list(module.children()))
        seen = seen or [f"{count} x {what}" for what, count in kinds.most_common(4)]
        raise ModelError(
            f"{type(getattr(model, 'inner', model)).__name__} has no attention that can be read: it has {', '.join(seen)}",
            remedy="give a timm VisionTransformer, DeiT or Swin, whose blocks have an `attn` with `qkv` and `num_heads`",
        )
    return found


def _unreadable(attention: nn.Module) -> str:
    for name, reason in _ALTERED.items():
        if getattr(attention, name, None) is not None:
            return reason
    if not isinstance(getattr(attention, "qkv", None), nn.Linear):
        return "has no linear `qkv`"
    return "" if isinstance(getattr(attention, "num_heads", None), int) else "has no `num_heads`"


def read(block: nn.Module, qkv: Float[Tensor, "batch tokens threefold"]) -> Attention:
    """What the block makes of the output of its `qkv` layer: heads split, queries and keys normalised where it does so."""
    attention: nn.Module = block.attn  # pyright: ignore[reportAssignmentType]
    split = split_heads(qkv, int(attention.num_heads))  # pyright: ignore[reportArgumentType]
    query = getattr(attention, "q_norm", nn.Identity())(split.query)
    key = getattr(attention, "k_norm", nn.Identity())(split.key)
    return Attention(query, key, split.value, float(attention.scale))  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def recorded(model: nn.Module, blocks: Sequence[int] | None = None) -> Iterator[dict[int, Attention]]:
    """While this lasts, every run of the model leaves what its blocks attend with, by block number (1 is the first).

    `blocks` are those to be read, all by default; negative numbers count from the end. Nothing is detached, so gradients
    flow; a second run replaces the first. The hooks are gone afterwards, whatever happens.

    >>> from heredity.nn.encoders import vision_transformer
    >>> with recorded(model := vision_transformer(image=8, patch=4)) as seen:
    ...     features = model(torch.zeros(1, 3, 8, 8))
    >>> seen[4].key.shape
    torch.Size([1, 4, 5, 16])
    """
    present = attention_blocks(model)
    wanted = range(1, len(present) + 1) if blocks is None else [number_of(block, len(present)) for block in blocks]
    records: dict[int, Attention] = {}
    with contextlib.ExitStack() as hooks:
        for number in wanted:
            block = present[number - 1]

            def keep(_: nn.Module, __: object, qkv: Tensor, number: int = number, block: nn.Module = block) -> None:
                records[number] = read(block, qkv)

            hooks.callback(block.attn.qkv.register_forward_hook(keep).remove)  # pyright: ignore
        yield records


def number_of(block: int, depth: int) -> int:
    """The block's number from 1 to `depth`; negative numbers count from the end. Raises ModelError outside of it.

    >>> number_of(-1, 12), number_of(9, 12)
    (12, 9)
    """
    if block == 0 or abs(block) > depth:
        raise ModelError(
            f"there is no block {block} in a model of {depth} blocks",
            remedy=f"blocks count from 1 to {depth}, or from -1, the last, to -{depth}",
        )
    return block if block > 0 else depth + 1 + block


def set_heads(block: nn.Module, heads: int) -> None:
    """Let a block attend with another number of heads: no weight changes its shape, but the block's function changes.

    Raises ModelError when the width does not divide, or when the block normalises queries and keys head by head.
    """
    attention: Any = block.attn
    if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity) and heads != attention.num_heads:
        raise ModelError(
            "the block normalises queries and keys head by head, so its number of heads is fixed",
            remedy="compare relation heads instead",
        )
    cut = split_heads(torch.zeros(1, 1, attention.qkv.out_features), heads)
    attention.num_heads, attention.head_dim, attention.scale = heads, cut.query.shape[3], cut.scale


class _ReachedError(Exception):
    """Ends a forward pass where nothing further is wanted."""


def run_to(
    model: nn.Module,
    images: Tensor,
    module: nn.Module,
    *,
    entering: bool = False,
    kept: Int[Tensor, "batch kept"] | None = None,
) -> Tensor:
    """Run a model until one of its modules has given its output (or, `entering`, gets its input): that tensor.

    Nothing behind it is computed. `kept` are numbers of patches (from 0): only these, and the tokens before them, enter the
    first block, as masked autoencoding does it. Differentiable. Raises ModelError when the module did not run, and for `kept`
    in a model that does not place its patches in one sequence.
    """
    found: list[Tensor] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _ReachedError

    def leave(_: nn.Module, __: object, output: Tensor) -> None:
        found.append(output)
        raise _ReachedError

    with contextlib.ExitStack() as hooks:
        if kept is not None:
            hooks.enter_context(_only(model, kept))
        handle = module.register_forward_pre_hook(enter) if entering else module.register_forward_hook(leave)
        hooks.callback(handle.remove)
        try:
            model(images)
        except _ReachedError:
            return found[0]
    raise ModelError(f"a {type(module).__name__} did not run", remedy="give a model that runs all of its blocks")


def run_up_to(
    model: nn.Module,
    images: Tensor,
    block: int,
    *,
    kept: Int[Tensor, "batch kept"] | None = None,
) -> Reached:
    """Run a model until the given block has made its queries, keys and values; nothing behind them is computed.

    Blocks count from 1; negative numbers from the end. `kept` as in `run_to`. Raises ModelError for a block that does not
    exist.
    """
    blocks = attention_blocks(model)
    target = blocks[number_of(block, len(blocks)) - 1]
    found: list[Tensor] = []
    handle = target.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        qkv = run_to(model, images, target.attn.qkv, kept=kept)  # pyright: ignore
    finally:
        handle.remove()
    return Reached(found[-1], read(target, qkv))


@contextlib.contextmanager
def _only(model: nn.Module, kept: Int[Tensor, "batch kept"]) -> Iterator[None]:
    vit = next((module for module in model.modules() if hasattr(module, "patch_drop")), None)
    place = getattr(vit, "patch_drop", None)
    if vit is None or not isinstance(place, nn.Identity):
        raise ModelError(
            f"{type(getattr(model, 'inner', model)).__name__} cannot be shown some of its patches only",
            remedy="give a timm VisionTransformer without patch dropout, or unmasked input",
        )
    prefix = int(vit.num_prefix_tokens)  # pyright: ignore[reportArgumentType]

    def choose(_: nn.Module, __: object, tokens: Tensor) -> Tensor:
        rows = (kept + prefix)[:, :, None].expand(-1, -1, tokens.shape[2])
        return torch.cat([tokens[:, :prefix], tokens.gather(1, rows)], dim=1)

    handle = place.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()
