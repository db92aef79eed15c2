"""Key files under a passphrase: scrypt, then AES-256-GCM. The passphrase never comes from the command line."""

import base64
import getpass
import hashlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from heredity.core.errors import HeredityError

VARIABLE, FILE_VARIABLE = "HEREDITY_KEY_PASSPHRASE", "HEREDITY_KEY_PASSPHRASE_FILE"
_SCHEME = b"heredity/ssl-wm/protected-key/v1"
_COST = {"n": 2**17, "r": 8, "p": 1}
_RESTORE = "restore it from your backup"


class PassphraseError(HeredityError):
    """A passphrase that is missing or wrong, or a protected file that was damaged."""


def seal(plain: bytes, passphrase: str) -> dict[str, Any]:
    """Encrypt under a passphrase; the result is JSON data.

    >>> unseal(seal(b"secret", "open sesame"), "open sesame", source="a file")
    b'secret'
    """
    if not passphrase:
        raise PassphraseError("the passphrase is empty", remedy="give one, or make the key without --protect")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    data = AESGCM(_derived(passphrase, salt, _COST)).encrypt(nonce, plain, _SCHEME)
    return {
        "kdf": "scrypt",
        **_COST,
        "salt": salt.hex(),
        "cipher": "AES-256-GCM",
        "nonce": nonce.hex(),
        "data": base64.b64encode(data).decode("ascii"),
    }


def unseal(sealed: Any, passphrase: str, *, source: str) -> bytes:
    """Decrypt what `seal` made. Raises PassphraseError naming `source` for a wrong passphrase or a damaged record."""
    cost = {name: sealed.get(name) for name in _COST} if isinstance(sealed, Mapping) else {}
    # The bounds keep a hostile file from asking for gigabytes.
    if cost != _COST or sealed.get("kdf") != "scrypt" or sealed.get("cipher") != "AES-256-GCM":
        raise PassphraseError(f"{source}: field 'protected' is of an unknown scheme", remedy=_RESTORE)
    try:
        salt, nonce = bytes.fromhex(sealed["salt"]), bytes.fromhex(sealed["nonce"])
        data = base64.b64decode(sealed["data"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise PassphraseError(f"{source}: field 'protected' is damaged: {error}", remedy=_RESTORE) from error
    try:
        return AESGCM(_derived(passphrase, salt, _COST)).decrypt(nonce, data, _SCHEME)
    except (InvalidTag, ValueError) as error:
        raise PassphraseError(
            f"{source} does not open with this passphrase, or was changed after it was made",
            remedy="try again; a forgotten passphrase cannot be recovered",
        ) from error


def _derived(passphrase: str, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, maxmem=2**28, dklen=32, **cost)


def passphrase_for(path: Path, *, twice: bool = False) -> str:
    """The passphrase of a key file: from the environment variable, from the file that another one names, or typed.

    `twice` asks again where it is typed for a new key. Raises PassphraseError where there is nobody to ask.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if FILE_VARIABLE in os.environ:
        place = Path(os.environ[FILE_VARIABLE])
        try:
            return place.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PassphraseError(f"cannot read {place}: {error}", remedy=f"mend {FILE_VARIABLE}") from error
    if not sys.stdin.isatty():
        raise PassphraseError(
            f"{path} is protected by a passphrase and nobody is there to type it",
            remedy=f"set {VARIABLE}, or {FILE_VARIABLE} to a file that holds it",
        )
    typed = getpass.getpass(f"Passphrase for {path}: ")
    if twice and getpass.getpass("The same again: ") != typed:
        raise PassphraseError("the two passphrases differ", remedy="try again")
    return typed
