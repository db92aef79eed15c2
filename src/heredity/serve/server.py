"""`heredity serve MODEL`: a classifier behind HTTP until Ctrl-C."""

import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heredity.core.errors import HeredityError, ModelError
from heredity.core.lineage import ARCHITECTURE_KEY, load_tensors
from heredity.nn.encoders import Classifier
from heredity.nn.inference import top1
from heredity.nn.resolver import load_file, stage_of


def path_of(model: str) -> Path:
    """The file that PATH, file:PATH or run:DIR/STAGE names."""
    kind, _, place = model.partition(":")
    if kind == "run" and place:
        return stage_of(Path(place).expanduser()) / "model.safetensors"
    return Path(place if kind == "file" and place else model).expanduser()


def load_service(model: str, *, size: int | None = None, name: str | None = None) -> Any:
    """A `Service` for a classifier file of ours. Raises ModelError for what is no classifier."""
    from heredity.serve.app import Service

    path = path_of(model)
    _, metadata = load_tensors(path)
    try:
        known = json.loads(metadata.get(ARCHITECTURE_KEY, "{}"))
    except ValueError:
        known = {}
    encoder = known.get("encoder", known) if isinstance(known, dict) else {}
    encoder = encoder if isinstance(encoder, dict) else {}
    label: Callable[[Any], Any]
    if encoder.get("kind") == "text":
        from heredity.nn.text import labels_of
        from heredity.nn.text_resolver import load_text_model

        found = load_text_model(path)
        modality, side, label = "text", None, lambda texts: labels_of(found, texts)
    else:
        side = size or encoder.get("image")
        if type(side) is not int:
            raise ModelError(f"{path} does not say the size of its images", remedy="add --size")
        found = load_file(path, image=side)
        modality, label = "image", lambda images: top1(found, images)
    if not isinstance(found, Classifier):
        raise ModelError(f"{path} is an encoder, not a classifier", remedy="give the downstream model")
    return Service(label, name or path.stem, modality, side)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises HeredityError naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise HeredityError(
            f"cannot listen on {host}:{port}: {error}", remedy="choose another --port or --host"
        ) from error
    return listening


def serve(service: Any, listening: socket.socket, *, faults: float = 0.0) -> None:
    """Answer until interrupted; requests that were begun are finished first. A share of `faults` of them fails on purpose."""
    import uvicorn

    from heredity.serve.app import make_app
    from heredity.serve.faults import Faults

    config = uvicorn.Config(
        make_app(service, faults=Faults(faults) if faults else None),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=256,
        h11_max_incomplete_event_size=64 * 1024,
        server_header=False,
    )
    # uvicorn raises the interrupt again after it has finished what was begun: here it is the ordinary end.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
