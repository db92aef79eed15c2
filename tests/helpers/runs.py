"""Small run directories for the tests of the report, written as `heredity run` writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from heredity.core.files import write_json
from heredity.core.lineage import Lineage, lineage_of, record, save_model
from heredity.core.outcome import Bars, Curves, Figure, Fronts, Heatmap, Pictures, Points, Slopes
from heredity.core.run import Run

MARK = "carries an ownership mark"


def figures() -> dict[str, Figure]:
    """One figure of every kind, and of bars both layouts."""
    pictures = tuple(tuple(np.full((4, 4, 3), 60 * row + column, np.uint8) for column in range(3)) for row in range(2))
    return {
        "bars": Bars(("probe", "full"), {"clean": (91.5, 92.0), "stolen": (90.0, -3.5)}, "%", reference=90.0),
        "panels": Bars(
            ("a", "b", "c"), {f"series {n}": (1.0 * n, 2.0, 3.0) for n in range(5)}, "points", reference=2.5
        ),
        "curves": Curves({"loss": ((0.0, 1.0, 2.0), (3.0, 2.0, 1.5))}, "step", "loss", reference=2.0),
        "heatmap": Heatmap(("x", "y"), ("left", "right"), ((0.1, float("nan")), (-0.4, 0.9)), "correlation"),
        "pictures": Pictures(pictures, ("clean", "stamped")),
        "points": Points({"one": ((0.0, 1.0), (1.0, 2.0)), "two": ((2.0,), (0.5,))}, "first", "second"),
        "slopes": Slopes(("teacher", "student"), {"kd": (0.2, 0.3), "cpf": (0.2, float("nan"))}, "gap", reference=0.2),
        "fronts": Fronts(
            {"penalty": ((0.8, 0.9), (0.1, 0.3))},
            {"penalty": ((0.79, 0.89), (0.81, 0.91), (0.05, 0.2), (0.15, 0.4))},
            "accuracy",
            "gap",
        ),
    }


def results(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """results.json of a single run."""
    plain: dict[str, Any] = {
        "schema": 1,
        "system": "ssl-wm",
        "title": "A mark in an encoder",
        "paper": "Somebody et al., Some Paper, 2024",
        "preset": "quick",
        "seed": seed,
        "ablation": None,
        "command": "heredity run ssl-wm quick --seed 0",
        "config": {"size": 16, "key": {"patch": 5}},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "metrics": {
            "accuracy": {"value": 96.378, "unit": "%", "higher_is_better": True},
            "probe/p": {"value": 0.0000051, "unit": "", "higher_is_better": False, "interval": [0.0, 0.00001]},
            "probe/mad": {"value": None, "unit": "", "higher_is_better": None},
        },
        "claims": [claim("kept", True, "accuracy", 96.378, "at least", 90.0), claim("p", False, "probe/p", None)],
        "tables": [
            {"title": "Children", "columns": ["child", "accuracy %"], "rows": [["a", 96.4], ["b", None]], "note": "N"}
        ],
        "stages": [{"name": "teacher", "seconds": 3.25}, {"name": "student", "seconds": -0.0}],
    }
    return plain | changes


def claim(
    name: str, holds: bool, metric: str, value: float | None, comparison: str = "at most", threshold: float = 1e-4
) -> dict[str, Any]:
    """One entry of `claims`."""
    measured = {
        "metric": metric,
        "value": value,
        "interval": [90.0, 98.0] if value else None,
        "comparison": comparison,
        "threshold": threshold,
        "judged_on": "every seed",
        "values": [value],
    }
    return {"id": name, "text": f"The claim {name}.", "holds": holds, "measured": measured, "depends_on": f"no-{name}"}


def several(seeds: tuple[int, ...] = (3, 4)) -> dict[str, Any]:
    """results.json of several seeds."""
    runs = [results(seed) for seed in seeds]
    summary = {
        "accuracy": {
            "mean": 96.0,
            "standard_deviation": 0.5,
            "interval": [95.0, 97.0],
            "unit": "%",
            "higher_is_better": True,
        }
    }
    header = {key: runs[0][key] for key in ("schema", "system", "title", "paper", "preset", "ablation", "command")}
    return header | {"seeds": list(seeds), "runs": runs, "summary": summary, "claims": runs[0]["claims"]}


def write_run(directory: Path, plain: dict[str, Any] | None = None) -> Path:
    """A finished run directory: results, config, one figure of every kind, a teacher and two children."""
    with Run.temporary() as run:
        run.directory = directory
        for name, figure in figures().items():
            run.figure(name, figure, caption=f"Caption of {name}.", alt=f"What {name} shows.")
    write_json(directory / "results.json", plain if plain is not None else results())
    (directory / "config.yaml").write_text("system: ssl-wm\nsize: 16\n", encoding="utf-8")
    teacher = save(directory, "teacher", Lineage("teacher", "SimCLR"))
    save(directory, "probe", Lineage("probe", "linear probe", parents=(teacher,), marks=(MARK,)))
    save(directory, "copy", Lineage("copy", "linear probe", parents=(teacher,)))
    return directory


def save(directory: Path, stage: str, lineage: Lineage) -> Lineage:
    """A tiny model of a stage; its weights depend on the stage's name alone."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(float(sum(map(ord, stage))))
        model.bias.fill_(0.0)
    save_model(directory / "stages" / stage / "model.safetensors", record(model, lineage))
    return lineage_of(model)


def change_figure(path: Path, **changes: Any) -> None:
    """Rewrite fields of a figure file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
