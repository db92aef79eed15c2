"""From what was examined to metrics and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from heredity.core.outcome import Metric, Outcome, Table, bootstrap_interval
from heredity.data.graphs import Graph
from heredity.systems.reliant.config import Reliant

Examined = Mapping[str, Any]
Fronts = Mapping[str, Sequence[tuple[float, Examined]]]
"""`fronts[reading]` -> pairs of alpha and what was found of the student."""

_MOST_KEPT, _MOST_LOST = 0.90, 2.0
_USEFUL = 0.55


@dataclass(frozen=True)
class Cell:
    """One teacher, student and framework: what the teacher, the plain and the debiased student decide.

    `lost` are the points of accuracy between the two students, with the interval over test nodes.
    """

    teacher: Examined
    plain: Examined
    debiased: Examined
    lost: Mapping[str, float]


def measured(
    cells: Mapping[str, Cell], fronts: Fronts, alone: Mapping[str, Examined], graph: Graph, config: Reliant
) -> Outcome:
    """All metrics of a run. The worst cell decides whether RELIANT is agnostic of the framework."""
    gap = "sp" if config.debiasing.objective == "sp" else "eo"
    metrics: dict[str, Metric] = {}
    for at, cell in cells.items():
        for who, found in (("teacher", cell.teacher), ("plain", cell.plain), ("reliant", cell.debiased)):
            metrics |= _of_one(f"{at}/{who}", found)
        metrics[f"{at}/points_lost"] = Metric(
            cell.lost["points"], "points", False, (cell.lost["low"], cell.lost["high"])
        )
    for student, found in alone.items():
        metrics |= _of_one(f"scratch/{student}", found)
    for reading, points in fronts.items():
        for alpha, found in points:
            metrics |= _of_one(f"front/{reading}/alpha={alpha:g}", found)
    inherited = [_size(cell.plain, gap) - _size(cell.teacher, gap) for cell in cells.values()]
    at_most = [
        _widened(value, _known(cell.plain["intervals"][f"{gap}_over_teacher"][1]), len(cells))
        for value, cell in zip(inherited, cells.values(), strict=True)
    ]
    plain, debiased = (sum(_size(getattr(cell, who), gap) for cell in cells.values()) for who in ("plain", "debiased"))
    lost = [_lost(cell) for cell in cells.values()]
    both = [
        _size(cell.debiased, gap) <= _MOST_KEPT * _size(cell.plain, gap) and _lost(cell, "low") <= _MOST_LOST
        for cell in cells.values()
    ]
    useless = sum(_useless(cell.debiased) for cell in cells.values())
    metrics |= {
        "bias/inherited_worst_cell": Metric(min(inherited), "", None),
        "bias/inherited_at_most_worst_cell": Metric(min(at_most), "", None),
        "bias/inherited": Metric(float(np.mean(inherited)), "", None, bootstrap_interval(inherited)),
        "bias/kept_share": Metric(debiased / plain if plain else math.nan, "", False),
        "utility/lost": Metric(float(np.mean(lost)), "points", False, bootstrap_interval(lost)),
        "cells/both_hold": Metric(100.0 * float(np.mean(both)), "%", True),
        "cells/number": Metric(float(len(cells))),
        "cells/constant_predictions": Metric(float(useless), "", False),
        "data/label_gap": Metric(label_gap(graph), "", None),
        "proxy/advantage": Metric(advantage(cells, fronts, gap, config), "", True),
    }
    for reading in fronts:
        metrics[f"front/{reading}/mean_gap"] = Metric(front_gap(cells, fronts, reading, gap, config), "", False)
    return Outcome(metrics, (*_cell_tables(cells, alone), _front_table(fronts), _confusions(cells, graph)))


def label_gap(graph: Graph) -> float:
    """P(y = 1 | s = 1) - P(y = 1 | s = 0) of the test nodes: the gap of a classifier that is always right."""
    labels, groups = graph.labels[graph.test], graph.sensitive[graph.test]
    rates = [float((labels[groups == group] == 1).double().mean()) for group in (0, graph.groups - 1)]
    return rates[1] - rates[0]


def front_gap(cells: Mapping[str, Cell], fronts: Fronts, reading: str, gap: str, config: Reliant) -> float:
    """The gap on a reading's front, averaged over the accuracies from three points below the plain student to its own.

    At each accuracy it is the smallest gap of a student at least as accurate; the plain student belongs to every front.
    """
    front = config.front
    plain = cells.get(f"{front.teacher}/{front.framework}-{front.student}")
    if plain is None:
        return math.nan
    points = [(found["accuracy"], _size(found, gap)) for _, found in fronts[reading] if not _useless(found)]
    points.append((plain.plain["accuracy"], _size(plain.plain, gap)))
    wanted = np.linspace(plain.plain["accuracy"] - 0.03, plain.plain["accuracy"], 31)
    return float(np.mean([min(size for accuracy, size in points if accuracy >= least) for least in wanted]))


def advantage(cells: Mapping[str, Cell], fronts: Fronts, gap: str, config: Reliant) -> float:
    """How much smaller the gap is on RELIANT's front than on that of the penalty without proxies."""
    if "penalty" not in fronts or config.debiasing.reading not in fronts:
        return math.nan
    ours, penalty = (front_gap(cells, fronts, name, gap, config) for name in (config.debiasing.reading, "penalty"))
    return penalty - ours


