"""One run as one HTML file that needs nothing else: no script, no network, no fonts but the reader's own."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from heredity.core.errors import DataError, HeredityError
from heredity.core.files import write_text
from heredity.core.lineage import Lineage, read_lineage
from heredity.core.settings import flatten
from heredity.report import numbers
from heredity.report.drawings import Drawing, draw
from heredity.report.family import CARD_WIDTH, Member, Tree, gather, lay_out
from heredity.report.plain import printable, read_plain, read_results, read_text


@dataclass(frozen=True)
class Figure:
    """A figure of the page; `problem` says why there is no drawing."""

    anchor: str
    caption: str
    drawing: Drawing | None
    problem: str = ""


@dataclass(frozen=True)
class Family:
    """The models of a run and how they are drawn; `problems` are files whose lineage could not be read."""

    members: tuple[Member, ...]
    tree: Tree
    problems: tuple[str, ...]


def write_report(directory: Path) -> Path:
    """Write `report.html` for the run (of one seed or of several) in a directory, and return its path.

    Of several seeds the figures, tables and family tree are those of the first, and the page says so. Raises RunError,
    naming the file and the remedy, when results.json is missing or malformed or when the page cannot be written; a figure
    or a model that cannot be shown becomes a line on the page instead.
    """
    path = directory / "report.html"
    write_text(path, render(directory))
    return path


def render(directory: Path) -> str:
    """The page as HTML text. The same files give the same text, byte for byte."""
    results = read_results(directory)
    several = "runs" in results
    first = results["runs"][0] if several else results
    place = directory / f"seed-{int(results['seeds'][0])}" if several else directory
    metrics = results["summary"] if several else results["metrics"]
    return _template().render(
        results=results,
        first=first,
        seeds=results["seeds"] if several else [results["seed"]],
        several=several,
        claims=[_claim(claim, metrics) for claim in results["claims"]],
        holding=sum(claim["holds"] for claim in results["claims"] if not claim.get("reported", False)),
        claimed=sum(not (claim.get("reported") or claim.get("unanswered")) for claim in results["claims"]),
        unanswered=sum(claim.get("unanswered", False) for claim in results["claims"]),
        family=read_family(place),
        card_width=CARD_WIDTH,
        figures=read_figures(place),
        metric_count=len(metrics),
        metric_groups=_grouped(metrics),
        tables=[{"note": "", **table, "numeric": _numeric_columns(table)} for table in first["tables"]],
        stages=first["stages"],
        seconds=sum(stage["seconds"] for stage in first["stages"] if numbers.is_number(stage["seconds"])),
        configuration=_configuration(place, first),
    )


def read_figures(directory: Path) -> tuple[Figure, ...]:
    """The figures of a run, drawn; a file that cannot be drawn gives a figure with its problem."""
    figures = []
    for index, path in enumerate(sorted((directory / "figures").glob("*.json")), start=1):
        anchor, caption = f"figure-{index}", f"Figure file {printable(path.name)}"
        try:
            plain = read_plain(path)
            if not isinstance(plain, dict) or not all(
                isinstance(plain.get(key), str) for key in ("kind", "caption", "alt")
            ):
                raise DataError(f"{path.name} is not a figure", remedy="a figure has name, kind, caption, alt and data")
            caption = plain["caption"]
            drawing = draw(plain["kind"], plain.get("data"), prefix=f"{anchor}-", alt=plain["alt"] or plain["caption"])
            figures.append(Figure(anchor, caption, drawing))
        except HeredityError as error:
            # The page may travel: it names the file, not the folders of the machine that it lay on.
            problem = printable(str(error)).replace(str(path), path.name)
            figures.append(Figure(anchor, caption, None, f"{printable(path.name)} cannot be shown: {problem}"))
    return tuple(figures)


def read_family(directory: Path) -> Family:
    """The lineages of all models that a run saved."""
    lineages: list[Lineage] = []
    problems = []
    for path in sorted((directory / "stages").glob("*/model.safetensors")):
        shown = f"stages/{path.parent.name}/{path.name}"
        try:
            lineages.append(read_lineage(path))
        except HeredityError as error:
            problems.append(printable(str(error).replace(str(path), shown)))
        except (RecursionError, OSError) as error:
            problems.append(printable(f"{shown}: {type(error).__name__}"))
    members = gather(lineages)
    return Family(members, lay_out(members), tuple(problems))


def _configuration(directory: Path, first: Mapping[str, Any]) -> str:
    path = directory / "config.yaml"
    if path.exists():
        return read_text(path)
    return "\n".join(f"{name}: {value}" for name, value in flatten(first["config"]).items())


def _claim(claim: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    measured = claim["measured"]
    unit = metrics.get(measured["metric"], {}).get("unit", "")
    return {
        "text": claim["text"],
        "holds": claim["holds"],
        "reported": claim.get("reported", False),
        "unanswered": claim.get("unanswered", False),
        "metric": measured["metric"],
        "value": numbers.number(measured["value"], unit),
        "interval": numbers.interval(measured.get("interval"), unit),
        "values": ", ".join(numbers.number(value) for value in measured["values"]),
        "wanted": f"{measured['comparison']} {numbers.number(measured['threshold'], unit)}",
        "judged_on": measured["judged_on"],
        "depends_on": claim["depends_on"],
    }


def _grouped(metrics: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, metric in metrics.items():
        head, slash, rest = path.partition("/")
        value = metric["mean"] if "mean" in metric else metric["value"]
        spread = metric.get("standard_deviation")
        row = {
            "name": rest if slash else head,
            "value": numbers.number(value, metric["unit"]),
            "spread": numbers.number(spread, metric["unit"]) if numbers.is_number(spread) else "",
            "interval": numbers.interval(metric.get("interval"), metric["unit"]),
            "better": {True: "higher", False: "lower", None: ""}[metric["higher_is_better"]],
        }
        groups.setdefault(head if slash else "the whole run", []).append(row)
    return groups


def _numeric_columns(table: Mapping[str, Any]) -> list[bool]:
    def numeric(column: int) -> bool:
        values: Sequence[Any] = [row[column] for row in table["rows"] if column < len(row) and row[column] is not None]
        return bool(values) and all(isinstance(value, int | float) for value in values)

    return [numeric(column) for column in range(len(table["columns"]))]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heredity.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": numbers.number, "cell": numbers.cell, "duration": numbers.duration}
    return environment.get_template("report.html.j2")
