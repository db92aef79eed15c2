"""The owner's key: a secret from which every trigger patch is derived, and the file it lives in (spec section 2.9).

Patches are outputs of an extendable-output hash of a slow key derivation. Nobody can choose them, so an adversarial patch
that forces a class cannot be passed off as a key, and fresh random patches are exchangeable with the owner's own.
"""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from heredity.core.errors import ConfigError, HeredityError, suggestion
from heredity.core.files import write_text
from heredity.systems.ssl_wm.mark.derivation import master_of, sub_key_bytes
from heredity.systems.ssl_wm.mark.text_keys import TextKeyParameters, check_text_parameters, text_parameters_from
from heredity.systems.ssl_wm.mark.vault import passphrase_for, seal, unseal

FORMAT, VERSION = "heredity-ssl-wm-key", 1


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
    """An ownership key. `secret` is 32 bytes; `encoder` describes the marked encoder once there is one.

    `parameters` are KeyParameters for images and TextKeyParameters for text; `commitment` is what was published of the key.
    """

    owner: str
    created: str
    secret: bytes = field(repr=False)
    parameters: Any = KeyParameters()
    modality: str = "image"
    encoder: dict[str, Any] = field(default_factory=dict)
    commitment: str = ""


def generate_key(
    owner: str,
    parameters: KeyParameters | TextKeyParameters,
    *,
    secret: bytes | None = None,
    created: str | None = None,
) -> Key:
    """A new key from the operating system's randomness, or from a given 32-byte secret (for repeatable experiments).

    The parameters decide whether it is a key for images or for text.

    >>> len(generate_key("me", KeyParameters()).secret)
    32
    """
    modality = "text" if isinstance(parameters, TextKeyParameters) else "image"
    _check_parameters(parameters)
    if not owner.strip():
        raise KeyFileError("the owner's name is empty", remedy="give --owner")
    moment = created or datetime.now(UTC).isoformat(timespec="seconds")
    return Key(owner, moment, secret if secret is not None else secrets.token_bytes(32), parameters, modality)


def _check_parameters(parameters: KeyParameters | TextKeyParameters) -> None:
    if isinstance(parameters, TextKeyParameters):
        return check_text_parameters(parameters)
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


def image_parameters(key: Key) -> KeyParameters:
    """The parameters of a key for images. Raises KeyFileError for a key of another modality."""
    if not isinstance(key.parameters, KeyParameters):
        raise KeyFileError(f"the key is for {key.modality}, not for images", remedy="give a key made for images")
    return key.parameters


def derive_patches(key: Key) -> UInt8[Tensor, "sub_keys channels side side"]:
    """The owner's patches: SHAKE-256 of (domain, scrypt of the secret, modality, number), laid out as pixels in HWC order."""
    shape = image_parameters(key)
    master = master_of(key.secret, key.owner, key.created)
    length = shape.patch * shape.patch * shape.channels
    patches = []
    for number in range(shape.sub_keys):
        hashed = sub_key_bytes(master, "image", number, length)
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
    fixed = {"version": VERSION, **_fixed(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fixed(key: Key) -> dict[str, Any]:
    return {
        "owner": key.owner,
        "created": key.created,
        "secret": key.secret.hex(),
        "modality": key.modality,
        "params": asdict(key.parameters),
    }


def save_key(path: Path, key: Key, *, passphrase: str | None = None) -> None:
    """Write a key file readable by its owner alone (mode 600); with a passphrase, its content is encrypted."""
    head = {"format": FORMAT, "version": VERSION}
    content = {
        **head,
        **_fixed(key),
        "encoder": key.encoder,
        "commitment": key.commitment,
        "fingerprint": fingerprint(key),
    }
    if passphrase is not None:
        content = {**head, "protected": seal(json.dumps(content).encode(), passphrase)}
    write_text(path, json.dumps(content, indent=1) + "\n", mode=0o600)


def load_key(path: Path | str, *, passphrase: str | None = None) -> Key:
    """Read a key file. Raises KeyFileError naming the field that is missing, malformed or was changed.

    A protected one is opened with the passphrase given, or else with that of `vault.passphrase_for`.
    """
    path = Path(path)
    content = _read(path)
    if "protected" in content:
        opened = unseal(content["protected"], passphrase or passphrase_for(path), source=str(path))
        content = _checked_head(json.loads(opened), path)
    key = _key_from(content, path)
    if content.get("fingerprint") != fingerprint(key):
        raise KeyFileError(
            f"{path} was changed after it was made: its fingerprint does not match owner, created, secret or params",
            remedy="restore it from your backup",
        )
    return key


def is_protected(path: Path) -> bool:
    """Whether a key file asks for a passphrase."""
    return "protected" in _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KeyFileError(f"no key file {path}", remedy="make one with heredity ssl-wm keygen") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise KeyFileError(f"{path} is not a key file: {error}", remedy="restore it from your backup") from error
    return _checked_head(content, path)


def _checked_head(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KeyFileError(f"{path}: field 'format' is not {FORMAT!r}", remedy="give a file that keygen wrote")
    if content.get("version") != VERSION:
        raise KeyFileError(
            f"{path} has key version {content.get('version')!r}, this heredity reads version {VERSION}",
            remedy="use the heredity version that made the key",
        )
    return content


def _key_from(content: dict[str, Any], path: Path) -> Key:
    content = {"commitment": "", **content}
    fields = dict.fromkeys(("owner", "created", "secret", "modality", "commitment"), str)
    fields |= dict.fromkeys(("params", "encoder"), dict)
    for name, kind in fields.items():
        if not isinstance(content.get(name), kind):
            problem = f"{path}: field {name!r} is missing or not {kind.__name__}"
            raise KeyFileError(problem, remedy="restore it from your backup")
    parameters = _parameters_from(content["modality"], content["params"], path)
    try:
        secret = bytes.fromhex(content["secret"])
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise KeyFileError(f"{path}: field 'secret' is not 64 hexadecimal digits", remedy="restore it from your backup")
    names = ("owner", "created", "modality", "encoder", "commitment")
    return Key(secret=secret, parameters=parameters, **{name: content[name] for name in names})


def _parameters_from(modality: str, plain: dict[str, Any], path: Path) -> KeyParameters | TextKeyParameters:
    if modality == "text":
        try:
            return text_parameters_from(plain)
        except ConfigError as error:
            raise KeyFileError(f"{path}: {error.problem}", remedy=error.remedy) from error
    if modality != "image":
        raise KeyFileError(f"{path} is a key for {modality!r}", remedy="this heredity knows keys for image and text")
    known = set(KeyParameters.__dataclass_fields__)
    if set(plain) != known:
        odd = sorted(set(plain) ^ known)[0]
        raise KeyFileError(f"{path}: field 'params.{odd}' is missing or unknown", remedy="restore it from your backup")
    parameters = KeyParameters(**plain)
    _check_parameters(parameters)
    return parameters
