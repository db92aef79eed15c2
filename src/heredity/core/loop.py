"""The one training loop: schedule, clipping, accumulation, early stopping, checkpoints and resume live here once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import Precision
from torch import Tensor, nn

from heredity.core.errors import ConfigError, TrainingError
from heredity.core.randomness import Draws, generator_of, seed_of

Step = Callable[[nn.Module, Tensor, Draws], Mapping[str, Tensor]]
"""What a system supplies: (model, row numbers of this process's share, draws) -> named loss terms, which are summed."""


@dataclass(frozen=True)
class Plan:
    """How long and how a model is trained.

    `epochs` passes over the rows, or `steps` optimiser steps where `steps` is positive. `patience` > 0 watches the
    validation score after every epoch, stops when it has not risen that many times, and keeps the best weights.
    `momentum` is SGD's, `betas` are Adam's. `mode` "eval" trains with batch-norm statistics and dropout frozen.
    """

    epochs: float = 10.0
    steps: int = 0
    batch: int = 128
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "one-cycle"] = "cosine"
    warm_up: float = 0.1
    clip: float = 0.0
    accumulate: int = 1
    patience: int = 0
    mode: Literal["train", "eval"] = "train"

    def total(self, rows: int) -> int:
        """Optimiser steps for a set of so many rows."""
        return self.steps or max(1, math.ceil(self.epochs * rows / self.batch))


@dataclass(frozen=True)
class Turn:
    """Another party's move in every step, such as an adversary's: its own loss, which moves its own parameters only.

    `module` is a part of the trained model; `plan` gives its optimiser, rate, decay, schedule and clipping.
    """

    name: str
    step: Step
    module: nn.Module
    plan: Plan


@runtime_checkable
class Keeper(Protocol):
    """What the loop needs of a run: where it trains, which seed, and a place to keep its state."""

    fabric: Fabric
    limit_steps: int

    def begin_fit(self, total: int) -> "Slot": ...


@runtime_checkable
class Slot(Protocol):
    """One fit's place on disk and on the progress bar. `label` names the stage and the fit within it."""

    label: str

    def restore(self) -> dict[str, Tensor] | None: ...
    def due(self, step: int) -> bool: ...
    def keep(self, state: Mapping[str, Tensor]) -> None: ...
    def tick(self, step: int, losses: Mapping[str, float]) -> None: ...
    def finish(self, history: "History") -> None: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class History:
    """Losses of every optimiser step: `values[step][term]`, terms in order; and the best validation score, if watched."""

    terms: tuple[str, ...]
    values: Tensor
    best: float = float("nan")


def learning_rate_at(plan: Plan, step: int, total: int) -> float:
    """The learning rate of a step (0-based): constant, half a cosine to zero, or a linear warm-up and then the cosine.

    >>> learning_rate_at(Plan(learning_rate=1.0, schedule="cosine"), 5, 10)
    0.5
    """
    if plan.schedule == "constant":
        return plan.learning_rate
    rise = max(1, round(plan.warm_up * total)) if plan.schedule == "one-cycle" else 0
    if step < rise:
        return plan.learning_rate * (step + 1) / rise
    return plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def optimiser_of(
    model: nn.Module,
    plan: Plan,
    *,
    without: Sequence[nn.Module] = (),
    groups: Sequence[Mapping[str, Any]] = (),
) -> torch.optim.Optimizer:
    """The plan's optimiser over the parameters that are not frozen, less those of some parts; or over given groups.

    Raises ConfigError when none is left.
    """
    others = {id(parameter) for part in without for parameter in part.parameters()}
    single = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in others]
    parameters: list[Any] = [dict(group) for group in groups] or single
    if not parameters:
        raise ConfigError(
            "every parameter of the model is frozen", remedy="set requires_grad_(True) on what shall learn"
        )
    rate, decay = plan.learning_rate, plan.weight_decay
    if plan.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=plan.momentum, weight_decay=decay)
    make = torch.optim.Adam if plan.optimiser == "adam" else torch.optim.AdamW
    return make(parameters, lr=rate, weight_decay=decay, betas=plan.betas)


