"""A model behind HTTP that answers top-1 labels, as somebody who sells a model would: what `heredity serve` runs.

Requests come from strangers. Bodies, batches and pictures are bounded before they are looked into, and a request that cannot
be answered gets a status of 4xx with one line that repeats nothing of it.
"""

import asyncio
import base64
import binascii
import io
import json
import threading
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from torch import Tensor

from heredity import __version__
from heredity.data.labelled import resize
from heredity.serve.faults import Failing, Faults

MAX_BODY = 8 * 2**20
MAX_BATCH = 64
MAX_PIXELS = 4 * 2**20
MAX_TEXT = 20_000
BODY_SECONDS = 30.0

Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Service:
    """What is served: how inputs are labelled, of which modality, and for images their size.

    `label` takes uint8 images (n x 3 x size x size) or a list of texts and gives n class numbers.
    """

    label: Callable[[Any], Tensor]
    name: str
    modality: str = "image"
    size: int | None = None
    task: str = "classification"


class PredictInput(BaseModel):
    """One input: a PNG image in base64, or a text, whichever the model takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    image: Annotated[str, Field(max_length=MAX_BODY, description="base64 of a PNG file")] | None = None
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = None


class PredictRequest(BaseModel):
    """A batch of inputs."""

    model_config = ConfigDict(extra="forbid", strict=True)
    inputs: Annotated[list[PredictInput], Field(min_length=1, max_length=MAX_BATCH)]


class PredictResponse(BaseModel):
    """The top-1 label of each input, in order."""

    labels: list[int]


class ErrorResponse(BaseModel):
    """One line that says what was wrong."""

    error: str


class InfoResponse(BaseModel):
    """What the interface takes."""

    name: str
    version: str
    task: str
    modality: str
    input: dict[str, int]
    batch_limit: int
    body_limit: int


class HealthResponse(BaseModel):
    """Whether the service is up."""

    status: str


class _BadInputError(Exception):
    """An input that is no picture or text the model takes."""


def make_app(service: Service, *, faults: Faults | None = None) -> FastAPI:
    """The application. It answers one batch at a time; the others wait. `faults` make it fail now and then, for rehearsals.

    >>> make_app(Service(lambda images: torch.zeros(len(images)).long(), "nothing", size=8)).title
    'heredity: nothing'
    """
    refused: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": text}
        for status, text in (
            (400, "Not JSON"),
            (408, "Too slow"),
            (413, "Too large"),
            (422, "Not what the model takes"),
        )
    }
    app = FastAPI(title=f"heredity: {service.name}", version=__version__, docs_url=None, redoc_url=None)
    turn = threading.Lock()

    @app.post("/v1/predict", responses=refused)
    def predict(request: PredictRequest) -> PredictResponse:
        """Label a batch of inputs."""
        inputs = _decoded(request.inputs, service)
        with turn, torch.inference_mode():
            labels = service.label(inputs)
        return PredictResponse(labels=[int(label) for label in labels])

    @app.get("/v1/info")
    def info() -> InfoResponse:
        """What the interface takes."""
        size = {"height": service.size, "width": service.size, "channels": 3} if service.size is not None else {}
        return InfoResponse(
            name=service.name,
            version=__version__,
            task=service.task,
            modality=service.modality,
            input=size,
            batch_limit=MAX_BATCH,
            body_limit=MAX_BODY,
        )

    @app.get("/health")
    def health() -> HealthResponse:
        """Whether the service is up."""
        return HealthResponse(status="up")

    @app.exception_handler(_BadInputError)
    def refuse_input(request: Request, error: _BadInputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    @app.exception_handler(RequestValidationError)
    def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"] if isinstance(step, int) or step in _KNOWN)
        unreadable = first["type"] == "json_invalid"
        said = (
            "the body is not JSON"
            if unreadable
            else f"{where or 'body'}: {_MESSAGES.get(first['type'], 'does not fit')}"
        )
        return JSONResponse({"error": said}, status_code=400 if unreadable else 422)

    @app.exception_handler(HTTPException)
    def refuse(request: Request, error: HTTPException) -> JSONResponse:
        known = {404: "there is nothing at this address", 405: "this method is not allowed here"}
        said = known.get(error.status_code, "the request cannot be read")
        return JSONResponse({"error": said}, status_code=error.status_code, headers=error.headers)

    if faults is not None:
        app.add_middleware(Failing, faults=faults)
    app.add_middleware(Bounded)
    return app


_KNOWN = {"body", "inputs", "image", "text"}
_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "has a field that does not belong there",
    "too_long": f"more than {MAX_BATCH} inputs",
    "too_short": "no inputs",
    "string_too_long": "too long",
    "list_type": "is not a list",
    "string_type": "is not a text",
    "model_attributes_type": "is not an object",
}


def _decoded(inputs: list[PredictInput], service: Service) -> Any:
    wanted, other = ("image", "text") if service.modality == "image" else ("text", "image")
    for number, given in enumerate(inputs):
        if getattr(given, wanted) is None or getattr(given, other) is not None:
            raise _BadInputError(f"inputs.{number}: this model takes one {wanted!r} an input, and nothing else")
    if service.modality == "text":
        texts = [given.text or "" for given in inputs]
        for number, text in enumerate(texts):
            if not text.strip() or not _encodable(text):
                raise _BadInputError(f"inputs.{number}: the text is empty or not Unicode")
        return texts
    pictures = [_picture(given.image or "", number) for number, given in enumerate(inputs)]
    return torch.cat([resize(picture, service.size) for picture in pictures])


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _picture(encoded: str, number: int) -> Tensor:
    """Decode a PNG. Its size is looked at before its pixels are, so that a small file cannot unfold into gigabytes."""
    where = f"inputs.{number}.image"
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _BadInputError(f"{where}: not base64") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise _BadInputError(f"{where}: more than {MAX_PIXELS:,} pixels")
                pixels = np.asarray(picture.convert("RGB"))
    except _BadInputError:
        raise
    except Image.DecompressionBombError:
        raise _BadInputError(f"{where}: more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's readers raise errors of many kinds for hostile files
        raise _BadInputError(f"{where}: not a readable PNG file") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


class Bounded:
    """Reads a body whole before the application sees it: not more than MAX_BODY bytes, not longer than BODY_SECONDS."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MAX_BODY:
            await _answer(send, 413, f"the body is larger than {MAX_BODY // 2**20} MiB")
            return
        try:
            body = await asyncio.wait_for(_read(receive), BODY_SECONDS)
        except TimeoutError:
            await _answer(send, 408, "the body did not arrive in time")
            return
        except EOFError:
            return
        if body is None:
            await _answer(send, 413, f"the body is larger than {MAX_BODY // 2**20} MiB")
            return
        sent = False

        async def whole() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole, send)


async def _read(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """The body, None when it is too large. Raises EOFError when the client went away."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, text: str) -> None:
    content = json.dumps({"error": text}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