def _widened(value: float, high: float, number: int) -> float:
    """The upper end of a 95 % interval, moved out so that it holds for the worst of so many at once (Bonferroni)."""
    return value + (high - value) * float(norm.ppf(1 - 0.025 / number) / norm.ppf(0.975))


def _of_one(at: str, found: Examined) -> dict[str, Metric]:
    spread = found["intervals"]

    def interval(name: str) -> tuple[float, float] | None:
        low, high = spread[name]
        return None if low is None or high is None else (low, high)

    return {
        f"{at}/accuracy": Metric(100 * found["accuracy"], "%", True, _percent(interval("accuracy"))),
        f"{at}/auc": Metric(_known(found["auc"]), "", True),
        f"{at}/statistical_parity_difference": Metric(_known(found["sp"]), "", None, interval("sp")),
        f"{at}/equal_opportunity_difference": Metric(_known(found["eo"]), "", None, interval("eo")),
        f"{at}/agreement": Metric(100 * found["agreement"], "%", True),
    }


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _size(found: Examined, gap: str) -> float:
    return abs(_known(found[gap]))


def _useless(found: Examined) -> bool:
    """Constant predictions have no gap and are no fairness."""
    return found["balanced_accuracy"] <= _USEFUL


def _lost(cell: Cell, which: str = "points") -> float:
    """Points of accuracy, or an end of their interval; a student that decides nothing has lost everything."""
    if _useless(cell.debiased) and not _useless(cell.plain):
        return 100 * cell.plain["accuracy"]
    return cell.lost[which]


_COLUMNS = ("accuracy %", "F1", "AUC", "statistical parity", "equal opportunity", "agreement with teacher %")


def _row(name: str, found: Examined) -> tuple[str | float | None, ...]:
    word = f"{name} (constant predictions)" if found["one_class"] else name
    return (
        word,
        100 * found["accuracy"],
        found["f1"],
        found["auc"],
        found["sp"],
        found["eo"],
        100 * found["agreement"],
    )


def _cell_tables(cells: Mapping[str, Cell], alone: Mapping[str, Examined]) -> list[Table]:
    """One table a teacher: the teacher, and for each cell the plain student and RELIANT's."""
    tables = []
    for teacher in dict.fromkeys(at.partition("/")[0] for at in cells):
        own = {at.partition("/")[2]: cell for at, cell in cells.items() if at.startswith(f"{teacher}/")}
        rows = [_row(f"teacher: {teacher}", next(iter(own.values())).teacher)]
        for name, cell in own.items():
            rows += [_row(f"{name}, plain", cell.plain), _row(f"{name}, RELIANT", cell.debiased)]
        tables.append(Table(f"Students of the {teacher} teacher", ("model", *_COLUMNS), tuple(rows), _SIGNED))
    rows = tuple(_row(f"{student}, no teacher", found) for student, found in alone.items())
    return [*tables, Table("Students that inherit nothing", ("model", *_COLUMNS), rows, _SIGNED)]


_SIGNED = "Gaps are signed: the later group's rate minus the earlier's. Test nodes only."


def _front_table(fronts: Fronts) -> Table:
    rows = tuple(
        (reading, alpha, *_row("", found)[1:]) for reading, points in fronts.items() for alpha, found in points
    )
    return Table(
        "Fronts: one student for each weight of the fairness term", ("reading", "alpha", *_COLUMNS), rows, _SIGNED
    )


def _confusions(cells: Mapping[str, Cell], graph: Graph) -> Table:
    """Who is told what, group by group, in the first cell."""
    name, cell = next(iter(cells.items()))
    rows = []
    for who, found in (("teacher", cell.teacher), ("plain", cell.plain), ("RELIANT", cell.debiased)):
        for group, counts in enumerate(found["confusion"]):
            for label, row in enumerate(counts):
                total = sum(row)
                shares = [round(100 * count / total, 1) if total else None for count in row]
                rows.append((who, group, label, total, *shares))
    columns = ("model", "group", "true class", "nodes", *(f"told {label} %" for label in range(graph.classes)))
    return Table(
        f"Decisions by group and true class ({name})", columns, tuple(rows), f"Groups of {graph.sensitive_name!r}."
    )