def fit(
    model: nn.Module,
    step: Step,
    *,
    rows: int,
    plan: Plan,
    run: Keeper,
    validate: Callable[[nn.Module], float] | None = None,
    turns: Sequence[Turn] = (),
    groups: Sequence[Mapping[str, Any]] = (),
) -> History:
    """Train a model in place on row numbers 0..rows-1.

    Each step's rows and random numbers depend on the run's seed, the stage and the step alone, so that a resumed run, and
    one on several processes, computes what an uninterrupted single process would. `validate` scores the model (higher is
    better) after every epoch when the plan has patience. `turns` follow in every step: `step` moves what none of them
    owns, each turn moves its own module, and nobody's gradients reach the others. `groups` are torch's parameter groups
    where not all parameters learn alike: their own `weight_decay`, and `lr_scale`, which multiplies the plan's rate. Raises
    TrainingError when a loss, or a gradient to be clipped, is not finite (a gradient that overflows in 16-mixed precision
    costs its step instead).
    """
    fabric = run.fabric
    if rows < 1:
        raise ConfigError("there is nothing to train on", remedy="give a data set with at least one sample")
    if plan.batch % (fabric.world_size * plan.accumulate):
        raise ConfigError(
            f"batch {plan.batch} cannot be shared by {fabric.world_size} processes in {plan.accumulate} parts",
            remedy="choose a batch that both divide",
        )
    total = min(plan.total(rows), run.limit_steps or plan.total(rows))
    per_epoch = max(1, math.ceil(rows / plan.batch))
    slot = run.begin_fit(total)

    owned = [turn.module for turn in turns]
    parties = [(Turn("", step, model, plan), optimiser_of(model, plan, without=owned, groups=groups))]
    parties += [(turn, optimiser_of(turn.module, turn.plan)) for turn in turns]
    wrapped, *optimisers = fabric.setup(model, *(optimiser for _, optimiser in parties))
    moves = [(turn, optimiser) for (turn, _), optimiser in zip(parties, optimisers, strict=True)]
    state = _State(model, optimisers, fabric.strategy.precision)
    if (kept := slot.restore()) is not None:
        state.load(kept)

    while state.step < total and not state.stopped:
        wrapped.train(plan.mode == "train")
        losses: dict[str, float] = {}
        for turn, optimiser in moves:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(turn.plan, state.step, total) * group.get("lr_scale", 1.0)
            name = (turn.name,) if turn.name else ()
            found: dict[str, float] = {}
            with torch.random.fork_rng(devices=[]), _only(optimiser, model, enabled=bool(turns)):
                for part in range(plan.accumulate):
                    _seed(seed_of(slot.seed, slot.label, state.step, part, fabric.global_rank, *name), fabric.device)
                    mine = _rows_of(slot, state.step, part, plan, rows, fabric).to(fabric.device)
                    generator = generator_of(slot.seed, slot.label, "draws", state.step, part, *name)
                    draws = Draws(generator, fabric.global_rank, fabric.world_size)
                    with fabric.no_backward_sync(wrapped, enabled=part + 1 < plan.accumulate):
                        terms = turn.step(wrapped, mine, draws)
                        fabric.backward(torch.stack(list(terms.values())).sum() / plan.accumulate)
                    for term, value in terms.items():
                        found[term] = found.get(term, 0.0) + float(value.detach()) / plan.accumulate
            if fabric.world_size > 1:
                shares = fabric.all_reduce(
                    torch.tensor(list(found.values()), dtype=torch.float64, device=fabric.device)
                )
                found = dict(zip(found, torch.as_tensor(shares).tolist(), strict=True))
            _check_finite({f"loss {name!r}": value for name, value in found.items()}, slot.label, state.step)
            if turn.plan.clip:
                norm = fabric.clip_gradients(wrapped, optimiser, max_norm=turn.plan.clip, error_if_nonfinite=False)
                # With 16-mixed precision an overflow is routine: its scaler passes over the step and scales less.
                if getattr(fabric.strategy.precision, "scaler", None) is None:
                    _check_finite({"the gradient's norm": float(torch.as_tensor(norm))}, slot.label, state.step)
            optimiser.step()
            optimiser.zero_grad()
            losses |= {f"{turn.name}/{term}" if turn.name else term: value for term, value in found.items()}
        state.note(losses)
        if validate is not None and plan.patience and (state.step % per_epoch == 0 or state.step == total):
            wrapped.eval()
            with torch.no_grad():
                state.judge(float(validate(model)), plan.patience)
        slot.tick(state.step, losses)
        if slot.due(state.step) and state.step < total:
            slot.keep(state.dump())
    state.restore_best()
    model.eval()
    slot.keep(state.dump())
    slot.finish(state.history())
    return state.history()


