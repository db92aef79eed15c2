"""What each attack costs the thief: verdict, accuracy lost, and what training from scratch would have given him."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from heredity.core.outcome import Metric, Table, bootstrap_interval
from heredity.systems.ssl_wm.config import SSLWM

Row = Mapping[str, Any]

ATTACKS = {
    "last": "last block fine-tuned",
    "full": "fully fine-tuned",
    "hard": "fully fine-tuned, high rate",
    "probe-pruned": "pruned to the agreed loss",
    "full-pruned": "fine-tuned, then pruned",
    "probe-int8": "int8, probe",
    "full-int8": "int8, fully fine-tuned",
    "extracted-labels": "extracted by labels",
    "extracted-features": "extracted by features",
    "overwritten": "overwritten by a second mark",
}


def attack_rows(children: Mapping[str, Row], attacked: Mapping[str, Row]) -> dict[str, Row]:
    """All attacks on one encoder and task in the order of the table; treatments of inputs come last."""
    known = {**children, **attacked}
    named = {name: known[name] for name in ATTACKS if name in known}
    return named | {name: row for name, row in attacked.items() if name.startswith("input ")}


def price(row: Row, before: Row) -> Metric:
    """Accuracy lost in points, with a 95 % bootstrap interval over the held-out images, paired image by image.

    >>> price({"right": "1010"}, {"right": "1110"}).value
    25.0
    """
    then, now = (np.array([int(bit) for bit in found["right"]], dtype=float) for found in (before, row))
    lost = 100.0 * (then - now)
    return Metric(float(lost.mean()), "points", None, bootstrap_interval(lost.tolist()))


def removes(row: Row, config: SSLWM) -> bool:
    """Whether the attacked child escapes the verdict."""
    return row["p"] >= config.verification.alpha


def price_metrics(
    children: Mapping[str, Mapping[str, Row]], attacked: Mapping[str, Mapping[str, Row]], config: SSLWM
) -> dict[str, Metric]:
    """`price/CELL/ATTACK/...` for every attack, and the worst p of each group of attacks over all cells."""
    metrics: dict[str, Metric] = {}
    groups: dict[str, list[float]] = {}
    removed_at: list[float] = []
    for at, more in attacked.items():
        rows = children[at]
        for name, row in attack_rows(rows, more).items():
            metric = f"price/{at}/{name.replace(' ', '-')}"
            lost = price(row, rows["probe"])
            metrics[f"{metric}/accuracy_lost"] = lost
            metrics[f"{metric}/over_scratch"] = Metric(row["accuracy"] - rows["scratch"]["accuracy"], "points", None)
            metrics[f"{metric}/log10_p"] = Metric(row["log10_p"], "log10", None)
            groups.setdefault(_group(name), []).append(row["log10_p"])
            if removes(row, config):
                removed_at.append(lost.value)
    for group in ("int8", "extracted-labels", "extracted-features", "overwritten", "inputs"):
        if found := groups.get(group):
            metrics[f"verified/{group}/worst_log10_p"] = Metric(max(found), "log10", False)
    extracted = groups.get("extracted-labels", []) + groups.get("extracted-features", [])
    if extracted:
        metrics["verified/extraction/worst_log10_p"] = Metric(max(extracted), "log10", False)
    if attacked:
        metrics["price/cheapest_removal"] = Metric(min(removed_at, default=float("nan")), "points", True)
    return metrics


def _group(name: str) -> str:
    if name.startswith("input "):
        return "inputs"
    return "int8" if name.endswith("-int8") else name


def price_tables(
    children: Mapping[str, Mapping[str, Row]], attacked: Mapping[str, Mapping[str, Row]], config: SSLWM
) -> list[Table]:
    """One price table for each encoder and task that was attacked."""
    columns = (
        "attack",
        "verdict",
        "p",
        "flip rate, owner's key",
        "accuracy %",
        "accuracy lost, points",
        "lost, low",
        "lost, high",
        "from scratch %",
    )
    tables = []
    for at, more in attacked.items():
        before, scratch = children[at]["probe"], children[at]["scratch"]["accuracy"]
        rows: list[tuple[str | float | int | None, ...]] = [
            ("none: linear probe", *_verdict(before, config), before["accuracy"], 0.0, None, None, scratch)
        ]
        for name, row in attack_rows(children[at], more).items():
            lost = price(row, before)
            low, high = lost.interval or (None, None)
            cells = (row["accuracy"], lost.value, low, high, scratch)
            rows.append((ATTACKS.get(name, name), *_verdict(row, config), *cells))
        note = (
            "Points are lost against the stolen linear probe; the interval is a 95 % bootstrap over the same held-out "
            "images. A child no better than from scratch inherits nothing worth having."
        )
        tables.append(Table(f"Price of attacks: {at}", columns, tuple(rows), note))
    return tables


def _verdict(row: Row, config: SSLWM) -> tuple[str, float, float]:
    return "escapes" if removes(row, config) else "verified", row["p"], row["flip_true"]


def dispute_metrics(disputes: Mapping[str, Row], config: SSLWM) -> dict[str, Metric]:
    """Of the disputes, where both keys pass on the suspect, the share that is resolved; and how often there is none.

    Where the owner's key passes no longer the second mark has removed the first: that is the price table's matter.
    """
    if not disputes:
        return {}
    level = config.verification.dispute_alpha
    lost = [row["owner_on_suspect"] >= level for row in disputes.values()]
    resolved = [
        float(row["resolved"])
        for row in disputes.values()
        if max(row["owner_on_suspect"], row["other_on_suspect"]) < level
    ]
    return {
        "ambiguity/resolved": Metric(float(np.mean(resolved)) if resolved else float("nan"), "", True),
        "ambiguity/disputes": Metric(float(len(resolved))),
        "ambiguity/owner_lost": Metric(float(np.mean(lost)), "", False),
    }


def dispute_tables(disputes: Mapping[str, Row]) -> list[Table]:
    """The 2x2 table of every dispute, one line each."""
    if not disputes:
        return []
    columns = (
        "dispute",
        "owner's key: committed encoder",
        "suspect",
        "thief's key: committed encoder",
        "suspect ",
        "says",
    )
    rows = tuple(
        (
            at,
            row["owner_on_encoder"],
            row["owner_on_suspect"],
            row["other_on_encoder"],
            row["other_on_suspect"],
            "resolved" if row["resolved"] else row["sentence"],
        )
        for at, row in disputes.items()
    )
    note = (
        "p of each key. Resolved: both keys pass on the suspect, only the owner's on the encoder that was committed to."
    )
    return [Table("Two marks in one model: whose came first?", columns, rows, note)]
