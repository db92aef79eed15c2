"""Downstream tasks: what thieves train stolen encoders for."""

import torch
from torch import Tensor

from heredity.core.errors import ConfigError, suggestion
from heredity.core.randomness import generator_of
from heredity.data.images import ImageSource, LabelledImages, load_images
from heredity.systems.ssl_wm.config import SSLWM
from heredity.transfer.task import Task

# Number of closed loops in the printed digits 0 to 9.
_LOOPS = (1, 0, 0, 0, 0, 0, 1, 0, 2, 1)


def make_tasks(config: SSLWM, source: ImageSource, seed: int) -> list[Task]:
    """The tasks a config names: groupings of the pre-training source's own labels, or other sources by their names.

    Raises ConfigError for a grouping that does not exist or does not fit the classes.
    """
    return [make_task(name, config, source, seed) for name in config.tasks]


def make_task(name: str, config: SSLWM, source: ImageSource, seed: int) -> Task:
    """One task; `rows` of the source's labelled images go to the thief, the test part is left for measuring."""
    if ":" in name:
        source, grouping = load_images(name, size=config.size, seed=seed), "classes"
        label = name.replace(":", "-").strip("/").split("/")[-1]
    else:
        grouping = label = name
    mapping = group_labels(grouping, len(source.train.classes))
    order = torch.randperm(len(source.train.labels), generator=generator_of(seed, name, "thief"))[: config.thief.rows]
    held_back = max(1, round(config.thief.validation * len(order)))

    def part(data: LabelledImages, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images, labels = (data.images, data.labels) if rows is None else (data.images[rows], data.labels[rows])
        return images, mapping[labels]

    return Task(
        name=label,
        classes=int(mapping.max()) + 1,
        train=part(source.train, order[held_back:]),
        validation=part(source.train, order[:held_back]),
        test=part(source.test),
    )


def group_labels(grouping: str, classes: int) -> Tensor:
    """New label of each old one: "classes" (as they are), "halves", and for ten digits "loops" and "parity".

    >>> group_labels("parity", 10).tolist()
    [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    """
    if classes < 2:
        raise ConfigError("the data has one class only", remedy="give labelled images of at least two classes")
    groups = {"classes": torch.arange(classes), "halves": torch.arange(classes) * 2 // classes}
    if classes == 10:
        groups |= {"loops": torch.tensor(_LOOPS), "parity": torch.arange(10) % 2}
    if grouping not in groups:
        problem = f"no task {grouping!r} for data with {classes} classes"
        raise ConfigError(problem, remedy=suggestion(grouping, groups) + "; or name another source, such as idx:DIR")
    return groups[grouping]
