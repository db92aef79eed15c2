"""What a room tells the corridor about itself, without importing anything heavy before it is used."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heredity.core.errors import ConfigError, suggestion
from heredity.core.settings import override

if TYPE_CHECKING:
    from heredity.core.outcome import Claim, Outcome
    from heredity.core.run import Run


@dataclass(frozen=True)
class Ablation:
    """One idea taken out: dotted config overrides, and the stages (glob patterns) that they leave as they are.

    `heredity challenge` copies the kept stages from the run with the idea instead of computing them again. `presets` names
    those that it says something about, where not all do.
    """

    text: str
    changes: Mapping[str, Any]
    keeps: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """One published system. Values that need heavy imports may be given as "package.module:name" and load on first use.

    `presets` maps smoke, quick and paper to frozen dataclass configs; `ablations` take one idea
    out each; `run(config, run)` is the recipe; `commands` are the verbs of `heredity NAME VERB`;
    `needs(config)` lists the data sources and the size of a run for `--dry-run`.
    """

    name: str
    title: str
    paper: str
    passes_on: str
    data: str
    presets: "Mapping[str, Any] | str"
    run: "Callable[[Any, Run], Outcome] | str"
    claims: "tuple[Claim, ...] | str" = ()
    ablations: Mapping[str, Ablation] = field(default_factory=dict)
    commands: "Mapping[str, Callable[..., Any]] | str" = field(default_factory=dict)
    needs: "Callable[[Any], Needs] | str | None" = None

    def load(self, what: str) -> Any:
        """The value of a field, imported where it was given as a string."""
        value = getattr(self, what)
        if not isinstance(value, str):
            return value
        module, _, name = value.partition(":")
        return getattr(importlib.import_module(module), name)

    def preset(self, name: str, *, ablation: str | None = None) -> Any:
        """A preset's config, with one idea removed where an ablation is named. Raises ConfigError with a suggestion."""
        presets = self.load("presets")
        if name not in presets:
            raise ConfigError(f"{self.name} has no preset {name!r}", remedy=suggestion(name, presets))
        if ablation is None:
            return presets[name]
        if ablation not in self.ablations:
            raise ConfigError(f"{self.name} has no ablation {ablation!r}", remedy=suggestion(ablation, self.ablations))
        return override(presets[name], self.ablations[ablation].changes)


@dataclass(frozen=True)
class Needs:
    """What a run will take, for `--dry-run`: sources with what is missing, sizes, and an estimate of memory."""

    sources: Mapping[str, str]
    parameters: Mapping[str, int]
    steps: Mapping[str, int]
    memory_mb: float
