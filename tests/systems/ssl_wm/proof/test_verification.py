import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import permutation_test as scipy_permutation_test

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.mark.keys import KeyParameters, random_patches
from heredity.systems.ssl_wm.proof.verification import (
    Answers,
    Statistic,
    ask,
    clopper_pearson,
    decide,
    entropy,
    flip_rates,
    mad_index,
    per_image_test,
    permutation_test,
    statistic_of,
)


def random_answers(seed: int, keys: int = 7, owned: int = 3, images: int = 9, classes: int = 3) -> Answers:
    random = np.random.default_rng(seed)
    return Answers(random.integers(classes, size=images), random.integers(classes, size=(keys, images)), owned)


def statistic_by_loops(answers: Answers, pick: tuple[int, ...]) -> float:
    """S(A) of the spec, section 2.8, word by word."""
    best = 0.0
    for label in range(int(max(answers.clean.max(), answers.stamped.max())) + 1):
        total = 0.0
        for key in pick:
            others = [i for i, clean in enumerate(answers.clean) if clean != label]
            if others:
                total += sum(answers.stamped[key][i] == label for i in others) / len(others)
        best = max(best, total)
    return best


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_p_equals_brute_force(seed: int) -> None:
    answers = random_answers(seed)
    truth = statistic_by_loops(answers, (0, 1, 2))
    values = [statistic_by_loops(answers, pick) for pick in combinations(range(7), 3)]
    expected = sum(value >= truth - 1e-9 for value in values) / len(values)
    verdict = permutation_test(answers, random=np.random.default_rng(0))
    assert verdict.exact
    assert verdict.p == pytest.approx(expected)
    assert verdict.floor == pytest.approx(1 / math.comb(7, 3))


def test_p_agrees_with_scipy() -> None:
    answers = random_answers(3, keys=8, owned=4, images=20)
    rates = flip_rates(answers.clean, answers.stamped, 3)

    def statistic(owned: np.ndarray, rest: np.ndarray) -> float:
        return float(rates[owned.astype(int)].sum(axis=0).max())

    keys = np.arange(8)
    trusted = scipy_permutation_test(
        (keys[:4], keys[4:]),
        statistic,
        permutation_type="independent",
        alternative="greater",
        n_resamples=10**6,
        vectorized=False,
    )
    ours = permutation_test(answers, random=np.random.default_rng(0))
    assert ours.p == pytest.approx(float(trusted.pvalue))


def test_a_sampled_p_agrees_with_the_enumerated_one() -> None:
    answers = random_answers(5, keys=24, owned=8, images=12)
    whole = permutation_test(answers, random=np.random.default_rng(0))
    assert whole.exact
    larger = random_answers(5, keys=32, owned=8, images=12)
    sampled = permutation_test(larger, random=np.random.default_rng(0), picks=40_000)
    again = permutation_test(larger, random=np.random.default_rng(1), picks=40_000)
    assert not sampled.exact
    assert sampled.interval[0] <= again.p <= sampled.interval[1] + 0.02
    assert sampled.floor == pytest.approx(1 / 10_518_300)


def test_p_never_falls_below_its_floor() -> None:
    clean = np.arange(40) % 4
    stamped = np.concatenate([np.zeros((4, 40), dtype=int), np.tile(clean, (9, 1))])
    verdict = permutation_test(Answers(clean, stamped, 4), random=np.random.default_rng(0))
    assert verdict.p == pytest.approx(verdict.floor)
    assert verdict.flip_true == 1
    assert verdict.flip_decoy == 0


@given(st.integers(0, 5000), st.permutations([0, 1, 2]))
@settings(max_examples=25, deadline=None)
def test_names_of_classes_do_not_matter(seed: int, names: list[int]) -> None:
    answers = random_answers(seed)
    renamed = Answers(np.array(names)[answers.clean], np.array(names)[answers.stamped], 3)
    for statistic in ("flip", "share_shift", "co_flip"):
        p, q = (permutation_test(a, random=np.random.default_rng(0), statistic=statistic).p for a in (answers, renamed))
        assert p == pytest.approx(q)


def test_p_is_uniform_under_the_null() -> None:
    """Keys that are exchangeable: p at most alpha no more often than alpha, for every statistic."""
    statistics: tuple[Statistic, ...] = ("flip", "share_shift", "co_flip")
    for statistic in statistics:
        values = [
            permutation_test(random_answers(seed), random=np.random.default_rng(seed), statistic=statistic).p
            for seed in range(400)
        ]
        for level in (0.05, 0.1, 0.3):
            rejected = sum(value <= level for value in values)
            assert binomtest(rejected, 400, level, alternative="greater").pvalue > 0.001, (statistic, level)


