"""Where a vision transformer looks: soft-max maps recomputed from queries and keys, and one number for every patch.

Fused attention never forms its map, so it is recomputed from what `heredity.nn.attention` records: the product, Swin's bias
by relative position and its mask between shifted regions, and the soft-max. Gradients flow through it to the pixels.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (rollout); Lv et al., arXiv 2111.11870.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.attention import Attention, attention_blocks, number_of, recorded

Objective = Literal["rollout", "last", "mean"]


@dataclass(frozen=True)
class Layout:
    """How a transformer cuts a picture: `rows` x `columns` patches of `patch` pixels, behind `prefix` other tokens.

    `reads` are the tokens that its head looks at: the class token, or every patch where it pools them.
    """

    rows: int
    columns: int
    patch: tuple[int, int]
    prefix: int
    windowed: bool
    reads: Literal["class token", "all patches"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures in pixels."""
        return self.rows * self.patch[0], self.columns * self.patch[1]


def transformer_in(model: nn.Module) -> nn.Module:
    """The timm transformer inside a wrapped model. Raises ModelError, saying what was seen, when there is none."""
    for module in model.modules():
        cut = getattr(module, "patch_embed", None)
        if cut is not None and hasattr(cut, "grid_size") and hasattr(module, "norm"):
            return module
    seen = ", ".join(f"{name} ({type(child).__name__})" for name, child in list(model.named_children())[:6])
    raise ModelError(
        f"{type(getattr(model, 'inner', model)).__name__} is no vision transformer: it has {seen or 'no parts'}",
        remedy="give a timm VisionTransformer, DeiT or Swin (patch_embed, blocks[-1].mlp.fc1)",
    )


def layout_of(model: nn.Module) -> Layout:
    """The layout of a ViT, DeiT or Swin. Raises ModelError for anything else."""
    attention_blocks(model)
    inner: Any = transformer_in(model)
    rows, columns = inner.patch_embed.grid_size
    height, width = inner.patch_embed.patch_size
    windowed = hasattr(inner, "layers")
    prefix = 0 if windowed else int(inner.num_prefix_tokens)
    pooled = windowed or prefix == 0 or getattr(inner, "global_pool", "token") != "token"
    return Layout(rows, columns, (height, width), prefix, windowed, "all patches" if pooled else "class token")


def softmax_map(read: Attention, block: nn.Module) -> Float[Tensor, "batch heads tokens tokens"]:
    """A block's attention after the soft-max; for Swin one row of the batch a window, with its bias and mask.

    Rows are queries and sum to 1.
    """
    scores = read.scale * read.query @ read.key.transpose(-2, -1)
    attention: Any = block.attn
    table = getattr(attention, "relative_position_bias_table", None)
    if table is not None:
        tokens = scores.shape[-1]
        bias = table[attention.relative_position_index.reshape(-1)].reshape(tokens, tokens, -1)
        scores = scores + bias.permute(2, 0, 1)
        mask = getattr(block, "attn_mask", None)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[None, :, None]).flatten(0, 1)
    return scores.softmax(dim=-1)


def rollout(maps: Sequence[Float[Tensor, "batch heads tokens tokens"]]) -> Float[Tensor, "batch tokens tokens"]:
    """Attention rollout: the product over blocks, latest first, of (mean over heads + identity) with rows of sum 1.

    >>> maps = [torch.full((1, 2, 3, 3), 1 / 3)]
    >>> [round(value, 4) for value in rollout(maps)[0, 0].tolist()]
    [0.6667, 0.1667, 0.1667]
    """
    whole = _with_identity(maps[0])
    for later in maps[1:]:
        whole = _with_identity(later) @ whole
    return whole


def _with_identity(attention: Tensor) -> Tensor:
    mixed = attention.mean(dim=1) + torch.eye(attention.shape[-1], device=attention.device)
    return mixed / mixed.sum(dim=-1, keepdim=True)


