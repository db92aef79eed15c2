"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from heredity.cli import runs
from heredity.cli.parsing import parse
from heredity.core.errors import ConfigError, HeredityError, suggestion
from heredity.systems import TEN, find_system, names, plug_ins

USAGE = """heredity makes a model from another model, and measures what it inherited.

usage: heredity COMMAND ... [--debug]

  list                       the systems and their state
  show SYSTEM                paper, presets, claims, ablations, data it takes
  run SYSTEM [PRESET]        run a system: smoke (seconds), quick (minutes, the default), paper (the published recipe)
  challenge SYSTEM           take each idea out in turn: which claims break?
  report DIR                 rebuild a run's report.html and open it
  scan MODEL                 ask every detector of backdoors about a model or a training set (exit code 3: flagged)
  repair MODEL --with NAME   take a backdoor out of a classifier, as far as a defence can
  pedigree FILE              the family tree inside a model file
  serve MODEL                answer labels over HTTP, as somebody who sells the model would
  import SYSTEM FILE         turn a published checkpoint into safetensors: heredity import tinymim mae_pretrain_vit_base.pth
  data [SOURCE]              list data sources, check one, or write one: data make SOURCE DIR
  SYSTEM VERB ...            what a system does with your own model and data: heredity ssl-wm --help

Every command has --help. Exit codes: 0 done, 3 done but a claim failed (scan: something was flagged), 1 an error to mend,
130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `heredity` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = dispatch(words)
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {resume_command(words)}", file=sys.stderr)
        code = 130
    except HeredityError as error:
        if debug:
            raise
        print(f"heredity: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code)


def resume_command(words: Sequence[str]) -> str:
    """The command that takes up an interrupted one."""
    import shlex

    resumable = words and words[0] in ("run", "challenge") and "--resume" not in words
    return shlex.join(["heredity", *words, *(["--resume"] if resumable else [])])


def dispatch(words: Sequence[str]) -> int:
    """Call the command that the first word names; returns the exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from heredity import __version__

        print(__version__)
        return 0
    command, rest = words[0], list(words[1:])
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "show": _show,
        "run": runs.run,
        "challenge": runs.challenge,
        "report": runs.report,
        "scan": _scan,
        "repair": _repair,
        "pedigree": _pedigree,
        "serve": _serve,
        "import": _import,
        "data": _data,
    }
    if command in commands:
        return commands[command](rest)
    if command in names() or command in {entry.name for entry in TEN}:
        return _verb(command, rest)
    raise ConfigError(f"unknown command {command!r}", remedy=suggestion(command, [*commands, *names()]))


@dataclass(frozen=True)
class ListOptions:
    """List the systems: those that run, and those that are planned."""

    json: bool = False
    """Print JSON instead of a table."""


def _list(words: list[str]) -> int:
    options = parse(ListOptions, words, "heredity list")
    rows = [
        {
            "name": entry.name,
            "makes": entry.made,
            "passes_on": entry.passes_on,
            "state": "runs" if entry.module else "not yet",
        }
        for entry in TEN
    ]
    for name in sorted(plug_ins()):
        system = find_system(name)
        rows.append({"name": name, "makes": system.title, "passes_on": system.passes_on, "state": "plug-in"})
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    for row in rows:
        print("  ".join(row[key].ljust(width[key]) for key in ("name", "state", "makes", "passes_on")).rstrip())
    return 0


@dataclass(frozen=True)
class ShowOptions:
    """Show a system: paper, presets, claims, ablations, and the data it takes."""

    system: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SYSTEM")]
    json: bool = False
    """Print JSON instead of text."""


def _show(words: list[str]) -> int:
    options = parse(ShowOptions, words, "heredity show")
    from heredity.core.execute import claims_of
    from heredity.core.settings import to_plain

    system = find_system(options.system)
    claims = claims_of(system)
    if options.json:
        shown = {
            "name": system.name,
            "title": system.title,
            "paper": system.paper,
            "passes_on": system.passes_on,
            "data": system.data,
            "presets": {name: to_plain(config) for name, config in system.load("presets").items()},
            "claims": [to_plain(claim) for claim in claims],
            "ablations": {name: to_plain(ablation) for name, ablation in system.ablations.items()},
            "verbs": sorted(system.load("commands")),
        }
        print(json.dumps(shown, indent=1))
        return 0
    print(f"{system.name}: {system.title}\n{system.paper}\nPasses on {system.passes_on}. Data: {system.data}")
    print(
        f"\nPresets: {', '.join(system.load('presets'))}. Verbs: {', '.join(sorted(system.load('commands'))) or 'none'}."
    )
    print("\nClaims (each with the ablation that must break it):")
    for claim in claims:
        print(f"  {claim.id} [{claim.depends_on}]\n      {claim.text}")
    print("\nAblations:")
    for name, ablation in system.ablations.items():
        print(f"  {name}: {ablation.text}")
    return 0


def _scan(words: list[str]) -> int:
    from heredity.audit import commands

    return commands.scan(parse(commands.ScanOptions, words, "heredity scan"))


