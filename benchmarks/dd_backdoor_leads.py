"""How far DOORPING leads inside the pixel range, cell by cell, over seeds: the docs' table.

    python benchmarks/dd_backdoor_leads.py OUT.jsonl ...

Each file is what dd_backdoor_real.py wrote with `--arms "naive 6x6" "doorping 6x6, valid" "frozen 6x6, valid"` and a seed of
its own. Success in %, in brackets on the honest set; leads in points, intervals by Student's t over the seeds.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import scipy.stats
from tables import table

DOORPING = "doorping 6x6, valid"


def lead(own: list[float], other: list[float]) -> str:
    """Mean difference of paired shares, in points, with its interval where two seeds or more give one."""
    points = [100 * (a - b) for a, b in zip(own, other, strict=True)]
    if len(points) < 2:
        return f"{mean(points):.1f}"
    low, high = scipy.stats.t.interval(0.95, len(points) - 1, loc=mean(points), scale=scipy.stats.sem(points))
    return f"{mean(points):.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("files", type=Path, nargs="+")
    rows = [json.loads(row) for file in options.parse_args().files for row in file.read_text().splitlines()]
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        cells.setdefault(row["cell"], []).append(row)
    for cell, found in cells.items():
        own = [mean(row["arms"][DOORPING]["success"]) for row in found]
        lines = []
        for arm in found[0]["arms"]:
            success = [mean(row["arms"][arm]["success"]) for row in found]
            control = [mean(row["arms"][arm]["success, honest set"]) for row in found]
            pairs = [*zip(success, control, strict=True), (mean(success), mean(control))]
            shares = [f"{100 * a:.1f} ({100 * b:.1f})" for a, b in pairs]
            lines.append([arm, *shares, "" if arm == DOORPING else lead(own, success)])
        seeds = [str(row["seed"]) for row in found]
        print(table([cell, *seeds, "mean", "DOORPING's lead, points (95 %)"], lines), end="\n\n")


if __name__ == "__main__":
    main()
