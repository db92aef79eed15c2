"""Libraries that only some graphs need."""

import importlib
from types import ModuleType

from heredity.core.errors import DataError


def extra(module: str) -> ModuleType:
    """An optional library. Raises DataError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(f"{module} is not installed", remedy='pip install "heredity[graph]"') from error
