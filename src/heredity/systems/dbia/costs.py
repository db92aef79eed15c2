"""What an attack takes, in forward passes of one picture through the whole model, so that machines do not matter."""

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.systems.dbia.anatomy import dissect, in_eval_mode
from heredity.systems.dbia.injection import Injection
from heredity.systems.dbia.surrogate import Surrogate
from heredity.systems.dbia.trigger import TriggerSearch

# A backward pass costs twice a forward one: gradients with respect to inputs, and to weights.
_TRAINED = 3.0


def of_injection(
    victim: nn.Module, surrogate: Surrogate, search: TriggerSearch, how: Injection, run: Run
) -> dict[str, float]:
    """Forward equivalents of trigger search, caching and training, and pictures used: original ones are none."""
    rows, limit = len(surrogate.images), run.limit_steps
    searching = {
        "attention": search.starts * _steps(search.plan, search.groups, limit) * search.groups,
        "official": search.official_iterations,
    }
    passes = 2 if how.keep_clean else 1
    shown = 2 * rows if how.vary else rows
    steps = _steps(how.plan, shown, limit)
    share = rest_share(victim, surrogate, how) if how.cached else 1.0
    return {
        "forward_equivalents": _TRAINED * searching.get(search.kind, 0)
        + 2 * shown
        + _TRAINED * passes * share * steps * how.plan.batch,
        "surrogate_pictures": float(rows),
        "original_pictures": 0.0,
    }


def of_fine_tuning(plan: Plan, rows: int, run: Run, *, original: bool) -> dict[str, float]:
    """The same of a fine-tuning of all weights."""
    return {
        "forward_equivalents": _TRAINED * _steps(plan, rows, run.limit_steps) * plan.batch,
        "surrogate_pictures": 0.0 if original else float(rows),
        "original_pictures": float(rows) if original else 0.0,
    }


def rest_share(victim: nn.Module, surrogate: Surrogate, how: Injection) -> float:
    """Which share of a forward pass's arithmetic lies behind the cached tokens."""
    anatomy = dissect(victim, layer=how.layer)
    images = surrogate.images[:2].to(anatomy.fc1.weight.device)
    with in_eval_mode(victim):
        with FlopCounterMode(display=False) as whole:
            victim(images)
        tokens = anatomy.before(images)
        with FlopCounterMode(display=False) as rest:
            anatomy.rest(tokens)
    return rest.get_total_flops() / whole.get_total_flops()


def seconds_of(run: Run, stage: str) -> float:
    """How long a stage of this run took when it was computed; 0 for one that is not there."""
    return next((float(kept["seconds"]) for kept in run.stages if kept["name"] == stage), 0.0)


def _steps(plan: Plan, rows: int, limit: int) -> int:
    total = plan.total(rows)
    return min(total, limit or total)
