"""What a reader wants to see of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heredity.core.outcome import Bars, Curves, Pictures, Points, bootstrap_interval
from heredity.core.run import Run
from heredity.data.pictures import Pictures as Rows
from heredity.nn.attention import Attention, attention_blocks
from heredity.nn.inference import evaluating
from heredity.systems.tinymim.config import TinyMIM, distillation_of
from heredity.systems.tinymim.relations import products
from heredity.systems.tinymim.results import Found, multiply_adds
from heredity.systems.tinymim.targets import Target, as_attention, read_target, target_block, vision_transformer_in

_SHOWN = 8


def draw(
    pictures: Rows,
    teacher: nn.Module,
    own: Mapping[str, Any] | None,
    students: Mapping[str, Any],
    found: Found,
    dense: Found,
    config: TinyMIM,
    run: Run,
) -> None:
    """All figures of a run."""
    relation_maps(pictures, teacher, students, config, run)
    loss_curves(students, config, run)
    bars(found, dense, run)
    costs(teacher, own, students, found, config, run)


def relation_maps(pictures: Rows, teacher: nn.Module, students: Mapping[str, Any], config: TinyMIM, run: Run) -> None:
    """How strongly one patch looks at every other, in teacher and students, on pictures that nobody trained on."""
    device = run.fabric.device
    images = pictures[torch.arange(min(_SHOWN, len(pictures)), device=device)]
    target = distillation_of(config, "relations").target if "relations" in students else config.distillation.target
    depths = len(attention_blocks(teacher)), len(attention_blocks(next(iter(students.values()))))
    block = target_block(target, teacher_depth=depths[0], student_depth=depths[1])
    shown = {"teacher": (teacher, block)}
    shown |= {arm: (students[arm], depths[1]) for arm in ("relations", "mae", "scratch") if arm in students}
    rows: list[tuple[Any, ...]] = [tuple(_picture(image) for image in images)]
    captions = ["picture; the marked patch asks"]
    for name, (model, number) in shown.items():
        read = as_attention(_read(model, images, number))
        grid: tuple[int, int] = vision_transformer_in(model).patch_embed.grid_size  # pyright: ignore
        prefix = read.query.shape[2] - grid[0] * grid[1]
        asked = prefix + (grid[0] // 2) * grid[1] + grid[1] // 2
        if name == "teacher":
            rows[0] = tuple(_marked(picture, grid) for picture in rows[0])
        title = "untrained teacher" if name == "teacher" and config.teacher_weights == "random" else name
        for pair in ("qk", "vv"):
            maps = _looks(read, pair, asked)[:, prefix:].reshape(-1, *grid)
            rows.append(tuple(_heat(each, images.shape[-1]) for each in maps))
            captions.append(f"{title}: {pair}, block {number}")
    run.figure(
        "relations",
        Pictures(tuple(rows), tuple(captions)),
        caption="Relations of the middle patch (framed) to all patches, averaged over heads, darkest where strongest; each "
        "map is scaled by itself. Compare the students, one taught relations and the others not, with their teacher.",
        alt=f"Rows of small maps over {len(images)} held-out pictures: {', '.join(captions)}.",
    )


def _read(model: nn.Module, images: Tensor, block: int) -> Tensor:
    with evaluating(model):
        return read_target(model, images, Target(), block).cpu()


def _looks(read: Attention, pair: Any, asked: int) -> Tensor:
    return products(read, pair)[:, :, asked].float().softmax(dim=-1).mean(dim=1)


def _picture(image: Tensor) -> np.ndarray:
    factor = max(1, 64 // image.shape[-1])
    return np.kron(image.cpu().permute(1, 2, 0).numpy(), np.ones((factor, factor, 1), dtype=np.uint8))


def _marked(picture: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    side = picture.shape[0] // grid[0]
    top, left = (grid[0] // 2) * side, (grid[1] // 2) * side
    framed = picture.copy()
    width = max(1, side // 10)
    colour = (230, 85, 13)
    framed[top : top + side, left : left + width] = framed[top : top + side, left + side - width : left + side] = colour
    framed[top : top + width, left : left + side] = framed[top + side - width : top + side, left : left + side] = colour
    return framed


def _heat(values: Tensor, size: int) -> np.ndarray:
    scaled = (values / values.max().clamp(min=1e-12)).numpy()
    side = size * max(1, 64 // size) // values.shape[0]
    large = np.kron(scaled, np.ones((side, side)))
    # White to blue: readable in print, and by those who do not tell red from green.
    low, high = np.array([255.0, 255.0, 255.0]), np.array([8.0, 48.0, 107.0])
    return (low + large[..., None] * (high - low)).astype(np.uint8)


def loss_curves(students: Mapping[str, Any], config: TinyMIM, run: Run) -> None:
    """The terms of the losses of the main arm, and masked autoencoding of teacher and student."""
    kinds = {"teacher": "reconstruction, teacher", "student/mae": "reconstruction, student"}
    kinds |= {"student/relations": "relations"} if "relations" in students else {}
    lines = {}
    for stage, said in kinds.items():
        if not (run.directory / "logs" / f"{stage.replace('/', '--')}.0.csv").exists():
            continue
        for term, values in run.history(stage).items():
            name = said if term == "reconstruction" else f"{said} {term}"
            smooth = np.array_split(np.asarray(values), min(60, len(values)))
            xs = np.cumsum([len(part) for part in smooth]) / len(values) * 100
            lines[name] = (tuple(xs.tolist()), tuple(float(part.mean()) for part in smooth))
    if lines:
        run.figure(
            "losses",
            Curves(lines, x="% of the steps", y="loss"),
            caption="Losses while teacher and students are made. Each is in its own unit.",
            alt=f"Falling curves: {', '.join(lines)}.",
        )


def bars(found: Found, dense: Found, run: Run) -> None:
    """Every arm's accuracy with an interval over the held-out pictures, best first; and mIoU."""
    order = sorted(found, key=lambda arm: -found[arm]["accuracy"])
    accuracy = tuple(found[arm]["accuracy"] for arm in order)
    intervals = tuple(_interval(found[arm]["right"]) for arm in order)
    run.figure(
        "accuracy",
        Bars(tuple(order), {"accuracy": accuracy}, "accuracy %", intervals={"accuracy": intervals}),
        caption="Students of one size after the same fine-tuning on the same few labels, with 95 % intervals over held-out "
        "pictures.",
        alt="Bars of accuracy: " + ", ".join(f"{arm} {found[arm]['accuracy']:.1f} %" for arm in order) + ".",
    )
    if dense:
        run.figure(
            "dense",
            Bars(tuple(dense), {"mIoU": tuple(row["miou"] for row in dense.values())}, "mIoU %"),
            caption="The same students made into segmenters.",
            alt="Bars of mIoU: " + ", ".join(f"{arm} {row['miou']:.1f} %" for arm, row in dense.items()) + ".",
        )


def _interval(right: str) -> tuple[float, float]:
    low, high = bootstrap_interval([100.0 * int(each) for each in right], resamples=1000)
    return low, high


def costs(
    teacher: nn.Module,
    own: Mapping[str, Any] | None,
    students: Mapping[str, Any],
    found: Found,
    config: TinyMIM,
    run: Run,
) -> None:
    """What a picture costs against how many are told right."""
    rows = {} if own is None else {"teacher": (teacher, own)}
    rows |= {arm: (students[arm], found[arm]) for arm in ("relations", "mae", "scratch") if arm in found}
    groups = {
        arm: ((multiply_adds(model, config.size) / 1e6,), (row["accuracy"],)) for arm, (model, row) in rows.items()
    }
    run.figure(
        "cost",
        Points(groups, x="million multiply-adds a picture", y="accuracy %"),
        caption="Cost against accuracy: students are equal in cost."
        + ("" if own is None else " The teacher is fine-tuned on the same labels."),
        alt="; ".join(f"{arm}: {xs[0]:.2f} million, {ys[0]:.1f} %" for arm, (xs, ys) in groups.items()) + ".",
    )
