"""The service under strangers: generated from its own description, and made by hand."""

import base64
import io
import json
import random
import re
import socket
import struct
import zlib
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import schemathesis
import schemathesis.checks
import torch
from fastapi.testclient import TestClient
from helpers.serving import serving
from hypothesis import HealthCheck, settings
from PIL import Image

from heredity.serve.app import MAX_BATCH, MAX_BODY, Service, make_app

SERVICE = Service(lambda images: (images.float().mean((1, 2, 3)) > 99).long(), "dark or light", size=16)
TEXTS = Service(lambda texts: torch.tensor([len(text) % 3 for text in texts]), "length", modality="text")
APP = make_app(SERVICE)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


def png(height: int = 16, width: int = 16, mode: str = "RGB", value: int = 200) -> str:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), value if mode == "L" else (value,) * len(mode)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(APP, raise_server_exceptions=False)


@SCHEMA.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
def test_whatever_the_description_allows_or_forbids_is_answered(case: schemathesis.Case) -> None:
    """Statuses, types and bodies are those of the description, and a request that breaks it is refused."""
    # That a text is base64 of a PNG cannot be said in a schema, so that "valid" requests may be refused too.
    case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])


def test_labels_come_back_in_order(client: TestClient) -> None:
    inputs = [{"image": png(value=value)} for value in (0, 255, 10)]
    answer = client.post("/v1/predict", json={"inputs": inputs})
    assert answer.status_code == 200
    assert answer.json() == {"labels": [0, 1, 0]}


def test_other_sizes_and_modes_are_taken(client: TestClient) -> None:
    inputs = [{"image": png(20, 40)}, {"image": png(mode="L", value=0)}, {"image": png(mode="RGBA")}]
    assert client.post("/v1/predict", json={"inputs": inputs}).json() == {"labels": [1, 0, 1]}


def test_it_says_what_it_takes_and_that_it_is_up(client: TestClient) -> None:
    info = client.get("/v1/info").json()
    assert info["modality"] == "image"
    assert info["input"] == {"height": 16, "width": 16, "channels": 3}
    assert info["batch_limit"] == MAX_BATCH
    assert client.get("/health").json() == {"status": "up"}


def bomb(side: int) -> str:
    """A PNG of many pixels in a hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    whole = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    return base64.b64encode(whole).decode()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "body"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON|cannot be read"),
        (b"[" * 100_000, 400, "not JSON|cannot be read"),
        (b"null", 422, "body"),
        (b'{"inputs": []}', 422, "no inputs"),
        (b'{"inputs": {}}', 422, "is not a list"),
        (b'{"inputs": [{}]}', 422, "one 'image'"),
        (b'{"inputs": [{"text": "hello"}]}', 422, "one 'image'"),
        (b'{"inputs": [{"image": 7}]}', 422, "is not a text"),
        (b'{"inputs": [{"image": "!!!"}]}', 422, "not base64"),
        (b'{"inputs": [{"image": "aGVsbG8="}]}', 422, "not a readable PNG"),
        (b'{"inputs": [{"image": "", "more": 1}]}', 422, "does not belong"),
        (json.dumps({"inputs": [{"image": png()}] * (MAX_BATCH + 1)}).encode(), 422, "more than 64"),
        (json.dumps({"inputs": [{"image": bomb(100_000)}]}).encode(), 422, "pixels"),
        (json.dumps({"inputs": [{"image": bomb(3000)}]}).encode(), 422, "pixels"),
        (json.dumps({"inputs": [{"image": png()[:40]}]}).encode(), 422, "not a readable PNG"),
        (b"x" * (MAX_BODY + 1), 413, "larger than 8 MiB"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(
    client: TestClient, body: bytes, status: int, said: str
) -> None:
    answer = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert re.search(said, answer.json()["error"]), answer.text
    assert "\n" not in answer.json()["error"]


def test_an_answer_repeats_nothing_of_the_request(client: TestClient) -> None:
    evil = "<script>alert(1)</script>"
    for answer in (
        client.post("/v1/predict", json={"inputs": [{"image": evil}]}),
        client.post("/v1/predict", json={evil: evil}),
        client.post("/v1/predict", json={"inputs": [{"image": "", evil: 1}]}),
        client.get(f"/{evil}"),
    ):
        assert "script" not in answer.text
        assert answer.headers["content-type"] == "application/json"


def test_texts_are_labelled_and_checked() -> None:
    client = TestClient(make_app(TEXTS), raise_server_exceptions=False)
    answer = client.post("/v1/predict", json={"inputs": [{"text": "ab"}, {"text": "abc"}]})
    assert answer.json() == {"labels": [2, 0]}
    assert "height" not in client.get("/v1/info").json()["input"]
    for content in (
        b'{"inputs": [{"text": " "}]}',
        b'{"inputs": [{"text": "\\ud800"}]}',
        b'{"inputs": [{"image": "a"}]}',
    ):
        refused = client.post("/v1/predict", content=content, headers={"content-type": "application/json"})
        assert refused.status_code in (400, 422)


def test_it_stays_up_through_a_thousand_malformed_requests() -> None:
    """Bytes below the level of HTTP, broken bodies, lying lengths, clients that hang up; then an honest request."""
    dice = random.Random(0)
    good = json.dumps({"inputs": [{"image": png()}]}).encode()
    with serving(SERVICE) as address:
        place = urlsplit(address)
        for number in range(1000):
            kind = number % 5
            if kind == 0:
                content = dice.randbytes(dice.randrange(1, 300))
            else:
                body = bytearray(good)
                for _ in range(dice.randrange(1, 20)):
                    body[dice.randrange(len(body))] = dice.randrange(256)
                body[0] = ord("x")
                body = body[: dice.randrange(len(body))] if kind == 2 else body
                length = dice.randrange(10**6) if kind == 3 else len(body)
                head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n".encode()
                head += b"transfer-encoding: chunked\r\n" if kind == 4 else b""
                content = head + b"content-type: application/json\r\n\r\n" + bytes(body)
            with socket.create_connection((place.hostname, place.port), timeout=5) as stream:
                stream.sendall(content)
                if kind in (1, 2):
                    assert stream.recv(12).startswith(b"HTTP/1.1 4")
        answer = httpx.post(f"{address}/v1/predict", json=json.loads(good), timeout=30, trust_env=False)
        assert answer.json() == {"labels": [1]}
        assert httpx.get(f"{address}/health", timeout=30, trust_env=False).json() == {"status": "up"}


def test_requests_at_once_do_not_mix() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        serving(SERVICE) as address,
        httpx.Client(trust_env=False, timeout=30) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(number: int) -> bool:
            values = np.random.default_rng(number).integers(0, 256, 5)
            inputs = [{"image": png(value=int(value))} for value in values]
            labels = client.post(f"{address}/v1/predict", json={"inputs": inputs}).json()["labels"]
            return labels == [int(value > 99) for value in values]

        assert all(pool.map(ask, range(40)))
