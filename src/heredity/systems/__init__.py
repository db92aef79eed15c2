"""The rooms of the house, listed without opening them, and those that plug-ins bring."""

import importlib
import importlib.metadata
from dataclasses import dataclass

from heredity.core.errors import ConfigError, suggestion
from heredity.core.system import System


@dataclass(frozen=True)
class Entry:
    """A line of the list: a system that is there (`module` names it), or one that is planned."""

    name: str
    made: str
    passes_on: str
    module: str = ""


TEN = (
    Entry(
        "ssl-wm",
        "downstream model from a self-supervised encoder",
        "the owner's watermark",
        "heredity.systems.ssl_wm",
    ),
    Entry(
        "dbia",
        "victim transformer from a clean ViT, DeiT or Swin",
        "a backdoor injected without the original data",
        "heredity.systems.dbia",
    ),
    Entry(
        "dd-backdoor",
        "distilled data set from a training set",
        "a backdoor (NAIVEATTACK, DOORPING)",
        "heredity.systems.dd_backdoor",
    ),
    Entry(
        "tinymim",
        "small ViT from a MIM-pre-trained teacher",
        "token relations",
        "heredity.systems.tinymim",
    ),
    Entry(
        "reliant",
        "student GNN from a teacher GNN",
        "accuracy, without the teacher's bias",
        "heredity.systems.reliant",
    ),
    Entry("reft", "few-shot segmenter from base classes", "class centres and object queries"),
    Entry("pmt-iqa", "quality regressor from a pre-trained backbone", "distortion sense, from easy to hard"),
    Entry("drum-lm", "drummer from a language model", "structure learnt on text"),
    Entry("cmt", "3D boxes from camera and LiDAR tokens", "geometry, even when one sensor is gone"),
    Entry("chtr3d", "refined boxes from first-stage proposals", "context, at linear cost"),
)

GROUP = "heredity.systems"


def plug_ins() -> dict[str, importlib.metadata.EntryPoint]:
    """Systems of other installed packages, by name (entry-point group `heredity.systems`), not yet imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Names of all systems that can run."""
    return [entry.name for entry in TEN if entry.module] + sorted(plug_ins())


def find_system(name: str) -> System:
    """A system by name. Raises ConfigError for one that does not exist or is not there yet."""
    entries = {entry.name: entry for entry in TEN}
    if name in entries and entries[name].module:
        return importlib.import_module(entries[name].module).SYSTEM
    if name in entries:
        raise ConfigError(f"{name} is planned and not there yet", remedy="systems that run: " + ", ".join(names()))
    found = plug_ins()
    if name not in found:
        raise ConfigError(f"unknown system {name!r}", remedy=suggestion(name, names()))
    system = found[name].load()
    if not isinstance(system, System) or system.name != name:
        problem = f"the plug-in {found[name].value!r} is not a System named {name!r}"
        raise ConfigError(problem, remedy="its entry point must name a heredity.core.system.System of that name")
    return system
