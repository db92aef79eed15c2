"""Numbers as a reader wants to see them: four significant digits, real minus signs, powers of ten for what is tiny."""

import math
from collections.abc import Sequence
from typing import Any

NOT_MEASURED = "not measured"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NO_BREAK, _NARROW = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; truth values are not numbers, and neither is what overflows a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def number(value: Any, unit: str = "") -> str:
    """A number with its unit; anything that is no finite number is "not measured".

    >>> number(0.00000512), number(-0.0), number(96.378, "%").replace(chr(160), " "), number(None)
    ('5.12×10⁻⁶', '0', '96.38 %', 'not measured')
    """
    if not is_number(value):
        return NOT_MEASURED
    text = _digits(value)
    return f"{text}{_NO_BREAK}{unit}" if unit else text


def interval(ends: Any, unit: str = "") -> str:
    """Both ends of an interval, or "" where there is none.

    >>> interval([0.5, 1]), interval([None, 1]), interval(None)
    ('0.5 to 1', '', '')
    """
    if not isinstance(ends, Sequence) or len(ends) != 2 or not all(is_number(end) for end in ends):
        return ""
    return f"{number(ends[0])} to {number(ends[1], unit)}"


def cell(value: Any) -> str:
    """What stands in a table's cell: a number, a text as it is, or a dash for nothing.

    >>> cell(0.25), cell("clean"), cell(None)
    ('0.25', 'clean', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def duration(seconds: Any) -> str:
    """Seconds, or minutes and seconds from two minutes up.

    >>> duration(3.25).replace(chr(160), " "), duration(125).replace(chr(160), " ")
    ('3.25 s', '2 min 5 s')
    """
    if not is_number(seconds) or seconds < 120:
        return number(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    return f"{_grouped(minutes)}{_NO_BREAK}min {rest}{_NO_BREAK}s"


def _digits(value: int | float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if isinstance(value, int) and size < 10**9:
        return _signed(value, _grouped(int(size)))
    if size < 0.001 or size >= 10**7:
        mantissa, exponent = f"{size:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return _signed(value, f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}")
    return _signed(value, _grouped(round(size)) if size >= 9999.5 else f"{size:.4g}")


def _grouped(size: int) -> str:
    text = str(size)
    return text if len(text) < 5 else f"{size:,}".replace(",", _NARROW)


def _signed(value: int | float, digits: str) -> str:
    return f"\N{MINUS SIGN}{digits}" if value < 0 else digits
