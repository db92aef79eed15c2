import itertools

from hypothesis import given
from hypothesis import strategies as st

from heredity.core.lineage import Lineage
from heredity.report.family import gather, lay_out
from heredity.report.numbers import NOT_MEASURED, duration, interval, number

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_number_can_be_read_back(value: float) -> None:
    text = number(value).translate(SUPERSCRIPTS).replace("\N{NARROW NO-BREAK SPACE}", "").replace("×10", "e")
    assert abs(float(text) - value) <= 6e-3 * abs(value)


@given(st.one_of(st.none(), st.just(float("nan")), st.just(float("inf")), st.booleans(), st.text(), st.just(10**400)))
def test_what_is_no_number_is_not_measured(value: object) -> None:
    assert number(value) == NOT_MEASURED


def test_forms() -> None:
    assert number(-0.0) == "0"
    assert number(12345) == "12\N{NARROW NO-BREAK SPACE}345"
    assert number(0.00012) == "1.2×10⁻⁴"
    assert interval((float("nan"), 1)) == ""
    assert duration(119.6).endswith("s")


def test_a_family_is_laid_out_without_overlaps() -> None:
    roots = [Lineage(f"root-{n}", "pre-training", content=f"r{n}") for n in range(3)]
    children = [
        Lineage(f"child-{n}", "probe", content=f"c{n}", parents=(roots[n % 3],), marks=("m",) * (n % 2))
        for n in range(40)
    ]
    for lineages in (children[:5], children):
        tree = lay_out(gather(lineages))
        assert sum(card.count for card in tree.cards) == len(gather(lineages))
        boxes = sorted((card.x, card.y, card.height) for card in tree.cards)
        for (x0, y0, h0), (x1, y1, _) in itertools.pairwise(boxes):
            assert x0 != x1 or y0 + h0 <= y1
