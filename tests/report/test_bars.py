"""Bars with intervals, and bars that stand out."""

import pytest

from heredity.core.errors import DataError
from heredity.report.drawings import Key, draw_bars
from heredity.report.ink import drawing_style

DATA = {
    "labels": ["fine-tuned", "extracted"],
    "series": {"accuracy lost": [1.5, -0.5]},
    "intervals": {"accuracy lost": [[0.5, 2.5], [-1.0, 30.0]]},
    "warned": ["extracted"],
    "warning": "escapes <the verdict>",
    "unit": "points",
    "reference": None,
}


def test_what_stands_out_is_explained() -> None:
    drawing = draw_bars(DATA, "p", "prices")
    assert Key("escapes <the verdict>", "warm", "bar") in drawing.keys
    assert draw_bars({**DATA, "warned": []}, "p", "prices").keys == ()


def test_intervals_are_drawn_and_make_room() -> None:
    plain = {name: value for name, value in DATA.items() if name != "intervals"}
    with drawing_style():
        with_ends, without = (str(draw_bars(data, "p", "prices").html) for data in (DATA, plain))
    # The axis reaches the end of the longest interval.
    assert ">30<" in with_ends
    assert ">30<" not in without


@pytest.mark.parametrize("ends", [[[0.5, 2.5]], [[0.5], [1.0]], [["a", "b"], [1.0, 2.0]]])
def test_malformed_intervals_are_refused(ends: list[list[object]]) -> None:
    with pytest.raises(DataError):
        draw_bars({**DATA, "intervals": {"accuracy lost": ends}}, "p", "prices")
