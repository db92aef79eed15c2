import contextlib
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heredity.core.errors import ConfigError
from heredity.core.overrides import parse_overrides, read_config_file
from heredity.core.settings import flatten, from_plain, override, to_plain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = "x"
    count: int = 3
    other: Inner | None = None
    on: bool = False


@given(st.floats(-1e6, 1e6), st.sampled_from(["a", "b"]), st.lists(st.integers(-9, 9), max_size=4), st.integers())
def test_plain_data_and_back(rate: float, kind: Literal["a", "b"], sizes: list[int], count: int) -> None:
    config = Outer(Inner(rate, kind, tuple(sizes)), count=count)
    assert from_plain(Outer, to_plain(config)) == config


def test_overrides_reach_nested_fields_and_leave_the_original() -> None:
    config = Outer()
    changed = override(config, {"inner.rate": 1, "inner.sizes": [4], "on": True})
    assert changed.inner == Inner(rate=1.0, sizes=(4,))
    assert changed.on
    assert config == Outer()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inner.rat": 1}, "did you mean 'rate'"),
        ({"innr.rate": 1}, "did you mean 'inner'"),
        ({"count": "many"}, "count must be int"),
        ({"count": True}, "count must be int"),
        ({"inner.kind": "c"}, "cannot be 'c'"),
        ({"inner.sizes": ["x"]}, "inner.sizes must be int"),
        ({"name.deeper": 1}, "unknown field"),
    ],
)
def test_errors_name_the_field(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(Outer(), changes)


def test_one_word_is_a_list_of_one() -> None:
    assert override(Outer(), {"inner.sizes": 7}).inner.sizes == (7,)


def test_words_become_values() -> None:
    words = ["--inner.rate", "1e-3", "--inner.sizes=3,4", "--on", "--name", "null-ish", "--learning-rate", "2"]
    assert parse_overrides(words) == {
        "inner.rate": 0.001,
        "inner.sizes": [3, 4],
        "on": True,
        "name": "null-ish",
        "learning_rate": 2,
    }
    with pytest.raises(ConfigError, match="unexpected argument"):
        parse_overrides(["stray"])


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_words_give_values_or_a_clear_error(words: list[str]) -> None:
    # Anything but a ConfigError would fail the test.
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_overrides(words), dict)


def test_config_files(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("config: {count: 4}")
    assert read_config_file(path) == {"config": {"count": 4}}
    for content in ("- a", "{", "\x00"):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            read_config_file(path)
    with pytest.raises(ConfigError, match="missing"):
        read_config_file(tmp_path / "missing.yaml")


def test_flatten_keeps_empty_mappings() -> None:
    assert flatten({"a": {"b": 1}, "c": {}}) == {"a.b": 1, "c": {}}
