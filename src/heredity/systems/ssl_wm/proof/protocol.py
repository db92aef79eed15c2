"""A verification from the first query to the verdict: who is asked what, in which order, and what the answers say.

Decoys, the choice of base inputs, the order of the queries and the sampled picks are seeded by (commitment, suspect, nonce),
so that the owner can choose none of them, and so that the transcript gives the same verdict again.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from heredity.core.errors import HeredityError
from heredity.core.progress import Reporter
from heredity.systems.ssl_wm.mark.keys import Key
from heredity.systems.ssl_wm.proof.modality import MODALITIES, Modality, modality_of
from heredity.systems.ssl_wm.proof.transcript import AGAIN, CLEAN, Query, Terms, Transcript, TranscriptError
from heredity.systems.ssl_wm.proof.verdict import Verified, conclude, verdict_at
from heredity.systems.ssl_wm.proof.verification import Statistic


@dataclass(frozen=True)
class Suspect:
    """Somebody who answers one label an input. `ask` takes inputs and gives JSON values; `batch` is how many at a time.

    `name` identifies the suspect in seeds and transcript: a content hash, an address, or a Python name. `notes` are what was
    noticed while asking, such as scores in place of labels.
    """

    name: str
    ask: Callable[[Any], list[Any]]
    batch: int = 1024
    notes: Callable[[], Sequence[str]] = tuple


def draw_nonce() -> str:
    """A nonce nobody chose: 128 bits of the operating system's randomness."""
    return secrets.token_hex(16)


def plan_looks(images: int, looks: int) -> tuple[int, ...]:
    """At how many inputs the verdict is looked at. Raises HeredityError where a look would see fewer than four.

    >>> plan_looks(48, 4)
    (12, 24, 36, 48)
    """
    if images < 4:
        raise HeredityError(f"{images} base inputs are too few", remedy="give at least 4, better 48 or more")
    if not 1 <= looks <= images // 4:
        raise HeredityError(f"{looks} looks at {images} base inputs", remedy="plan 1 look, at most one per 4 inputs")
    return tuple(round(images * number / looks) for number in range(1, looks + 1))


def agree(
    key: Key,
    pool: Any,
    *,
    suspect: str,
    commitment: str = "",
    nonce: str | None = None,
    number: int = 128,
    decoys: int = 24,
    looks: int = 1,
    alpha: float = 1e-4,
    statistic: Statistic = "flip",
    picks: int = 1_000_000,
    probes: int = 20,
    inputs: str = "",
    size: int | None = None,
    suspect_since: str = "",
) -> tuple[Terms, Any]:
    """Fix the terms, and with them which of the `pool`'s inputs are used: nothing may change after the first query."""
    if not 1 <= decoys <= 256 or not 0 < alpha < 1:
        raise HeredityError(f"{decoys} decoys at level {alpha}", remedy="1 to 256 decoys, a level between 0 and 1")
    if picks < 1000 or picks > 10**7:
        raise HeredityError(f"{picks} sampled picks", remedy="from 1000 to 10 million")
    modality = modality_of(key)
    draft = Terms(
        commitment=commitment,
        key_hash=hashlib.sha256(key.secret).hexdigest(),
        suspect=suspect,
        nonce=draw_nonce() if nonce is None else nonce,
        modality=key.modality,
        sub_keys=key.parameters.sub_keys,
        decoys=decoys,
        looks=plan_looks(min(number, len(pool)), looks),
        alpha=float(alpha),
        statistic=statistic,
        picks=picks,
        probes=probes,
        inputs=inputs,
        pool=len(pool),
        inputs_sha256="",
        size=size,
        suspect_since=suspect_since,
    )
    chosen = choose_inputs(draft, pool)
    return Terms(**{**vars(draft), "inputs_sha256": hash_inputs(modality, chosen)}), chosen


def choose_inputs(terms: Terms, pool: Any) -> Any:
    """The base inputs: places in the pool drawn by the terms."""
    places = np.random.default_rng(terms.seed("base inputs")).permutation(len(pool))[: terms.images]
    return modality_named(terms).choose(pool, places.tolist())


def modality_named(terms: Terms) -> Modality:
    """The modality of the terms."""
    if terms.modality not in MODALITIES:
        raise TranscriptError(f"the transcript is of modality {terms.modality!r}", remedy="use a newer heredity")
    return MODALITIES[terms.modality]


def hash_inputs(modality: Modality, inputs: Any) -> str:
    """SHA-256 over the canonical bytes of inputs, in order."""
    digest = hashlib.sha256()
    for place in range(len(inputs)):
        digest.update(hashlib.sha256(modality.encode(inputs[place])).digest())
    return digest.hexdigest()


