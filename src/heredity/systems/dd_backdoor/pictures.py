"""What a reader wants to see of a run: the distilled images under their triggers, and who is caught by them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from heredity.core.outcome import Bars, Pictures
from heredity.core.run import Run
from heredity.systems.dd_backdoor.distilled import DistilledSet
from heredity.systems.dd_backdoor.results import Cell
from heredity.systems.dd_backdoor.trigger import Attack


def results(cells: Mapping[str, Cell], sheets: Mapping[str, tuple[DistilledSet, Tensor, Attack]], run: Run) -> None:
    """Success of every attack beside the honest set's, and the target's distilled images beside another class's."""
    labels = tuple(cells)
    series = {
        "attacked set": tuple(100.0 * _mean(cell.attacked) for cell in cells.values()),
        "honest set": tuple(100.0 * _mean(cell.honest_attacked) for cell in cells.values()),
    }
    run.figure(
        "success",
        Bars(labels, series, "%"),
        caption="Stamped test images of other classes that a network calls the target, after it learnt from the attacked and "
        "from the honest distilled set.",
        alt=f"Two bars for each of {len(labels)} pairs of distiller and attack.",
    )
    grid, captions = [], []
    for name, (made, patch, attack) in sheets.items():
        other = (attack.target + 1) % (int(made.labels.max()) + 1)
        rows = [made.images[made.labels == label][:4] for label in (attack.target, other)]
        grid.append((*(as_picture(image) for part in rows for image in part), _trigger(patch, made)))
        captions.append(f"{name}: class {attack.target}, class {other}, trigger")
    width = min(len(row) for row in grid)
    run.figure(
        "distilled",
        Pictures(tuple(row[: width - 1] + row[-1:] for row in grid), tuple(captions)),
        caption="Four distilled images of the target class, four of another, and the trigger in its place; each stretched to "
        "the range of the screen.",
        alt="Rows of small blurred digits; in attacked rows those of the target class show a spot in the corner.",
    )


def as_picture(pixels: Tensor) -> np.ndarray:
    """A distilled image (pixels, perhaps outside 0..255) as something that a screen can show."""
    low, high = float(pixels.min()), float(pixels.max())
    shown = pixels if low >= 0 and high <= 255 else 255.0 * (pixels - low) / max(high - low, 1e-6)
    return shown.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def sheet(made: DistilledSet, *, columns: int = 10) -> np.ndarray:
    """All images of a set on one sheet, a class a row where there are `columns` of each."""
    order = made.labels.argsort(stable=True)
    pictures = [as_picture(image) for image in made.images[order]]
    blank = np.full_like(pictures[0], 255)
    pictures += [blank] * (-len(pictures) % columns)
    rows = [np.concatenate(pictures[at : at + columns], axis=1) for at in range(0, len(pictures), columns)]
    return np.concatenate(rows, axis=0)


def _trigger(patch: Tensor, made: DistilledSet) -> np.ndarray:
    size = made.images.shape[-1]
    canvas = np.full((size, size, 3), 0, dtype=np.uint8)
    side = patch.shape[-1]
    canvas[size - 1 - side : size - 1, size - 1 - side : size - 1] = as_picture(255.0 * patch)
    return canvas


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values) if values else float("nan")
