"""What a student is taught to reproduce: relations, or one of the paper's other targets (section 3.1, equations 6 to 8)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.attention import Attention, attention_blocks, number_of, run_to, run_up_to
from heredity.systems.tinymim.relations import Relations, matched, relation_losses

Place = Literal["output", "ffn-branch", "attention-branch", "attention-residual", "qkv"]
Kept = Int[Tensor, "batch kept"] | None


@dataclass(frozen=True)
class Target:
    """What is copied, and from which block.

    `block` counts the teacher's blocks from 1 (negative: from the end); 0 follows the paper: the last of a teacher as deep as
    the student, else three quarters of the teacher's depth. The student's block is its last. `place` says which feature
    kind "feature" copies: the block's output, its feed-forward branch before the residual sum, its attention branch before
    or after that sum, or queries, keys and values. `loss` is that of kind "cls", which the paper writes as a divergence of
    features and does not spell out: "kl" takes the softmax of both, "smooth_l1" is what kind "feature" uses.
    """

    kind: Literal["relations", "cls", "feature"] = "relations"
    block: int = 0
    relations: Relations = Relations()
    place: Place = "output"
    loss: Literal["kl", "smooth_l1"] = "kl"


def target_block(target: Target, *, teacher_depth: int, student_depth: int) -> int:
    """The teacher's block that is read, from 1. Raises ModelError for one that does not exist.

    >>> target_block(Target(), teacher_depth=24, student_depth=12), target_block(Target(), teacher_depth=12, student_depth=12)
    (18, 12)
    """
    if target.block:
        return number_of(target.block, teacher_depth)
    if target.kind == "cls":
        return teacher_depth
    return teacher_depth if teacher_depth == student_depth else max(1, round(0.75 * teacher_depth))


def read_target(model: nn.Module, images: Tensor, target: Target, block: int, *, kept: Kept = None) -> Tensor:
    """What the target needs of a model, as one tensor that can be stored: nothing behind it is computed.

    Relations and place "qkv": batch x 3 x heads x tokens x width. Other features and "cls": batch x tokens x width.
    """
    vit = vision_transformer_in(model)
    if target.kind == "relations" or (target.kind == "feature" and target.place == "qkv"):
        found = run_up_to(model, images, block, kept=kept).attention
        return torch.stack([found.query, found.key, found.value], dim=1)
    blocks = attention_blocks(model)
    layer: nn.Module = blocks[block - 1]
    if target.kind == "cls":
        last = block == len(blocks)
        tokens = run_to(model, images, vit.norm if last else layer, kept=kept)  # pyright: ignore[reportArgumentType]
        return tokens[:, :1]
    if target.place == "attention-residual":
        return run_to(model, images, layer.norm2, entering=True, kept=kept)  # pyright: ignore[reportArgumentType]
    # LayerScale closes each branch (an identity where a model has none); what follows it is drop path and the sum.
    module = {"output": layer, "ffn-branch": layer.ls2, "attention-branch": layer.ls1}[target.place]
    return run_to(model, images, module, kept=kept)  # pyright: ignore[reportArgumentType]


class Comparison(nn.Module):
    """The loss between what was read of a student and of a teacher, with the linear maps that some targets need.

    The maps are the student's side of features of another width; they are thrown away after the distillation.
    """

    def __init__(
        self,
        target: Target,
        *,
        student_width: int,
        teacher_width: int,
        student_prefix: int,
        teacher_prefix: int,
        student_heads: int,
        teacher_heads: int,
    ) -> None:
        super().__init__()
        self.target = target
        self.prefixes = (student_prefix, teacher_prefix)
        self.heads = (student_heads, teacher_heads)
        needed = {"relations": 0, "cls": 1}.get(target.kind, 3 if target.place == "qkv" else 1)
        if target.kind == "cls" and min(self.prefixes) == 0:
            raise ModelError("one of the models has no class token", remedy="choose target feature or relations")
        self.maps = nn.ModuleList(nn.Linear(student_width, teacher_width) for _ in range(needed))
        for layer in self.maps:
            nn.init.xavier_uniform_(layer.weight)  # pyright: ignore
            nn.init.zeros_(layer.bias)  # pyright: ignore

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Float[Tensor, ""]]:
        """Loss terms by name. `student` and `teacher` are what `read_target` gave for the same images and patches."""
        target = self.target
        if target.kind == "relations":
            sides = [
                matched(as_attention(part), target.relations, prefix=prefix)
                for part, prefix in zip((student, teacher), self.prefixes, strict=True)
            ]
            return dict(relation_losses(sides[0], sides[1], target.relations))
        if target.kind == "cls":
            return {"cls": class_token_loss(self.maps[0](student), teacher, target.loss)}
        if target.place == "qkv":
            student, teacher = (part.transpose(2, 3).flatten(3) for part in (student, teacher))
            parts = zip("qkv", student.unbind(1), teacher.unbind(1), self.maps, strict=True)
            return {name: feature_loss(layer(mine), wanted) for name, mine, wanted, layer in parts}
        if student.shape[1] != teacher.shape[1]:
            student, teacher = (
                part[:, prefix:] for part, prefix in zip((student, teacher), self.prefixes, strict=True)
            )
        return {"feature": feature_loss(self.maps[0](student), teacher)}


def as_attention(stored: Tensor) -> Attention:
    """What `read_target` stored of relations, for arithmetic on it."""
    query, key, value = stored.unbind(1)
    return Attention(query, key, value, query.shape[3] ** -0.5)


def feature_loss(mapped: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """Smooth L1 (beta 2) to the teacher's feature, normalised without affine parameters (equations 7 and 8).

    The mean is over tokens and channels.
    """
    teacher = teacher.float()
    return F.smooth_l1_loss(mapped.float(), F.layer_norm(teacher, teacher.shape[-1:]), beta=2.0)


def class_token_loss(mapped: Tensor, teacher: Tensor, loss: Literal["kl", "smooth_l1"]) -> Float[Tensor, ""]:
    """The class token's divergence KL(teacher || student) of softmaxed features (equation 6), or its smooth L1."""
    if loss == "smooth_l1":
        return feature_loss(mapped, teacher)
    teacher = teacher.float()
    wanted = F.log_softmax(F.layer_norm(teacher, teacher.shape[-1:]), dim=-1).flatten(0, 1)
    return F.kl_div(F.log_softmax(mapped.float(), dim=-1).flatten(0, 1), wanted, log_target=True, reduction="batchmean")


def vision_transformer_in(model: nn.Module) -> nn.Module:
    """The timm vision transformer inside an encoder or classifier, with one sequence of tokens from block to block.

    Raises ModelError that says what was seen: a convolutional net has no attention, Swin attends within windows.
    """
    attention_blocks(model)
    for module in model.modules():
        if isinstance(getattr(module, "blocks", None), nn.Sequential) and hasattr(module, "num_prefix_tokens"):
            return module
    raise ModelError(
        f"{type(getattr(model, 'inner', model)).__name__} attends within windows; token relations need one sequence",
        remedy="give a timm VisionTransformer or DeiT",
    )
