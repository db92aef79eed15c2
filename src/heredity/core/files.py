"""Atomic writes and safe reads of what a run leaves on disk."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from heredity.core.errors import RunError


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temporary file, fsync, rename.

    The file never has wider permissions than `mode`, not even while it is written. Raises RunError, naming the file, when it
    cannot be written (no permission, disk full).
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}",
            remedy="free disk space or choose a writable folder with --out, then repeat with --resume",
        ) from error


def write_text(path: Path, content: str, *, mode: int = 0o644) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode(), mode=mode)


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON. Numbers that are not finite become null, since JSON knows none."""
    write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises RunError naming the file when it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"no file {path}", remedy="give the directory of a run that has finished") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RunError(f"{path} is not readable JSON: {error}", remedy="repeat the run with --resume") from error


def finite(value: Any) -> Any:
    """Plain data with infinities and not-a-numbers replaced by None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


def ensure_writable(path: Path) -> None:
    """Find out before hours of work whether a file can be written. Raises RunError with the remedy."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}", remedy="choose another place") from error
