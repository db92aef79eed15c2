"""Markdown tables of RELIANT's page from runs over several seeds: every model, the fronts, and each cell's mean.

python benchmarks/reliant_tables.py runs/reliant-quick [runs/reliant-bail ...]
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import table

from heredity.core.errors import HeredityError
from heredity.report.plain import read_results

GAPS = ("statistical_parity_difference", "equal_opportunity_difference")


def values(results: dict[str, Any], metric: str, *, absolute: bool = False) -> list[float]:
    """A metric of every seed, as far as it is defined there."""
    found = [run["metrics"][metric]["value"] for run in results.get("runs", [results]) if metric in run["metrics"]]
    return [abs(value) if absolute else value for value in found if value is not None]


def spread(numbers: Sequence[float], scale: float = 1.0) -> str:
    """Mean and standard deviation."""
    if not numbers:
        return "–"
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{scale * statistics.mean(numbers):.1f} ± {scale * deviation:.1f}"


def cells_of(results: dict[str, Any]) -> list[str]:
    """The teacher/framework-student cells of a run."""
    first = results.get("runs", [results])[0]["metrics"]
    return [name.removesuffix("/plain/accuracy") for name in first if name.endswith("/plain/accuracy")]


def models(results: dict[str, Any]) -> str:
    """Teachers, plain students, RELIANT's, and students without a teacher."""
    names: dict[str, str] = {}
    for cell in cells_of(results):
        teacher, student = cell.split("/")
        if f"**{teacher} teacher**" not in names.values():
            names[f"{cell}/teacher"] = f"**{teacher} teacher**"
        names[f"{cell}/plain"] = f"{teacher}, {student}, plain"
        names[f"{cell}/reliant"] = f"{teacher}, {student}, RELIANT"
    first = results.get("runs", [results])[0]["metrics"]
    for name in first:
        if name.startswith("scratch/") and name.endswith("/accuracy"):
            names[name.removesuffix("/accuracy")] = f"{name.split('/')[1]}, no teacher"
    rows = [
        (
            text,
            spread(values(results, f"{at}/accuracy")),
            spread(values(results, f"{at}/auc"), 100),
            spread(values(results, f"{at}/{GAPS[0]}", absolute=True), 100),
            spread(values(results, f"{at}/{GAPS[1]}"), 100),
        )
        for at, text in names.items()
    ]
    return table(("model", "accuracy", "AUC", "absolute " + GAPS[0].replace("_", " "), "equal opportunity"), rows)


def means(results: dict[str, Any]) -> str:
    """Each cell over the seeds: the share of the plain student's gap that RELIANT's keeps, and the accuracy it lost."""
    rows = []
    for cell in cells_of(results):
        plain, debiased = (values(results, f"{cell}/{who}/{GAPS[0]}", absolute=True) for who in ("plain", "reliant"))
        lost = [
            before - after
            for before, after in zip(
                values(results, f"{cell}/plain/accuracy"), values(results, f"{cell}/reliant/accuracy"), strict=True
            )
        ]
        rows.append((f"`{cell}`", f"{sum(debiased) / sum(plain):.2f}", f"{statistics.mean(lost):+.2f}"))
    return table(("cell", "gap kept, share", "accuracy lost, points"), rows)


def fronts(results: dict[str, Any]) -> str:
    """Accuracy / absolute gap for every reading and weight of the fairness term."""
    first = results.get("runs", [results])[0]["metrics"]
    found = [name.split("/") for name in first if name.startswith("front/") and name.endswith("/accuracy")]
    alphas = sorted({alpha for _, _, alpha, _ in found}, key=lambda alpha: float(alpha.partition("=")[2]))
    rows = []
    for reading in dict.fromkeys(name[1] for name in found):
        row = [f"`{reading}`"]
        for alpha in alphas:
            at = f"front/{reading}/{alpha}"
            accuracies = values(results, f"{at}/accuracy")
            gaps = values(results, f"{at}/{GAPS[0]}", absolute=True)
            row.append(f"{statistics.mean(accuracies):.1f} / {100 * statistics.mean(gaps):.1f}" if accuracies else "–")
        rows.append((*row, spread(values(results, f"front/{reading}/mean_gap"), 100)))
    return table(("reading", *(alpha.replace("=", " ") for alpha in alphas), "gap on its front"), rows) if rows else ""


def main() -> None:
    """Print the tables of every directory."""
    for name in sys.argv[1:]:
        try:
            results = read_results(Path(name))
        except HeredityError as error:
            sys.exit(str(error))
        print(models(results), means(results), fronts(results), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
