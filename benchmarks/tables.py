"""Markdown tables for the docs from what runs left on disk.

python benchmarks/tables.py runs/ssl-wm-quick [runs/ssl-wm-quick-challenge ...]
"""

import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from heredity.core.errors import HeredityError
from heredity.report.numbers import interval, number
from heredity.report.plain import read_results


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def verdict(claim: dict[str, Any]) -> str:
    if claim.get("unanswered", False):
        return "not measured"
    if claim.get("reported", False):
        return f"reported: {'yes' if claim['holds'] else 'no'}"
    return "holds" if claim["holds"] else "**fails**"


def claims(results: dict[str, Any]) -> str:
    """Each claim with what was measured for it, and by seed."""
    rows = []
    for claim in results["claims"]:
        found = claim["measured"]
        rows.append(
            (
                f"`{claim['id']}`",
                number(found["value"]),
                interval(found.get("interval")) or "–",
                f"{found['comparison']} {number(found['threshold'])}",
                verdict(claim),
                ", ".join(number(value) for value in found["values"]),
            )
        )
    return table(("claim", "measured", "95 % interval", "must be", "verdict", "by seed"), rows)


def runs_of(directory: str) -> list[dict[str, Any]]:
    """The results of every seed in a directory (seed-N/results.json), in their order. Ends the script where there is none."""
    files = sorted(Path(directory).glob("seed-*/results.json"), key=lambda file: int(file.parent.name[5:]))
    if not files:
        sys.exit(f"{directory} holds no seed-N/results.json")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def children(results: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds of the last tables' numbers, row by row."""
    runs = results.get("runs", [results])
    parts = []
    for index, first in enumerate(runs[0]["tables"]):
        rows = []
        for position, row in enumerate(first["rows"]):
            cells = [re.sub(r" \(\d+ % pruned\)", "", str(row[0]))]
            for column in range(1, len(row)):
                values = [run["tables"][index]["rows"][position][column] for run in runs]
                if any(isinstance(value, str) for value in values):
                    counts = Counter(str(value) for value in values)
                    cells.append(", ".join(f"{text} ({count} of {len(values)})" for text, count in counts.items()))
                    continue
                known = [float(value) for value in values if value is not None]
                if first["columns"][column] == "p":
                    cells.append(f"largest {number(max(known))}, smallest {number(min(known))}")
                elif len(known) > 1:
                    cells.append(f"{statistics.mean(known):.4g} ± {statistics.stdev(known):.2g}")
                else:
                    cells.append(number(known[0]) if known else "–")
            rows.append(cells)
        parts.append(f"**{first['title']}**\n\n" + table(first["columns"], rows))
    return "\n\n".join(parts)


def verdicts(directory: Path) -> str:
    """A challenge: which claims break without their idea, and without which others."""
    challenge = json.loads((directory / "challenge.json").read_text(encoding="utf-8"))
    rows = []
    for found in challenge["verdicts"]:
        broken = [name for name, holds in found["holds_without"].items() if not holds]
        rows.append((f"`{found['id']}`", f"`{found['depends_on']}`", found["verdict"], ", ".join(broken) or "–"))
    return table(("claim", "its idea removed by", "verdict", "breaks without"), rows)


def main() -> None:
    """Print the tables of every directory."""
    for name in sys.argv[1:]:
        directory = Path(name)
        if (directory / "challenge.json").exists():
            print(verdicts(directory), end="\n\n")
            continue
        try:
            results = read_results(directory)
        except HeredityError as error:
            sys.exit(str(error))
        print(claims(results), children(results), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
