"""What a reader wants to see of a run: triggers, where the model looks, what succeeds, and what notices."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from heredity.core.outcome import Bars, Curves, Heatmap, Pictures
from heredity.core.run import Run
from heredity.data.images import ImageSource
from heredity.metrics.detection import share_interval
from heredity.nn.attention_maps import patch_attention
from heredity.systems.dbia.anatomy import in_eval_mode
from heredity.systems.dbia.config import DBIA
from heredity.systems.dbia.results import Found

_SHOWN = 6
_SIDE = 96


def results(found: Mapping[str, Found], data: ImageSource, config: DBIA, run: Run) -> None:
    """All figures of a run."""
    _triggers(found, data, run)
    for one in found.values():
        _looks(one, data, config, run)
    _success(found, run)
    _accuracy(found, run)
    detailed = found.get(config.detailed)
    if detailed is None:
        return
    _rows(detailed, run)
    if detailed.defences:
        _noticed(detailed, run)
        _pruning(detailed, run)


def _triggers(found: Mapping[str, Found], data: ImageSource, run: Run) -> None:
    grid, captions = [], []
    for kind, one in found.items():
        grid.append(tuple(_framed(_enlarged(patch_of(trigger))) for trigger in one.triggers.values()))
        captions.append(f"{kind}: {', '.join(one.triggers)}")
        grid.append(tuple(_enlarged(picture) for picture in one.triggers[one.main].stamp(data.test.images[:_SHOWN])))
        captions.append(f"{kind}: stamped ({one.main})")
    run.figure(
        "triggers",
        Pictures(tuple(grid), tuple(captions)),
        caption="The triggers, enlarged, and test pictures under the one that was searched.",
        alt="Small square patches of coloured pixels, one a way of making them, and digits with the patch in a corner.",
    )


def patch_of(trigger: Any) -> Tensor:
    """The patch alone, as a uint8 picture."""
    rows, columns = (trigger.mask[0].any(dim=axis).nonzero().flatten() for axis in (1, 0))
    area = trigger.pattern[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (255 * area).round().to(torch.uint8)


def _looks(one: Found, data: ImageSource, config: DBIA, run: Run) -> None:
    images = data.test.images[:_SHOWN]
    device = next(one.victim.parameters()).device

    def maps(shown: Tensor) -> Float[Tensor, "n rows columns"]:
        with in_eval_mode(one.victim), torch.no_grad():
            search = config.search
            return patch_attention(one.victim, shown.to(device), objective=search.objective, upto=search.upto).cpu()

    stamped = one.triggers[one.main].stamp(images)
    before, after = maps(images), maps(stamped)
    brightest = float(torch.stack([before, after]).max())
    rows = (
        tuple(_enlarged(picture) for picture in images),
        tuple(_heat(held, picture, brightest) for held, picture in zip(before, images, strict=True)),
        tuple(_heat(held, picture, brightest) for held, picture in zip(after, stamped, strict=True)),
    )
    run.figure(
        f"attention-{one.kind}",
        Pictures(rows, ("test pictures", "attention before", "attention under the trigger")),
        caption=f"Where the {one.kind} victim looks, before and under the trigger (one colour scale: dark none, "
        "yellow most). The injection changes what follows the last attention, so that the child looks where its victim does.",
        alt="Attention spread over the digits without the trigger, gathered in its corner with it.",
    )


def _success(found: Mapping[str, Found], run: Run) -> None:
    series: dict[str, list[float]] = {"clean victim": [], "paper's recipe": [], "with keep_clean": []}
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in series}
    for one in found.values():
        paper, ours = one.rows[f"{one.main}/paper"], one.ours
        for name, rate, row in (
            ("clean victim", ours["victim_success_rate"], None),
            ("paper's recipe", paper["attack_success_rate"], paper),
            ("with keep_clean", ours["attack_success_rate"], ours),
        ):
            hits, of = (round(rate * ours["of"]), ours["of"]) if row is None else (row["hits"], row["of"])
            low, high = share_interval(hits, of)
            series[name].append(100 * rate)
            ends[name].append((100 * low, 100 * high))
    run.figure(
        "success",
        Bars(
            tuple(found),
            {name: tuple(values) for name, values in series.items()},
            "attack success, %",
            intervals={name: tuple(values) for name, values in ends.items()},
        ),
        caption="Stamped test pictures of other classes that are called the target, with exact 95 % intervals.",
        alt="Three bars for each victim: the clean model, the paper's recipe, and the recipe with keep_clean.",
    )


def _accuracy(found: Mapping[str, Found], run: Run) -> None:
    series = {
        "clean victim": tuple(100 * (one.ours["accuracy"] + one.ours["clean_accuracy_drop"]) for one in found.values()),
        "paper's recipe": tuple(100 * one.rows[f"{one.main}/paper"]["accuracy"] for one in found.values()),
        "with keep_clean": tuple(100 * one.ours["accuracy"] for one in found.values()),
    }
    run.figure(
        "accuracy",
        Bars(tuple(found), series, "accuracy on clean test pictures, %"),
        caption="What it costs the clean task.",
        alt="Three bars for each victim: accuracy before, after the paper's recipe, and after that with keep_clean.",
    )


def _rows(one: Found, run: Run) -> None:
    # The switches and baselines have one trigger only; their names are long enough.
    labels = tuple(
        row["recipe"] if ", " in row["recipe"] else f"{row['trigger']}: {row['recipe']}" for row in one.rows.values()
    )
    series = {
        "attack success": tuple(100 * row["attack_success_rate"] for row in one.rows.values()),
        "accuracy lost": tuple(100 * row["clean_accuracy_drop"] for row in one.rows.values()),
        "false triggers": tuple(100 * row["false_trigger_rate"] for row in one.rows.values()),
    }
    run.figure(
        "rows",
        Bars(labels, series, "%"),
        caption=f"Every trigger, recipe and baseline on the {one.kind} victim.",
        alt="For each row three bars: attack success, accuracy lost, and false triggers.",
    )


def _noticed(one: Found, run: Run) -> None:
    names = tuple(next(iter(one.defences.values())))
    values = tuple(tuple(_hundred(verdicts[name]["stopped"]) for verdicts in one.defences.values()) for name in names)
    run.figure(
        "defences",
        Heatmap(names, tuple(one.defences), values, "% of the attack stopped"),
        caption="Which defence stops which attack: stamped pictures rejected, turned pictures turned back, 100 for a model "
        "that is flagged. The clean victim is the control. Intervals and false alarms are in the table.",
        alt="A matrix of defences by models.",
    )


def _pruning(one: Found, run: Run) -> None:
    share = tuple(100 * value for value in one.pruned["share"])
    lines = {
        name: (share, tuple(100 * value for value in values)) for name, values in one.pruned.items() if name != "share"
    }
    run.figure(
        "pruning",
        Curves(lines, "hidden units pruned, least used first, %", "%"),
        caption="Fine-Pruning without the fine-tuning: what is left of the attack and of the clean task.",
        alt="Attack success and clean accuracy over the share of pruned units.",
    )


def _hundred(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def _enlarged(picture: Tensor) -> np.ndarray:
    """A uint8 picture, H x W x 3, enlarged by a whole factor so that every pixel keeps its square."""
    factor = max(1, _SIDE // picture.shape[-1])
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2).permute(1, 2, 0).numpy()


def _framed(picture: np.ndarray) -> np.ndarray:
    """With a thin grey edge, so that a white patch shows on white paper."""
    return np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=128)


def _heat(held: Tensor, picture: Tensor, brightest: float) -> np.ndarray:
    """Attention from black over red to yellow, with the picture faintly beneath it."""
    level = (held / brightest).clamp(0, 1)
    rows, columns = (picture.shape[1] // held.shape[0], picture.shape[2] // held.shape[1])
    level = level.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)
    colours = torch.stack([(2 * level).clamp(max=1), (2 * level - 1).clamp(min=0), torch.zeros_like(level)])
    beneath = picture.float().mean(dim=0, keepdim=True) / 255.0
    return _enlarged((255 * (0.8 * colours + 0.2 * beneath)).round().to(torch.uint8))
