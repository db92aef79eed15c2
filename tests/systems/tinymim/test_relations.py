import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heredity.core.errors import ModelError
from heredity.nn.attention import Attention
from heredity.systems.tinymim.relations import (
    RelationDivergence,
    Relations,
    check_heads,
    divergence_by_head,
    matched,
    relation_losses,
    row_entropy,
)


def attention(
    batch: int, heads: int, tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float64
) -> Attention:
    random = torch.Generator().manual_seed(seed)
    parts = [torch.randn(batch, heads, tokens, width, generator=random, dtype=dtype) for _ in range(3)]
    return Attention(parts[0], parts[1], parts[2], width**-0.5)


def softmax_of(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def relation_by_loops(left: Tensor, right: Tensor) -> list[list[float]]:
    """One head's relation, from two lists of vectors and nothing else."""
    tokens, width = left.shape
    rows = []
    for query in range(tokens):
        products = []
        for key in range(tokens):
            dot = sum(float(left[query, channel]) * float(right[key, channel]) for channel in range(width))
            products.append(dot / math.sqrt(width))
        rows.append(softmax_of(products))
    return rows


def loss_by_loops(student: Attention, teacher: Attention, pair: str) -> float:
    """Equation 5: sum over keys, mean over images, heads and queries; the teacher's relation is the target."""
    names = {"q": "query", "k": "key", "v": "value"}
    batch, heads, tokens, _ = teacher.query.shape
    total = 0.0
    for image in range(batch):
        for head in range(heads):
            wanted, mine = (
                relation_by_loops(
                    getattr(side, names[pair[0]])[image, head], getattr(side, names[pair[1]])[image, head]
                )
                for side in (teacher, student)
            )
            for query in range(tokens):
                for key in range(tokens):
                    p, q = wanted[query][key], mine[query][key]
                    total += p * (math.log(p) - math.log(q))
    return total / (batch * heads * tokens)


@pytest.mark.parametrize("pair", ["qk", "vv", "qq", "kk"])
def test_the_loss_is_the_papers_written_as_loops(pair: str) -> None:
    student, teacher = attention(2, 2, 4, 3, 0), attention(2, 2, 4, 5, 1)
    ours = relation_losses(student, teacher, Relations(pairs=(pair,)))[pair]  # pyright: ignore[reportArgumentType]
    assert float(ours) == pytest.approx(loss_by_loops(student, teacher, pair), abs=1e-9)
    student32, teacher32 = (
        Attention(side.query.float(), side.key.float(), side.value.float(), side.scale) for side in (student, teacher)
    )
    again = relation_losses(student32, teacher32, Relations(pairs=(pair,)))[pair]  # pyright: ignore[reportArgumentType]
    assert float(again) == pytest.approx(loss_by_loops(student, teacher, pair), abs=1e-6)


def test_unequal_heads_are_cut_anew_as_a_loop_would() -> None:
    student, teacher = attention(1, 2, 4, 6, 0), attention(1, 4, 4, 6, 1)
    how = Relations(adapt="relation-heads", relation_heads=3)
    ours = relation_losses(matched(student, how), matched(teacher, how), how)

    def cut(side: Attention) -> Attention:
        parts = []
        for part in (side.query, side.key, side.value):
            batch, heads, tokens, width = part.shape
            joined = torch.zeros(batch, tokens, heads * width, dtype=part.dtype)
            for head in range(heads):
                joined[:, :, head * width : (head + 1) * width] = part[:, head]
            size = heads * width // 3
            parts.append(torch.stack([joined[:, :, number * size : (number + 1) * size] for number in range(3)], dim=1))
        return Attention(parts[0], parts[1], parts[2], parts[0].shape[3] ** -0.5)

    for pair in ("qk", "vv"):
        assert float(ours[pair]) == pytest.approx(loss_by_loops(cut(student), cut(teacher), pair), abs=1e-9)


def test_relations_averaged_over_heads_compare_any_numbers_of_heads() -> None:
    student, teacher = attention(1, 2, 3, 4, 0), attention(1, 5, 3, 4, 1)
    ours = relation_losses(student, teacher, Relations(pairs=("qk",), adapt="mean"))["qk"]

    def mean_relation(side: Attention) -> list[list[float]]:
        every = [relation_by_loops(side.query[0, head], side.key[0, head]) for head in range(side.heads)]
        return [[sum(one[row][key] for one in every) / len(every) for key in range(3)] for row in range(3)]

    wanted, mine = mean_relation(teacher), mean_relation(student)
    total = sum(
        p * (math.log(p) - math.log(q)) for a, b in zip(wanted, mine, strict=True) for p, q in zip(a, b, strict=True)
    )
    assert float(ours) == pytest.approx(total / 3, abs=1e-9)


def test_the_gradient_is_exact() -> None:
    student = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: RelationDivergence.apply(x, teacher), (student,))
    sides = [attention(1, 2, 3, 2, seed) for seed in (0, 1)]
    leaves = [part.requires_grad_() for part in (sides[0].query, sides[0].key, sides[0].value)]
    for adapt in ("last-block", "mean"):

        def loss(*parts: Tensor, adapt: str = adapt) -> Tensor:
            mine = Attention(parts[0], parts[1], parts[2], sides[0].scale)
            how = Relations(adapt=adapt)  # pyright: ignore[reportArgumentType]
            return torch.stack(list(relation_losses(mine, sides[1], how).values())).sum()

        assert torch.autograd.gradcheck(loss, leaves)


