"""Terms, transcript and verdict: seeded by what nobody chose, resumable, and the same again from the file."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.marked import knows, knows_nothing, make_key
from scipy.stats import binom

from heredity.core.errors import HeredityError
from heredity.data.images import load_images
from heredity.systems.ssl_wm.proof.protocol import (
    Questions,
    Suspect,
    agree,
    converse,
    describe_cost,
    plan_looks,
    queries_of,
    recompute,
)
from heredity.systems.ssl_wm.proof.suspects import suspect_of
from heredity.systems.ssl_wm.proof.transcript import AGAIN, CLEAN, Terms, Transcript, TranscriptError, read_transcript
from heredity.systems.ssl_wm.proof.verdict import Verified, code_labels, conclude, judge, page_of

KEY = make_key()
POOL = load_images("digits").test.images
MARKED = suspect_of(knows(KEY), "marked")
INNOCENT = suspect_of(knows_nothing, "innocent")


def terms_for(**changes: Any) -> tuple[Terms, Any]:
    arguments: dict[str, Any] = {"suspect": "marked", "nonce": "n", "number": 16, "decoys": 12, "commitment": "c" * 64}
    return agree(KEY, POOL, **(arguments | changes))


def verdict_of(suspect: Suspect, path: Path | None = None, *, resume: bool = False, **changes: Any) -> Verified:
    terms, chosen = terms_for(suspect=suspect.name, **changes)
    transcript = Transcript.open(terms, path, resume=resume)
    try:
        converse(Questions.of(terms, KEY, chosen), suspect, transcript)
    finally:
        transcript.close()
    return conclude(terms, transcript.answers, notes=transcript.notes)


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "t"} for line in lines]


def test_the_thief_is_found_and_the_innocent_is_not() -> None:
    found = verdict_of(MARKED, decoys=24)
    assert found.verdict.exact
    assert found.verdict.picks == 10_518_300
    assert found.corrected_p == found.verdict.floor
    assert found.sentence.startswith("behaviour bound to the committed key")
    assert verdict_of(INNOCENT).corrected_p > 1e-3


def test_a_verdict_states_what_it_rests_on_and_what_it_does_not_show() -> None:
    for suspect in (MARKED, INNOCENT):
        text = str(verdict_of(suspect))
        for part in ("Null hypothesis:", "p = ", "floor", "queries", "nonce", "commitment", "does not show", "decoys"):
            assert part in text
    assert "not stolen" not in str(verdict_of(INNOCENT))
    assert "proves nothing" in str(verdict_of(MARKED, commitment=""))
    assert "proves nothing" not in str(verdict_of(MARKED))


def test_what_nobody_chose_depends_on_commitment_suspect_and_nonce() -> None:
    first, chosen = terms_for()
    assert (first, chosen.sum()) == (terms_for()[0], terms_for()[1].sum())
    stamps = Questions.of(first, KEY, chosen).stamps
    for change in ({"nonce": "m"}, {"suspect": "other"}, {"commitment": "d" * 64}):
        other, others = terms_for(**change)
        assert not torch.equal(chosen, others)
        changed = Questions.of(other, KEY, others).stamps
        assert all(torch.equal(a, b) for a, b in zip(stamps[:8], changed[:8], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(stamps[8:], changed[8:], strict=True))
        assert queries_of(first) != queries_of(other)
    drawn = {agree(KEY, POOL, suspect="s")[0].nonce for _ in range(4)}
    assert len(drawn) == 4


def test_every_query_is_asked_once_in_an_order_that_mixes_kinds() -> None:
    terms, _ = terms_for(looks=2)
    rounds = queries_of(terms)
    asked = [query for part in rounds for query in part]
    expected = {(key, image) for key in range(CLEAN, 20) for image in range(16)} | {(AGAIN, i) for i in range(8)}
    assert set(asked) == expected
    assert len(asked) == len(expected) == terms.queries
    kinds = np.array([key < 0 for key, _ in rounds[0]])
    assert 2 < np.flatnonzero(kinds).mean() < len(kinds) - 2
    assert describe_cost(terms, 64).startswith(f"{terms.queries:,} queries in ")


def test_a_verdict_comes_back_from_its_transcript_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for suspect in (MARKED, INNOCENT):
        found = verdict_of(suspect, path, looks=2)
        talk, hashes = read_transcript(path)
        assert recompute(talk, hashes, KEY, commitment="c" * 64) == found
        assert recompute(talk, hashes, KEY, commitment="c" * 64, pool=POOL) == found
        path.unlink()


def test_a_killed_verification_asks_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    whole = verdict_of(MARKED, tmp_path / "whole.jsonl")
    path, counts = tmp_path / "killed.jsonl", []

    class KilledError(Exception):
        pass

    def mortal(inputs: Any) -> list[Any]:
        counts.append(len(inputs))
        if len(counts) in (3, 5):
            raise KilledError
        return MARKED.ask(inputs)

    for _ in range(2):
        with pytest.raises(KilledError):
            verdict_of(Suspect("marked", mortal, 64), path, resume=True)
        path.write_bytes(path.read_bytes() + b'{"q":"half a li')
    again = verdict_of(Suspect("marked", mortal, 64), path, resume=True)
    assert again == whole
    assert without_times(path) == without_times(tmp_path / "whole.jsonl")
    assert sum(counts) - whole.asked == counts[2] + counts[4]


def test_early_stopping_corrects_the_level_and_stops_asking() -> None:
    found = verdict_of(MARKED, looks=4)
    assert (found.look, found.looks, found.images) == (1, 4, 4)
    assert found.corrected_p == 4 * found.verdict.p
    assert found.asked == 4 * 21 + 4
    innocent = verdict_of(INNOCENT, looks=4)
    assert innocent.look == 4
    assert innocent.corrected_p == min(1.0, 4 * innocent.verdict.p)


def test_looking_early_does_not_raise_false_positives() -> None:
    """Under the null (random labels) at most alpha of the verifications stop, whatever the looks."""
    terms, _ = terms_for(number=12, looks=3, decoys=4, picks=1000)
    small = replace(terms, sub_keys=4, alpha=0.1, probes=0)
    rejected = 0
    for number in range(300):
        random = np.random.default_rng(number)
        answers = {query: int(random.integers(3)) for part in queries_of(small) for query in part}
        rejected += judge(small, answers)[1] < small.alpha
    assert binom.sf(rejected - 1, 300, 0.1) > 0.001


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4"),
        (lambda lines: [lines[0], "nonsense"], "line 2"),
        (lambda lines: [lines[0], '{"q":"","key":99,"image":0,"label":1}'], "line 2"),
        (lambda lines: [lines[0], '{"q":"","key":0,"image":0,"label":NaN}'], "line 2"),
        (lambda lines: lines[1:], "line 1"),
        (lambda lines: [lines[0].replace('"decoys":12', '"decoys":99999')], "line 1"),
        (lambda lines: [lines[0].replace('"alpha":0.0001', '"alpha":7')], "line 1"),
        (lambda lines: [], "empty"),
        (lambda lines: lines[:40], "too few for a verdict"),
    ],
)
def test_a_damaged_transcript_is_refused_by_its_line(tmp_path: Path, edit: Any, message: str) -> None:
    path = tmp_path / "t.jsonl"
    verdict_of(MARKED, path)
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))
    with pytest.raises(TranscriptError, match=message):
        recompute(*read_transcript(path), KEY, commitment="c" * 64)


def test_a_transcript_of_another_key_commitment_or_query_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    verdict_of(MARKED, path)
    with pytest.raises(TranscriptError, match="'key_hash'"):
        recompute(*read_transcript(path), make_key(number=2), commitment="c" * 64)
    with pytest.raises(TranscriptError, match="'commitment'"):
        recompute(*read_transcript(path), KEY, commitment="d" * 64)
    with pytest.raises(TranscriptError, match="not the base inputs"):
        recompute(*read_transcript(path), KEY, commitment="c" * 64, pool=POOL.flip(0))
    sent = re.sub(
        r'"q":"[0-9a-f]', lambda found: found[0][:-1] + ("0" if found[0][-1] != "0" else "1"), path.read_text(), count=9
    )
    path.write_text(sent)
    with pytest.raises(TranscriptError, match="is not what the key gives"):
        recompute(*read_transcript(path), KEY, commitment="c" * 64, pool=POOL)


def test_a_transcript_is_neither_overwritten_nor_shared_nor_mixed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    verdict_of(MARKED, path)
    with pytest.raises(TranscriptError, match="--resume"):
        verdict_of(MARKED, path)
    with pytest.raises(TranscriptError, match="nonce"):
        verdict_of(MARKED, path, resume=True, nonce="other")
    terms, _ = terms_for()
    held = Transcript.open(terms, path, resume=True)
    with pytest.raises(TranscriptError, match="in use"):
        Transcript.open(terms, path, resume=True)
    held.close()
    (tmp_path / "file").write_text("x")
    with pytest.raises(TranscriptError, match="cannot write"):
        verdict_of(MARKED, tmp_path / "file" / "t.jsonl")


def test_labels_are_equal_where_their_json_is() -> None:
    labels = ["1", 1, 1.0, True, None, [1], {"b": 1, "a": 2}, {"a": 2, "b": 1}, "cat", "Cat"]
    codes = code_labels(labels)
    assert codes[6] == codes[7]
    assert len(set(codes.tolist())) == len(labels) - 1


def noted(answer: Any) -> tuple[str, ...]:
    return verdict_of(Suspect("odd", lambda inputs: [answer(x, i) for i, x in enumerate(inputs)], 64)).notes


def test_noise_odd_names_and_no_power_are_said() -> None:
    dice = np.random.default_rng(0)
    assert any("asked twice" in note for note in noted(lambda x, i: int(dice.integers(5))))
    assert any("case or spacing" in note for note in noted(lambda x, i: ["cat", "Cat "][int(x.sum()) % 2]))
    stamped = {image.numpy().tobytes() for image in POOL}
    foreign = noted(lambda x, i: int(x.sum()) % 3 if x.numpy().tobytes() in stamped else 9)
    assert any("no power" in note for note in foreign)
    assert not noted(lambda x, i: int(x[:, :8].sum()) % 4)


def test_one_label_for_everything_is_inconclusive() -> None:
    found = verdict_of(Suspect("constant", lambda inputs: ["yes"] * len(inputs), 512))
    assert found.sentence.startswith("inconclusive")
    assert found.corrected_p == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 3}, "at least 4"),
        ({"looks": 5}, "5 looks"),
        ({"looks": 0}, "0 looks"),
        ({"decoys": 0}, "0 decoys"),
        ({"alpha": 1.5}, "level 1.5"),
        ({"picks": 1}, "1 sampled picks"),
    ],
)
def test_terms_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HeredityError, match=message):
        terms_for(**changes)


def test_looks_are_even() -> None:
    assert plan_looks(128, 4) == (32, 64, 96, 128)
    assert plan_looks(10, 2) == (5, 10)


def test_the_page_escapes_what_comes_from_outside() -> None:
    found = replace(verdict_of(MARKED), suspect="<script>alert(1)</script>")
    page = page_of(found, table="<b>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;" in page
    assert found.null_hypothesis[:30] in page
