"""What a reader wants to see of a run."""

import math
from collections.abc import Mapping
from typing import Any

from heredity.core.outcome import Bars, Fronts, Heatmap, Slopes
from heredity.core.run import Run
from heredity.data.graphs import Graph
from heredity.systems.reliant.config import Reliant
from heredity.systems.reliant.results import Cell, Examined, label_gap
from heredity.systems.reliant.results import Fronts as Found


def results(
    cells: Mapping[str, Cell],
    fronts: Found,
    alone: Mapping[str, Examined],
    graph: Graph,
    config: Reliant,
    run: Run,
) -> None:
    """Bias from teacher to student, what it costs to be rid of it, and who is told what."""
    gap = "sp" if config.debiasing.objective == "sp" else "eo"
    name = "statistical parity difference" if gap == "sp" else "equal opportunity difference"
    _inherited(cells, graph, gap, name, run)
    if any(fronts.values()):
        _trade_offs(cells, fronts, alone, gap, name, config, run)
    _decisions(cells, graph, run)
    _utility(cells, run)


def _inherited(cells: Mapping[str, Cell], graph: Graph, gap: str, name: str, run: Run) -> None:
    lines = {
        at: tuple(abs(_number(found[gap])) for found in (cell.teacher, cell.plain, cell.debiased))
        for at, cell in cells.items()
    }
    run.figure(
        "inherited",
        Slopes(("teacher", "plain student", "RELIANT"), lines, f"{name}, absolute", abs(label_gap(graph))),
        caption=f"What becomes of the teacher's gap, cell by cell (teacher/framework-student). Dashed: the gap of the true "
        f"labels on the test nodes. Groups of {graph.sensitive_name!r}.",
        alt=f"{len(lines)} lines from the teacher's {name} to the plain student's and RELIANT's.",
    )


def _trade_offs(
    cells: Mapping[str, Cell],
    fronts: Found,
    alone: Mapping[str, Examined],
    gap: str,
    name: str,
    config: Reliant,
    run: Run,
) -> None:
    place = config.front
    own = cells.get(f"{place.teacher}/{place.framework}-{place.student}")
    shown = {reading: [found for _, found in points] for reading, points in fronts.items()}
    if own is not None:
        shown = {reading: [own.plain, *points] for reading, points in shown.items()}
        shown |= {"teacher": [own.teacher]}
    if place.student in alone:
        shown |= {"no teacher": [alone[place.student]]}
    lines, spread = {}, {}
    for reading, points in shown.items():
        lines[reading] = (_column(points, "accuracy"), tuple(abs(value) for value in _column(points, gap)))
        accuracies = [tuple(map(_number, found["intervals"]["accuracy"])) for found in points]
        gaps = [_folded(found["intervals"][gap]) for found in points]
        spread[reading] = (*zip(*accuracies, strict=True), *zip(*gaps, strict=True))
    run.figure(
        "fronts",
        Fronts(lines, spread, "accuracy", f"{name}, absolute"),
        caption=f"Utility against bias in {place.teacher}/{place.framework}-{place.student}: right and low is better. Each "
        "line begins at the plain student and goes through the weights of the fairness term; thin bars are 95 % intervals "
        "over test nodes.",
        alt=f"Fronts of {', '.join(shown)}: accuracy across, absolute {name} upwards.",
    )


def _decisions(cells: Mapping[str, Cell], graph: Graph, run: Run) -> None:
    at, cell = next(iter(cells.items()))
    rows, values = [], []
    for who, found in (("teacher", cell.teacher), ("plain", cell.plain), ("RELIANT", cell.debiased)):
        for group, counts in enumerate(found["confusion"]):
            rows.append(f"{who}, group {group}")
            values.append(tuple(100 * cell_count / max(1, sum(row)) for row in counts for cell_count in row))
    columns = tuple(f"true {label}, told {told}" for label in range(graph.classes) for told in range(graph.classes))
    run.figure(
        "decisions",
        Heatmap(tuple(rows), columns, tuple(values), "% of the true class"),
        caption=f"Who is told what, group by group ({at}). With equal opportunity the two groups' rows agree where the "
        "truth is 1.",
        alt="Confusion matrices by group for teacher, plain student and RELIANT's student.",
    )


def _utility(cells: Mapping[str, Cell], run: Run) -> None:
    series = {
        "plain student": tuple(100 * cell.plain["accuracy"] for cell in cells.values()),
        "RELIANT": tuple(100 * cell.debiased["accuracy"] for cell in cells.values()),
    }
    run.figure(
        "utility",
        Bars(tuple(cells), series, "accuracy, %"),
        caption="What it costs: accuracy of plain and debiased students on the test nodes.",
        alt="Pairs of bars, one a cell: accuracy of the plain student and of RELIANT's.",
    )


def _column(points: list[Examined], name: str) -> tuple[float, ...]:
    return tuple(_number(found[name]) for found in points)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _folded(interval: Any) -> tuple[float, float]:
    """An interval of a signed gap as one of its absolute value."""
    low, high = (_number(end) for end in interval)
    smallest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return smallest, max(abs(low), abs(high))
