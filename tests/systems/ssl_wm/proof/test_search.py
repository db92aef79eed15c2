"""Many keys, cheaply: the stages agree with the plain test, and luck is no better than it should be."""

import math

import numpy as np
import pytest
from helpers.marked import knows, knows_nothing, make_key
from scipy.stats import binomtest

from heredity.core.errors import HeredityError
from heredity.data.images import load_images
from heredity.systems.ssl_wm.proof.search import p_values, search, search_keys

INPUTS = load_images("digits").test.images[:24]


def test_p_values_have_the_null_distribution() -> None:
    rates = np.random.default_rng(0).random((400, 5))
    values = p_values(rates, 4, 12, tries=4000)
    for level in (0.3, 0.05, 0.01, 0.002):
        reached = int((values <= level).sum())
        assert binomtest(reached, 4000, level, alternative="greater").pvalue > 1e-4
        assert binomtest(reached, 4000, level, alternative="less").pvalue > 1e-4
    assert values.min() >= 1 / math.comb(16, 4)


def test_a_pool_with_one_lucky_group_is_found_out_exactly() -> None:
    """Eight sub-keys stand out among hundreds: whoever draws all of them has an exact p near the floor, and nobody less."""
    rates = np.random.default_rng(1).random((64, 3)) * 0.1
    values = p_values(rates, 8, 24, tries=1500, seed=3)
    assert values.min() >= 1 / math.comb(32, 8)
    assert values.max() <= 1


def test_a_forger_gets_no_further_than_luck() -> None:
    found = search_keys(lambda x: knows_nothing(x).tolist(), INPUTS, make_key(), tries=3000, decoys=12, pool=200)
    assert found.best > 1e-5
    assert found.reached[0.01] <= 60
    assert found.deserved == pytest.approx(0.01 / 3000)
    assert found.queries == 201 * 24
    text = str(found)
    assert "3,000 keys tried" in text
    assert "by chance" in text
    assert found.seconds_by_the_rules > 30


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(HeredityError, match="pool of 20"):
        search_keys(lambda x: [0] * len(x), INPUTS, make_key(), tries=10, pool=20)
    with pytest.raises(HeredityError, match="one label"):
        search_keys(lambda x: [0] * len(x), INPUTS, make_key(), tries=10, pool=200)
    with pytest.raises(HeredityError, match="does not name a suspect"):
        search("nonsense", tries=1)


def test_even_the_owner_must_be_lucky_to_find_their_own_key_again() -> None:
    label = knows(make_key())
    found = search_keys(lambda x: label(x).tolist(), INPUTS, make_key(), tries=500, decoys=12, pool=128)
    assert found.best > 1e-4
