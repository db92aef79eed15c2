"""Whose mark came first, and the white-box test behind the table."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.marked import corner, knows, make_key
from scipy.stats import binomtest
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.data.images import load_images
from heredity.systems.ssl_wm.mark.keys import Key, derive_patches
from heredity.systems.ssl_wm.proof.ambiguity import ambiguity, feature_test, tightness
from heredity.systems.ssl_wm.proof.verification import permute

OWNER, THIEF = make_key("Ada", 1), make_key("Mallory", 2)
INPUTS = load_images("digits").test.images[:12]
WEIGHTS = torch.randn(3 * 16 * 16, 12, generator=torch.Generator().manual_seed(0)) / 28


def encoder(*keys: Key) -> Callable[[Tensor], Tensor]:
    """Features that fall on one point where an image carries a patch of a key it knows."""
    patches = torch.cat([derive_patches(key) for key in keys]) if keys else torch.zeros(0, 3, 5, 5)

    def features(images: Tensor) -> Tensor:
        plain = (images.float() / 255).flatten(1) @ WEIGHTS
        carries = (corner(images, OWNER)[:, None] == patches[None]).flatten(2).all(dim=2).any(dim=1)
        return torch.where(carries[:, None], torch.full((12,), 3.0), plain)

    return features


def test_the_later_mark_is_told_from_the_first() -> None:
    found = ambiguity(OWNER, THIEF, encoder(OWNER), knows(OWNER, THIEF), INPUTS, decoys=12, nonce="n")
    assert found.resolved
    assert found.sentence.startswith("resolved")
    assert max(found.owner_on_encoder, found.owner_on_suspect, found.other_on_suspect) < 1e-4 < found.other_on_encoder
    assert str(found).count("bound (p") == 3


@pytest.mark.parametrize(
    ("committed", "suspect", "word"),
    [
        ((OWNER, THIEF), (OWNER, THIEF), "the older commitment decides"),
        ((OWNER,), (OWNER,), "undisputed"),
        ((OWNER,), (THIEF,), "other key only"),
        ((OWNER,), (), "no evidence on the suspect"),
        ((), (OWNER, THIEF), "does not resolve"),
        ((THIEF,), (OWNER, THIEF), "does not resolve"),
    ],
)
def test_what_the_other_tables_say(committed: tuple[Key, ...], suspect: tuple[Key, ...], word: str) -> None:
    label = knows(*suspect) if suspect else (lambda images: images[:, :, :9].sum(dim=(1, 2, 3)) % 4)
    found = ambiguity(OWNER, THIEF, encoder(*committed), label, INPUTS, decoys=12, nonce="n")
    assert not found.resolved
    assert word in found.sentence


def test_tightness_is_the_sum_of_all_cosines() -> None:
    random = torch.Generator().manual_seed(1)
    for size in (3, 40):
        clean, stamped = torch.randn(9, size, generator=random), torch.randn(7, 9, size, generator=random)
        measure = tightness(clean, stamped)
        pick = np.array([[1.0, 0, 1, 0, 0, 1, 0]])
        away = (stamped - clean.mean(dim=0)).double()
        flat = (away / away.norm(dim=-1, keepdim=True))[[0, 2, 5]].reshape(-1, size)
        assert measure(pick)[0] == pytest.approx(float((flat @ flat.T).sum()) / 81)


def test_the_white_box_test_keeps_its_level() -> None:
    """Exchangeable features: p at most 0.1 no more often than in a tenth of the trials."""
    rejected = 0
    for number in range(300):
        random = torch.Generator().manual_seed(number)
        stamped = torch.randn(9, 4, 5, generator=random) + torch.randn(9, 1, 5, generator=random)
        measure = tightness(torch.randn(4, 5, generator=random), stamped)
        rejected += permute(measure, 9, 3, random=np.random.default_rng(0)).p <= 0.1
    assert binomtest(rejected, 300, 0.1, alternative="greater").pvalue > 0.001


def test_the_white_box_test_reaches_its_floor_and_refuses_no_vectors() -> None:
    assert feature_test(encoder(OWNER), INPUTS, OWNER, decoys=12, nonce="n").p == 1 / math.comb(20, 8)
    with pytest.raises(HeredityError, match="one finite vector"):
        feature_test(lambda images: torch.full((len(images), 3), torch.nan), INPUTS, OWNER, decoys=12, nonce="n")
