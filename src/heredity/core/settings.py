"""Frozen dataclass configs to plain data and back, with errors that name the field."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from heredity.core.errors import ConfigError, suggestion

Config = TypeVar("Config")


def to_plain(config: Any) -> Any:
    """Nested dataclasses as nested dictionaries of JSON types."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: to_plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return config


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names.

    >>> flatten({"mark": {"patch": 5}})
    {'mark.patch': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a config with dotted fields replaced. Raises ConfigError naming an unknown field or a value that misfits."""
    for name, value in changes.items():
        config = _replace(config, name.split("."), value, name)
    return config


def _replace(config: Any, path: list[str], value: Any, full: str) -> Any:
    head, *rest = path
    known = [item.name for item in getattr(config, "__dataclass_fields__", {}).values()]
    if head not in known:
        near = suggestion(full, flatten(to_plain(config))) if len(path) == 1 and "." not in full else ""
        raise ConfigError(f"unknown field {full!r}", remedy=near or suggestion(head, known or ["(no fields here)"]))
    if rest:
        return dataclasses.replace(config, **{head: _replace(getattr(config, head), rest, value, full)})
    wanted = typing.get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: coerce(wanted, value, full)})


def from_plain(kind: type[Config], plain: Any, *, base: Config | None = None) -> Config:
    """A config of a type from the plain data of a file; fields that are absent keep the base's (or the type's) values."""
    if not isinstance(plain, Mapping):
        raise ConfigError("a config must be a mapping of fields", remedy="see config.yaml of any run")
    return override(base if base is not None else kind(), flatten(plain))


def coerce(wanted: Any, value: Any, name: str) -> Any:
    """Fit a plain value to an annotated type; one word where a list is wanted is a list of one.

    Raises ConfigError naming the field.
    """
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        for option in inner:
            try:
                return coerce(option, value, name)
            except ConfigError:
                continue
    elif origin is typing.Literal:
        if value in inner:
            return value
        raise ConfigError(f"{name} cannot be {value!r}", remedy=suggestion(str(value), map(str, inner)))
    elif origin is tuple and isinstance(value, list | tuple | str | int | float):
        items = value if isinstance(value, list | tuple) else [value]
        kinds = [inner[0]] * len(items) if len(inner) == 2 and inner[1] is ... else list(inner)
        if len(kinds) == len(items):
            return tuple(coerce(kind, item, name) for kind, item in zip(kinds, items, strict=True))
    elif dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        return from_plain(typing.cast(type, wanted), value)
    elif dataclasses.is_dataclass(wanted) and isinstance(value, typing.cast(type, wanted)):
        return value
    elif wanted is type(None) and value is None:
        return None
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif wanted is Any or (isinstance(wanted, type) and type(value) is wanted):
        return value
    kind_name = getattr(wanted, "__name__", str(wanted)) if origin is None else str(wanted)
    raise ConfigError(f"{name} must be {kind_name}, not {value!r}", remedy="see heredity show SYSTEM for the fields")
