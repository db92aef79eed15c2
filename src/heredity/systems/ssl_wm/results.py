"""From what was examined to metrics and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heredity.core.outcome import Metric, Outcome, Table, bootstrap_interval
from heredity.systems.ssl_wm.calibration import LEVELS, excess, rejections
from heredity.systems.ssl_wm.config import SSLWM
from heredity.systems.ssl_wm.verification import clopper_pearson

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


def measured(children: Examined, clean_p: Sequence[float], forged_p: Sequence[float], config: SSLWM) -> Outcome:
    """All metrics of a run. `log10_p` of the worst task decides a claim: one task that escapes is an escape."""
    metrics: dict[str, Metric] = {}
    for at, rows in children.items():
        for name in CHILDREN:
            row = rows[name]
            metrics[f"{at}/{name}/accuracy"] = Metric(row["accuracy"], "%", True)
            for field, better in (("log10_p", None), ("flip_true", None), ("flip_decoy", None), ("mad_index", None)):
                value = row[field]
                metrics[f"{at}/{name}/{field}"] = Metric(float("nan") if value is None else value, "", better)
    for family in config.families:
        own = {at: rows for at, rows in children.items() if at.startswith(f"{family}/")}
        for name in ("probe", "last", "full", "hard", "probe-pruned", "full-pruned"):
            worst = max(rows[name]["log10_p"] for rows in own.values())
            metrics[f"verified/{family}/{name}/worst_log10_p"] = Metric(worst, "log10", False)
        clean = min(rows[name]["log10_p"] for rows in own.values() for name in ("clean-probe", "clean-full", "scratch"))
        metrics[f"verified/{family}/not-stolen/smallest_log10_p"] = Metric(clean, "log10", True)
    for name in ("full", "hard", "probe-pruned", "full-pruned"):
        worst = max(rows[name]["log10_p"] for rows in children.values())
        metrics[f"verified/{name}/worst_log10_p"] = Metric(worst, "log10", False)
    metrics["pruning/least_points_lost"] = Metric(
        min(rows["probe-pruned"]["lost"] for rows in children.values()), "points", None
    )
    drops = [rows["clean-probe"]["accuracy"] - rows["probe"]["accuracy"] for rows in children.values()]
    metrics["utility/probe_drop"] = Metric(float(np.mean(drops)), "points", False, bootstrap_interval(drops))
    tuned = [rows["clean-full"]["accuracy"] - rows["full"]["accuracy"] for rows in children.values()]
    metrics["utility/fine_tuned_drop"] = Metric(float(np.mean(tuned)), "points", False, bootstrap_interval(tuned))
    metrics |= _rates("false_positives", clean_p) | _rates("forged", forged_p)
    verified = sum(p < config.verification.alpha for p in forged_p)
    metrics["forged/share_verified"] = Metric(
        verified / max(1, len(forged_p)), "", False, clopper_pearson(verified, max(1, len(forged_p)))
    )
    honest = [
        rows[name]["mad_index"] for rows in children.values() for name in ("clean-probe", "clean-full", "scratch")
    ]
    flagged = sum(value is None or value > 2 for value in honest)
    metrics["published_rule/clean_children_flagged"] = Metric(flagged / len(honest), "", False)
    return Outcome(metrics, (*_child_tables(children), _calibration_table(clean_p, forged_p)))


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
