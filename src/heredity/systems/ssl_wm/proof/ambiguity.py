"""Two keys, one stolen model: whose mark came first? (spec section 2.9, ambiguity)

A thief who embeds a second mark into a stolen encoder passes the black-box test with a key of their own, and so does the
owner. But the owner committed to an encoder before the theft, and that encoder knows the owner's key only. Its weights are
at hand, so that it is asked for features, with the same exchangeability: under the null each choice of "the owner's
sub-keys" among sub-keys and decoys is equally likely to be the one under which features lie closest together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.mark.keys import Key
from heredity.systems.ssl_wm.proof.modality import modality_of
from heredity.systems.ssl_wm.proof.protocol import Questions, Suspect, agree, converse, draw_nonce
from heredity.systems.ssl_wm.proof.suspects import suspect_of
from heredity.systems.ssl_wm.proof.transcript import Transcript
from heredity.systems.ssl_wm.proof.verdict import EXACT_PICKS, Verified, conclude
from heredity.systems.ssl_wm.proof.verification import Additive, Permutation, permute

Features = Callable[[Any], Float[Tensor, "inputs features"]]


@dataclass(frozen=True)
class Ambiguity:
    """The 2x2 table: p of the owner's and of the other key, on the owner's committed encoder and on the suspect.

    `resolved` is whether the table says that the other mark came later: the owner's key is bound to both, the other one to
    the suspect only.
    """

    owner_on_encoder: float
    other_on_encoder: float
    owner_on_suspect: float
    other_on_suspect: float
    floor: float
    alpha: float
    other: str
    resolved: bool
    sentence: str

    def __str__(self) -> str:
        rows = [
            ("", "committed encoder", "suspect"),
            ("the owner's key", _cell(self.owner_on_encoder, self.alpha), _cell(self.owner_on_suspect, self.alpha)),
            (self.other, _cell(self.other_on_encoder, self.alpha), _cell(self.other_on_suspect, self.alpha)),
        ]
        width = max(len(row[0]) for row in rows)
        lines = [f"  {row[0]:<{width}}  {row[1]:<24}  {row[2]}".rstrip() for row in rows]
        return "\n".join([*lines, f"  (level {self.alpha:g}, smallest p {self.floor:.2g})", self.sentence])


def _cell(p: float, alpha: float) -> str:
    return f"{'bound' if p < alpha else 'no evidence'} (p = {p:.2g})"


def tightness(clean: Float[Tensor, "inputs features"], stamped: Float[Tensor, "keys inputs features"]) -> Additive:
    """How closely the stamped features of picked keys lie together: squared length of the sum of their directions.

    Directions are taken from the mean of the clean features. The sum over a pick is the sum of one vector a key; those are
    turned into a basis of at most `keys` dimensions, which changes no length.
    """
    away = stamped.double() - clean.double().mean(dim=0)
    directions = away / away.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    sums = directions.mean(dim=1)
    parts = torch.linalg.qr(sums.T).R.T if sums.shape[1] > len(sums) else sums
    return Additive(parts.numpy(), lambda total: np.square(total).sum(axis=-1))


def feature_test(
    features: Features,
    inputs: Any,
    key: Key,
    *,
    decoys: int = 24,
    nonce: str,
    picks: int = 1_000_000,
) -> Permutation:
    """White-box: is this encoder bound to the key? The test of the labels, with tightness of features in place of flips."""
    modality = modality_of(key)
    terms, chosen = agree(key, inputs, suspect="features", nonce=nonce, number=len(inputs), decoys=decoys, picks=picks)
    questions = Questions.of(terms, key, chosen)
    clean = _finite(features(chosen))
    stamped = torch.stack(
        [_finite(features(modality.stamp(chosen, stamp, key, terms.seed("place")))) for stamp in questions.stamps]
    )
    random = np.random.default_rng(terms.seed("picks"))
    return permute(
        tightness(clean, stamped), len(stamped), terms.sub_keys, random=random, picks=picks, enumerate_up_to=EXACT_PICKS
    )


def _finite(features: Tensor) -> Float[Tensor, "inputs features"]:
    found = features.detach().cpu().float()
    found = found.flatten(1) if found.ndim > 2 else found
    if found.ndim != 2 or not bool(torch.isfinite(found).all()):
        raise HeredityError(
            f"the encoder gave features of shape {tuple(found.shape)}, or some that are not numbers",
            remedy="it must give one finite vector an input",
        )
    return found


def ambiguity(
    owner: Key,
    other: Key,
    encoder: Features,
    suspect: Callable[[Any], Any] | Suspect,
    inputs: Any,
    *,
    decoys: int = 24,
    alpha: float = 1e-4,
    picks: int = 1_000_000,
    nonce: str | None = None,
    other_name: str = "the other key",
) -> Ambiguity:
    """The 2x2 table that tells a first mark from a later one.

    `encoder` gives the features of the encoder that the owner committed to; `suspect` gives labels; both take the `inputs` of
    the key's modality (uint8 images n x 3 x size x size, or a list of texts). The decoys are drawn under `nonce`, which
    neither key's owner may have chosen (fresh unless given).
    """
    drawn = draw_nonce() if nonce is None else nonce
    asked = suspect if isinstance(suspect, Suspect) else suspect_of(suspect, "suspect")
    on_encoder = [feature_test(encoder, inputs, key, decoys=decoys, nonce=drawn, picks=picks) for key in (owner, other)]
    on_suspect = [
        black_box(asked, inputs, key, decoys=decoys, alpha=alpha, picks=picks, nonce=drawn) for key in (owner, other)
    ]
    return table_of(on_encoder, on_suspect, alpha=alpha, other_name=other_name)


def table_of(
    on_encoder: Sequence[Permutation], on_suspect: Sequence[Verified], *, alpha: float, other_name: str
) -> Ambiguity:
    """The table from its four cells: the owner's key first, then the other."""
    p = [found.p for found in on_encoder] + [found.corrected_p for found in on_suspect]
    bound = [value < alpha for value in p]
    return Ambiguity(
        *p,
        floor=max(found.floor for found in on_encoder),
        alpha=alpha,
        other=other_name,
        resolved=bound == [True, False, True, True],
        sentence=_SENTENCES.get(tuple(bound), _OTHERWISE),
    )


