import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heredity.systems.ssl_wm.config import PRESETS
from heredity.systems.ssl_wm.prices import (
    ATTACKS,
    attack_rows,
    dispute_metrics,
    dispute_tables,
    price,
    price_metrics,
    price_tables,
    removes,
)

CONFIG = PRESETS["attacks"]


def row(right: str, p: float) -> dict[str, Any]:
    return {
        "right": right,
        "accuracy": 100.0 * right.count("1") / len(right),
        "p": p,
        "log10_p": math.log10(p),
        "flip_true": 0.5,
    }


CHILDREN = {
    "contrastive/classes": {
        "probe": row("1111011111", 1e-6),
        "full": row("1111111111", 1e-6),
        "hard": row("1111111110", 1e-2),
        "probe-pruned": row("1111000000", 1e-6),
        "scratch": row("1110111111", 0.7),
    }
}
ATTACKED = {
    "contrastive/classes": {
        "input jpeg 50": row("1111001111", 1e-6),
        "extracted-labels": row("1010011011", 0.5),
        "extracted-features": row("1111001011", 1e-3),
        "probe-int8": row("1111011110", 1e-5),
        "full-int8": row("1111111110", 1e-6),
    }
}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=60))
def test_the_price_is_the_difference_of_accuracies_and_lies_in_its_interval(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ("".join(str(int(bit)) for bit in bits) for bits in zip(*pairs, strict=True))
    found = price({"right": after}, {"right": before})
    assert found.value == pytest.approx(100 * (before.count("1") - after.count("1")) / len(before))
    assert found.interval is not None
    low, high = found.interval
    assert low - 1e-9 <= found.value <= high + 1e-9


def test_an_attack_that_changes_nothing_costs_nothing() -> None:
    assert price({"right": "1011"}, {"right": "1011"}).interval == (0.0, 0.0)


def test_attacks_come_in_the_order_of_the_table_with_inputs_last() -> None:
    names = list(attack_rows(CHILDREN["contrastive/classes"], ATTACKED["contrastive/classes"]))
    assert names == [*(name for name in ATTACKS if name in names), "input jpeg 50"]
    assert "probe" not in names
    assert "scratch" not in names


def test_metrics_say_the_worst_of_each_group_and_the_cheapest_removal() -> None:
    metrics = price_metrics(CHILDREN, ATTACKED, CONFIG)
    assert metrics["verified/int8/worst_log10_p"].value == pytest.approx(-5)
    assert metrics["verified/extraction/worst_log10_p"].value == pytest.approx(math.log10(0.5))
    assert metrics["verified/extracted-features/worst_log10_p"].value == pytest.approx(-3)
    # Fine-tuning at the high rate escapes and loses nothing; extraction escapes too, at 30 and 10 points.
    assert metrics["price/cheapest_removal"].value == pytest.approx(0.0)
    assert metrics["price/contrastive/classes/extracted-labels/accuracy_lost"].value == pytest.approx(30.0)
    assert metrics["price/contrastive/classes/full/over_scratch"].value == pytest.approx(10.0)
    assert "price/contrastive/classes/input-jpeg-50/log10_p" in metrics


def test_the_level_decides_who_escapes() -> None:
    suspect = row("1", 1e-3)
    assert removes(suspect, CONFIG)
    assert not removes(suspect, replace(CONFIG, verification=replace(CONFIG.verification, alpha=1e-2)))


def test_nothing_attacked_gives_no_table_and_no_metric() -> None:
    assert price_metrics(CHILDREN, {}, CONFIG) == {}
    assert price_tables(CHILDREN, {}, CONFIG) == []
    assert dispute_tables({}) == []


def test_the_table_names_verdict_price_and_what_scratch_gives() -> None:
    [table] = price_tables(CHILDREN, ATTACKED, CONFIG)
    lines = {line[0]: line for line in table.rows}
    assert all(len(line) == len(table.columns) for line in table.rows)
    assert lines["none: linear probe"][1] == "verified"
    assert lines["extracted by labels"][1] == "escapes"
    assert lines["extracted by labels"][-1] == pytest.approx(90.0)


def dispute(owner: float, resolved: bool) -> dict[str, Any]:
    return {"owner_on_suspect": owner, "other_on_suspect": 1e-7, "resolved": resolved}


def test_a_dispute_needs_two_keys_that_pass() -> None:
    """Where the owner's mark is gone there is nothing to resolve; the price table says so."""
    found = dispute_metrics({"a": dispute(1e-5, True), "b": dispute(0.3, False)}, CONFIG)
    assert found["ambiguity/resolved"].value == 1.0
    assert found["ambiguity/disputes"].value == 1.0
    assert found["ambiguity/owner_lost"].value == 0.5
    assert dispute_metrics({"a": dispute(1e-5, False)}, CONFIG)["ambiguity/resolved"].value == 0.0
    assert math.isnan(dispute_metrics({"a": dispute(0.3, False)}, CONFIG)["ambiguity/resolved"].value)
    assert dispute_metrics({}, CONFIG) == {}
