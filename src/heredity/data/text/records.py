"""What every reader of text returns: unlabelled sentences, and labelled tasks where there are labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from heredity.core.errors import DataError
from heredity.data.labelled import split_rows


@dataclass(frozen=True)
class LabelledText:
    """Sentences with a class number each."""

    sentences: tuple[str, ...]
    labels: Int[Tensor, "n"]

    def rows(self, chosen: Int[Tensor, "m"]) -> "LabelledText":
        """The chosen rows, in that order."""
        return LabelledText(tuple(self.sentences[row] for row in chosen.tolist()), self.labels[chosen])


@dataclass(frozen=True)
class TextTask:
    """One labelling of sentences: a training part and a held-out one."""

    name: str
    classes: tuple[str, ...]
    train: LabelledText
    test: LabelledText


@dataclass(frozen=True)
class TextSource:
    """Sentences to pre-train on, without labels, and the tasks of the source by name. `caption` states the rows."""

    corpus: tuple[str, ...]
    tasks: Mapping[str, TextTask] = field(default_factory=dict)
    caption: str = ""


def labelled_text(sentences: Sequence[str], labels: Sequence[int], classes: int, *, name: str) -> LabelledText:
    """Checked rows. Raises DataError where there are none, where one class only is there, or a label is out of range."""
    if not sentences:
        raise DataError(f"{name} holds no rows", remedy="check the file")
    present = set(labels)
    if not present <= set(range(classes)):
        wrong = next(label for label in labels if not 0 <= label < classes)
        raise DataError(f"{name}: label {wrong} is outside 0..{classes - 1}", remedy="the label file is damaged")
    if len(present) < 2:
        raise DataError(f"{name} holds one class only", remedy="give rows of at least two classes")
    return LabelledText(tuple(sentences), torch.tensor(labels))


def split_text(data: LabelledText, share: float, generator: torch.Generator) -> tuple[LabelledText, LabelledText]:
    """Two parts, the second with `share` of each class: see `split_rows`."""
    first, second = split_rows(data.labels, share, generator)
    return data.rows(first), data.rows(second)
