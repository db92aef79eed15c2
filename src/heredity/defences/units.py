"""Which units of a network a repair prunes, how active each is, and how it is switched off.

A convolutional net offers the channels of its last convolution, a transformer the hidden units of its last block's
perceptron (fc1, after the activation), any other net the hidden units before its last layer. All three are seen and
switched off at one place: the linear layer that reads them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.defences.contract import Examination


@dataclass(frozen=True)
class Units:
    """`count` units that the linear layer `reader` reads, `columns` of its inputs each; `writer` computes them, where it is
    one linear layer (by the names of `named_modules`)."""

    kind: Literal["channels", "hidden units"]
    count: int
    reader: str
    columns: int
    writer: str | None = None


def units_of(model: nn.Module) -> Units:
    """The last layer of units before the classes. Raises ModelError for a model without a linear layer to read them."""
    named = list(model.named_modules())
    places = {name: place for place, (name, _) in enumerate(named)}
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in named if isinstance(module, nn.Conv2d)]
    perceptrons = [
        name
        for name, module in named
        if isinstance(getattr(module, "fc1", None), nn.Linear) and isinstance(getattr(module, "fc2", None), nn.Linear)
    ]
    last = places[convolutions[-1]] if convolutions else -1
    if perceptrons and places[perceptrons[-1]] > last:
        block = perceptrons[-1]
        writer, reader = (f"{block}.{part}" if block else part for part in ("fc1", "fc2"))
        return Units("hidden units", _linear(model, writer).out_features, reader, 1, writer)
    readers = [name for name in linear if places[name] > last]
    if convolutions and readers:
        wide = model.get_submodule(convolutions[-1])
        channels, inputs = int(wide.out_channels), _linear(model, readers[0]).in_features  # pyright: ignore
        if inputs % channels == 0:
            return Units("channels", channels, readers[0], inputs // channels)
    if not convolutions and len(linear) > 1:
        width = _linear(model, linear[-1]).in_features
        if _linear(model, linear[-2]).out_features == width:
            return Units("hidden units", width, linear[-1], 1, linear[-2])
    raise ModelError(
        f"{type(model).__name__} has no layer of units that a linear layer reads",
        remedy="give a classifier: convolutions or transformer blocks, then a linear head",
    )


def _linear(model: nn.Module, name: str) -> nn.Linear:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


@contextmanager
def watching(model: nn.Module, units: Units) -> Iterator[list[Float[Tensor, "n units ..."]]]:
    """A list that each forward pass extends by the units' values: rows are images, then units, then places.

    The hook goes with the block.
    """
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        by_unit = values.unflatten(-1, (units.count, units.columns))
        seen.append(by_unit.movedim(-2, 1).flatten(2).clone())

    hook = model.get_submodule(units.reader).register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def mean_activity(ask: Examination, units: Units, unit_images: Float[Tensor, "n c h w"]) -> Float[Tensor, "units"]:
    """Each unit's mean absolute value over images and places."""
    with watching(ask.model, units) as seen:
        ask.all(unit_images, batch=128)
    return torch.cat([part.abs().mean(dim=2).cpu() for part in seen]).mean(dim=0)


@torch.no_grad()
def switch_off(model: nn.Module, units: Units, which: Int[Tensor, "pruned"]) -> None:
    """Zero what the units send on, and their own weights and biases, in place.

    A channel's own weights stay: group normalisation would pass their absence on to its neighbours. Nothing reads the
    channel any more, so that its bias, or that of the normalisation behind it, reaches no class.
    """
    reader = _linear(model, units.reader)
    spread = reader.weight.unflatten(1, (units.count, units.columns))
    spread[:, which.to(spread.device)] = 0.0
    if units.writer is not None:
        writer = _linear(model, units.writer)
        writer.weight[which.to(writer.weight.device)] = 0.0
        if writer.bias is not None:
            writer.bias[which.to(writer.bias.device)] = 0.0
