"""Black-box verification: is this model's behaviour bound to the owner's key? (spec sections 2.7 and 2.8)

The null hypothesis is that the suspect was made without access to the secret. The owner's sub-keys are then exchangeable
with fresh random patches, so that every way to pick "the owner's" among all of them is equally likely. Counting the picks
that look at least as marked as the true one gives a p-value that holds whatever the model, the task and the images are.
The unit of randomisation is the key, not the image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.stats import beta, binom
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.mark.keys import KeyParameters
from heredity.systems.ssl_wm.mark.trigger import stamp_all

Statistic = Literal["flip", "share_shift", "co_flip"]
Labels = Int[np.ndarray, "..."]
ENUMERATE = 2_000_000
_HALF = 16


@dataclass(frozen=True)
class Answers:
    """What the suspect said: the label of every clean image, and of every image under every key (owner's keys first)."""

    clean: Int[np.ndarray, "images"]
    stamped: Int[np.ndarray, "keys images"]
    owned: int


@dataclass(frozen=True)
class Verdict:
    """The outcome of a verification.

    `p` is the probability, under the null hypothesis, of a statistic at least as large; `floor` the smallest p that so many
    keys can give; `interval` the 95 % Clopper-Pearson interval of a sampled p (equal ends where all picks were enumerated).
    """

    p: float
    floor: float
    interval: tuple[float, float]
    picks: int
    exact: bool
    flip_true: float
    flip_decoy: float
    queries: int
    sentence: str


def ask(
    suspect: Callable[[Tensor], Tensor],
    images: UInt8[Tensor, "n c size size"],
    owned: UInt8[Tensor, "m c side side"],
    decoys: UInt8[Tensor, "k c side side"],
    parameters: KeyParameters,
) -> Answers:
    """Query a suspect (uint8 images -> top-1 labels) with every image clean, under the owner's keys and under the decoys.

    Raises HeredityError for fewer than four images, and for answers that are not one label per image.
    """
    if len(images) < 4:
        raise HeredityError(f"{len(images)} base images are too few", remedy="give at least 4, better 48 or more")
    clean = _labels(suspect(images), len(images))
    stamped = [
        _labels(suspect(stamp_all(images, patch[None], parameters)[0]), len(images))
        for patch in torch.cat([owned, decoys])
    ]
    return Answers(clean, np.stack(stamped), len(owned))


def _labels(answer: object, count: int) -> Int[np.ndarray, "images"]:
    labels = np.asarray(answer.cpu() if isinstance(answer, Tensor) else answer)
    if labels.shape != (count,):
        raise HeredityError(
            f"the suspect answered an array of shape {labels.shape} to {count} images",
            remedy="it must return one top-1 label per image; take the argmax of scores",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise HeredityError("the suspect answered labels that are not numbers", remedy="it must return class numbers")
    if labels.dtype.kind not in "iu":
        labels = np.unique(labels, return_inverse=True)[1] if labels.dtype.kind in "USO" else labels.astype(np.int64)
    if (labels < 0).any():
        raise HeredityError(f"the suspect answered the label {labels.min()}", remedy="labels count from 0")
    return labels.astype(np.int64)


def flip_rates(clean: Labels, stamped: Labels, classes: int) -> Float[np.ndarray, "keys classes"]:
    """r[k, c]: of the images whose clean label is not c, the share that key k turns into c (0 where there are none).

    >>> flip_rates(np.array([0, 1]), np.array([[1, 1]]), 2)
    array([[0., 1.]])
    """
    return np.stack([_rates_of(clean, stamped, label) for label in range(classes)], axis=-1)


def _rates_of(clean: Labels, stamped: Labels, label: int) -> Float[np.ndarray, "keys"]:
    others = clean != label
    return (stamped[..., others] == label).mean(axis=-1) if others.any() else np.zeros(stamped.shape[:-1])


@dataclass(frozen=True)
class Additive:
    """A statistic of a sum over the picked keys: a row of `parts` for each key, and what is made of the summed row."""

    parts: Float[np.ndarray, "keys terms"]
    reduce: Callable[[Float[np.ndarray, "*some terms"]], Float[np.ndarray, "*some"]]

    def __call__(self, picks: Float[np.ndarray, "picks keys"]) -> Float[np.ndarray, "picks"]:
        return self.reduce(picks @ self.parts)


Measure = Callable[[Float[np.ndarray, "picks keys"]], Float[np.ndarray, "picks"]]


def statistic_of(answers: Answers, statistic: Statistic = "flip") -> Measure:
    """The statistic S of picks of keys (rows of ones and zeros), larger meaning more marked.

    "flip": the flip rate into one class, summed over the picked keys, for the class where that is largest. "share_shift":
    squared length of the pooled change of label shares. "co_flip": pairs of picked keys that flip an image to one label.
    """
    classes = int(max(answers.clean.max(), answers.stamped.max())) + 1
    if statistic == "flip":
        return Additive(flip_rates(answers.clean, answers.stamped, classes), lambda sums: sums.max(axis=-1))
    if statistic == "share_shift":
        shares = (answers.stamped[..., None] == np.arange(classes)).mean(axis=1)
        shift = shares - np.bincount(answers.clean, minlength=classes) / len(answers.clean)
        return Additive(shift, lambda sums: np.square(sums).sum(axis=-1))
    moved = (answers.stamped[..., None] == np.arange(classes)) & (answers.clean[:, None] != np.arange(classes))
    flat = moved.reshape(len(moved), -1).astype(float)
    together = flat @ flat.T
    own = np.diag(together)
    return lambda picks: 0.5 * (np.einsum("bi,ij,bj->b", picks, together, picks) - picks @ own)


@dataclass(frozen=True)
class Permutation:
    """p of a statistic over picks of keys; see Verdict for the fields."""

    p: float
    floor: float
    interval: tuple[float, float]
    picks: int
    exact: bool


def permute(
    measure: Measure,
    keys: int,
    owned: int,
    *,
    random: np.random.Generator,
    picks: int = 1_000_000,
    enumerate_up_to: int = ENUMERATE,
) -> Permutation:
    """How many picks of `owned` out of `keys` reach the statistic of the first ones; all picks, or sampled ones where there
    are more than `enumerate_up_to`.

    A sampled p counts the true pick and is never below the floor 1 / C(keys, owned) (spec, traps 1, 2 and 17).
    """
    truth = np.zeros((1, keys))
    truth[0, :owned] = 1
    # A tie that rounding hides would make p too small: compare with a margin far below one image.
    reached = float(measure(truth)[0])
    observed = reached - 1e-9 * max(1.0, abs(reached))
    possible = math.comb(keys, owned)
    floor = 1.0 / possible
    if possible <= enumerate_up_to:
        values = _every_value(measure, keys, owned)
        at_least = sum(int((part >= observed).sum()) for part in values)
        p = at_least / possible
        return Permutation(p, floor, (p, p), possible, True)
    at_least = 0
    for begin in range(0, picks, 20_000):
        part = _random_picks(keys, owned, min(20_000, picks - begin), random)
        at_least += int((measure(part) >= observed).sum())
    return Permutation(max((1 + at_least) / (1 + picks), floor), floor, clopper_pearson(at_least, picks), picks, False)


def permutation_test(
    answers: Answers,
    *,
    random: np.random.Generator,
    picks: int = 1_000_000,
    statistic: Statistic = "flip",
    enumerate_up_to: int = ENUMERATE,
) -> Verdict:
    """The test over all picks of the owner's number of keys; sampled where there are more than `enumerate_up_to`.

    One label for all clean images, or for everything that was asked, leaves the test without power: p = 1, inconclusive.
    """
    measure = statistic_of(answers, statistic)
    keys, owned = len(answers.stamped), answers.owned
    found = permute(measure, keys, owned, random=random, picks=picks, enumerate_up_to=enumerate_up_to)
    rates = flip_rates(answers.clean, answers.stamped, int(max(answers.clean.max(), answers.stamped.max())) + 1)
    best = int(rates[:owned].sum(axis=0).argmax())
    one_label = len(np.unique(answers.clean)) < 2
    return Verdict(
        p=1.0 if one_label else float(found.p),
        floor=found.floor,
        interval=(float(found.interval[0]), float(found.interval[1])),
        picks=found.picks,
        exact=found.exact,
        flip_true=float(rates[:owned, best].mean()),
        flip_decoy=float(rates[owned:].max(axis=1).mean()),
        queries=answers.clean.size + answers.stamped.size,
        sentence="inconclusive: the suspect gives all clean inputs one label" if one_label else "",
    )


def decide(verdict: Verdict, alpha: float) -> str:
    """The verdict in the words of the spec: never "not stolen"."""
    if verdict.sentence:
        return verdict.sentence
    if verdict.p < alpha:
        return (
            "behaviour bound to the key: descent (or access to the secret) is the only explanation the test leaves, "
            f"at level {alpha:g}"
        )
    return f"no evidence at this number of queries (level {alpha:g})"


def _every_value(measure: Measure, keys: int, owned: int) -> Iterator[np.ndarray]:
    """The statistic of every pick, in blocks and in no particular order.

    An additive one of a pick is that of the sum of its part among the first half of the keys and its part among the others:
    ten million picks take a second.
    """
    if not isinstance(measure, Additive) or keys > 2 * _HALF:
        yield from (measure(part) for part in _every_pick(keys, owned))
        return
    first, second = _sums_by_size(measure.parts[: keys // 2]), _sums_by_size(measure.parts[keys // 2 :])
    for size in range(max(0, owned - len(second) + 1), min(owned, len(first) - 1) + 1):
        others = second[owned - size]
        for part in np.array_split(first[size], -(-len(first[size]) * len(others) // 50_000)):
            yield measure.reduce(part[:, None] + others).ravel()


def _sums_by_size(parts: Float[np.ndarray, "keys terms"]) -> list[np.ndarray]:
    """The summed rows of every subset of the keys, by the number of keys in it."""
    subsets = (np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts))) & 1
    sums, sizes = subsets @ parts, subsets.sum(axis=1)
    return [sums[sizes == size] for size in range(len(parts) + 1)]


def _every_pick(keys: int, owned: int) -> Iterator[np.ndarray]:
    picks = combinations(range(keys), owned)
    while chosen := list(islice(picks, 50_000)):
        yield _ones(np.array(chosen, dtype=np.int64).reshape(len(chosen), owned), keys)


def _random_picks(keys: int, owned: int, count: int, random: np.random.Generator) -> Float[np.ndarray, "picks keys"]:
    return _ones(np.argpartition(random.random((count, keys)), owned, axis=1)[:, :owned], keys)


def _ones(chosen: np.ndarray, keys: int) -> Float[np.ndarray, "picks keys"]:
    picks = np.zeros((len(chosen), keys))
    np.put_along_axis(picks, chosen, 1.0, axis=1)
    return picks


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a share.

    >>> low, high = clopper_pearson(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def per_image_test(answers: Answers) -> float:
    """The tempting and wrong test: images as the unit. Kept as the ablation that shows why keys must be the unit.

    p that so many stamped images would carry one label if stamping changed nothing, by a binomial over images and keys,
    with Bonferroni over classes. Any patch that changes the model's mind for a reason of its own makes it small.
    """
    classes = int(max(answers.clean.max(), answers.stamped.max())) + 1
    share = (np.bincount(answers.clean, minlength=classes) + 1) / (len(answers.clean) + classes)
    counts = np.bincount(answers.stamped[: answers.owned].ravel(), minlength=classes)
    tails = binom.sf(counts - 1, counts.sum(), share)
    return float(min(1.0, tails.min() * classes))


def entropy(labels: Labels) -> float:
    """Entropy of the label shares, in bits."""
    shares = np.bincount(labels.ravel()) / labels.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def mad_index(clean: Labels, truth: Labels, marked: Labels, *, subsets: int = 10) -> float:
    """The published statistic (official code): how far the entropy of marked labels lies below that of clean subsets.

    `clean` holds the suspect's labels of unmarked images and `truth` their classes, from which disjoint class-balanced
    subsets are drawn in order; above 2 the paper calls the mark verified. With near-equal entropies the median absolute
    deviation approaches zero and the index means nothing: it is reported, never the verdict.
    """
    rows = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    per_class = min(len(found) for found in rows) // subsets
    if per_class < 1:
        raise HeredityError(f"fewer than {subsets} images in a class", remedy="the MAD index needs a balanced set")
    values = [
        entropy(np.concatenate([clean[found[part * per_class : (part + 1) * per_class]] for found in rows]))
        for part in range(subsets)
    ]
    h_marked = entropy(marked)
    everything = np.array([*values, h_marked])
    middle = np.median(everything)
    deviation = 1.4826 * np.median(np.abs(everything - middle))
    return float((middle - h_marked) / deviation) if deviation > 0 else math.copysign(math.inf, middle - h_marked)
