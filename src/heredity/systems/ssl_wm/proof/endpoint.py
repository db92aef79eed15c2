"""Asking a suspect over HTTP, patiently: time-outs, busy servers and broken answers are tried again, refusals are not."""

import email.utils
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.proof.mapping import Mapping, MisfitError, body_of, filled_headers, labels_in
from heredity.systems.ssl_wm.proof.modality import Modality
from heredity.systems.ssl_wm.proof.protocol import Suspect

_AGAIN = {408, 429, 500, 502, 503, 504}
_MAX_ANSWER = 16 * 2**20
_MAX_LABEL = 1000


class EndpointError(HeredityError):
    """An interface that refuses, or that keeps failing."""


class _NoConstantError(ValueError):
    """NaN or Infinity, which Python's reader admits and JSON does not."""


@dataclass(frozen=True)
class Patience:
    """When to stop asking. Seconds throughout; the wait before try n is uniform between 0 and base * 2^n, at most `most`."""

    timeout: float = 10.0
    tries: int = 8
    base: float = 0.5
    most: float = 30.0
    retry_after_most: float = 120.0
    total: float = 6 * 3600.0


@dataclass
class Endpoint:
    """One interface, with what was noticed and how much was asked of it."""

    mapping: Mapping
    modality: Modality
    patience: Patience = Patience()
    sleep: Callable[[float], None] = time.sleep
    jitter: random.Random = field(default_factory=random.SystemRandom)
    requests: int = 0
    failures: int = 0

    def __post_init__(self) -> None:
        local = urlsplit(self.mapping.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(
            headers={**filled_headers(self.mapping), "content-type": "application/json"},
            timeout=self.patience.timeout,
            follow_redirects=False,
            trust_env=not local,
        )
        self._notes: list[str] = []
        self._deadline = time.monotonic() + self.patience.total

    def suspect(self) -> Suspect:
        """As somebody to be asked by the protocol."""
        return Suspect(self.mapping.name, self.ask, self.mapping.batch, lambda: tuple(self._notes))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, inputs: Any) -> list[Any]:
        """The labels of some inputs, at most `mapping.batch`. Raises EndpointError with address and remedy."""
        count = len(inputs)
        payloads = [self.modality.payload(inputs[place]) for place in range(count)]
        body = json.dumps(body_of(self.mapping, payloads), separators=(",", ":")).encode()
        said = "nothing was tried"
        for number in range(self.patience.tries):
            self.requests += 1
            wait: float | None = None
            try:
                status, headers, content = self._send(body)
                if status == 200:
                    return self._labels(content, count)
                said = f"status {status}"
                if status not in _AGAIN:
                    raise EndpointError(
                        f"{self.mapping.name} answered {said}: {_shown(content)}", remedy=_remedy(status)
                    )
                wait = _retry_after(headers.get("retry-after"))
            except httpx.RequestError as error:
                said = type(error).__name__
            except httpx.InvalidURL as error:
                raise EndpointError(f"{self.mapping.name}: {error}", remedy="check the address") from error
            except _BrokenAnswerError as error:
                said = str(error)
            self.failures += 1
            if number + 1 < self.patience.tries:
                self._wait(number, wait)
        raise EndpointError(
            f"{self.mapping.name} failed {self.patience.tries} times, last with {said}",
            remedy="what was answered is kept: go on later with --resume",
        )

    def _wait(self, number: int, told: float | None) -> None:
        backed_off = self.jitter.uniform(0, min(self.patience.most, self.patience.base * 2**number))
        seconds = backed_off if told is None else min(told, self.patience.retry_after_most)
        if time.monotonic() + seconds > self._deadline:
            raise EndpointError(
                f"{self.mapping.name}: {self.patience.total:g} seconds are over", remedy="go on later with --resume"
            )
        self.sleep(seconds)

    def _send(self, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        with self._client.stream(self.mapping.method, self.mapping.url, content=body) as response:
            content = b""
            for part in response.iter_bytes():
                content += part
                if len(content) > _MAX_ANSWER:
                    raise EndpointError(
                        f"{self.mapping.name} answered more than {_MAX_ANSWER // 2**20} MiB", remedy="check the address"
                    )
                if time.monotonic() > self._deadline:
                    raise httpx.ReadTimeout("the answer takes too long")
            return response.status_code, response.headers, content

    def _labels(self, content: bytes, count: int) -> list[Any]:
        try:
            answer = json.loads(content, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            kind = "a page of HTML" if content.lstrip()[:1] == b"<" else "no JSON"
            raise _BrokenAnswerError(f"{kind}: {_shown(content)}") from error
        try:
            return [self._label(label) for label in labels_in(self.mapping, answer, count)]
        except MisfitError as error:
            raise EndpointError(
                f"{self.mapping.name}: {error}: {_shown(content)}", remedy="check 'label' in the mapping"
            ) from error

    def _label(self, label: Any) -> Any:
        """A label as it is; of scores the place or name of the largest."""
        scores: dict[Any, Any] = {}
        if isinstance(label, list) and len(label) > 1:
            scores = dict(enumerate(label))
        elif isinstance(label, dict) and len(label) > 1:
            scores = label
        if scores and all(type(score) in (int, float) for score in scores.values()):
            self._note("the suspect answers scores, not labels; the largest was taken as its label")
            return max(scores, key=scores.__getitem__)
        if label is None or len(json.dumps(label)) > _MAX_LABEL:
            shown = _shown(json.dumps(label).encode())
            raise EndpointError(f"{self.mapping.name}: {shown} is no label", remedy="check 'label' in the mapping")
        return label

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


class _BrokenAnswerError(Exception):
    """A body that is not JSON: cut off, or an error page of something in between."""


def _no_constant(name: str) -> None:
    raise _NoConstantError(name)


def _shown(content: bytes) -> str:
    """The first 80 characters of an answer, harmless on a terminal and in a page."""
    return ascii(content[:80].decode("utf-8", errors="replace"))


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check the header with the credentials in the mapping"
    if status in (301, 302, 303, 307, 308):
        return "redirects are not followed: give the final address"
    if status == 413:
        return "give a smaller 'batch' in the mapping"
    if status in (404, 405):
        return "check the address and the method"
    return "the request does not fit: check 'request' in the mapping, and --size"


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number or a date.

    >>> _retry_after("7"), _retry_after(None), _retry_after("soon")
    (7.0, None, None)
    """
    if value is None:
        return None
    if value.strip().isdigit():
        return float(min(int(value.strip()[:9]), 10**6))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def ask_info(mapping: Mapping) -> dict[str, Any]:
    """What an interface of the house's kind says of itself at /v1/info; nothing where it says nothing usable."""
    address = mapping.url.removesuffix("/v1/predict") + "/v1/info"
    try:
        local = urlsplit(mapping.url).hostname in ("localhost", "127.0.0.1", "::1")
        answer = httpx.get(address, timeout=10.0, headers=filled_headers(mapping), trust_env=not local)
        content = answer.json() if answer.status_code == 200 and len(answer.content) < 10**5 else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_info(info: dict[str, Any], *, modality: str, size: int | None, name: str) -> None:
    """Refuse before the first query what the interface says it does not take."""
    theirs = info.get("modality")
    if isinstance(theirs, str) and theirs != modality:
        raise EndpointError(
            f"{name} takes {theirs[:20]!r}, the key is for {modality!r}", remedy="give a key of its kind"
        )
    wanted = info.get("input")
    height = wanted.get("height") if isinstance(wanted, dict) else None
    if modality == "image" and type(height) is int and size is not None and height != size:
        raise EndpointError(f"{name} takes images of {height} pixels, not {size}", remedy=f"add --size {height}")


def batches_within(limit: Any, mapping: Mapping) -> int:
    """How many inputs a request, no more than the interface says it takes."""
    return min(mapping.batch, limit) if type(limit) is int and limit >= 1 else mapping.batch
