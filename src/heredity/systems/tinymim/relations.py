"""What TinyMIM passes on: how a teacher's tokens relate to each other (paper, section 3.1, equations 5 and 9).

Per head, R_ab = softmax(a b^T / sqrt(d)) over keys, for pairs (a, b) out of query, key and value. The student's R is drawn to
the teacher's by the Kullback-Leibler divergence KL(teacher || student): summed over keys, averaged over images, heads and
query tokens. d is each network's own width per head.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from heredity.core.errors import ModelError
from heredity.nn.attention import Attention

Pair = Literal["qk", "vv", "qq", "kk"]
Logits = Float[Tensor, "batch heads tokens tokens"]


@dataclass(frozen=True)
class Relations:
    """Which relations are compared, and how.

    `pairs` are the published query-key and value-value, or qq, kk and vv. `softmax` False compares the scaled products
    themselves by smooth L1 (an ablation whose formula the paper does not give). `adapt` says what happens where the networks'
    numbers of heads differ: "last-block" gives the student's last block the teacher's (the paper), "relation-heads" cuts both
    sides into `relation_heads` (as MiniLM v2), "mean" averages relations over the heads of each side. Tokens before the
    patches (class, distillation, registers) take part unless `prefix` is "dropped".
    """

    pairs: tuple[Pair, ...] = ("qk", "vv")
    softmax: bool = True
    adapt: Literal["last-block", "relation-heads", "mean"] = "last-block"
    relation_heads: int = 0
    prefix: Literal["kept", "dropped"] = "kept"


class RelationDivergence(torch.autograd.Function):
    """KL(softmax(teacher) || softmax(student)), summed over keys and averaged over rows; the teacher gets no gradient.

    d loss / d student logits is exactly (R^student - R^teacher) / rows, so that difference is all that is kept for the way
    back. Logarithms come from `log_softmax`: no underflow, whatever the precision that the logits came in.
    """

    @staticmethod
    def forward(ctx: Any, student: Logits, teacher: Logits) -> Float[Tensor, ""]:
        """The divergence, in float32 at least."""
        kind = torch.promote_types(student.dtype, torch.float32)
        log_student = F.log_softmax(student, dim=-1, dtype=kind)
        log_teacher = F.log_softmax(teacher, dim=-1, dtype=kind)
        relation = log_teacher.exp()
        rows = student.shape[0] * student.shape[1] * student.shape[2]
        loss = torch.dot(relation.flatten(), log_teacher.sub_(log_student).flatten()) / rows
        ctx.rows, ctx.kind = rows, student.dtype
        ctx.save_for_backward(log_student.exp_().sub_(relation))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Float[Tensor, ""]) -> tuple[Tensor, None]:  # pyright: ignore
        """(R^student - R^teacher) / rows."""
        (difference,) = ctx.saved_tensors
        return (difference * (upstream / ctx.rows)).to(ctx.kind), None


def products(attention: Attention, pair: Pair) -> Logits:
    """a b^T / sqrt(d) of a pair, before the softmax.

    >>> part = torch.eye(4).reshape(1, 1, 4, 4)
    >>> products(Attention(part, part, part, 0.5), "vv")[0, 0, 0].tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    parts = {"q": attention.query, "k": attention.key, "v": attention.value}
    return parts[pair[0]] * attention.scale @ parts[pair[1]].transpose(-2, -1)


def relation_losses(student: Attention, teacher: Attention, how: Relations) -> dict[str, Float[Tensor, ""]]:
    """The loss of each pair, by its name; TinyMIM adds them up with weight 1.

    Raises ModelError when the sides have different tokens or heads (see `matched` for the latter).
    """
    if student.query.shape[2] != teacher.query.shape[2]:
        raise ModelError(
            f"the student has {student.query.shape[2]} tokens and the teacher {teacher.query.shape[2]}",
            remedy="give both the same grid of patches; `prefix: dropped` leaves class and register tokens out",
        )
    losses: dict[str, Tensor] = {}
    for pair in how.pairs:
        mine, wanted = products(student, pair), products(teacher, pair)
        if how.adapt == "mean":
            mine = _mean_over_heads(mine)
            wanted = _mean_over_heads(wanted)
        if mine.shape != wanted.shape:
            raise _different_heads(student.heads, teacher.heads, student.heads * student.query.shape[3])
        if how.softmax:
            losses[pair] = RelationDivergence.apply(mine, wanted)  # pyright: ignore[reportAssignmentType]
        else:
            losses[pair] = F.smooth_l1_loss(mine, wanted, beta=2.0)
    return losses


def _mean_over_heads(logits: Logits) -> Float[Tensor, "batch 1 tokens tokens"]:
    """Logits of the relation averaged over heads: its logarithm, whose rows still sum to 1 after a softmax."""
    logs = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return logs.logsumexp(dim=1, keepdim=True) - math.log(logits.shape[1])


def matched(attention: Attention, how: Relations, *, prefix: int = 0) -> Attention:
    """One side, cut and trimmed as the comparison wants it. Raises ModelError when its width does not divide."""
    if how.adapt == "relation-heads":
        attention = attention.with_heads(how.relation_heads)
    if how.prefix == "dropped" and prefix:
        query, key, value = (part[:, :, prefix:] for part in (attention.query, attention.key, attention.value))
        attention = Attention(query, key, value, attention.scale)
    return attention


def check_heads(how: Relations, *, student_width: int, teacher_width: int, teacher_heads: int) -> None:
    """Refuse at once what cannot be compared. Raises ModelError that names the alternatives."""
    if how.adapt == "last-block" and student_width % teacher_heads:
        raise _different_heads(0, teacher_heads, student_width)
    if how.adapt == "relation-heads":
        for side, width in (("student", student_width), ("teacher", teacher_width)):
            if how.relation_heads < 1 or width % how.relation_heads:
                shared = math.gcd(student_width, teacher_width)
                fits = [count for count in range(1, 65) if shared % count == 0]
                raise ModelError(
                    f"{side} width {width} cannot be split into {how.relation_heads} relation heads",
                    remedy="choose --relation-heads from " + ", ".join(map(str, fits)),
                )


def _different_heads(student_heads: int, teacher_heads: int, width: int) -> ModelError:
    have = f"{student_heads} student heads cannot be compared with {teacher_heads} of the teacher"
    if width % teacher_heads:
        have = f"student width {width} cannot be split into {teacher_heads} teacher heads"
    shared = max(count for count in range(1, teacher_heads + 1) if width % count == 0)
    return ModelError(
        have,
        remedy=f"choose a width divisible by {teacher_heads}, or --adapt relation-heads --relation-heads {shared}, "
        "or --adapt mean",
    )


def divergence_by_head(student: Attention, teacher: Attention, pair: Pair) -> Float[Tensor, "heads"]:
    """KL(teacher || student) of each head, for the report."""
    log_student, log_teacher = (products(side, pair).float().log_softmax(dim=-1) for side in (student, teacher))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1).mean(dim=(0, 2))


def row_entropy(attention: Attention, pair: Pair) -> float:
    """Mean entropy of the relation's rows as a share of the largest possible: 1 says that no token prefers another."""
    logs = products(attention, pair).float().log_softmax(dim=-1)
    return float(-(logs.exp() * logs).sum(dim=-1).mean()) / math.log(max(2, logs.shape[-1]))