def _seed(value: int, device: torch.device) -> None:
    """`torch.manual_seed`, which notes a traceback at every call where a GPU is not in use."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)


@contextmanager
def _only(optimiser: torch.optim.Optimizer, model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let gradients reach only what the optimiser moves: cheaper, and no party's gradients are left for another."""
    own = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]} if enabled else set()
    others = [item for item in model.parameters() if enabled and item.requires_grad and id(item) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _rows_of(slot: Slot, step: int, part: int, plan: Plan, rows: int, fabric: Fabric) -> Tensor:
    """This process's rows: epochs of shuffled rows laid end to end and cut into batches, so that no row is left out."""
    first = step * plan.batch
    wanted = torch.arange(first, first + plan.batch)
    epochs = wanted // rows
    order = torch.empty_like(wanted)
    for epoch in epochs.unique().tolist():
        shuffled = torch.randperm(rows, generator=generator_of(slot.seed, slot.label, "epoch", epoch))
        inside = epochs == epoch
        order[inside] = shuffled[wanted[inside] % rows]
    portion = order.chunk(plan.accumulate)[part]
    return portion.chunk(fabric.world_size)[fabric.global_rank]


def _check_finite(values: Mapping[str, float], label: str, step: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"stage {label}, step {step}: {bad[0]} is {values[bad[0]]}",
            remedy="lower the learning rate or set a clip; the last good checkpoint is kept and --resume starts there",
        )


class _State:
    """Everything a fit must remember, as one flat dictionary of tensors for a safetensors file."""

    def __init__(self, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], precision: Precision) -> None:
        self.model, self.optimisers, self.precision = model, optimisers, precision
        self.step, self.best_score, self.waited, self.stopped = 0, -math.inf, 0, False
        self.best: dict[str, Tensor] = {}
        self.terms: tuple[str, ...] = ()
        self.losses: list[list[float]] = []

    def note(self, losses: Mapping[str, float]) -> None:
        self.terms = tuple(losses)
        self.losses.append(list(losses.values()))
        self.step += 1

    def judge(self, score: float, patience: int) -> None:
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            self.waited += 1
            self.stopped = self.waited >= patience

    def restore_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)

    def history(self) -> History:
        best = self.best_score if self.best else float("nan")
        return History(self.terms, torch.tensor(self.losses, dtype=torch.float64), best)

    def dump(self) -> dict[str, Tensor]:
        flat = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        flat |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for party, optimiser in enumerate(self.optimisers):
            for index, slots in optimiser.state_dict()["state"].items():
                for name, value in slots.items():
                    if value is not None:
                        flat[f"optimiser/{party}/{index}/{name}"] = torch.as_tensor(value)
        for name, value in self.precision.state_dict().items():
            flat[f"scaler/{name}"] = torch.tensor(value, dtype=torch.float64)
        flat["losses/" + "|".join(self.terms)] = torch.tensor(self.losses, dtype=torch.float64)
        counters = [float(self.step), self.best_score, float(self.waited), float(self.stopped)]
        flat["counters"] = torch.tensor(counters, dtype=torch.float64)
        return flat

    def load(self, flat: Mapping[str, Tensor]) -> None:
        step, self.best_score, waited, stopped = flat["counters"].tolist()
        self.step, self.waited, self.stopped = int(step), int(waited), bool(stopped)
        self.model.load_state_dict(_below("model/", flat))
        self.best = _below("best/", flat)
        for party, optimiser in enumerate(self.optimisers):
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _below(f"optimiser/{party}/", flat).items():
                index, name = key.split("/", 1)
                moments.setdefault(int(index), {})[name] = tensor
            optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        scaler = self.precision.state_dict()
        if kept := _below("scaler/", flat):
            self.precision.load_state_dict({name: type(scaler[name])(kept[name].item()) for name in scaler})
        [(names, losses)] = _below("losses/", flat).items()
        self.terms, self.losses = tuple(names.split("|")) if names else (), losses.tolist()


def _below(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in flat.items() if name.startswith(prefix)}
