"""What a table gives away: features that are the label, features that are the group."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SAMPLE, _BLOCK = 5000, 64
LEAK = 0.98


def stump_accuracy(features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> Float[Tensor, "d"]:
    """How often each column alone, cut at its best threshold, tells the class. Unlabelled nodes (-1) do not count.

    At most 5000 evenly spaced nodes are looked at.

    >>> stump_accuracy(torch.tensor([[0.0, 1.0], [2.0, 3.0], [3.0, 2.0], [5.0, 1.0]]), torch.tensor([0, 0, 1, 1]))
    tensor([1.0000, 0.7500])
    """
    known = torch.nonzero(labels >= 0).flatten()
    known = known[torch.linspace(0, len(known) - 1, min(len(known), _SAMPLE)).round().long()]
    rows, truth = features[known].float(), labels[known]
    hot = torch.nn.functional.one_hot(truth).float()
    total = hot.sum(dim=0)
    best = []
    for part in rows.split(_BLOCK, dim=1):
        ordered, order = part.sort(dim=0)
        below = hot[order].cumsum(dim=0)
        right = (below.amax(dim=2) + (total - below).amax(dim=2)) / len(truth)
        # No cut goes between equal values.
        cut = torch.cat([ordered[1:] > ordered[:-1], torch.ones(1, part.shape[1], dtype=torch.bool)])
        best.append(torch.where(cut, right, 0.0).amax(dim=0))
    return torch.cat(best) if best else torch.zeros(0)


def tell_tales(
    features: Float[Tensor, "n d"],
    names: Sequence[str],
    labels: Int[Tensor, "n"],
    sensitive: Int[Tensor, "n"],
    label_name: str,
) -> list[str]:
    """Notes on columns that alone predict the label for more than 98 % of the nodes, and on columns that equal the group."""
    known = labels[labels >= 0]
    chance = float(torch.bincount(known).max()) / len(known)
    notes = []
    for name, accuracy in zip(names, stump_accuracy(features, labels).tolist(), strict=True):
        if accuracy > LEAK and 1 - accuracy < (1 - chance) / 2:
            notes.append(
                f"LEAK: {name!r} alone predicts {label_name!r} for {accuracy:.1%} of the nodes; drop={name} leaves it out"
            )
    two = int(sensitive.max()) == 1
    for column, name in enumerate(names):
        values = features[:, column]
        if bool((values == sensitive).all()) or (two and bool((values == 1 - sensitive).all())):
            notes.append(f"{name!r} is the sensitive attribute itself: models see the group; drop={name} hides it")
    return notes
