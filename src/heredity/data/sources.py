"""All data sources of the house: each kind of data is one module, asked here by name and imported only then.

A kind's module offers `list_sources() -> [(name, what it is)]`, `knows(source) -> bool` (it reads or writes a source of that
name), `check_source(source) -> str` and `make_source(source, directory, *, rows, seed) -> str`.
"""

import importlib
from pathlib import Path
from types import ModuleType

from heredity.core.errors import DataError, suggestion

KINDS = {
    "images": "heredity.data.images",
    "graphs": "heredity.data.graphs",
    "text": "heredity.data.text",
}


def list_sources() -> dict[str, list[tuple[str, str]]]:
    """For each kind of data the names of its sources, with what they are or the layout they need."""
    return {kind: importlib.import_module(module).list_sources() for kind, module in KINDS.items()}


def check_source(source: str) -> str:
    """Read a source of any kind and describe it. Raises DataError naming file, field and remedy."""
    return _kind_of(source, f"unknown data source {source!r}").check_source(source)


def make_source(source: str, directory: Path, *, rows: int = 200, seed: int = 0) -> str:
    """Write a generated or embedded set in a published layout; returns a description. Raises DataError.

    `rows` counts training images, or nodes of a graph.
    """
    return _kind_of(source, f"no generated set {source!r}").make_source(source, directory, rows=rows, seed=seed)


def _kind_of(source: str, problem: str) -> ModuleType:
    for module in map(importlib.import_module, KINDS.values()):
        if module.knows(source):
            return module
    listed = [name.partition(":")[0] for entries in list_sources().values() for name, _ in entries]
    raise DataError(problem, remedy=suggestion(source.partition(":")[0], listed))
