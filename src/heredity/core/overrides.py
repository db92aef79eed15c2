"""Settings from the command line and from files: `--thief.rows 400`, `--config FILE`."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from heredity.core.errors import ConfigError

_MAX_FILE = 10 * 2**20


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Dotted options to field values, read as YAML scalars and lists; an option without a value is true.

    >>> parse_overrides(["--thief.rows", "400", "--key.patch=4", "--tasks", "classes,parity"])
    {'thief.rows': 400, 'key.patch': 4, 'tasks': ['classes', 'parity']}
    """
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("--") or len(word) < 3:
            raise ConfigError(f"unexpected argument {word!r}", remedy="settings are given as --field value")
        name, equals, text = word[2:].partition("=")
        following = words[position + 1] if position + 1 < len(words) else "--"
        if not equals and not following.startswith("--"):
            text, position = following, position + 1
            equals = "="
        found[name.replace("-", "_")] = _value(text, name) if equals else True
        position += 1
    return found


def set_apart(words: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """Split a command line into what a parser of the `known` options takes, and the settings to override.

    >>> set_apart(["ssl-wm", "--thief.rows", "400", "quick", "--seed", "3"], {"seed"})
    (['ssl-wm', 'quick', '--seed', '3'], ['--thief.rows', '400'])
    """
    kept: list[str] = []
    overriding: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        ours = not word.startswith("--") or len(word) < 3 or name in known or name.removeprefix("no_") in known
        (kept if ours else overriding).append(word)
        position += 1
        if not ours and "=" not in word and position < len(words) and not words[position].startswith("--"):
            overriding.append(words[position])
            position += 1
    return kept, overriding


def _value(text: str, name: str) -> Any:
    source = f"[{text}]" if "," in text and not text.startswith(("[", "{")) else text
    try:
        value = yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name}: cannot read {text!r}", remedy="quote it, or write a list as a,b,c") from error
    return _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a text; a user means the number."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of a config file: the config.yaml of a run, or a mapping of fields. Raises ConfigError naming the file."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigError(f"{path} is too large for a config", remedy="give the config.yaml of a run")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} is not a readable config: {error}", remedy="give the config.yaml of a run"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no fields", remedy="give the config.yaml of a run")
    return content
