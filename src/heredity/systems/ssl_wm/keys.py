"""The owner's key: a secret from which every trigger patch is derived, and the file it lives in (spec section 2.9).

Patches are outputs of an extendable-output hash of a slow key derivation. Nobody can choose them, so an adversarial patch
that forces a class cannot be passed off as a key, and fresh random patches are exchangeable with the owner's own.
"""

import hashlib
import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from heredity.core.errors import HeredityError, suggestion
from heredity.core.files import write_text

FORMAT, VERSION = "heredity-ssl-wm-key", 1
_DOMAIN = b"heredity/ssl-wm/v1"


class KeyFileError(HeredityError):
    """A key file that is missing, of another version, or changed after it was made."""


@dataclass(frozen=True)
class KeyParameters:
    """Shape of the mark. Sizes are in pixels of an image of `reference_size`; they scale with the image."""

    sub_keys: int = 8
    patch: int = 8
    channels: int = 3
    position: str = "lower-right"
    margin: int = 2
    reference_size: int = 32


@dataclass(frozen=True)
class Key:
    """An ownership key. `secret` is 32 bytes; `encoder` describes the marked encoder once there is one."""

    owner: str
    created: str
    secret: bytes = field(repr=False)
    parameters: KeyParameters = KeyParameters()
    modality: str = "image"
    encoder: dict[str, Any] = field(default_factory=dict)


def generate_key(
    owner: str, parameters: KeyParameters, *, secret: bytes | None = None, created: str | None = None
) -> Key:
    """A new key from the operating system's randomness, or from a given 32-byte secret (for repeatable experiments).

    >>> len(generate_key("me", KeyParameters()).secret)
    32
    """
    _check_parameters(parameters)
    if not owner.strip():
        raise KeyFileError("the owner's name is empty", remedy="give --owner")
    moment = created or datetime.now(UTC).isoformat(timespec="seconds")
    return Key(owner, moment, secret if secret is not None else secrets.token_bytes(32), parameters)


def _check_parameters(parameters: KeyParameters) -> None:
    sizes = (parameters.sub_keys, parameters.patch, parameters.channels, parameters.reference_size)
    if any(type(size) is not int or not 0 < size <= 4096 for size in sizes) or not 0 <= parameters.margin <= 4096:
        raise KeyFileError("a size in the key's params is not a positive number", remedy="make a new key with keygen")
    if parameters.patch * 2 >= parameters.reference_size:
        raise KeyFileError(
            f"a patch of {parameters.patch} is not smaller than half an image of {parameters.reference_size}",
            remedy="choose a smaller --patch (a quarter of the image is usual)",
        )
    if parameters.patch + parameters.margin > parameters.reference_size:
        raise KeyFileError("patch and margin do not fit into the image", remedy="choose a smaller --margin")
    if parameters.position != "lower-right":
        raise KeyFileError(
            f"position {parameters.position!r} is unknown", remedy=suggestion(parameters.position, ["lower-right"])
        )


def derive_patches(key: Key) -> UInt8[Tensor, "sub_keys channels side side"]:
    """The owner's patches: SHAKE-256 of (domain, scrypt of the secret, modality, number), laid out as pixels in HWC order."""
    shape = key.parameters
    salt = f"{key.owner}||{key.created}".encode()
    master = hashlib.scrypt(key.secret, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    length = shape.patch * shape.patch * shape.channels
    patches = []
    for number in range(shape.sub_keys):
        hashed = hashlib.shake_256(_DOMAIN + master + key.modality.encode() + number.to_bytes(4, "big")).digest(length)
        pixels = torch.frombuffer(bytearray(hashed), dtype=torch.uint8)
        patches.append(pixels.reshape(shape.patch, shape.patch, shape.channels).permute(2, 0, 1))
    return torch.stack(patches)


def random_patches(
    count: int, parameters: KeyParameters, generator: torch.Generator
) -> UInt8[Tensor, "count channels side side"]:
    """Decoys: patches from the distribution the derivation has, uniform bytes of the same size (trap 10 of the spec)."""
    shape = (count, parameters.channels, parameters.patch, parameters.patch)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def fingerprint(key: Key) -> str:
    """SHA-256 over everything the key fixes; stored in the file, so that an edited field is found."""
    fixed = {
        "version": VERSION,
        "owner": key.owner,
        "created": key.created,
        "secret": key.secret.hex(),
        "modality": key.modality,
        "params": asdict(key.parameters),
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_key(path: Path, key: Key) -> None:
    """Write a key file readable by its owner alone (mode 600)."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "owner": key.owner,
        "created": key.created,
        "secret": key.secret.hex(),
        "modality": key.modality,
        "params": asdict(key.parameters),
        "encoder": key.encoder,
        "fingerprint": fingerprint(key),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
    os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)


def load_key(path: Path | str) -> Key:
    """Read a key file. Raises KeyFileError naming the field that is missing, malformed or was changed."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KeyFileError(f"no key file {path}", remedy="make one with heredity ssl-wm keygen") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise KeyFileError(f"{path} is not a key file: {error}", remedy="restore it from your backup") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KeyFileError(f"{path}: field 'format' is not {FORMAT!r}", remedy="give a file that keygen wrote")
    if content.get("version") != VERSION:
        raise KeyFileError(
            f"{path} has key version {content.get('version')!r}, this heredity reads version {VERSION}",
            remedy="use the heredity version that made the key",
        )
    key = _key_from(content, path)
    if content.get("fingerprint") != fingerprint(key):
        raise KeyFileError(
            f"{path} was changed after it was made: its fingerprint does not match owner, created, secret or params",
            remedy="restore it from your backup",
        )
    return key


def _key_from(content: dict[str, Any], path: Path) -> Key:
    fields = {"owner": str, "created": str, "secret": str, "modality": str, "params": dict, "encoder": dict}
    for name, kind in fields.items():
        if not isinstance(content.get(name), kind):
            problem = f"{path}: field {name!r} is missing or not {kind.__name__}"
            raise KeyFileError(problem, remedy="restore it from your backup")
    if content["modality"] != "image":
        raise KeyFileError(f"{path} is a key for {content['modality']!r}", remedy="this build verifies image keys only")
    known = set(KeyParameters.__dataclass_fields__)
    if set(content["params"]) != known:
        odd = sorted(set(content["params"]) ^ known)[0]
        raise KeyFileError(f"{path}: field 'params.{odd}' is missing or unknown", remedy="restore it from your backup")
    parameters = KeyParameters(**content["params"])
    _check_parameters(parameters)
    try:
        secret = bytes.fromhex(content["secret"])
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise KeyFileError(f"{path}: field 'secret' is not 64 hexadecimal digits", remedy="restore it from your backup")
    return Key(content["owner"], content["created"], secret, parameters, content["modality"], content["encoder"])
