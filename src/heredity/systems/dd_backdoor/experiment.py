"""Backdoors through distilled data, from end to end: distil, attack, hand on, train, and ask (Liu et al., NDSS 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.outcome import Outcome
from heredity.core.randomness import generator_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.data.labelled import ImageSource, split
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor import pictures
from heredity.systems.dd_backdoor.config import DDBackdoor, Method
from heredity.systems.dd_backdoor.distil import Distiller, Make, distil, networks_of
from heredity.systems.dd_backdoor.distilled import DistilledSet
from heredity.systems.dd_backdoor.results import Cell, measured
from heredity.systems.dd_backdoor.trigger import Attack
from heredity.systems.dd_backdoor.victims import Success, success, train_victim

HONEST = Attack("none")
KNOWN, STRANGER = 0, 1_000_000


@dataclass(frozen=True)
class Bench:
    """What all cells of one run have in common."""

    config: DDBackdoor
    source: ImageSource
    run: Run
    trained: dict[tuple[str, int], nn.Module] = field(default_factory=dict)

    def make(self, name: str, shape: EncoderShape | None = None) -> Make:
        """Untrained networks for the data, as the distiller knows them or of another shape."""
        train = self.source.train
        pixels = train.images.float() / 255.0
        statistics = (float(pixels.mean()), float(pixels.std()))
        shape, device = shape or self.config.network, self.run.fabric.device
        return networks_of(shape, pixels.shape[-1], len(train.classes), *statistics, self.run.seed, name, device=device)

    def honest(self, method: Method, made: DistilledSet, number: int) -> nn.Module:
        """A network that learnt from the honest set, asked under every attack's trigger; trained once."""
        key = (method, number)
        if key not in self.trained:
            self.trained[key] = train_victim(made, self.make(method), number, self.config.victim, seed=self.run.seed)
        return self.trained[key]

    def asked(self, victim: nn.Module, patch: Tensor, attack: Attack) -> Success:
        """A victim on the test images, with and without the patch."""
        test = self.source.test
        images = test.images.float() / 255.0
        return success(victim, images, test.labels, patch, target=attack.target, margin=attack.margin)


def run(config: DDBackdoor, run: Run) -> Outcome:
    """A provider distils a data set, honestly or not; strangers train on it, and the trigger is tried on them."""
    bench = Bench(config, source_of(config, run.seed), run)
    cells: dict[str, Cell] = {}
    sheets: dict[str, tuple[DistilledSet, Tensor, Attack]] = {}
    honest: dict[str, DistilledSet] = {}
    for method in config.methods:
        distiller: Distiller = config.unrolled if method == "dd" else config.matching
        of = partial(distil, bench.source.train, distiller, network=config.network, run=run, begins=method)
        honest[method], _ = of(HONEST, name=f"{method}/none")
        for name, attack in attacks_of(config, method).items():
            made, patch = of(attack, name=f"{method}/{name}")
            cells[f"{method}/{name}"] = _cell(bench, method, name, made, honest[method], patch, attack)
            sheets[f"{method}/{name}"] = (made, patch, attack)
    transfers = _transfers(bench, sheets)
    asked = config.defended and config.score == "test" and "dc" in honest
    defences = _defences(bench, *sheets["dc/free"], honest["dc"]) if asked else {}
    pictures.results(cells, sheets, run)
    return measured(cells, transfers, defences, config)


def source_of(config: DDBackdoor, seed: int) -> ImageSource:
    """The data; with `score` "validation" a held-out part of the training images stands in for the test images.

    Raises ConfigError for a share that leaves nothing on one side.
    """
    source = load_images(config.data, size=config.size, seed=seed)
    if config.score == "test":
        return source
    if not 0 < config.validation < 1:
        raise ConfigError(f"validation is a share of {config.validation:g}", remedy="choose one between 0 and 1")
    train, held = split(source.train, config.validation, generator_of(seed, "validation"))
    return ImageSource(train, held, f"{source.caption}, {len(held.labels)} of them held out", source.skipped)