def _repair(words: list[str]) -> int:
    from heredity.audit import commands

    return commands.repair(parse(commands.RepairOptions, words, "heredity repair"))


@dataclass(frozen=True)
class PedigreeOptions:
    """Draw the family tree that a model file carries, after checking that it belongs to these weights."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    json: bool = False
    """Print JSON instead of a tree."""


def _pedigree(words: list[str]) -> int:
    options = parse(PedigreeOptions, words, "heredity pedigree")
    from heredity.core.lineage import read_lineage

    lineage = read_lineage(options.file)
    print(json.dumps(lineage.to_plain(), indent=1) if options.json else "\n".join(_tree(lineage)))
    return 0


def _tree(lineage: Any, indent: str = "") -> list[str]:
    marks = "".join(f"  [{mark}]" for mark in lineage.marks)
    lines = [f"{indent}{lineage.name}  ({lineage.made_by}, {lineage.content[:12] or 'content unknown'}){marks}"]
    for parent in lineage.parents:
        lines += _tree(parent, indent + "  from ")
    return [re.sub(r"[\x00-\x1f\x7f]", "?", line) for line in lines]


@dataclass(frozen=True)
class ServeOptions:
    """Serve a classifier over HTTP until Ctrl-C: POST /v1/predict, GET /v1/info, GET /health."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A classifier file that heredity wrote (PATH), or run:DIR/STAGE."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of this machine's."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    size: int | None = None
    """Side of the model's images, where the file does not say it."""
    name: str | None = None
    """What the service calls itself; the file's name unless given."""
    faults: float = 0.0
    """For rehearsals: the share of requests that fail as unreliable services do."""


def _serve(words: list[str]) -> int:
    options = parse(ServeOptions, words, "heredity serve")
    if not 0 <= options.faults < 1:
        raise ConfigError(f"--faults {options.faults:g} is no share", remedy="from 0 to below 1")
    try:
        from heredity.serve.server import listen, load_service, serve

        service = load_service(options.model, size=options.size, name=options.name)
        listening = listen(options.host, options.port)
        address, port = listening.getsockname()[:2]
        print(f"serving {service.name} ({service.modality}) on http://{address}:{port}", flush=True)
        serve(service, listening, faults=options.faults)
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}", remedy="pip install 'heredity[serve]'") from None
    return 0


def _import(words: list[str]) -> int:
    """The system's own `import` verb, under the name that people look for."""
    readers = [name for name in names() if "import" in find_system(name).load("commands")]
    if words and words[0] in ("-h", "--help"):
        print(
            f"usage: heredity import SYSTEM FILE ...\n\nSYSTEM is {' or '.join(readers)}: see heredity import SYSTEM --help"
        )
        return 0
    if not words or words[0] not in readers:
        problem = f"{words[0]!r} imports no checkpoints" if words else "which system's checkpoint is it?"
        raise ConfigError(problem, remedy="heredity import SYSTEM FILE, where SYSTEM is " + " or ".join(readers))
    return _verb(words[0], ["import", *words[1:]])


@dataclass(frozen=True)
class DataMakeOptions:
    """Write a generated or embedded data set in a published layout."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    rows: int = 200
    """Training images, or nodes of a graph, to write."""
    seed: int = 0
    """Seed of the choice."""


def _data(words: list[str]) -> int:
    from heredity.data.sources import check_source, list_sources, make_source

    if words and words[0] == "make":
        options = parse(DataMakeOptions, words[1:], "heredity data make")
        print(make_source(options.source, options.directory, rows=options.rows, seed=options.seed))
        return 0
    source = parse(_data_options, words, "heredity data")
    if source is None:
        for kind, entries in list_sources().items():
            print(kind)
            for name, description in entries:
                print(f"  {name:<16}  {description}")
    else:
        print(check_source(source))
    return 0


def _data_options(source: Annotated[str | None, tyro.conf.arg(metavar="[SOURCE]")] = None, /) -> str | None:
    """List the data sources, or check that one has the layout it needs. To write one: heredity data make SOURCE DIR."""
    return source


def _deferred(verb: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """The verb with its arguments, to be called after parsing: what it says on standard error is no complaint of tyro's."""

    @functools.wraps(verb)
    def parsed(*arguments: Any, **options: Any) -> Callable[[], Any]:
        return lambda: verb(*arguments, **options)

    return parsed


def _verb(name: str, words: list[str]) -> int:
    system = find_system(name)
    verbs: dict[str, Callable[..., Any]] = dict(system.load("commands"))
    if not words or words[0] in ("-h", "--help"):
        print(f"{system.name}: {system.title}\n\nusage: heredity {name} VERB ...\n")
        for verb, function in verbs.items():
            print(f"  {verb:<12}{(function.__doc__ or '').strip().splitlines()[0]}")
        print(f"\nTo run its experiment: heredity run {name}. Each verb has --help.")
        return 0
    if words[0] not in verbs:
        raise ConfigError(f"{name} has no verb {words[0]!r}", remedy=suggestion(words[0], verbs))
    result = parse(_deferred(verbs[words[0]]), words[1:], f"heredity {name} {words[0]}")()
    if result is not None:
        print(result)
    return 0
