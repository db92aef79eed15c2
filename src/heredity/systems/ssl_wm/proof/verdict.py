"""What the answers of a verification say, in words, as JSON data and as a page.

The verdict depends on terms and answers alone, so that a transcript gives it again bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from heredity.systems.ssl_wm.proof.commitment import canonical
from heredity.systems.ssl_wm.proof.transcript import AGAIN, CLEAN, Query, Terms, TranscriptError
from heredity.systems.ssl_wm.proof.verification import ENUMERATE, Answers, Verdict, permutation_test

EXACT_PICKS = 20_000_000
"""Up to so many picks a verification enumerates instead of sampling."""

NULL = (
    "the suspect was made without access to the owner's secret, so that the owner's sub-keys are exchangeable with fresh "
    "ones from the same public distribution"
)
UNCOMMITTED = "a key without an earlier commitment proves nothing: anyone can search for one"


@dataclass(frozen=True)
class Verified:
    """A verdict with everything it rests on.

    `corrected_p` is p times the number of planned looks (Bonferroni), what `alpha` is compared with.
    """

    verdict: Verdict
    sentence: str
    alpha: float
    decoys: int
    images: int
    corrected_p: float
    look: int
    looks: int
    statistic: str
    asked: int
    suspect: str
    nonce: str
    commitment: str
    null_hypothesis: str
    notes: tuple[str, ...]
    does_not_show: tuple[str, ...]

    def __str__(self) -> str:
        v = self.verdict
        between = f"{v.interval[0]:.2g} to {v.interval[1]:.2g}"
        how = f"all {v.picks:,} picks" if v.exact else f"{v.picks:,} sampled picks, 95 % interval of p {between}"
        lines = [
            self.sentence,
            f"  p = {self.corrected_p:.3g}"
            + (f" (look {self.look} of {self.looks}, corrected)" if self.looks > 1 else ""),
            f"  floor {v.floor * self.looks:.2g}, level {self.alpha:g}, {how}",
            f"  flip rate {v.flip_true:.2f} under the owner's sub-keys, {v.flip_decoy:.2f} under {self.decoys} decoys",
            f"  {self.asked:,} queries on {self.images} inputs; suspect {self.suspect}; nonce {self.nonce}",
            f"  commitment {self.commitment or 'none'}",
            f"  Null hypothesis: {self.null_hypothesis}.",
            *(f"  Note: {note}." for note in self.notes),
            *(f"  It does not show {what}." for what in self.does_not_show),
        ]
        return "\n".join(lines)


def judge(terms: Terms, answers: Mapping[Query, Any]) -> tuple[Verdict, float, int]:
    """Verdict, corrected p and number of the look that decides: the first below the level, else the last that is complete.

    Raises TranscriptError when not even the first look is complete.
    """
    keys = range(CLEAN, terms.sub_keys + terms.decoys)
    complete = [look for look in terms.looks if all((key, image) in answers for key in keys for image in range(look))]
    if not complete:
        raise TranscriptError(
            f"{len(answers)} of {terms.queries} answers are there, too few for a verdict", remedy="go on with --resume"
        )
    for number in range(len(complete)):
        verdict, corrected = verdict_at(terms, answers, number)
        if corrected < terms.alpha or number + 1 == len(complete):
            return verdict, corrected, number + 1
    raise AssertionError("the last complete look decides")


def verdict_at(terms: Terms, answers: Mapping[Query, Any], number: int) -> tuple[Verdict, float]:
    """The verdict at one look, whose answers must be complete, and its p corrected for the planned looks."""
    images, keys = terms.looks[number], range(CLEAN, terms.sub_keys + terms.decoys)
    codes = code_labels([answers[key, image] for key in keys for image in range(images)]).reshape(len(keys), images)
    verdict = permutation_test(
        Answers(codes[0], codes[1:], terms.sub_keys),
        random=np.random.default_rng(terms.seed("picks", number)),
        picks=terms.picks,
        statistic=terms.statistic,
        enumerate_up_to=EXACT_PICKS if terms.statistic != "co_flip" else ENUMERATE,
    )
    return verdict, min(1.0, verdict.p * len(terms.looks))


def code_labels(labels: Sequence[Any]) -> np.ndarray:
    """Class numbers of labels of any JSON kind, equal where their JSON is equal: "1", 1, 1.0 and true are four labels.

    >>> code_labels([1, "1", True, 1, {"a": 2}]).tolist()
    [1, 0, 2, 1, 3]
    """
    _, codes = np.unique([canonical(label) for label in labels], return_inverse=True)
    return codes.astype(np.int64)


def conclude(terms: Terms, answers: Mapping[Query, Any], *, notes: Sequence[str] = ()) -> Verified:
    """The verdict in full. It depends on terms and answers alone, so that a transcript gives it again bit for bit."""
    verdict, corrected, look = judge(terms, answers)
    complete = look == len(terms.looks) or corrected < terms.alpha
    if verdict.sentence:
        sentence = verdict.sentence
    elif corrected < terms.alpha:
        bound = "the committed key" if terms.commitment else "the key"
        sentence = (
            f"behaviour bound to {bound}: descent (or access to the secret) is the only explanation the test leaves, "
            f"at level {terms.alpha:g}"
        )
    else:
        sentence = f"no evidence at this number of queries (level {terms.alpha:g})"
    own = list(_noticed(terms, answers, verdict))
    if not complete:
        own.append(f"the verification is unfinished: look {look} of {len(terms.looks)}")
    if not terms.commitment:
        own.append(UNCOMMITTED)
    return Verified(
        verdict=verdict,
        sentence=sentence,
        alpha=terms.alpha,
        decoys=terms.decoys,
        images=terms.looks[look - 1],
        corrected_p=corrected,
        look=look,
        looks=len(terms.looks),
        statistic=terms.statistic,
        asked=len(answers),
        suspect=terms.suspect,
        nonce=terms.nonce,
        commitment=terms.commitment,
        null_hypothesis=NULL,
        notes=(*own, *notes),
        does_not_show=_limits(verdict, corrected < terms.alpha, terms),
    )


def _noticed(terms: Terms, answers: Mapping[Query, Any], verdict: Verdict) -> list[str]:
    notes = []
    twice = [image for key, image in answers if key == AGAIN and (CLEAN, image) in answers]
    changed = sum(canonical(answers[AGAIN, image]) != canonical(answers[CLEAN, image]) for image in twice)
    if twice and changed / len(twice) > 0.05:
        notes.append(
            f"{changed} of {len(twice)} inputs asked twice were answered differently: the answers are noisy, which costs "
            "power and not validity"
        )
    if verdict.flip_decoy > 0.9:
        notes.append("foreign sub-keys change the answers as the owner's do: the test has no power on this suspect")
    names = {label for label in answers.values() if isinstance(label, str)}
    if len({" ".join(name.split()).casefold() for name in names}) < len(names):
        notes.append("some labels differ in case or spacing only; labels are compared as exact JSON values")
    return notes


def _limits(verdict: Verdict, bound: bool, terms: Terms) -> tuple[str, ...]:
    if not bound:
        return ("that nothing was taken: a mark may have been weakened, or more queries may show it",)
    tries = 2**20
    lucky = min(1.0, tries * verdict.floor * len(terms.looks))
    return (
        "who took the encoder, when, or from whom: a licensed copy behaves alike",
        "which of two keys came first: see --against for a key whose mark was added later",
        "anything about a key that was searched for after the suspect appeared: "
        f"of {tries:,} tries one reaches the floor by luck with probability {lucky:.2g}",
    )


_PAGE = jinja2.Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Verdict: {{ v.suspect }}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td{padding:.2em 1em .2em 0;vertical-align:top}
strong{color:{{ "#0a6b4f" if bound else "#444" }}}
code{overflow-wrap:anywhere}</style>
<h1>Ownership verdict</h1>
<p><strong>{{ v.sentence }}</strong></p>
<table>
<tr><td>Null hypothesis<td>{{ v.null_hypothesis }}
<tr><td>p<td>{{ "%.3g"|format(v.corrected_p) }}{% if v.looks > 1 %} (look {{ v.look }} of {{ v.looks }}, corrected){% endif %}
<tr><td>Level<td>{{ v.alpha }}
<tr><td>Smallest possible p<td>{{ "%.2g"|format(v.verdict.floor * v.looks) }}
<tr><td>Picks of keys compared<td>{{ "{:,}".format(v.verdict.picks) }}, {{ "all" if v.verdict.exact else "sampled" }}
<tr><td>Flip rate<td>{{ "%.2f"|format(v.verdict.flip_true) }} under the owner's sub-keys,
{{ "%.2f"|format(v.verdict.flip_decoy) }} under {{ v.decoys }} decoys
<tr><td>Queries<td>{{ "{:,}".format(v.asked) }} on {{ v.images }} inputs
<tr><td>Suspect<td><code>{{ v.suspect }}</code>
<tr><td>Commitment<td><code>{{ v.commitment or "none" }}</code>
<tr><td>Nonce<td><code>{{ v.nonce }}</code>
</table>
{% if table %}<h2>Whose mark came first</h2><pre>{{ table }}</pre>{% endif %}
{% if v.notes %}<h2>Notes</h2><ul>{% for note in v.notes %}<li>{{ note }}{% endfor %}</ul>{% endif %}
<h2>It does not show</h2><ul>{% for what in v.does_not_show %}<li>{{ what }}{% endfor %}</ul>
</html>
"""
)


def page_of(verified: Verified, table: str = "") -> str:
    """The verdict as one HTML page without scripts, with a table in plain text; everything from outside is escaped."""
    return _PAGE.render(v=verified, bound=verified.corrected_p < verified.alpha, table=table)