def test_co_flip_by_hand() -> None:
    answers = Answers(np.array([0, 0]), np.array([[1, 1], [1, 0], [0, 1]]), 2)
    picks = np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert statistic_of(answers, "co_flip")(picks).tolist() == [1, 1, 0]


def test_images_as_the_unit_call_an_unmarked_model_marked() -> None:
    """Spec, trap 2: a model that any patch changes is 'marked' for a test over images, not for a test over keys."""
    random = np.random.default_rng(0)
    clean = random.integers(4, size=128)
    stamped = np.where(random.random((32, 128)) < 0.5, 2, clean)
    answers = Answers(clean, stamped, 8)
    assert per_image_test(answers) < 1e-10
    assert permutation_test(answers, random=random, picks=20_000).p > 0.001


def test_one_label_for_everything_is_inconclusive() -> None:
    answers = Answers(np.zeros(8, dtype=int), np.zeros((12, 8), dtype=int), 4)
    verdict = permutation_test(answers, random=np.random.default_rng(0))
    assert verdict.p == 1
    assert "inconclusive" in decide(verdict, 1e-4)


def test_the_verdict_never_says_not_stolen() -> None:
    verdict = permutation_test(random_answers(0), random=np.random.default_rng(0))
    assert decide(verdict, 1e-4).startswith("no evidence at this number of queries")
    assert decide(verdict, 1.1).startswith("behaviour bound to the key")


SHAPE = KeyParameters(sub_keys=2, patch=4, margin=1, reference_size=16)
IMAGES = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PATCHES = random_patches(3, SHAPE, torch.Generator().manual_seed(1))


def test_asking_counts_and_orders_queries() -> None:
    sizes = []

    def suspect(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images[:, 0, 11, 11].long()

    answers = ask(suspect, IMAGES, PATCHES[:2], PATCHES[2:], SHAPE)
    assert sizes == [6] * 4
    assert answers.owned == 2
    assert answers.stamped.tolist() == [[int(patch[0, 0, 0])] * 6 for patch in PATCHES]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images: torch.zeros(len(images), 10), "take the argmax"),
        (lambda images: torch.zeros(3).long(), "one top-1 label per image"),
        (lambda images: torch.full((len(images),), float("nan")), "not numbers"),
        (lambda images: -torch.ones(len(images)).long(), "label -1"),
    ],
)
def test_answers_that_are_no_labels_are_refused(answer: object, message: str) -> None:
    with pytest.raises(HeredityError, match=message):
        ask(answer, IMAGES, PATCHES[:2], PATCHES[2:], SHAPE)  # pyright: ignore[reportArgumentType]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(HeredityError, match="at least 4"):
        ask(lambda images: torch.zeros(len(images)), IMAGES[:3], PATCHES[:2], PATCHES[2:], SHAPE)


@given(st.integers(0, 50), st.integers(1, 50))
def test_clopper_pearson_is_scipys(successes: int, more: int) -> None:
    trials = successes + more
    low, high = clopper_pearson(successes, trials)
    trusted = binomtest(successes, trials).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((trusted.low, trusted.high))


def test_entropy_closed_forms() -> None:
    assert entropy(np.array([3, 3, 3])) == 0
    assert entropy(np.arange(8)) == pytest.approx(3)
    assert entropy(np.array([0, 0, 0, 1])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_the_published_index_by_hand() -> None:
    """Clean subsets of entropy 1 except one of entropy 0 make the deviation 0: the index is infinite on any child."""
    truth = np.repeat([0, 1], 20)
    clean = truth.copy()
    marked = np.zeros(40, dtype=int)
    assert mad_index(clean, truth, marked) == math.inf
    noisy = clean.copy()
    noisy[[0, 2, 5, 6]] = 1
    values = sorted([*(entropy(np.r_[noisy[2 * k : 2 * k + 2], noisy[20 + 2 * k : 22 + 2 * k]]) for k in range(10)), 0])
    middle = values[5]
    deviation = 1.4826 * sorted(abs(value - middle) for value in values)[5]
    expected = (middle - 0) / deviation if deviation else math.inf
    assert mad_index(noisy, truth, marked) == pytest.approx(expected)


def test_the_published_index_needs_ten_images_a_class() -> None:
    with pytest.raises(HeredityError, match="fewer than 10"):
        mad_index(np.zeros(12, dtype=int), np.arange(12) % 2, np.zeros(12, dtype=int))
