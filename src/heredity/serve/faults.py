"""Failing on purpose, as services and what stands between do: for rehearsing clients, and for the tests of ours."""

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
KINDS = ("silent", "busy", "error", "cut", "page")


@dataclass(frozen=True)
class Faults:
    """A `share` (0..1) of the prediction requests fails in one of KINDS; a silent one keeps the client waiting `seconds`."""

    share: float
    seconds: float = 3.0
    seed: int = 0


class Failing:
    """ASGI middleware around an application: status 429 and 500, an answer cut off in the middle, an HTML page, silence."""

    def __init__(self, app: Callable[..., Awaitable[None]], faults: Faults) -> None:
        self.app, self.faults = app, faults
        self._random = random.Random(faults.seed)

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        asked = scope["type"] == "http" and scope["method"] == "POST"
        if not asked or self._random.random() >= self.faults.share:
            await self.app(scope, receive, send)
            return
        kind = self._random.choice(KINDS)
        if kind == "silent":
            await asyncio.sleep(self.faults.seconds)
            await _answer(send, 503, b"too late", b"text/plain")
        elif kind == "busy":
            await _answer(send, 429, b"{}", b"application/json", (b"retry-after", b"0"))
        elif kind == "error":
            await _answer(send, 500, b"oops", b"text/plain")
        elif kind == "page":
            await _answer(send, 200, b"<html><title>Please wait</title></html>", b"text/html")
        else:
            await self._cut(scope, receive, send)

    async def _cut(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """The true answer without its second half."""
        body = bytearray()

        async def keep(message: Message) -> None:
            body.extend(message.get("body", b""))

        await self.app(scope, receive, keep)
        await _answer(send, 200, bytes(body[: len(body) // 2]), b"application/json")


async def _answer(
    send: Callable[[Message], Awaitable[None]], status: int, content: bytes, kind: bytes, *more: tuple[bytes, bytes]
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
