"""The fairness card of a student: what it inherited, for people who decide whether it is deployed."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2

from heredity.data.graphs import Graph
from heredity.systems.reliant.proxy import Debiasing
from heredity.systems.reliant.results import label_gap


@dataclass(frozen=True)
class FairnessCard:
    """What a student decides about the groups of a graph, beside its teacher, the plain student and one without a teacher.

    `models` maps each name to accuracy, AUC, signed gaps with 95 % intervals over test nodes, and confusion counts
    [group][true class][told class]. `warnings` must be read before any figure.
    """

    data: str
    label: str
    sensitive: str
    groups: tuple[int, ...]
    label_gap: float
    teacher: str
    student: str
    framework: str
    debiasing: Mapping[str, Any]
    seed: int
    models: Mapping[str, Mapping[str, Any]]
    inference_takes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{'':<16}accuracy   statistical parity difference      equal opportunity difference"]
        for name, found in self.models.items():
            gaps = "  ".join(f"{_gap(found, gap):<32}" for gap in ("sp", "eo"))
            lines.append(f"{name:<16}{100 * found['accuracy']:6.1f} %   {gaps}".rstrip())
        lines.append(f"{'true labels':<28}{self.label_gap:+.3f}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def fairness_card(
    graph: Graph,
    teacher: str,
    student: str,
    framework: str,
    how: Debiasing,
    seed: int,
    models: Mapping[str, Mapping[str, Any]],
) -> FairnessCard:
    """The card of a student from what was examined; `models` holds "plain student" and "this student" among others."""
    return FairnessCard(
        data=graph.name,
        label=graph.label_name,
        sensitive=graph.sensitive_name,
        groups=tuple(int((graph.sensitive[graph.test] == group).sum()) for group in range(graph.groups)),
        label_gap=label_gap(graph),
        teacher=teacher,
        student=student,
        framework=framework,
        debiasing=vars(how),
        seed=seed,
        models=models,
        inference_takes=graph.feature_names,
        notes=graph.notes,
        warnings=tuple(_warnings(graph, how, models)),
    )


def _warnings(graph: Graph, how: Debiasing, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    gap = how.objective
    found, plain = models["this student"], models["plain student"]
    said = list(found["notes"])
    if _known(found[gap]) and _known(plain[gap]) and abs(found[gap]) >= abs(plain[gap]):
        said.append("the gap is not smaller than the plain student's")
    if _known(found["sp"]) and found["sp"] * label_gap(graph) < 0:
        said.append("the favoured group has changed sides: over-corrected")
    other = "eo" if gap == "sp" else "sp"
    if _known(found[other]) and _known(plain[other]) and abs(found[other]) > abs(plain[other]) + 0.02:
        said.append(f"the other gap ({other}) grew")
    if graph.sensitive_name in graph.feature_names:
        said.append(
            f"{graph.sensitive_name!r} is itself among the features: the student sees it at inference as a feature"
        )
    said.append("a smaller gap on one test set is no certificate of fairness")
    return said


def to_html(card: FairnessCard) -> str:
    """The card as one page that needs nothing else; everything from outside is escaped."""
    return _template().render(card=card, gap=_gap, bar=_bar)


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _gap(found: Mapping[str, Any], gap: str) -> str:
    if not _known(found[gap]):
        return "not defined"
    low, high = found["intervals"][gap]
    interval = f" ({low:+.3f} to {high:+.3f})" if _known(low) and _known(high) else ""
    return f"{found[gap]:+.3f}{interval}"


def _bar(value: float | None) -> tuple[float, float]:
    """Left end and width in percent of a bar from zero, on a scale from -0.5 to 0.5."""
    known = max(-0.5, min(0.5, value)) if value is not None and _known(value) else 0.0
    return (50 + 100 * min(known, 0.0), 100 * abs(known))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heredity.systems.reliant", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.html.j2")
