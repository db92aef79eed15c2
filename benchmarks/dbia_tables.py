"""Markdown tables of DBIA for the docs, from one directory a seed (seed-N/results.json), as `heredity run --seeds` leaves it.

python benchmarks/dbia_tables.py runs/dbia-quick [runs/dbia-confirmation ...]
"""

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tables import claims, runs_of, table

from heredity.core.execute import combine
from heredity.report.numbers import number
from heredity.systems.dbia import SYSTEM

_ATTACKS = {
    "attack success %": "attack success %",
    "on the clean victim %": "the same on the clean victim %",
    "clean accuracy %": "clean accuracy %",
    "lost, points": "lost, points",
    "false triggers %": "false triggers %",
}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def over_seeds(runs: Sequence[dict[str, Any]], title: str, names: int, columns: dict[str, str]) -> str:
    """One table of the report over seeds: the first `names` columns name a row, `columns` are averaged."""
    found = [next(one for one in run["tables"] if one["title"].startswith(title)) for run in runs]
    header = found[0]["columns"]
    rows = []
    for position, row in enumerate(found[0]["rows"]):
        cells = [str(cell) for cell in row[:names]]
        for column in columns:
            place = header.index(column)
            values = [one["rows"][position][place] for one in found]
            known = [float(value) for value in values if value is not None]
            cells.append(spread(known) if known else "–")
        rows.append(cells)
    return table((*header[:names], *columns.values()), rows)


def defences(runs: Sequence[dict[str, Any]]) -> str:
    """Each defence against each model: the share of the attack that it stops, by seed, and what it costs."""
    found = [next((one for one in run["tables"] if one["title"].startswith("Defences")), None) for run in runs]
    found = [one for one in found if one is not None]
    if not found:
        return ""
    header = found[0]["columns"]
    stopped, price = header.index("attack stopped %"), 5
    models = list(dict.fromkeys(row[2] for row in found[0]["rows"]))
    rows = []
    for name in dict.fromkeys(row[0] for row in found[0]["rows"]):
        cells = [name]
        for column, shown in ((stopped, models), (price, [model for model in models if "keep-clean" in model])):
            for model in shown:
                values = [row[column] for one in found for row in one["rows"] if (row[0], row[2]) == (name, model)]
                known = [float(value) for value in values if value is not None]
                cells.append(spread(known) if known else "–")
        rows.append(cells)
    return table(("defence", *models, "clean pictures rejected %, or points lost (keep-clean)"), rows)


def main() -> None:
    """Print the tables of every directory."""
    for name in sys.argv[1:]:
        runs = runs_of(name)
        whole = combine(SYSTEM, runs)
        parts = [f"seeds {', '.join(str(seed) for seed in whole['seeds'])}", claims(whole)]
        parts.append(over_seeds(runs, "Attacks", 3, _ATTACKS))
        parts.append(
            over_seeds(
                runs,
                "Share of attention",
                2,
                {"surrogate pictures %": "surrogate pictures %", "the task's pictures %": "the task's pictures %"},
            )
        )
        parts.append(defences(runs))
        ratios = [key for key in whole["summary"] if key.startswith("cost/")]
        parts.append(
            "\n".join(
                f"{key}: " + ", ".join(number(run["metrics"][key]["value"]) for run in runs) for key in sorted(ratios)
            )
        )
        parts.append(
            "seconds of all stages: "
            + ", ".join(f"{sum(stage['seconds'] for stage in run['stages']):.0f}" for run in runs)
        )
        print("\n\n".join(part for part in parts if part), end="\n\n")


if __name__ == "__main__":
    main()