_OTHERWISE = "the table does not resolve whose mark came first: the owner's key is not bound to both"
_SENTENCES: dict[tuple[bool, ...], str] = {
    (
        True,
        False,
        True,
        True,
    ): "resolved: both keys are bound to the suspect, but only the owner's to the encoder that the owner "
    "committed to; the other mark was added later",
    (
        True,
        False,
        True,
        False,
    ): "undisputed: the owner's key is bound to the committed encoder and to the suspect, the other to neither",
    (
        True,
        True,
        True,
        True,
    ): "unresolved: both keys are bound to the committed encoder too; the older commitment decides",
    (True, True, True, False): "unresolved: the other key is bound to the committed encoder as well",
    (True, False, False, True): "the suspect is bound to the other key only; the owner's mark is not found in it",
    (True, False, False, False): "no evidence on the suspect for either key",
}


def black_box(
    suspect: Suspect,
    inputs: Any,
    key: Key,
    *,
    decoys: int = 24,
    alpha: float = 1e-4,
    picks: int = 1_000_000,
    nonce: str | None = None,
) -> Verified:
    """Verify somebody in memory, without commitment or transcript, on all the inputs given."""
    terms, chosen = agree(
        key,
        inputs,
        suspect=suspect.name,
        nonce=nonce,
        number=len(inputs),
        decoys=decoys,
        alpha=alpha,
        picks=picks,
    )
    transcript = Transcript(terms)
    converse(Questions.of(terms, key, chosen), suspect, transcript)
    return conclude(terms, transcript.answers, notes=transcript.notes)
