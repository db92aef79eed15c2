"""The commands that run systems: run, challenge, and report on what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from heredity.cli.parsing import parse
from heredity.core.errors import ConfigError
from heredity.systems import find_system


@dataclass(frozen=True)
class Options:
    """What a run and a challenge have in common."""

    system: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SYSTEM")]
    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[PRESET]")] = "quick"
    out: Path | None = None
    """Directory of the run; runs/SYSTEM-PRESET unless given (with -challenge for a challenge)."""
    seed: int = 0
    """Seed of the run, or the first of several."""
    seeds: int = 1
    """How many seeds to run, each in a directory of its own; claims are then judged over all of them."""
    resume: bool = False
    """Go on with a run that was interrupted."""
    limit_steps: int = 0
    """Stop every training loop after so many steps (0: never). For trying a recipe out."""
    data: str | None = None
    """Data source to use instead of the preset's, e.g. imagefolder:DIR; see heredity data."""
    config: Path | None = None
    """A config.yaml to repeat, or a file with some fields to change."""
    devices: int = 1
    """Devices (processes) a node."""
    num_nodes: int = 1
    """Nodes, under torchrun or SLURM."""
    precision: str = "32-true"
    """Lightning Fabric's precision: 32-true, bf16-mixed, 16-mixed, ..."""
    strategy: str = "auto"
    """Lightning Fabric's strategy: auto, ddp, ..."""
    accelerator: str = "auto"
    """Lightning Fabric's accelerator: auto, cpu, gpu, ..."""
    quiet: bool = False
    """No progress."""


@dataclass(frozen=True)
class RunOptions(Options):
    """Run a system and judge its claims. Every field of its config is an option too: --thief.rows 400."""

    dry_run: bool = False
    """Say what the run would take, and which data is missing, without running."""
    ablation: str | None = None
    """Take one idea out; see heredity show SYSTEM."""


def _with_settings(kind: Any, words: list[str], prog: str) -> tuple[Any, list[str]]:
    from heredity.core.overrides import set_apart

    kept, extra = set_apart(words, {"help", *(field.name for field in fields(kind))})
    return parse(kind, kept, prog), extra


def _order(options: Any, extra: Sequence[str], command: str) -> Any:
    from heredity.core.execute import Order
    from heredity.core.overrides import parse_overrides, read_config_file
    from heredity.core.run import Machine
    from heredity.core.settings import flatten, override

    if options.seeds < 1 or options.limit_steps < 0:
        raise ConfigError("--seeds must be at least 1 and --limit-steps not negative", remedy="see heredity run --help")
    system = find_system(options.system)
    preset, seed, ablation = options.preset, options.seed, getattr(options, "ablation", None)
    changes: dict[str, Any] = {}
    if options.config is not None:
        content = read_config_file(options.config)
        if content.get("system", system.name) != system.name:
            raise ConfigError(f"{options.config} is of system {content['system']!r}", remedy=f"run {content['system']}")
        changes = flatten(content.get("config", content))
    config = override(system.preset(preset, ablation=ablation), changes | parse_overrides(extra))
    if options.data is not None:
        config = override(config, {"data": options.data})
    machine = Machine(options.devices, options.num_nodes, options.precision, options.strategy, options.accelerator)
    return Order(system, preset, config, seed, ablation, options.limit_steps, machine, command)


def run(words: list[str]) -> int:
    """`heredity run`; returns the exit code."""
    import shlex

    options, extra = _with_settings(RunOptions, words, "heredity run")
    order = _order(options, extra, shlex.join(["heredity", "run", *(word for word in words if word != "--resume")]))
    directory = options.out or Path("runs") / f"{order.system.name}-{order.preset}"
    if options.dry_run:
        return _dry_run(order)
    from heredity.core.execute import run_once, run_seeds
    from heredity.core.progress import Reporter

    reporter = Reporter(quiet=options.quiet)
    if options.seeds == 1:
        results = run_once(order, directory, resume=options.resume, reporter=reporter)
    else:
        results = run_seeds(order, options.seeds, directory, resume=options.resume, reporter=reporter)
    return conclude(results, directory)


def conclude(results: dict[str, Any], directory: Path) -> int:
    """Write the report and print the claims, on the first process only; returns the exit code."""
    import os

    failed = [claim["id"] for claim in results["claims"] if not claim["holds"] and not claim["reported"]]
    if os.environ.get("LOCAL_RANK", "0") == "0":
        from heredity.report.page import write_report

        page = write_report(directory)
        for claim in results["claims"]:
            measured = claim["measured"]
            number = float("nan") if measured["value"] is None else measured["value"]
            value = "not measured" if claim["unanswered"] else f"{number:.4g}"
            word = "holds" if claim["holds"] else "FAILS"
            word = f"reported: {'yes' if claim['holds'] else 'no'}" if claim["reported"] else word
            word = "unanswered" if claim["unanswered"] else word
            print(f"{word}  {claim['id']}: {value} ({measured['comparison']} {measured['threshold']:g})")
        print(f"results {directory / 'results.json'}\nreport  {page}")
    return 3 if failed else 0


def _dry_run(order: Any) -> int:
    system = order.system
    if system.needs is None:
        print(f"{system.name} does not say what it needs")
        return 0
    needs = system.load("needs")(order.config)
    print(f"{system.name} {order.preset}, seed {order.seed}")
    for source, state in needs.sources.items():
        print(f"  data        {source}: {state}")
    for name, count in needs.parameters.items():
        print(f"  parameters  {name}: {count:,}")
    for name, count in needs.steps.items():
        print(f"  steps       {name}: {count:,}" if count else f"  steps       {name}: depends on the data")
    print(f"  memory      about {needs.memory_mb:,.0f} MB")
    return 0


@dataclass(frozen=True)
class ChallengeOptions(Options):
    """Run with every idea, then with each taken out in turn: a claim that survives that is evidence of nothing."""


def challenge(words: list[str]) -> int:
    """`heredity challenge`; returns the exit code."""
    import shlex

    options, extra = _with_settings(ChallengeOptions, words, "heredity challenge")
    order = _order(
        options, extra, shlex.join(["heredity", "challenge", *(word for word in words if word != "--resume")])
    )
    from heredity.core import execute
    from heredity.core.progress import Reporter

    directory = options.out or Path("runs") / f"{order.system.name}-{order.preset}-challenge"
    if directory.exists() and any(directory.iterdir()) and not options.resume:
        raise ConfigError(f"{directory} is not empty", remedy="add --resume, or choose another --out")
    results = execute.challenge(
        order, options.seeds, directory, resume=options.resume, reporter=Reporter(quiet=options.quiet)
    )
    for verdict in results["verdicts"]:
        broken = [name for name, holds in verdict["holds_without"].items() if not holds]
        without = f"its idea: {verdict['depends_on']}; breaks without: {', '.join(broken) or 'nothing'}"
        print(f"{verdict['verdict']:<20} {verdict['id']} ({without})")
    print(f"results {directory / 'challenge.json'}")
    return 0 if all(found["verdict"] == "supported" or found["reported"] for found in results["verdicts"]) else 3


@dataclass(frozen=True)
class ReportOptions:
    """Rebuild the report of a run from what is in its directory, and open it."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    open: bool = True
    """Open it in the browser."""


def report(words: list[str]) -> int:
    """`heredity report`; returns the exit code."""
    options = parse(ReportOptions, words, "heredity report")
    import webbrowser

    from heredity.report.page import write_report

    page = write_report(options.directory)
    print(page)
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0
