"""Errors a user can act on: one line that names the file or field, and the remedy."""

import difflib
from collections.abc import Iterable


class HeredityError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback.

    >>> str(HeredityError("no folder 'pictures'", remedy="check the path"))
    "no folder 'pictures' (check the path)"
    """

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem} ({remedy})" if remedy else problem)


class ConfigError(HeredityError):
    """A system, preset, field or value that does not exist or does not fit."""


class DataError(HeredityError):
    """A data source that is missing, empty, malformed or unfit for the task."""


class ModelError(HeredityError):
    """A model file or specification that cannot be used."""


class RunError(HeredityError):
    """A run directory that cannot be written, resumed or read."""


class TrainingError(HeredityError):
    """Training that cannot go on, such as a loss that is not a number."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest known one, or the list of them.

    >>> suggestion("smok", ["smoke", "quick"])
    "did you mean 'smoke'?"
    """
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(choices)