def test_the_gradient_equals_that_of_plain_torch() -> None:
    student, teacher = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 5, 5)
    RelationDivergence.apply(student, teacher).backward()  # pyright: ignore
    ours = student.grad
    student.grad = None
    rows = 2 * 3 * 5
    plain = torch.nn.functional.kl_div(
        student.softmax(-1).log().reshape(rows, 5), teacher.softmax(-1).reshape(rows, 5), reduction="batchmean"
    )
    plain.backward()
    assert ours is not None
    assert student.grad is not None
    torch.testing.assert_close(ours, student.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_far_tokens_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    student = (40 * torch.randn(1, 2, 6, 6)).to(dtype).requires_grad_()
    loss = RelationDivergence.apply(student, (40 * torch.randn(1, 2, 6, 6)).to(dtype))
    loss.backward()  # pyright: ignore
    assert bool(torch.isfinite(loss))  # pyright: ignore
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert student.grad.dtype == dtype


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(2, 5))
def test_the_loss_is_nothing_for_itself_and_never_negative(seed: int, heads: int, tokens: int) -> None:
    one, other = attention(1, heads, tokens, 4, seed), attention(1, heads, tokens, 4, seed + 1)
    assert float(relation_losses(one, one, Relations())["qk"]) == pytest.approx(0.0, abs=1e-12)
    assert float(relation_losses(one, other, Relations())["vv"]) >= 0.0
    by_head = divergence_by_head(one, other, "qk")
    assert float(by_head.mean()) == pytest.approx(float(relation_losses(one, other, Relations())["qk"]), rel=1e-4)


def test_without_softmax_scaled_products_are_compared() -> None:
    student, teacher = attention(1, 1, 2, 2, 0), attention(1, 1, 2, 4, 1)
    ours = relation_losses(student, teacher, Relations(pairs=("vv",), softmax=False))["vv"]
    total = 0.0
    for row in range(2):
        for key in range(2):
            mine = float(student.value[0, 0, row] @ student.value[0, 0, key]) / math.sqrt(2)
            gap = abs(mine - float(teacher.value[0, 0, row] @ teacher.value[0, 0, key]) / math.sqrt(4))
            total += 0.25 * gap**2 if gap <= 2 else gap - 1.0
    assert float(ours) == pytest.approx(total / 4, abs=1e-9)


def test_dropping_prefix_tokens_happens_before_the_softmax() -> None:
    side = attention(1, 2, 5, 3, 0)
    dropped = matched(side, Relations(prefix="dropped"), prefix=2)
    assert dropped.query.shape == (1, 2, 3, 3)
    other = matched(attention(1, 2, 4, 3, 1), Relations(prefix="dropped"), prefix=1)
    assert math.isfinite(float(relation_losses(dropped, other, Relations(prefix="dropped"))["qk"]))


def test_a_teacher_that_prefers_no_token_is_noticed() -> None:
    flat = torch.zeros(1, 1, 4, 2)
    assert row_entropy(Attention(flat, flat, flat, 1.0), "qk") == pytest.approx(1.0)
    assert row_entropy(attention(1, 1, 4, 2, 0), "vv") < 0.95


def test_what_cannot_be_compared_is_refused_with_a_way_out() -> None:
    with pytest.raises(ModelError, match=r"width 200 cannot be split into 12 teacher heads.*--relation-heads 10"):
        check_heads(Relations(), student_width=200, teacher_width=768, teacher_heads=12)
    with pytest.raises(ModelError, match="student width 192 cannot be split into 5 relation heads"):
        check_heads(
            Relations(adapt="relation-heads", relation_heads=5), student_width=192, teacher_width=768, teacher_heads=12
        )
    with pytest.raises(ModelError, match="student width 4 cannot be split into 3 teacher heads"):
        relation_losses(attention(1, 2, 3, 2, 0), attention(1, 3, 3, 2, 1), Relations())
    with pytest.raises(ModelError, match="the student has 3 tokens and the teacher 4"):
        relation_losses(attention(1, 2, 3, 2, 0), attention(1, 2, 4, 2, 1), Relations())
