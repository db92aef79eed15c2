"""How a foreign interface is spoken to: a small YAML file with address, headers, request template and place of the label.

url: https://api.example.com/v2/classify
headers:
  Authorization: Bearer ${API_TOKEN}        # from the environment; never stored
request:
  instances: {$each: {b64: "{image}"}}      # one entry an input; without $each the interface takes one input a request
label: predictions.*.label                  # * stands for the input
batch: 32
"""

import os
import re
from collections.abc import Mapping as MappingLike
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from heredity.core.errors import HeredityError, suggestion

_FIELDS = {"url", "method", "headers", "request", "label", "batch"}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class MappingError(HeredityError):
    """A description of an interface that cannot be used."""


class MisfitError(Exception):
    """An answer in which the label is not where the mapping says."""


@dataclass(frozen=True)
class Mapping:
    """An interface. `request` is JSON data in which "{image}" and "{text}" stand for an input; see the module's head."""

    url: str
    label: str = "labels.*"
    request: Any = field(default_factory=lambda: {"inputs": {"$each": "{input}"}})
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    batch: int = 64

    @property
    def name(self) -> str:
        """The address without its query, which may hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


def read_mapping(place: str) -> Mapping:
    """A mapping from the name of a YAML file, or the house's own interface at an address. Raises MappingError."""
    if place.startswith(("http://", "https://")):
        address = _checked_url(place, "--endpoint")
        path = urlsplit(address).path.rstrip("/")
        return Mapping(address if path else address.rstrip("/") + "/v1/predict")
    path = Path(place).expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.safe_load(file.read(2**20))
    except FileNotFoundError:
        raise MappingError(f"no file {place}", remedy="give http://..., https://... or a mapping.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        first = " ".join(str(error).split())[:120]
        raise MappingError(f"{place} is not YAML: {first}", remedy="see heredity's docs for a mapping") from error
    return _mapping_from(content, place)


def _mapping_from(content: Any, place: str) -> Mapping:
    if not isinstance(content, dict):
        raise MappingError(f"{place} holds no fields", remedy="it needs url, request and label")
    if unknown := [name for name in content if name not in _FIELDS]:
        raise MappingError(f"{place}: unknown field {unknown[0]!r}", remedy=suggestion(str(unknown[0]), _FIELDS))
    for name in ("url", "request", "label"):
        if name not in content:
            raise MappingError(f"{place}: field {name!r} is missing", remedy="it needs url, request and label")
    url = _checked_url(content["url"], f"{place}: field 'url'")
    method, batch, label = content.get("method", "POST"), content.get("batch", 64), content["label"]
    if method not in ("POST", "PUT"):
        raise MappingError(f"{place}: field 'method' is {method!r}", remedy="POST or PUT")
    if type(batch) is not int or not 1 <= batch <= 4096:
        raise MappingError(f"{place}: field 'batch' is {batch!r}", remedy="a number from 1 to 4096")
    if not isinstance(label, str) or not label:
        raise MappingError(f"{place}: field 'label' is no path", remedy="like predictions.*.label")
    places = _count_each(content["request"])
    if places > 1 or label.split(".").count("*") != places:
        raise MappingError(
            f"{place}: 'request' has {places} $each and 'label' {label.split('.').count('*')} *",
            remedy="one of each for several inputs a request, none of either for one",
        )
    if not _mentions_input(content["request"]):
        raise MappingError(f"{place}: field 'request' has no input", remedy='put "{image}" or "{text}" where it goes')
    headers = content.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(v, str) and isinstance(k, str) for k, v in headers.items()):
        raise MappingError(
            f"{place}: field 'headers' is not texts by name", remedy="like Authorization: Bearer ${TOKEN}"
        )
    return Mapping(url, label, content["request"], method, headers, batch if places else 1)


def _checked_url(url: Any, where: str) -> str:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        sound = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, sound = None, False
    if parts is None or not sound:
        raise MappingError(
            f"{where} is {str(url)[:80]!r}, no address", remedy="like https://api.example.com/v1/predict"
        )
    if parts.username or parts.password:
        raise MappingError(f"{where} holds a user name or password", remedy="use a header from the environment instead")
    return url


def filled_headers(mapping: Mapping) -> dict[str, str]:
    """The headers with ${NAME} replaced from the environment. Raises MappingError for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise MappingError(f"the environment variable {match[1]} is not set", remedy=f"export {match[1]}=...")
        return os.environ[match[1]]

    return {name: _VARIABLE.sub(value, text) for name, text in mapping.headers.items()}


def body_of(mapping: Mapping, payloads: Sequence[MappingLike[str, str]]) -> Any:
    """The JSON body that asks for some inputs.

    >>> body_of(Mapping("http://x", "l.*", {"rows": {"$each": {"b64": "{image}"}}}), [{"image": "QQ=="}])
    {'rows': [{'b64': 'QQ=='}]}
    """
    return _filled(mapping.request, payloads)


def _filled(template: Any, payloads: Sequence[MappingLike[str, str]]) -> Any:
    if isinstance(template, dict):
        if set(template) == {"$each"}:
            return [_filled(template["$each"], [payload]) for payload in payloads]
        return {name: _filled(value, payloads) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, payloads) for value in template]
    if isinstance(template, str) and payloads:
        if template == "{input}":
            return dict(payloads[0])
        for name, value in payloads[0].items():
            template = template.replace(f"{{{name}}}", value)
    return template


def _count_each(template: Any) -> int:
    if isinstance(template, dict):
        return int(set(template) == {"$each"}) + sum(_count_each(value) for value in template.values())
    return sum(_count_each(value) for value in template) if isinstance(template, list) else 0


def _mentions_input(template: Any) -> bool:
    if isinstance(template, dict | list):
        return any(_mentions_input(value) for value in (template.values() if isinstance(template, dict) else template))
    return isinstance(template, str) and any(word in template for word in ("{image}", "{text}", "{input}"))


def labels_in(mapping: Mapping, answer: Any, count: int) -> list[Any]:
    """The labels in an answer to `count` inputs. Raises MisfitError saying what is there instead.

    >>> labels_in(Mapping("http://x", "p.*.label", {}), {"p": [{"label": "cat"}, {"label": 3}]}, 2)
    ['cat', 3]
    """
    before, star, after = mapping.label.partition("*")
    found = _at(answer, before.strip("."))
    if not star:
        return [found]
    if not isinstance(found, list):
        raise MisfitError(f"{before.strip('.')!r} is not a list")
    if len(found) != count:
        raise MisfitError(f"{len(found)} labels for {count} inputs")
    return [_at(entry, after.strip(".")) for entry in found]


def _at(value: Any, path: str) -> Any:
    for step in filter(None, path.split(".")):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise MisfitError(f"there is no {step!r} on the way to the label")
    return value
