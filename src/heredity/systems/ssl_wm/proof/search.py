"""Red team: how far does a forger get who tries many keys on a model that was never marked? (spec section 2.9, key search)

Keys cannot be chosen, but secrets can be drawn again and again, and the luckiest kept. Honest simulation of 100 000 tries
would ask for millions of labels; here the labels of a pool of sub-keys are asked once and every try draws its own and its
decoys from the pool. Each try alone has the null distribution exactly; tries share sub-keys and are not independent.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float

from heredity.core.errors import HeredityError
from heredity.core.files import write_json
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of, seed_of
from heredity.data.images import load_images
from heredity.data.text import load_text
from heredity.systems.ssl_wm.mark.derivation import master_of
from heredity.systems.ssl_wm.mark.keys import Key, KeyParameters, generate_key, load_key
from heredity.systems.ssl_wm.proof.modality import modality_of
from heredity.systems.ssl_wm.proof.suspects import local_suspect
from heredity.systems.ssl_wm.proof.verdict import EXACT_PICKS, code_labels
from heredity.systems.ssl_wm.proof.verification import Additive, flip_rates, permute

LEVELS = (0.05, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
_FEW, _MORE = 1000, 20_000
_LOOK_AGAIN, _LOOK_CLOSELY = 0.005, 3e-4


@dataclass(frozen=True)
class Searched:
    """What a search found: the smallest p of all tries, how many tries reached each level, and what it would have cost.

    `deserved` is the level below which a verdict after so many tries counts as one at 0.01 (Bonferroni).
    """

    tries: int
    best: float
    floor: float
    reached: dict[float, int]
    deserved: float
    pool: int
    inputs: int
    queries: int
    seconds_by_the_rules: float

    def __str__(self) -> str:
        rows = "\n".join(
            f"  p <= {level:<7g} {count:>8,} tries, {level * self.tries:>10,.1f} expected by chance"
            for level, count in self.reached.items()
        )
        return (
            f"{self.tries:,} keys tried on {self.inputs} inputs: the smallest p is {self.best:.2g} (floor {self.floor:.2g})\n"
            f"{rows}\n"
            f"  After {self.tries:,} tries p must lie below {self.deserved:.2g} to count as 0.01; about {1 / self.tries:.2g} "
            "is what the luckiest reaches.\n"
            f"  Labels of {self.pool:,} sub-keys were asked once ({self.queries:,} queries) and shared by all tries;\n"
            f"  by the rules the key derivation alone would take {self.seconds_by_the_rules / 3600:.1f} hours."
        )


def search(
    model: Annotated[str, tyro.conf.Positional],
    tries: int = 100_000,
    images: str = "digits",
    size: int = 16,
    like: Path | None = None,
    sub_keys: int = 8,
    decoys: int = 24,
    number: int = 48,
    pool: int = 2048,
    seed: int = 0,
    out: Path | None = None,
) -> Searched:
    """Red team: try many keys on a MODEL that was never marked, and tell what level the luckiest deserves.

    Args:
        model: A classifier that heredity wrote (file:PATH or run:DIR/STAGE), or module:function.
        tries: How many keys.
        images: Base inputs: any data source.
        size: Side of the model's images.
        like: A key whose shape (and modality) the forger's keys shall have.
        sub_keys: Sub-keys of a key, without --like.
        decoys: Decoys of each try.
        number: How many base inputs.
        pool: How many sub-keys are asked for labels, to be shared by all tries.
        seed: Seed of the search.
        out: File for the result as JSON.
    """
    if like is not None:
        shape = load_key(like)
    else:
        side = max(2, size // 4 if size >= 24 else size // 3)
        parameters = KeyParameters(sub_keys=sub_keys, patch=side, margin=max(1, size // 16), reference_size=size)
        shape = generate_key("a forger", parameters)
    if isinstance(shape.parameters, KeyParameters):
        suspect = local_suspect(model, size)
        inputs: Any = load_images(images, size=size).test.images[:number]
    else:
        suspect, source = local_suspect(model, None), load_text(images)
        texts = next(iter(source.tasks.values())).test.sentences if source.tasks else source.corpus
        inputs = list(texts[:number])
    result = search_keys(
        suspect.ask, inputs, shape, tries=tries, decoys=decoys, pool=pool, seed=seed, reporter=Reporter()
    )
    if out is not None:
        write_json(out, asdict(result))
    return result


def search_keys(
    ask: Callable[[Any], list[Any]],
    inputs: Any,
    shape: Key,
    *,
    tries: int,
    decoys: int = 24,
    pool: int = 2048,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Searched:
    """Try random keys of a shape on somebody who answers one label an input. Raises HeredityError for a pool too small."""
    owned = shape.parameters.sub_keys
    if tries < 1 or pool < 2 * (owned + decoys):
        raise HeredityError(
            f"{tries} tries from a pool of {pool} sub-keys",
            remedy=f"at least one try and {2 * (owned + decoys)} sub-keys",
        )
    reporter = reporter or Reporter(quiet=True)
    rates = pool_rates(ask, inputs, shape, pool=pool, seed=seed, reporter=reporter)
    p = p_values(rates, owned, decoys, tries=tries, seed=seed, reporter=reporter)
    began = time.perf_counter()
    master_of(shape.secret, shape.owner, shape.created)
    once = time.perf_counter() - began
    return Searched(
        tries=tries,
        best=float(p.min()),
        floor=1 / math.comb(owned + decoys, owned),
        reached={level: int((p <= level).sum()) for level in LEVELS},
        deserved=0.01 / tries,
        pool=pool,
        inputs=len(inputs),
        queries=(pool + 1) * len(inputs),
        seconds_by_the_rules=once * tries,
    )


def pool_rates(
    ask: Callable[[Any], list[Any]], inputs: Any, shape: Key, *, pool: int, seed: int, reporter: Reporter
) -> Float[np.ndarray, "pool classes"]:
    """The flip rate of every sub-key of a fresh pool into every class, asked once."""
    modality = modality_of(shape)
    stamps = modality.decoys(shape, pool, generator_of(seed, "pool"))
    place = seed_of(seed, "place")
    answers = [ask(inputs)]
    reporter.begin("asking for the pool's labels", pool)
    for number in range(pool):
        answers.append(ask(modality.stamp(inputs, stamps[number], shape, place)))
        reporter.tick(number + 1)
    reporter.end()
    codes = code_labels([label for row in answers for label in row]).reshape(len(answers), -1)
    if len(np.unique(codes[0])) < 2:
        raise HeredityError(
            "the model gives all clean inputs one label", remedy="search on a model that tells inputs apart"
        )
    return flip_rates(codes[0], codes[1:], int(codes.max()) + 1)


def p_values(
    rates: Float[np.ndarray, "pool classes"],
    owned: int,
    decoys: int,
    *,
    tries: int,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Float[np.ndarray, "tries"]:
    """p of random keys drawn from the pool, cheaply: few picks for all of them, more for the best, every pick for the best of
    those.

    A key's p is that of the last stage it reached. That keeps every level: a p below a stage's threshold was reached with
    both the picks of that stage and those of the next. No p is below its sampling floor.
    """
    reporter = reporter or Reporter(quiet=True)
    keys = owned + decoys
    random = np.random.default_rng(seed_of(seed, "tries"))
    values = np.empty(tries)
    reporter.begin("trying keys", tries)
    for begin in range(0, tries, 1000):
        count = min(1000, tries - begin)
        drawn = np.argpartition(random.random((count, len(rates))), keys, axis=1)[:, :keys]
        random.permuted(drawn, axis=1, out=drawn)
        values[begin : begin + count] = _few(rates[drawn], owned, random)
        for number in np.flatnonzero(values[begin : begin + count] <= _LOOK_AGAIN):
            values[begin + number] = _close(rates[drawn[number]], owned, random)
        reporter.tick(begin + count)
    reporter.end()
    return values


def _few(rates: Float[np.ndarray, "tries keys classes"], owned: int, random: np.random.Generator) -> np.ndarray:
    """p from the same thousand picks for every try."""
    tries, keys, classes = rates.shape
    truth = rates[:, :owned].sum(axis=1).max(axis=1) - 1e-9
    chosen = np.argpartition(random.random((_FEW, keys)), owned, axis=1)[:, :owned]
    picks = np.zeros((_FEW, keys), dtype=np.float32)
    np.put_along_axis(picks, chosen, 1.0, axis=1)
    at_least = np.zeros(tries, dtype=np.int64)
    flat = rates.astype(np.float32).transpose(1, 0, 2)
    for begin in range(0, tries, 100):
        part = flat[:, begin : begin + 100]
        sums = (picks @ part.reshape(keys, -1)).reshape(_FEW, -1, classes)
        # Single precision is off by far less than one image's share: the margin makes p larger, never smaller.
        at_least[begin : begin + 100] = (sums.max(axis=2) >= truth[begin : begin + 100] - 1e-5).sum(axis=0)
    return (1 + at_least) / (1 + _FEW)


def _close(rates: Float[np.ndarray, "keys classes"], owned: int, random: np.random.Generator) -> float:
    measure = Additive(rates, lambda sums: sums.max(axis=-1))
    found = permute(measure, len(rates), owned, random=random, picks=_MORE)
    if found.exact or found.p > _LOOK_CLOSELY:
        return found.p
    return permute(measure, len(rates), owned, random=random, picks=1_000_000, enumerate_up_to=EXACT_PICKS).p
