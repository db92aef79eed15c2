"""Asking over HTTP: what is tried again, what is not, how long, and what a mapping may say. Loopback only."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from helpers.marked import SHAPE, knows, make_key
from helpers.serving import serving
from hypothesis import given
from hypothesis import strategies as st

from heredity.data.images import load_images
from heredity.serve.app import Service
from heredity.serve.faults import Faults
from heredity.systems.ssl_wm.proof.endpoint import Endpoint, EndpointError, Patience, ask_info, check_info
from heredity.systems.ssl_wm.proof.mapping import (
    Mapping,
    MappingError,
    MisfitError,
    body_of,
    filled_headers,
    labels_in,
    read_mapping,
)
from heredity.systems.ssl_wm.proof.modality import IMAGE, TEXT
from heredity.systems.ssl_wm.proof.protocol import Questions, agree, converse
from heredity.systems.ssl_wm.proof.transcript import Transcript
from heredity.systems.ssl_wm.proof.verdict import Verified, conclude

KEY = make_key()
POOL = load_images("digits").test.images
IMAGES = POOL[:2]
ADDRESS = "http://127.0.0.1:9/v1/predict"

Handler = Callable[[httpx.Request], httpx.Response]


def endpoint(handler: Handler, mapping: Mapping | None = None, **patience: Any) -> tuple[Endpoint, list[float]]:
    """An endpoint whose network is a function, and the waits it made."""
    waits: list[float] = []
    made = Endpoint(mapping or Mapping(ADDRESS), IMAGE, Patience(**patience), sleep=waits.append)
    made._client = httpx.Client(transport=httpx.MockTransport(handler))
    return made, waits


def script(*answers: httpx.Response | Exception) -> Handler:
    """Answers in turn, the last one for ever."""
    left = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return handler


GOOD = httpx.Response(200, json={"labels": ["cat", 3]})


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        *(httpx.Response(status) for status in (408, 429, 500, 502, 503, 504)),
        httpx.Response(200, content=b'{"labels": ["cat"'),
        httpx.Response(200, content=b"<html>please wait</html>"),
        httpx.Response(200, content=b'{"labels": [NaN, 1]}'),
        httpx.Response(200, content=b"[" * 100_000),
    ],
)
def test_what_may_pass_is_tried_again(fault: httpx.Response | Exception) -> None:
    made, waits = endpoint(script(fault, fault, GOOD))
    assert made.ask(IMAGES) == ["cat", 3]
    assert (made.requests, made.failures, len(waits)) == (3, 2, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(400, text="no"), "status 400.*'request'"),
        (httpx.Response(401), "status 401.*credentials"),
        (httpx.Response(404), "status 404.*address"),
        (httpx.Response(413), "status 413.*batch"),
        (httpx.Response(302, headers={"location": "http://127.0.0.1:1/"}), "redirects are not followed"),
        (httpx.Response(200, json={"labels": ["cat"]}), "1 labels for 2 inputs"),
        (httpx.Response(200, json={"other": 1}), "no 'labels'"),
        (httpx.Response(200, json={"labels": "cat"}), "is not a list"),
        (httpx.Response(200, json={"labels": [None, 1]}), "no label"),
        (httpx.Response(200, json={"labels": ["x" * 2000, 1]}), "no label"),
    ],
)
def test_what_will_not_pass_stops_with_one_line(answer: httpx.Response, message: str) -> None:
    made, waits = endpoint(script(answer))
    with pytest.raises(EndpointError, match=message) as caught:
        made.ask(IMAGES)
    assert "\n" not in str(caught.value)
    assert (made.requests, waits) == (1, [])


def test_it_gives_up_after_so_many_tries_and_names_the_answer_harmlessly() -> None:
    made, waits = endpoint(script(httpx.Response(200, content=b"<b>\x1b[31m\n" + b"x" * 500)), tries=5)
    with pytest.raises(EndpointError, match=r"failed 5 times.*HTML") as caught:
        made.ask(IMAGES)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert len(waits) == 4


def test_waits_back_off_with_full_jitter() -> None:
    longest = [0.0] * 7
    for _ in range(12):
        made, waits = endpoint(script(httpx.Response(503)), base=1.0, most=5.0)
        with pytest.raises(EndpointError):
            made.ask(IMAGES)
        longest = [max(pair) for pair in zip(longest, waits, strict=True)]
    for number, most in enumerate(longest):
        bound = min(5.0, 2.0**number)
        assert 0.3 * bound < most <= bound


@pytest.mark.parametrize(
    ("told", "waited"),
    [("3", 3.0), ("999999", 120.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("0", 0.0)],
)
def test_it_waits_as_long_as_it_is_told_within_bounds(told: str, waited: float) -> None:
    made, waits = endpoint(script(httpx.Response(429, headers={"retry-after": told}), GOOD))
    made.ask(IMAGES)
    assert waits == [waited]


def test_there_is_an_end_to_all_waiting() -> None:
    made, _ = endpoint(script(httpx.Response(429, headers={"retry-after": "60"})), total=30.0)
    with pytest.raises(EndpointError, match=r"30 seconds are over.*--resume"):
        made.ask(IMAGES)


def test_an_endless_answer_is_cut() -> None:
    made, _ = endpoint(script(httpx.Response(200, content=b" " * (17 * 2**20))))
    with pytest.raises(EndpointError, match="more than 16 MiB"):
        made.ask(IMAGES)


def test_scores_become_labels_and_that_is_said() -> None:
    answer = httpx.Response(200, json={"labels": [[0.1, 0.7, 0.2], {"cat": 0.9, "dog": 0.1}]})
    made, _ = endpoint(script(answer))
    assert made.ask(IMAGES) == [1, "cat"]
    assert "scores, not labels" in made.suspect().notes()[0]


def test_a_foreign_interface_is_spoken_to_by_its_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "url: http://127.0.0.1:9/classify?version=2\nheaders:\n  Authorization: Bearer ${TOKEN}\n"
        'request:\n  instances: {$each: {b64: "{image}"}}\n  top: 1\nlabel: predictions.*.0.name\nbatch: 7\n'
    )
    mapping = read_mapping(str(path))
    assert mapping.batch == 7
    assert mapping.name == "http://127.0.0.1:9/classify"
    with pytest.raises(MappingError, match="TOKEN is not set"):
        filled_headers(mapping)
    monkeypatch.setenv("TOKEN", "abc")
    assert filled_headers(mapping) == {"Authorization": "Bearer abc"}
    seen: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, json={"predictions": [[{"name": "a"}], [{"name": "b"}]]})

    made, _ = endpoint(handler, mapping)
    assert made.ask(IMAGES) == ["a", "b"]
    assert set(seen[0]) == {"instances", "top"}
    assert seen[0]["instances"][0] == {"b64": IMAGE.payload(IMAGES[0])["image"]}


def test_an_interface_that_takes_one_input_a_request() -> None:
    mapping = Mapping(ADDRESS, "result.label", {"data": "{image}"}, batch=1)
    made, _ = endpoint(lambda request: httpx.Response(200, json={"result": {"label": True}}), mapping)
    assert made.ask(IMAGES[:1]) == [True]
    assert body_of(mapping, [TEXT.payload("hello")]) == {"data": "{image}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no fields"),
        ("{", "not YAML"),
        ("url: x\nrequest: 1\nlabel: y", "no address"),
        ("url: ftp://x/y\nrequest: 1\nlabel: y", "no address"),
        ("url: http://me:secret@x/y\nrequest: 1\nlabel: y", "user name or password"),
        ("url: http://x/y\nlabel: y", "'request' is missing"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: y\nheader: {}", "did you mean 'headers'"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: a.*.b", r"0 \$each and 'label' 1"),
        ("url: http://x/y\nrequest: {a: {$each: '{image}'}}\nlabel: a", r"1 \$each and 'label' 0"),
        ("url: http://x/y\nrequest: {a: 1}\nlabel: a", "has no input"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: a\nmethod: GET", "POST or PUT"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: a\nbatch: 0", "'batch' is 0"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: a\nheaders: [1]", "'headers'"),
        ("url: http://x/y\nrequest: '{image}'\nlabel: 3", "'label' is no path"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused_by_its_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(content)
    with pytest.raises(MappingError, match=message) as caught:
        read_mapping(str(path))
    assert "secret@" not in str(caught.value)


def test_addresses_and_missing_mappings() -> None:
    assert read_mapping("http://127.0.0.1:8000").url == "http://127.0.0.1:8000/v1/predict"
    assert read_mapping("http://127.0.0.1:8000/mine").url == "http://127.0.0.1:8000/mine"
    with pytest.raises(MappingError, match="no file"):
        read_mapping("nowhere.yaml")
    with pytest.raises(MappingError, match="no address"):
        read_mapping("http://[")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    )
)
def test_any_json_is_labels_or_a_misfit(answer: Any) -> None:
    with contextlib.suppress(MisfitError):
        assert len(labels_in(Mapping(ADDRESS, "a.*.b"), answer, 1)) == 1


def ask_over_http(address: str, path: Path | None, **patience: Any) -> tuple[Verified, Endpoint]:
    made = Endpoint(read_mapping(address), IMAGE, Patience(**patience), sleep=lambda seconds: None)
    # The address holds a free port: the name that seeds depend on must not.
    terms, chosen = agree(KEY, POOL, suspect="service", nonce="n", number=12, commitment="c" * 64)
    transcript = Transcript.open(terms, path)
    converse(Questions.of(terms, KEY, chosen), made.suspect(), transcript)
    transcript.close()
    made.close()
    return conclude(terms, transcript.answers, notes=transcript.notes), made


def test_faults_change_neither_verdict_nor_transcript(tmp_path: Path) -> None:
    label = knows(KEY)
    service = Service(label, "marked", size=SHAPE.reference_size)
    with serving(service) as address:
        assert ask_info(read_mapping(address))["batch_limit"] == 64
        smooth, _ = ask_over_http(address, tmp_path / "smooth.jsonl")
    with serving(service, Faults(0.4, seconds=0.4, seed=3)) as address:
        rough, made = ask_over_http(address, tmp_path / "rough.jsonl", timeout=0.3, tries=20)
    assert made.failures >= 3
    assert rough == smooth
    assert smooth.corrected_p == smooth.verdict.floor

    def lines(name: str) -> list[dict[str, Any]]:
        return [{**json.loads(line), "t": 0} for line in (tmp_path / name).read_text().splitlines()]

    assert lines("rough.jsonl") == lines("smooth.jsonl")


def test_what_the_service_does_not_take_is_found_before_asking() -> None:
    info = {"modality": "image", "input": {"height": 32}}
    check_info({}, modality="image", size=16, name="x")
    check_info({"modality": 7, "input": 3}, modality="image", size=16, name="x")
    with pytest.raises(EndpointError, match="--size 32"):
        check_info(info, modality="image", size=16, name="x")
    with pytest.raises(EndpointError, match="for 'text'"):
        check_info(info, modality="text", size=None, name="x")


def test_texts_travel_as_they_are() -> None:
    with serving(
        Service(lambda texts: torch.tensor([len(text) for text in texts]), "length", modality="text")
    ) as address:
        made = Endpoint(read_mapping(address), TEXT)
        assert made.ask(["ab", "äöü"]) == [2, 3]
        made.close()
