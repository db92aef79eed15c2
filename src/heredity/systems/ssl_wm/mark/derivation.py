"""From an owner's secret to bytes that nobody can choose: a slow hash, then an extendable-output one (spec section 2.9)."""

import hashlib

_DOMAIN = b"heredity/ssl-wm/v1"


def master_of(secret: bytes, owner: str, created: str) -> bytes:
    """32 bytes that take about a tenth of a second to compute, so that searching for a lucky secret costs real time."""
    salt = f"{owner}||{created}".encode()
    return hashlib.scrypt(secret, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)


def sub_key_bytes(master: bytes, modality: str, number: int, length: int) -> bytes:
    """The first `length` bytes of a sub-key's own endless stream (SHAKE-256).

    >>> sub_key_bytes(b"m", "text", 0, 8) == sub_key_bytes(b"m", "text", 0, 16)[:8]
    True
    """
    return hashlib.shake_256(_DOMAIN + master + modality.encode() + number.to_bytes(4, "big")).digest(length)
