"""DBIA from end to end: clean transformers, a trigger each, back doors without original data, and who notices them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from heredity.core.errors import ConfigError
from heredity.core.loop import fit
from heredity.core.outcome import Outcome
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.augment import augment
from heredity.data.images import ImageSource, load_images
from heredity.data.labelled import split
from heredity.defences.contract import Trigger
from heredity.nn.classifiers import make_transformer, resolve_classifier
from heredity.nn.inference import top1
from heredity.systems.dbia import costs, pictures
from heredity.systems.dbia.anatomy import dissect
from heredity.systems.dbia.attack import backdoored, find_trigger, paper_recipe
from heredity.systems.dbia.baselines import badnets
from heredity.systems.dbia.config import DBIA, Kind, Victim
from heredity.systems.dbia.defended import defended, pruning
from heredity.systems.dbia.injection import Injection, check_target
from heredity.systems.dbia.measure import Answers, Yardstick, answers_of, changed, measure
from heredity.systems.dbia.results import Found, measured
from heredity.systems.dbia.surrogate import Surrogate, load_surrogate
from heredity.systems.dbia.trigger import TriggerSearch, attention_mass, uniform_mass

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """One victim, and everything that every attack on it has in common."""

    config: DBIA
    kind: Kind
    victim: nn.Module
    surrogate: Surrogate
    on: Yardstick
    run: Run
    asked: dict[bytes, Answers] = field(default_factory=dict)

    def search(self, kind: str) -> TriggerSearch:
        """The trigger search, of another kind."""
        return replace(self.config.search, kind=kind)

    def trigger(self, kind: str) -> Trigger:
        """A trigger of this victim, made once."""
        name, search = f"{self.kind}/trigger-{kind}", self.search(kind)
        return find_trigger(self.victim, self.surrogate, search, run=self.run, name=name, avoid=self.config.target)

    def before(self, trigger: Trigger) -> Answers:
        """What the clean victim says, asked once for each trigger."""
        name = trigger.pattern.numpy().tobytes()
        if name not in self.asked:
            self.asked[name] = answers_of(self.victim, trigger, self.on)
        return self.asked[name]

    def row(self, name: str, kind: str, trigger: Trigger, how: Injection) -> tuple[nn.Module, Row]:
        """A back door under one trigger and one recipe, and what it does."""
        at = f"{self.kind}/{kind}-{slug(name)}"
        if self.config.injected:
            child = backdoored(
                self.victim, self.surrogate, trigger, self.config.target, how, run=self.run, name=f"{at}/child"
            )
        else:
            child, at = self.victim, f"{at}-not-injected"
        spent = self.run.table(
            f"{at}/cost", lambda: costs.of_injection(self.victim, self.surrogate, self.search(kind), how, self.run)
        )
        return child, self.examined(at, child, trigger, spent, kind, name)

    def examined(
        self, at: str, child: nn.Module, trigger: Trigger, spent: Mapping[str, float], kind: str, name: str
    ) -> Row:
        """What a model does under a trigger, what it has changed and what it took."""

        def compute() -> dict[str, Any]:
            found = measure(answers_of(child, trigger, self.on), self.before(trigger), self.on)
            return {"trigger": kind, "recipe": name} | found | changed(child, self.victim) | dict(spent)

        row = self.run.table(f"{at}/measured", compute)
        stages = (f"{at}/child", f"{self.kind}/trigger-{kind}")
        return row | {"seconds": sum(costs.seconds_of(self.run, stage) for stage in stages)}


def run(config: DBIA, run: Run) -> Outcome:
    """Somebody who holds a clean transformer's weights and holiday pictures plants a back door. Does it work, who notices?"""
    whole = load_images(config.data, size=config.size, seed=run.seed)
    data = scored(whole, config, run.seed)
    surrogate = load_surrogate(config.surrogate, size=config.size, rows=config.surrogate_rows, seed=run.seed)
    check_target(config.target, len(data.train.classes))
    shared = overlap(surrogate.images, whole)
    for warning in (
        *surrogate.warnings,
        *([f"{shared} surrogate pictures are the victim's own: not data-free"] * bool(shared)),
    ):
        run.reporter.say(f"warning: {warning}")
    found: dict[str, Found] = {}
    for kind in config.victims:
        victim = clean_victim(config.victim(kind), kind, data, config, run)
        dissect(victim, layer=config.injection.layer)
        on = Yardstick(data.test.images, data.test.labels, surrogate.held_out, config.target)
        bench = Bench(config, kind, victim, surrogate, on, run)
        found[kind] = _attacked(bench, data)
    pictures.results(found, data, config, run)
    return measured(found, config, shared)


def scored(whole: ImageSource, config: DBIA, seed: int) -> ImageSource:
    """The task as it is trained on and measured: its test pictures, or validation pictures taken out of the training part."""
    if config.score == "test":
        return whole
    if not 0.0 < config.validation < 1.0:
        raise ConfigError(f"validation cannot be {config.validation}", remedy="give a share between 0 and 1")
    train, held = split(whole.train, config.validation, generator_of(seed, "validation"))
    return ImageSource(
        train, held, f"{whole.caption}, measured on {len(held.labels)} of the training rows", whole.skipped
    )


