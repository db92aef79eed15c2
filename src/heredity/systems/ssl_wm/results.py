"""From what was examined to metrics and tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heredity.core.outcome import Metric, Outcome, Table, bootstrap_interval
from heredity.systems.ssl_wm.calibration import LEVELS, excess, rejections
from heredity.systems.ssl_wm.config import KINDS, SSLWM
from heredity.systems.ssl_wm.prices import dispute_metrics, dispute_tables, price_metrics, price_tables
from heredity.systems.ssl_wm.proof.verification import clopper_pearson

Examined = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""`examined[family/task][child]` -> accuracy, p, flip rates and so on."""

CHILDREN = {
    "probe": "stolen, linear probe",
    "last": "stolen, last block fine-tuned",
    "full": "stolen, fully fine-tuned",
    "hard": "stolen, fully fine-tuned at a high rate",
    "probe-pruned": "stolen, probe, pruned until the thief lost the agreed points",
    "full-pruned": "stolen, fine-tuned, then pruned likewise",
    "clean-probe": "clean encoder, linear probe",
    "clean-full": "clean encoder, fully fine-tuned",
    "scratch": "trained from scratch (nothing stolen)",
}
STOLEN = ("probe", "last", "full", "hard", "probe-pruned", "full-pruned")
HONEST = ("clean-probe", "clean-full", "scratch")


@dataclass
class Found:
    """What the experiment collects: children by family/task and name, attacks likewise, disputes, and p of foreign keys."""

    children: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    attacked: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    disputes: dict[str, dict[str, Any]] = field(default_factory=dict)
    clean_p: list[float] = field(default_factory=list)
    forged_p: list[float] = field(default_factory=list)


def measured(found: Found, config: SSLWM) -> Outcome:
    """All metrics of a run. `log10_p` of the worst task decides a claim: one task that escapes is an escape."""
    children, clean_p, forged_p = found.children, found.clean_p, found.forged_p
    metrics: dict[str, Metric] = {}
    for at, rows in children.items():
        for name in [name for name in CHILDREN if name in rows]:
            row = rows[name]
            metrics[f"{at}/{name}/accuracy"] = Metric(row["accuracy"], "%", True)
            for measure in ("log10_p", "flip_true", "flip_decoy", "mad_index"):
                value = row[measure]
                metrics[f"{at}/{name}/{measure}"] = Metric(float("nan") if value is None else value)
    for kind, families in KINDS.items():
        own = [rows for at, rows in children.items() if at.split("/")[0] in families]
        if not own:
            continue
        for name in STOLEN:
            metrics[f"verified/{kind}/{name}/worst_log10_p"] = _extreme(max, own, (name,), better=False)
        metrics[f"verified/{kind}/not-stolen/smallest_log10_p"] = _extreme(min, own, HONEST, better=True)
    for name in ("full", "hard", "probe-pruned", "full-pruned"):
        metrics[f"verified/{name}/worst_log10_p"] = _extreme(max, list(children.values()), (name,), better=False)
    for family in config.further:
        own = [rows for at, rows in children.items() if at.startswith(f"{family}/")]
        for name in ("probe", "full"):
            metrics[f"verified/{family}/{name}/worst_log10_p"] = _extreme(max, own, (name,), better=False)
    metrics["pruning/least_points_lost"] = Metric(
        min(rows["probe-pruned"]["lost"] for rows in children.values() if "probe-pruned" in rows), "points", None
    )
    drops = [rows["clean-probe"]["accuracy"] - rows["probe"]["accuracy"] for rows in children.values()]
    metrics["utility/probe_drop"] = Metric(float(np.mean(drops)), "points", False, bootstrap_interval(drops))
    tuned = [
        rows["clean-full"]["accuracy"] - rows["full"]["accuracy"] for rows in children.values() if "clean-full" in rows
    ]
    metrics["utility/fine_tuned_drop"] = Metric(float(np.mean(tuned)), "points", False, bootstrap_interval(tuned))
    metrics |= _rates("false_positives", clean_p) | _rates("forged", forged_p)
    verified = sum(p < config.verification.alpha for p in forged_p)
    metrics["forged/share_verified"] = Metric(
        verified / max(1, len(forged_p)), "", False, clopper_pearson(verified, max(1, len(forged_p)))
    )
    honest = [rows[name]["mad_index"] for rows in children.values() for name in HONEST if name in rows]
    flagged = sum(value is None or value > 2 for value in honest)
    metrics["published_rule/clean_children_flagged"] = Metric(flagged / len(honest), "", False)
    metrics |= price_metrics(children, found.attacked, config)
    metrics |= dispute_metrics(found.disputes, config)
    prices = price_tables(children, found.attacked, config)
    tables = (*_child_tables(children), _calibration_table(clean_p, forged_p), *prices, *dispute_tables(found.disputes))
    return Outcome(metrics, tables)


def _extreme(
    choose: Callable[[Iterable[float]], float],
    cells: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    better: bool,
) -> Metric:
    """The largest or smallest log10 p of children over encoders and tasks: one that escapes decides."""
    known = [rows[name]["log10_p"] for rows in cells for name in names if name in rows]
    return Metric(choose(known) if known else float("nan"), "log10", better)


def _rates(name: str, values: Sequence[float]) -> dict[str, Metric]:
    found = {f"{name}/excess": Metric(excess(values), "", True), f"{name}/trials": Metric(float(len(values)))}
    for level, count in rejections(values).items():
        share = count / max(1, len(values))
        found[f"{name}/rate_at_{level:g}"] = Metric(share, "", False, clopper_pearson(count, max(1, len(values))))
    return found


def _child_tables(children: Examined) -> list[Table]:
    columns = ("child", "accuracy %", "p", "flip rate, owner's key", "flip rate, decoys", "published MAD index")
    return [
        Table(
            title=at,
            columns=columns,
            rows=tuple(
                (
                    text if "lost" not in rows[name] else f"{text} ({100 * rows[name]['share']:.0f} % pruned)",
                    rows[name]["accuracy"],
                    rows[name]["p"],
                    rows[name]["flip_true"],
                    rows[name]["flip_decoy"],
                    rows[name]["mad_index"],
                )
                for name, text in CHILDREN.items()
                if name in rows
            ),
            note="The published rule calls a child marked when its MAD index exceeds 2; it is shown, never used.",
        )
        for at, rows in children.items()
    ]


def _calibration_table(clean_p: Sequence[float], forged_p: Sequence[float]) -> Table:
    rows = []
    for title, values in (("random keys on clean children", clean_p), ("forged keys on stolen children", forged_p)):
        for level in LEVELS:
            count = rejections(values)[level]
            low, high = clopper_pearson(count, max(1, len(values)), level=0.99)
            rows.append((title, len(values), level, count, count / max(1, len(values)), low, high))
    return Table(
        title="False positives",
        columns=("trials", "number", "level", "rejected", "share", "99 % interval, low", "high"),
        rows=tuple(rows),
        note="A calibrated test rejects a share of its level at most; ties make this one conservative.",
    )