def patch_attention(
    model: nn.Module, images: Tensor, *, objective: Objective = "rollout", upto: int | None = None
) -> Float[Tensor, "batch rows columns"]:
    """What each patch contributes to the tokens that the head reads: maps that sum to 1, less the special tokens' part.

    `images` are pixels of 0..255, as the house's models take them. ViT and DeiT: the class token's row (the mean of all
    patches' rows, where the head pools them) of the rollout through the first `upto` blocks (all but the last unless given,
    as in the published code; negative numbers count from the end), of the last of these blocks, or of their mean. Swin has
    no rollout across windows: it is the attention *received* in the last stage, mean over heads, queries and blocks
    ("last": its last block only), shared out to the patches of each token; `upto` means nothing there. Differentiable.
    """
    layout, blocks = layout_of(model), attention_blocks(model)
    if layout.windowed:
        return _received(model, images, layout, len(blocks), objective)
    default = max(1, len(blocks) - 1)
    last = default if upto is None else number_of(upto, len(blocks))
    wanted = [last] if objective == "last" else list(range(1, last + 1))
    with recorded(model, wanted) as seen:
        model(images)
    maps = [softmax_map(seen[number], blocks[number - 1]) for number in wanted]
    row = torch.zeros(maps[0].shape[-1], device=maps[0].device)
    if layout.reads == "class token":
        row[0] = 1.0
    else:
        row[layout.prefix :] = 1.0 / (layout.rows * layout.columns)
    if objective == "rollout":
        # One row of the product costs a matrix-vector product a block, not a matrix-matrix one.
        flow = row.expand(len(images), 1, -1)
        for attention in reversed(maps):
            flow = flow @ _with_identity(attention)
    else:
        flow = row @ torch.stack([attention.mean(dim=1) for attention in maps]).mean(dim=0)
        flow = flow[:, None]
    return flow[:, 0, layout.prefix :].unflatten(1, (layout.rows, layout.columns))


def _received(
    model: nn.Module, images: Tensor, layout: Layout, blocks: int, objective: Objective
) -> Float[Tensor, "batch rows columns"]:
    inner: Any = transformer_in(model)
    stage = list(inner.layers[-1].blocks)
    first = blocks - len(stage) + 1 if objective != "last" else blocks
    wanted = list(range(first, blocks + 1))
    with recorded(model, wanted) as seen:
        model(images)
    whole = torch.stack(
        [
            _onto_grid(softmax_map(seen[number], block), block, len(images))
            for number, block in zip(wanted, stage[-len(wanted) :], strict=True)
        ]
    ).mean(dim=0)
    down, across = math.ceil(layout.rows / whole.shape[1]), math.ceil(layout.columns / whole.shape[2])
    fine = whole.repeat_interleave(down, dim=1).repeat_interleave(across, dim=2) / (down * across)
    return fine[:, : layout.rows, : layout.columns]


def _onto_grid(attention: Tensor, block: Any, batch: int) -> Float[Tensor, "batch height width"]:
    """What every token of a stage receives, put from windows back to where the tokens lie; windows share a sum of 1."""
    received = attention.mean(dim=(1, 2))
    (height, width), (rows, columns) = block.input_resolution, block.window_size
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    grid = received.reshape(batch, down, across, rows, columns).permute(0, 1, 3, 2, 4)
    grid = grid.reshape(batch, down * rows, across * columns)[:, :height, :width] / (down * across)
    return torch.roll(grid, tuple(block.shift_size), dims=(1, 2)) if any(block.shift_size) else grid


def token_weights(mask: Float[Tensor, "1 height width"], layout: Layout) -> Float[Tensor, "rows columns"]:
    """The share of every patch's area that a mask covers: 1 inside, a fraction where an edge cuts the patch.

    Raises ModelError for a mask of another size than the model's pictures.
    """
    if tuple(mask.shape[1:]) != layout.size:
        raise ModelError(
            f"the trigger is made for images of {mask.shape[2]} x {mask.shape[1]} pixels",
            remedy=f"this model takes {layout.size[1]} x {layout.size[0]}",
        )
    return F.avg_pool2d(mask[None], layout.patch)[0, 0]


def heaviest_window(
    attention: Float[Tensor, "batch rows columns"], side: int
) -> tuple[Float[Tensor, "batch"], Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """The window of side x side patches with the most attention: its sum, and its first row and column.

    >>> grid = torch.zeros(1, 4, 4); grid[0, 2, 3] = 1.0
    >>> [int(found) for found in heaviest_window(grid, 2)]
    [1, 1, 2]
    """
    side = min(side, *attention.shape[1:])
    sums = F.avg_pool2d(attention[:, None], side, stride=1)[:, 0] * side * side
    best, place = sums.flatten(1).max(dim=1)
    return best, place // sums.shape[2], place % sums.shape[2]