def clean_victim(how: Victim, kind: Kind, data: ImageSource, config: DBIA, run: Run) -> nn.Module:
    """A victim that nobody has touched: named, or trained here from scratch on the task."""
    if how.model != "train":
        return run.model(
            f"{kind}/victim", make=lambda: resolve_classifier(how.model), train=lambda model: None, made_by=how.model
        )
    images, labels = data.train.images, data.train.labels

    def step(model: nn.Module, rows: Tensor, draws: Draws) -> dict[str, Tensor]:
        batch = images[rows.cpu()].to(rows.device)
        if how.augmentation is not None:
            batch = augment(batch, how.augmentation, draws)
        return {"cross_entropy": F.cross_entropy(model(batch), labels[rows.cpu()].to(rows.device))}

    return run.model(
        f"{kind}/victim",
        make=lambda: make_transformer(how.shape, image=config.size, classes=len(data.train.classes)),
        train=lambda model: fit(model, step, rows=len(images), plan=how.plan, run=run),
        made_by=f"training on {config.data}",
        settings=how,
    )


def overlap(images: Tensor, data: ImageSource) -> int:
    """How many surrogate pictures are, bit by bit, pictures of the victim's task: there must be none."""
    known = {image.numpy().tobytes() for part in (data.train, data.test) for image in part.images}
    return sum(image.numpy().tobytes() in known for image in images)


def _attacked(bench: Bench, data: ImageSource) -> Found:
    """Both recipes under the searched trigger and under a random one; every other row on the detailed victim."""
    config, run, main = bench.config, bench.run, bench.config.search.kind
    detailed = bench.kind == config.detailed
    ours, paper = config.injection, paper_recipe(config.injection)
    name = "keep-clean" if ours.keep_clean else "no-keep-clean"
    kinds = dict.fromkeys((main, "random", *(("white", "official", "attention") if detailed else ())))
    triggers = {kind: bench.trigger(kind) for kind in kinds}
    rows: dict[str, Row] = {}
    models: dict[str, tuple[nn.Module, Trigger]] = {"clean victim": (bench.victim, triggers[main])}
    for kind, trigger in triggers.items():
        for recipe, how in ((name, ours), ("paper", paper)):
            child, rows[f"{kind}/{recipe}"] = bench.row(recipe, kind, trigger, how)
            if kind == main:
                models[f"DBIA, {recipe}"] = (child, trigger)
    if detailed:
        for label, changes in _SWITCHES.items():
            how = replace(paper, **changes)
            rows[f"{main}/paper, {label}"] = bench.row(f"paper, {label}", main, triggers[main], how)[1]
        model, rows["BadNets/original data"] = _badnets(bench, data.train.images, data.train.labels, triggers["random"])
        models["BadNets"] = (model, triggers["random"])
        own = top1(bench.victim, bench.surrogate.images)
        _, rows["BadNets/surrogate only"] = _badnets(
            bench, bench.surrogate.images, own, triggers["random"], "surrogate"
        )
    attention = run.table(f"{bench.kind}/attention-{'-'.join(kinds)}", lambda: _attention(bench, triggers))
    noticed = {}
    if detailed and config.defences.on and config.score == "test":
        for who, (model, trigger) in models.items():
            planted = "" if config.injected else "-not-injected"
            stage = f"{bench.kind}/defences-{slug(who)}-{main}{planted}"
            noticed[who] = run.table(
                stage, lambda m=model, t=trigger: defended(m, t, bench.on, config.defences, run.seed)
            )
    child = models[f"DBIA, {name}"][0]
    foreign = {kind: trigger for kind, trigger in triggers.items() if kind in ("random", "white")}
    specific = run.table(
        f"{bench.kind}/foreign-{main}-{name}-{config.injected}",
        lambda: {
            kind: measure(answers_of(child, trigger, bench.on), bench.before(trigger), bench.on)["attack_success_rate"]
            for kind, trigger in foreign.items()
        },
    )
    pruned = {}
    if noticed:
        pruned = run.table(
            f"{bench.kind}/pruned-{main}-{name}-{config.injected}",
            lambda: pruning(child, triggers[main], bench.on, config.defences.images),
        )
    return Found(bench.kind, rows, attention, specific, noticed, triggers, bench.victim, main, name, pruned)


def slug(name: str) -> str:
    """A row's name as part of a stage's."""
    return name.replace(", ", "-").replace(" ", "-")


_SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "stops by surrogate": {"stop_at": 0.995},
    "random rows": {"neurons": "random"},
    "most important rows": {"neurons": "most"},
    "all rows, no bound": {"neurons": "all", "bound": 0.0},
}


def _badnets(
    bench: Bench, images: Tensor, labels: Tensor, trigger: Trigger, source: str = "original"
) -> tuple[nn.Module, Row]:
    how, at = bench.config.badnets, f"{bench.kind}/badnets-{source}"
    child = badnets(
        bench.victim,
        images,
        labels,
        trigger,
        bench.config.target,
        how.plan,
        rate=how.rate,
        run=bench.run,
        name=f"{at}/child",
        data=f"{source} data",
    )
    spent = costs.of_fine_tuning(how.plan, len(images), bench.run, original=source == "original")
    return child, bench.examined(at, child, trigger, spent, "random", f"BadNets, {source} data")


def _attention(bench: Bench, triggers: Mapping[str, Trigger]) -> dict[str, Any]:
    """The share of attention on the trigger's place: evenly spread, without a trigger, and under each."""
    search = bench.config.search

    def mass(trigger: Trigger | None) -> dict[str, float]:
        shown = {"surrogate": bench.on.surrogate, "task": bench.on.images[:300]}
        return {
            name: float(attention_mass(bench.victim, images, trigger, search).mean()) for name, images in shown.items()
        }

    even = uniform_mass(bench.victim, search.patch)
    return {"evenly spread": {"surrogate": even, "task": even}, "no trigger": mass(None)} | {
        kind: mass(trigger) for kind, trigger in triggers.items()
    }
