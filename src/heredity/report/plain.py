"""What a run left on disk, read with suspicion: the files may have been edited, damaged, or made to deceive."""

import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jsonschema

from heredity.core.errors import RunError
from heredity.core.files import read_json

# What XML 1.0 and HTML cannot hold: control characters, halves of surrogate pairs, the two non-characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """A text with everything that no page can show replaced."""
    return _UNPRINTABLE.sub(_REPLACEMENT, text)


def clean(value: Any) -> Any:
    """Plain data with every text (keys too) made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): clean(item) for key, item in value.items()}
    return value


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line, with an ellipsis where something was cut.

    >>> shorten("contrastive/classes", 12)
    'contrastive…'
    """
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def read_plain(path: Path) -> Any:
    """A JSON file as printable plain data. Raises RunError naming the file, also where it nests too deep to read."""
    try:
        return clean(read_json(path))
    except RecursionError:
        raise RunError(f"{path} nests too deep", remedy="repeat the run with --resume") from None


def read_results(directory: Path) -> dict[str, Any]:
    """results.json of a run directory, checked against results.schema.json. Raises RunError naming file and field."""
    path = directory / "results.json"
    results = read_plain(path)
    schema = json.loads(importlib.resources.files("heredity.report").joinpath("results.schema.json").read_text("utf-8"))
    several = isinstance(results, dict) and "runs" in results
    validator = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/several" if several else "#/$defs/single"})
    error = next(
        iter(sorted(validator.iter_errors(results), key=lambda found: [str(part) for part in found.path])), None
    )
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path)
        raise RunError(
            f"{path}{': ' + shorten(place, 80) if place else ''}: {shorten(error.message, 160)}",
            remedy="results.json is not what heredity writes; repeat the run with --resume",
        )
    return results


def read_text(path: Path) -> str:
    """A text file as printable text. Raises RunError naming it."""
    try:
        return printable(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}", remedy="repeat the run with --resume") from error
