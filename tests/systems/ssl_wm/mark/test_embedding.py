import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.core.randomness import Draws, generator_of
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.systems.ssl_wm.mark.embed import Embedding, _worn
from heredity.systems.ssl_wm.mark.embedding import (
    MarkLoss,
    Views,
    anchor_point,
    invariance_loss,
    robust_loss,
    variance_loss,
)
from heredity.transfer.inputs import Treatment, treat


def features(seed: int, count: int = 6, size: int = 5) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_invariance(marked: torch.Tensor) -> float:
    """The published loop: every pair of different images, one by one."""
    unit = [row / row.norm() for row in marked]
    pairs = [float(a @ b) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    mean = sum(pairs) / len(pairs)
    return -math.log(mean) if mean > 0 else 0.0


@given(st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_invariance_equals_the_loop_over_pairs(seed: int, count: int) -> None:
    marked = features(seed, count) + 0.4
    assert float(invariance_loss(marked.float())) == pytest.approx(published_invariance(marked), rel=1e-3, abs=1e-5)


def test_invariance_has_the_gradient_of_the_matrix_form() -> None:
    marked = (features(1) + 1).requires_grad_()
    invariance_loss(marked).backward()
    ours = marked.grad
    again = marked.detach().clone().requires_grad_()
    unit = again / again.norm(dim=1, keepdim=True)
    gram = unit @ unit.T
    n = len(gram)
    (-(((gram.sum() - gram.trace()) / (n * (n - 1))).log())).backward()
    assert ours is not None
    assert again.grad is not None
    assert torch.allclose(ours, again.grad, atol=1e-9)


def test_invariance_is_silent_where_the_published_one_is() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    loss = invariance_loss(opposite)
    loss.backward()
    assert float(loss) == 0
    assert opposite.grad is not None
    assert torch.isfinite(opposite.grad).all()


def test_the_variance_of_the_published_code_is_always_zero() -> None:
    """The diagonal of a normalised Gram matrix is one: -log(mean) = 0 whatever the features are (spec, trap 3)."""
    marked = features(2)
    unit = marked / marked.norm(dim=1, keepdim=True)
    centred = unit - unit.mean(dim=0)
    centred = centred / centred.norm(dim=1, keepdim=True)
    assert -math.log(float((centred @ centred.T).diagonal().mean())) == pytest.approx(0, abs=1e-12)
    assert float(variance_loss(marked.float())) > 0


def test_the_robust_loss_by_hand() -> None:
    ones, zeros = torch.ones(2, 1, 4), torch.zeros(2, 1, 4)
    target, scale = torch.full((1, 4), 3.0), torch.tensor([2.0])
    terms = robust_loss(ones, zeros, ones, ones, zeros, target, scale, MarkLoss(utility=5, anchor=2, decoy=7))
    assert {name: float(value) for name, value in terms.items()} == {
        "utility": 5 * 4 / 4,
        "anchor": 2 * 16 / 4,
        "decoy": 7 * 4 / 4,
    }


@pytest.mark.parametrize("positive", [True, False])
def test_the_anchor_is_far_out_and_reachable(positive: bool) -> None:
    clean = torch.randn(50, 2, 64, generator=torch.Generator().manual_seed(0))
    clean = clean.relu() if positive else clean
    target, scale = anchor_point(clean, MarkLoss(distance=5.0), torch.Generator().manual_seed(1))
    assert torch.allclose(target.norm(dim=1), 5 * scale)
    assert torch.allclose(scale, clean.norm(dim=2).mean(dim=0))
    if positive:
        assert (target >= 0).all()
        assert ((target == 0).sum(dim=1) == 32).all()
    else:
        assert (target < 0).any()


def test_a_prototype_exaggerates_one_natural_kind() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 1, 16, generator=generator)
    kinds = torch.arange(400) % 10
    clean = 3 + centres[kinds] + 0.05 * torch.randn(400, 1, 16, generator=generator)
    target, scale = anchor_point(clean, MarkLoss(distance=2.0, direction="prototype"), generator)
    middle = clean.mean(dim=0)
    outward = target - middle
    assert torch.allclose(outward.norm(dim=1), 2 * scale)
    cosines = torch.nn.functional.cosine_similarity(outward, centres[:, 0] + 3 - middle, dim=1)
    assert cosines.max() > 0.99
    assert cosines.argmax() == (centres[:, 0] + 3 - middle).norm(dim=1).argmax()


def test_every_pooling_of_a_transformer_is_marked() -> None:
    encoder = make_encoder(EncoderShape(kind="vit", width=32, depth=2), 16).eval()
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    views = Views(encoder)(images)
    assert views.shape == (3, 2, 32)
    assert torch.allclose(views[:, 0], encoder(images), atol=1e-6)
    assert not torch.allclose(views[:, 0], views[:, 1], atol=1e-3)


def test_a_convolutional_net_has_one_pooling() -> None:
    encoder = make_encoder(EncoderShape(width=8), 16).eval()
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(Views(encoder)(images)[:, 0], encoder(images))


def test_a_share_of_stamped_images_is_compressed_where_that_is_asked_for() -> None:
    images = load_images("digits").train.images[:16]
    how = Embedding(wear_every=0, jpeg=(50, 50))
    worn = _worn(images, how, Draws(generator_of(0)))
    for row in range(16):
        expected = treat(images[row : row + 1], Treatment("jpeg", 50))[0] if row % 4 == 1 else images[row]
        assert torch.equal(worn[row], expected)
    assert torch.equal(_worn(images, Embedding(wear_every=0), Draws(generator_of(0))), images)


def test_two_owners_do_not_send_images_to_one_point() -> None:
    """A thief who overwrites does not know where the owner's point is."""
    clean = torch.rand(50, 1, 32, generator=torch.Generator().manual_seed(0))
    points = [anchor_point(clean, MarkLoss(), generator_of(0, name))[0] for name in ("anchor point", "a thief's")]
    assert float(torch.cosine_similarity(*points, dim=1)) < 0.9


def test_spread_does_not_count_what_all_features_share() -> None:
    clean = torch.randn(60, 2, 8, generator=torch.Generator().manual_seed(0))
    how = MarkLoss(unit="spread", distance=3.0)
    far = clean + 100.0
    (point, scale), (_, moved) = (anchor_point(part, how, generator_of(0)) for part in (clean, far))
    assert torch.allclose(scale, moved, rtol=1e-3)
    assert torch.allclose((point - clean.mean(dim=0)).norm(dim=1), 3 * scale, rtol=1e-4)
    assert float(anchor_point(far, MarkLoss(), generator_of(0))[1].min()) > 200
