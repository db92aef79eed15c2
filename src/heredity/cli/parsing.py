"""Words to options: tyro, with its errors as one line."""

import contextlib
import io
import re
from typing import Any

import tyro

from heredity.core.errors import ConfigError


def parse(kind: Any, words: list[str], prog: str) -> Any:
    """The options of a command. Raises ConfigError, naming what does not fit; --help prints and exits."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=prog)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─|+-") for line in complaint.getvalue().splitlines()]
        said = [line for line in lines if line and not re.fullmatch(r"(Parsing|Required|Unrecognized) .*", line)]
        raise ConfigError(" ".join(said[:2]) or "the arguments do not fit", remedy=f"see {prog} --help") from None
