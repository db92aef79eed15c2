"""Markdown tables of the distillation backdoors for the docs: several sets of seeds side by side.

python benchmarks/dd_backdoor_tables.py runs/dd-backdoor-quick [runs/dd-backdoor-confirmation ...]

Each directory holds one a seed (seed-N/results.json), as `heredity run --seeds` leaves it.
"""

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tables import runs_of, table, verdict

from heredity.core.execute import combine
from heredity.report.numbers import number
from heredity.systems.dd_backdoor import SYSTEM

Group = Sequence[dict[str, Any]]
"""Results of several seeds."""


def claims(groups: Sequence[Group]) -> str:
    """Each claim with its value on every seed of every group."""
    wholes = [combine(SYSTEM, list(group)) for group in groups]
    rows = []
    for at, claim in enumerate(wholes[0]["claims"]):
        found = claim["measured"]
        row = [f"`{claim['id']}`", f"{found['comparison']} {number(found['threshold'])}", found["judged_on"]]
        for whole in wholes:
            held = whole["claims"][at]
            values = held["measured"]["values"]
            row += [
                " / ".join(f"{value:.2f}" for value in values),
                f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}",
                verdict(held),
            ]
        rows.append(row)
    columns = ["claim", "must be", "judged on"]
    for whole in wholes:
        columns += [f"seeds {whole['seeds'][0]} to {whole['seeds'][-1]}", "mean", "verdict"]
    return table(columns, rows)


def cells(groups: Sequence[Group]) -> str:
    """Each distiller and attack: means over seeds, groups behind slashes; pixels over all seeds."""
    sets = [[run["tables"][0] for run in group] for group in groups]
    columns = sets[0][0]["columns"][:7]
    spread = {"accuracy %", "attack success %"}
    rows = []
    for at, row in enumerate(sets[0][0]["rows"]):
        line = [row[0]]
        for place, column in enumerate(columns[1:], start=1):
            told = []
            for group in sets:
                values = [one["rows"][at][place] for one in group if one["rows"][at][place] is not None]
                if values:
                    mean, deviation = statistics.mean(values), statistics.stdev(values)
                    told.append(f"{mean:.1f} ± {deviation:.1f}" if column in spread else f"{mean:.1f}")
            line.append(" / ".join(told))
        ends = [[one["rows"][at][place] for group in sets for one in group] for place in (7, 8)]
        low, high = min(ends[0]), max(ends[1])
        rows.append([*line, f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"])
    return table((*columns, "pixels, all seeds"), rows)


def defences(groups: Sequence[Group]) -> str:
    """Each defence over all seeds: mean (lowest to highest), and on how many seeds it fails."""
    found = [run["tables"][1] for group in groups for run in group]
    rows = []
    for at, row in enumerate(found[0]["rows"]):
        spans = []
        for place in (1, 2):
            known = [one["rows"][at][place] for one in found if one["rows"][at][place] is not None]
            spans.append(f"{statistics.mean(known):.2f} ({min(known):.2f} to {max(known):.2f})" if known else "–")
        failed = sum(one["rows"][at][4] == "fails" for one in found)
        rows.append([row[0], *spans, number(row[3]), f"{failed} of {len(found)}"])
    return table(("defence", "backdoored", "honest", "must be", "fails on"), rows)


def main() -> None:
    """Print the tables over the given directories."""
    groups: list[Group] = [runs_of(name) for name in sys.argv[1:]]
    if not groups or min(map(len, groups)) < 2:
        sys.exit("give directories of two seeds or more")
    for part in (claims(groups), cells(groups), defences(groups)):
        print(part, end="\n\n")


if __name__ == "__main__":
    main()
