"""Running a system: one seed or several, with its ideas or without one, to a results.json that other programs read."""

import fnmatch
import importlib.metadata
import platform
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heredity.core.errors import ConfigError
from heredity.core.files import read_json, write_json
from heredity.core.outcome import Claim, Metric, Outcome, judge, summarise
from heredity.core.progress import Reporter
from heredity.core.run import Machine, Run
from heredity.core.settings import override, to_plain
from heredity.core.system import System

SCHEMA = 1
_LIBRARIES = ("heredity", "torch", "torchvision", "timm", "lightly", "lightning", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Order:
    """What shall be run. `config` is the preset's with the user's changes; `command` is what repeats it."""

    system: System
    preset: str
    config: Any
    seed: int = 0
    ablation: str | None = None
    limit_steps: int = 0
    machine: Machine = field(default_factory=Machine)
    command: str = ""

    def identity(self) -> dict[str, Any]:
        """What fixes the numbers of a run; kept in its config.yaml and compared on resume."""
        return {
            "system": self.system.name,
            "preset": self.preset,
            "ablation": self.ablation,
            "seed": self.seed,
            "limit_steps": self.limit_steps,
            "config": to_plain(self.config),
        }


def run_once(
    order: Order,
    directory: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    checkpoint_seconds: float = 5.0,
) -> dict[str, Any]:
    """Run one seed into a directory; writes and returns its results."""
    run = Run.open(
        directory,
        order.identity(),
        machine=order.machine,
        resume=resume,
        reporter=reporter,
        checkpoint_seconds=checkpoint_seconds,
    )
    outcome: Outcome = order.system.load("run")(order.config, run)
    results = _header(order) | {
        "seed": order.seed,
        "config": to_plain(order.config),
        "versions": versions(),
        "metrics": {name: metric.to_plain() for name, metric in outcome.metrics.items()},
        "claims": [judge(claim, [outcome.metrics]).to_plain() for claim in claims_of(order.system, order.preset)],
        "tables": [to_plain(table) for table in outcome.tables],
        "stages": run.stages,
    }
    if run.fabric.is_global_zero:
        write_json(directory / "results.json", results)
    run.fabric.barrier()
    return results


def run_seeds(
    order: Order, seeds: int, directory: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run several seeds, one directory each, and judge the claims over all of them."""
    runs = []
    for seed in range(order.seed, order.seed + seeds):
        place = directory / f"seed-{seed}"
        if reporter is not None:
            reporter.say(f"seed {seed}")
        begun = resume and (place / "config.yaml").exists()
        runs.append(run_once(replace(order, seed=seed), place, resume=begun, reporter=reporter))
    results = _header(order) | combine(order.system, runs, order.preset)
    write_json(directory / "results.json", results)
    return results


def combine(system: System, runs: list[dict[str, Any]], preset: str | None = None) -> dict[str, Any]:
    """The part of results.json that several seeds have in common: runs, summary and claims judged over the seeds."""
    metrics = [metrics_of(run) for run in runs]
    return {
        "seeds": [run["seed"] for run in runs],
        "runs": runs,
        "summary": summarise(metrics),
        "claims": [judge(claim, metrics).to_plain() for claim in claims_of(system, preset)],
    }


def challenge(
    order: Order, seeds: int, directory: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run with every idea, then with each idea removed in turn, and tell which claims break when their idea is gone.

    A claim that holds with its idea and breaks without it is "supported"; one that still holds is "evidence of nothing";
    one that fails even with its idea "fails", or "does not hold" where it was only to be reported; one that no run
    measured is "unanswered".
    """
    speaker = reporter or Reporter()
    speaker.say("with every idea")
    whole = run_seeds(order, seeds, directory / "whole", resume=resume, reporter=reporter)
    held: dict[str, dict[str, bool]] = {"": {claim["id"]: claim["holds"] for claim in whole["claims"]}}
    for name, ablation in order.system.ablations.items():
        if ablation.presets and order.preset not in ablation.presets:
            continue
        speaker.say(f"without: {name}")
        config = override(order.config, ablation.changes)
        without = replace(order, config=config, ablation=name)
        for seed in range(order.seed, order.seed + seeds):
            target = directory / name / f"seed-{seed}"
            if not (target / "config.yaml").exists():
                keep_stages(directory / "whole" / f"seed-{seed}", replace(without, seed=seed), target)
        found = run_seeds(without, seeds, directory / name, resume=True, reporter=reporter)
        held[name] = {claim["id"]: claim["holds"] for claim in found["claims"]}
    unanswered = {claim["id"] for claim in whole["claims"] if claim["unanswered"]}
    verdicts = [_verdict(claim, held, unanswered) for claim in claims_of(order.system, order.preset)]
    results = _header(order) | {"seeds": whole["seeds"], "verdicts": verdicts}
    write_json(directory / "challenge.json", results)
    return results


def _verdict(claim: Claim, held: Mapping[str, Mapping[str, bool]], unanswered: Collection[str]) -> dict[str, Any]:
    with_idea = held[""][claim.id]
    without = held.get(claim.depends_on, {}).get(claim.id)
    if claim.id in unanswered:
        word = "unanswered"
    elif not with_idea:
        word = "does not hold" if claim.reported else "fails"
    elif without is None:
        word = "not challenged"
    else:
        word = "evidence of nothing" if without else "supported"
    return {
        "id": claim.id,
        "text": claim.text,
        "depends_on": claim.depends_on,
        "reported": claim.reported,
        "holds": with_idea,
        "holds_without": {name: found[claim.id] for name, found in held.items() if name},
        "verdict": word,
    }


def keep_stages(source: Path, order: Order, target: Path) -> None:
    """Begin a run directory with copies of the stages that the order's ablation leaves as they are."""
    patterns = order.system.ablations[order.ablation].keeps if order.ablation else ()
    for stage in sorted((source / "stages").glob("*/stage.json")):
        name = read_json(stage)["name"]
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            shutil.copytree(stage.parent, target / "stages" / stage.parent.name, dirs_exist_ok=True)
            for log in (source / "logs").glob(f"{stage.parent.name}.*.csv"):
                (target / "logs").mkdir(parents=True, exist_ok=True)
                shutil.copy(log, target / "logs" / log.name)
    Run.begin(target, order.identity())


def claims_of(system: System, preset: str | None = None) -> tuple[Claim, ...]:
    """A system's claims, or those that a preset measures. Raises ConfigError when one depends on an undeclared ablation."""
    claims = system.load("claims")
    for claim in claims:
        if claim.depends_on not in system.ablations:
            problem = (
                f"claim {claim.id!r} of {system.name} depends on ablation {claim.depends_on!r}, which is not declared"
            )
            raise ConfigError(problem, remedy="declare it in System(ablations=...)")
    return tuple(claim for claim in claims if preset is None or not claim.presets or preset in claim.presets)


def metrics_of(results: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a single run's results.json; null becomes not-a-number."""
    return {
        name: Metric(
            float("nan") if plain["value"] is None else plain["value"],
            plain["unit"],
            plain["higher_is_better"],
            tuple(plain["interval"]) if plain.get("interval") else None,
        )
        for name, plain in results["metrics"].items()
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _header(order: Order) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "system": order.system.name,
        "title": order.system.title,
        "paper": order.system.paper,
        "preset": order.preset,
        "ablation": order.ablation,
        "command": order.command,
    }
