"""From what was examined to metrics and tables."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from heredity.core.outcome import Metric, Outcome, Table
from heredity.core.run import Run
from heredity.nn.inference import evaluating
from heredity.systems.tinymim.config import ARMS, TinyMIM

Found = Mapping[str, Mapping[str, Any]]


def measured(
    teacher: nn.Module,
    own: Mapping[str, Any] | None,
    students: Mapping[str, nn.Module],
    found: Found,
    probed: Mapping[str, float],
    dense: Found,
    config: TinyMIM,
    run: Run,
    *,
    skipped: tuple[str, ...] = (),
) -> Outcome:
    """Accuracy and mIoU of each arm, the margins that the claims are about, and what teacher and student cost."""
    metrics = {f"accuracy/{arm}": Metric(row["accuracy"], "%", True) for arm, row in found.items()}
    metrics |= {f"validation/{arm}": Metric(row["validation"], "%", True) for arm, row in found.items()}
    if own is not None:
        metrics["accuracy/teacher"] = Metric(own["accuracy"], "%", True)
    metrics |= {f"probe/{arm}": Metric(value, "%", True) for arm, value in probed.items()}
    metrics |= {f"miou/{arm}": Metric(row["miou"], "%", True) for arm, row in dense.items()}
    for arm in found:
        if arm != "relations" and "relations" in found:
            margin = found["relations"]["accuracy"] - found[arm]["accuracy"]
            metrics[f"margin/{arm}"] = Metric(margin, "points", True)
    alone = [found[arm]["accuracy"] for arm in ("scratch", "mae") if arm in found]
    if alone and "relations" in found:
        metrics["margin/without-teacher"] = Metric(found["relations"]["accuracy"] - max(alone), "points", True)
    baselines = [row["miou"] for arm, row in dense.items() if ARMS[arm].kind in ("scratch", "mae")]
    if baselines and "relations" in dense:
        metrics["margin/dense"] = Metric(dense["relations"]["miou"] - max(baselines), "points", True)
    weak = weak_regularisation(found)
    if weak is not None:
        metrics["margin/weak-regularisation"] = Metric(weak, "points", True)
    if "sequential" in found and "relations" in found:
        gained = found["sequential"]["accuracy"] - found["relations"]["accuracy"]
        metrics["margin/sequential-over-direct"] = Metric(gained, "points", True)
    some = next(iter(students.values()))
    for name, model in (("teacher", teacher), ("student", some)):
        metrics[f"cost/{name}_parameters"] = Metric(float(parameters_of(model)), "", False)
        metrics[f"cost/{name}_multiply_adds"] = Metric(float(multiply_adds(model, config.size)), "", False)
    tables = [_arms(found, probed, dense), _costs(teacher, some, config, run)]
    if skipped:
        rows = tuple((line.partition(": ")[0], line.partition(": ")[2]) for line in skipped)
        tables.append(Table(f"{len(skipped)} pictures could not be read and were left out", ("file", "reason"), rows))
    return Outcome(metrics, tuple(tables))


def weak_regularisation(found: Found) -> float | None:
    """The smallest advantage of weak over strong regularisation: whole over masked input, and of drop path at most 0.1 over
    0.3 for the student and 0 over 0.1 for the teacher, as far as these arms were run."""
    strong = ("masked", "drop-path-0.3", "teacher-drop-path")
    margins = [found["relations"]["accuracy"] - found[arm]["accuracy"] for arm in strong if arm in found]
    return min(margins) if margins and "relations" in found else None


def parameters_of(model: nn.Module) -> int:
    """How many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, size: int) -> int:
    """Multiply-adds of one picture: half of what torch counts as operations."""
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter:
        model(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
    return counter.get_total_flops() // 2


def images_per_second(model: nn.Module, size: int, *, batch: int = 64, seconds: float = 0.3) -> float:
    """Pictures a second on this machine, as it is loaded now."""
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=device)
    with evaluating(model):
        model(images)
        began, seen = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            model(images)
            seen += batch
        return seen / (time.perf_counter() - began)


def _arms(found: Found, probed: Mapping[str, float], dense: Found) -> Table:
    rows = tuple(
        (arm, ARMS[arm].text, row["accuracy"], probed[arm], dense[arm]["miou"] if arm in dense else None)
        for arm, row in found.items()
    )
    return Table("Students", ("arm", "what it was taught", "accuracy %", "linear probe %", "mIoU %"), rows)


def _costs(teacher: nn.Module, student: nn.Module, config: TinyMIM, run: Run) -> Table:
    rows = tuple(
        (
            name,
            parameters_of(model),
            multiply_adds(model, config.size),
            run.table(f"speed/{name}", lambda model=model: round(images_per_second(model, config.size))),
        )
        for name, model in (("teacher", teacher), ("student", student))
    )
    note = "Pictures a second on the machine of the run, in batches of 64, while other work may share it."
    return Table("Cost", ("model", "parameters", "multiply-adds", "pictures/s"), rows, note)
