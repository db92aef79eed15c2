"""From what was found to metrics and tables. The paper's recipe and ours stand side by side everywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from heredity.core.outcome import Metric, Outcome, Table
from heredity.defences.contract import Trigger
from heredity.metrics.detection import share_interval
from heredity.systems.dbia.config import DBIA

_SHORT_OF = 0.05


@dataclass(frozen=True)
class Found:
    """All that was found of one victim. `rows` are named TRIGGER/RECIPE; `main` and `recipe` name what is judged."""

    kind: str
    rows: Mapping[str, Mapping[str, Any]]
    attention: Mapping[str, Mapping[str, float]]
    foreign: Mapping[str, float]
    defences: Mapping[str, Mapping[str, Mapping[str, Any]]]
    triggers: Mapping[str, Trigger]
    victim: nn.Module
    main: str
    recipe: str
    pruned: Mapping[str, Sequence[float]]

    @property
    def ours(self) -> Mapping[str, Any]:
        """The row that the claims judge."""
        return self.rows[f"{self.main}/{self.recipe}"]


def measured(found: Mapping[str, Found], config: DBIA, shared: int) -> Outcome:
    """All metrics and tables of a run."""
    metrics: dict[str, Metric] = {}
    for kind, one in found.items():
        for name, row in one.rows.items():
            metrics |= _of_row(f"{kind}/{_path(name)}", row)
        metrics[f"{kind}/gain"] = Metric(one.ours["gain"], "", True, _interval(one.ours))
        for where in ("surrogate", "task"):
            for name, mass in one.attention.items():
                metrics[f"{kind}/attention_mass/{_path(name)}/{where}"] = Metric(mass[where], "", None)
        for name, rate in one.foreign.items():
            metrics[f"{kind}/foreign_trigger/{name}"] = Metric(rate, "", False)
        for who, verdicts in one.defences.items():
            for name, verdict in verdicts.items():
                metrics |= _of_verdict(f"{kind}/defences/{_path(who)}/{_path(name)}", verdict)
    ours = [one.ours for one in found.values()]
    paper = [one.rows[f"{one.main}/paper"] for one in found.values()]
    lead = [
        one.ours["attack_success_rate"] - one.rows[f"random/{one.recipe}"]["attack_success_rate"]
        for one in found.values()
    ]
    metrics |= {
        "clean_accuracy_drop": Metric(_mean(ours, "clean_accuracy_drop"), "", False),
        "clean_accuracy_drop/paper": Metric(_mean(paper, "clean_accuracy_drop"), "", False),
        "false_trigger_rate": Metric(_mean(ours, "false_trigger_rate"), "", False),
        "false_trigger_rate/paper": Metric(_mean(paper, "false_trigger_rate"), "", False),
        "advantage_over_random": Metric(float(np.mean(lead)), "", True),
        "surrogate/shared_with_task": Metric(float(shared), "", False),
    }
    metrics |= _costs(found.get(config.detailed))
    return Outcome(metrics, _tables(found, config))


def _of_row(at: str, row: Mapping[str, Any]) -> dict[str, Metric]:
    higher = {"attack_success_rate", "gain", "accuracy", "surrogate_agreement"}
    skipped = {"trigger", "recipe", "hits", "of"}
    made = {
        f"{at}/{name}": Metric(float(value), "", name in higher) for name, value in row.items() if name not in skipped
    }
    return made | {f"{at}/attack_success_rate": Metric(row["attack_success_rate"], "", True, _share(row))}


def _of_verdict(at: str, verdict: Mapping[str, Any]) -> dict[str, Metric]:
    made = {}
    for name in ("stopped", "false_alarms", "auroc", "score", "smallest", "attack_success_rate", "accuracy"):
        if verdict.get(name) is not None:
            interval = tuple(verdict["interval"]) if name == "stopped" and verdict["interval"] else None
            made[f"{at}/{name}"] = Metric(float(verdict[name]), "", None, interval)
    return made


def _share(row: Mapping[str, Any]) -> tuple[float, float]:
    return share_interval(row["hits"], row["of"])


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    low, high = _share(row)
    return low - row["victim_success_rate"], high - row["victim_success_rate"]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _path(name: str) -> str:
    return name.replace(", ", "-").replace(" (", "-").replace(")", "").replace(" ", "-")


def _costs(one: Found | None) -> dict[str, Metric]:
    """Ratios to BadNets on the original data; not a number where the attack falls short of it: then they compare nothing."""
    if one is None or "BadNets/original data" not in one.rows:
        return {}
    ours, theirs = one.ours, one.rows["BadNets/original data"]
    ratios = {name: ours[name] / max(theirs[name], 1e-9) for name in ("weights", "seconds", "forward_equivalents")}
    reached = ours["attack_success_rate"] >= theirs["attack_success_rate"] - _SHORT_OF
    worst = max(ratios.values()) if reached and ours["original_pictures"] == 0 else math.nan
    made = {f"cost/{name}_ratio": Metric(value, "", False) for name, value in ratios.items()}
    return made | {"cost/worst_ratio": Metric(worst, "", False)}


def _tables(found: Mapping[str, Found], config: DBIA) -> tuple[Table, ...]:
    tables = [_attacks(found)]
    tables += [_attention(found)]
    detailed = found.get(config.detailed)
    if detailed is not None:
        tables.append(_prices(detailed))
        if detailed.defences:
            tables.append(_defences(detailed))
    return tuple(tables)


def _attacks(found: Mapping[str, Found]) -> Table:
    rows = []
    for kind, one in found.items():
        for row in one.rows.values():
            low, high = _share(row)
            rows.append(
                (
                    kind,
                    row["trigger"],
                    row["recipe"],
                    100 * row["attack_success_rate"],
                    f"{100 * low:.1f} to {100 * high:.1f}",
                    100 * row["victim_success_rate"],
                    100 * row["accuracy"],
                    100 * row["clean_accuracy_drop"],
                    100 * row["false_trigger_rate"],
                    100 * row["surrogate_agreement"],
                    100 * row["include_target_class"],
                )
            )
    columns = (
        "victim",
        "trigger",
        "recipe",
        "attack success %",
        "95 % interval",
        "on the clean victim %",
        "clean accuracy %",
        "lost, points",
        "false triggers %",
        "surrogate keeps its label %",
        "success counted with the target class %",
    )
    note = (
        "Attack success: stamped test pictures of other classes that are called the target. False triggers: unstamped "
        'surrogate pictures that are. "held-out paper": every picture stamped, bound 2, no term for clean behaviour.'
    )
    return Table("Attacks", columns, tuple(rows), note)


def _attention(found: Mapping[str, Found]) -> Table:
    rows = tuple(
        (kind, name, 100 * mass["surrogate"], 100 * mass["task"])
        for kind, one in found.items()
        for name, mass in one.attention.items()
    )
    return Table(
        "Share of attention on the trigger's place",
        ("victim", "trigger", "surrogate pictures %", "the task's pictures %"),
        rows,
        "ViT, DeiT: the class token's row of the rollout through all blocks but the last. Swin: attention received in "
        "its last stage. The task's pictures are only measured on.",
    )


def _prices(one: Found) -> Table:
    rows = tuple(
        (
            row["trigger"],
            row["recipe"],
            row["weights"],
            100 * row["weights_share"],
            row["mean_change"],
            row["largest_change"],
            row["seconds"],
            row["forward_equivalents"],
            row["surrogate_pictures"],
            row["original_pictures"],
            100 * row["attack_success_rate"],
        )
        for row in one.rows.values()
    )
    columns = (
        "trigger",
        "recipe",
        "weights changed",
        "share %",
        "mean relative change",
        "largest",
        "seconds",
        "forward passes",
        "surrogate pictures",
        "original pictures",
        "attack success %",
    )
    note = "Seconds of the search of the trigger and of the training; forward passes count a backward pass as two."
    return Table(f"What it takes ({one.kind})", columns, rows, note)


def _defences(one: Found) -> Table:
    rows = []
    for name in next(iter(one.defences.values())):
        for who, verdicts in one.defences.items():
            verdict = verdicts[name]
            interval = verdict["interval"]
            rows.append(
                (
                    name,
                    verdict["kind"],
                    who,
                    _percent(verdict["stopped"]),
                    "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}",
                    _percent(verdict["false_alarms"]),
                    _percent(verdict.get("stated_rate")),
                    verdict.get("auroc", verdict.get("score")),
                    _percent(verdict.get("attack_success_rate")),
                    _percent(verdict.get("accuracy")),
                    verdict["seconds"],
                )
            )
    columns = (
        "defence",
        "kind",
        "model",
        "attack stopped %",
        "95 % interval",
        "clean pictures rejected %, or accuracy lost, points",
        "stated false-positive rate %",
        "AUROC, or the scan's score",
        "attack success after %",
        "accuracy after %",
        "seconds",
    )
    note = (
        "Stopped: stamped pictures rejected (filters), turned pictures turned back (repairs), 100 for a model scan that "
        "flags. The clean victim is shown the attention trigger: where a filter rejects it there, it looks odd by itself."
    )
    return Table(f"Defences ({one.kind})", columns, tuple(rows), note)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