def queries_of(terms: Terms) -> list[list[Query]]:
    """For every look, what is asked for it, in an order that tells the suspect nothing."""
    rounds, first = [], 0
    for number, last in enumerate(terms.looks):
        asked = [(key, image) for image in range(first, last) for key in range(CLEAN, terms.sub_keys + terms.decoys)]
        if number == 0:
            asked += [(AGAIN, image) for image in range(min(terms.probes, last))]
        order = np.random.default_rng(terms.seed("order", number)).permutation(len(asked))
        rounds.append([asked[place] for place in order])
        first = last
    return rounds


@dataclass(frozen=True)
class Questions:
    """The inputs of a verification with everything that is stamped into them."""

    terms: Terms
    key: Key
    inputs: Any
    stamps: tuple[Any, ...]
    modality: Modality

    @classmethod
    def of(cls, terms: Terms, key: Key, inputs: Any) -> "Questions":
        """The owner's sub-keys are derived and the decoys drawn here."""
        modality = modality_of(key)
        generator = torch.Generator().manual_seed(terms.seed("decoys"))
        stamps = (*modality.derive(key), *modality.decoys(key, terms.decoys, generator))
        return cls(terms, key, inputs, stamps, modality)

    def __call__(self, queries: Sequence[Query]) -> Any:
        """The inputs of some queries, in their order."""
        place = self.terms.seed("place")
        parts = []
        for key, image in queries:
            plain = self.modality.choose(self.inputs, [image])
            parts.append(plain if key < 0 else self.modality.stamp(plain, self.stamps[key], self.key, place))
        return self.modality.join(parts)


def converse(
    questions: Questions, suspect: Suspect, transcript: Transcript, *, reporter: Reporter | None = None
) -> None:
    """Ask what is not answered yet, look by look, and stop at the first look whose corrected p is below the level."""
    terms, modality = questions.terms, questions.modality
    reporter = reporter or Reporter(quiet=True)
    recorded = transcript.path is not None
    for number, asked in enumerate(queries_of(terms)):
        left = [query for query in asked if query not in transcript.answers]
        reporter.begin(f"asking, look {number + 1} of {len(terms.looks)}", len(asked), done=len(asked) - len(left))
        for begin in range(0, len(left), suspect.batch):
            part = left[begin : begin + suspect.batch]
            inputs = questions(part)
            hashes = [
                hashlib.sha256(modality.encode(inputs[i])).hexdigest() if recorded else "" for i in range(len(part))
            ]
            labels = suspect.ask(inputs)
            transcript.remark(suspect.notes())
            transcript.add(part, hashes, labels)
            reporter.tick(len(asked) - len(left) + begin + len(part))
        reporter.end()
        last = number + 1 == len(terms.looks)
        if not last and verdict_at(terms, transcript.answers, number)[1] < terms.alpha:
            return


def recompute(
    transcript: Transcript, hashes: Mapping[Query, str], key: Key, *, commitment: str = "", pool: Any = None
) -> Verified:
    """The verdict of a transcript again, without a suspect; with the `pool` of base inputs also what was sent is checked.

    Raises TranscriptError when the transcript is of another key or commitment, or when a hash is not that of its query.
    """
    terms = transcript.terms
    expected = {
        "key_hash": hashlib.sha256(key.secret).hexdigest(),
        "commitment": commitment,
        "modality": key.modality,
        "sub_keys": key.parameters.sub_keys,
    }
    for name, value in expected.items():
        if getattr(terms, name) != value:
            raise TranscriptError(
                f"{transcript.path} is of another key: field {name!r} is {str(getattr(terms, name))[:70]!r}, not "
                f"{str(value)[:70]!r}",
                remedy="give the key and the commitment that the verification was made with",
            )
    if pool is not None:
        _check_hashes(transcript, hashes, key, pool)
    return conclude(terms, transcript.answers, notes=transcript.notes)


def _check_hashes(transcript: Transcript, hashes: Mapping[Query, str], key: Key, pool: Any) -> None:
    terms = transcript.terms
    inputs = choose_inputs(terms, pool) if len(pool) == terms.pool else pool
    if len(pool) != terms.pool or hash_inputs(modality_of(key), inputs) != terms.inputs_sha256:
        raise TranscriptError(
            f"these are not the base inputs of {transcript.path}",
            remedy=f"give --images {terms.inputs} as they were then",
        )
    questions = Questions.of(terms, key, inputs)
    for query, sent in hashes.items():
        if hashlib.sha256(questions.modality.encode(questions([query])[0])).hexdigest() != sent:
            raise TranscriptError(
                f"{transcript.path}: what was sent for key {query[0]}, input {query[1]} is not what the key gives",
                remedy="the transcript was edited, or made with another version",
            )


def describe_cost(terms: Terms, batch: int) -> str:
    """What the verification will ask, said before it asks."""
    requests = sum(-(-len(asked) // batch) for asked in queries_of(terms))
    looks = f", at most; it may stop at one of {len(terms.looks)} looks" if len(terms.looks) > 1 else ""
    return f"{terms.queries:,} queries in {requests:,} requests of up to {batch}{looks}"