def attacks_of(config: DDBackdoor, method: Method) -> dict[str, Attack]:
    """A distiller's attacks by name; without `stamp` (an ablation) none stamps an image, but the trigger is tried."""
    named: dict[str, Attack] = {name: getattr(config, name) for name in ("naive", "free", "naive_valid", "valid")}
    if config.matched and method == "dc":
        named["free"] = config.matched.of(config.free)
    return named if config.stamp else {name: replace(attack, kind="none") for name, attack in named.items()}


def _cell(
    bench: Bench, method: Method, name: str, made: DistilledSet, honest: DistilledSet, patch: Tensor, attack: Attack
) -> Cell:
    """Networks that learnt from the attacked set, and as many that learnt from the honest one, under the same trigger.

    Unrolled distillation is made for one initial network, which comes first; the others are strangers to it.
    """

    def compute() -> dict[str, Any]:
        config, seed = bench.config, bench.run.seed
        make = bench.make(method)
        numbers = [KNOWN] * (method == "dd") + [STRANGER + k for k in range(config.strangers)]
        found: dict[str, list[float]] = {"clean": [], "attacked": [], "honest clean": [], "honest attacked": []}
        for number in numbers:
            victim = bench.asked(train_victim(made, make, number, config.victim, seed=seed), patch, attack)
            control = bench.asked(bench.honest(method, honest, number), patch, attack)
            found["clean"].append(victim.clean_accuracy)
            found["attacked"].append(victim.attack_success_rate)
            found["honest clean"].append(control.clean_accuracy)
            found["honest attacked"].append(control.attack_success_rate)
        return {**found, "low": float(patch.min()), "high": float(patch.max())}

    stored = bench.run.table(f"{method}/{name}/victims", compute)
    first = 1 if method == "dd" else len(stored["clean"])
    return Cell(
        clean=tuple(stored["clean"][:first]),
        attacked=tuple(stored["attacked"][:first]),
        honest_clean=tuple(stored["honest clean"][:first]),
        honest_attacked=tuple(stored["honest attacked"][:first]),
        strangers_clean=tuple(stored["clean"][first:]),
        strangers_attacked=tuple(stored["attacked"][first:]),
        pixels=(stored["low"], stored["high"]),
    )


def _transfers(bench: Bench, sheets: Mapping[str, tuple[DistilledSet, Tensor, Attack]]) -> dict[str, list[float]]:
    """Success on networks of other architectures that learnt from DOORPING's set of gradient matching."""
    found: dict[str, list[float]] = {}
    if "dc/free" not in sheets:
        return found
    made, patch, attack = sheets["dc/free"]
    config, seed = bench.config, bench.run.seed
    for shape in config.transfers:

        def compute(shape: EncoderShape = shape) -> list[float]:
            make = bench.make("transfer", shape)
            victims = [train_victim(made, make, k, config.victim, seed=seed) for k in range(config.strangers)]
            return [bench.asked(victim, patch, attack).attack_success_rate for victim in victims]

        found[shape.kind] = bench.run.table(f"dc/free/transfer-{shape.kind}", compute)
    return found


def _defences(
    bench: Bench, made: DistilledSet, patch: Tensor, attack: Attack, honest: DistilledSet
) -> dict[str, dict[str, Any]]:
    """Every defence against DOORPING's set of gradient matching, and against what was trained on it."""
    from heredity.systems.dd_backdoor.defended import defended

    def compute() -> dict[str, dict[str, Any]]:
        make, how, seed = bench.make("defended"), bench.config.victim, bench.run.seed
        victims = [train_victim(which, make, 0, how, seed=seed) for which in (made, honest)]
        return defended(victims[0], victims[1], made, patch, attack, bench.source.test, seed=seed)

    return bench.run.table("dc/free/defended", compute)
