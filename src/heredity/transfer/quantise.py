"""Post-training quantisation to int8: what a thief does to serve a stolen model cheaply.

Weights are rounded to int8, one scale an output channel; the inputs of convolutions get one scale from calibration images
(static), those of linear layers one a batch (dynamic). The arithmetic of these layers is int8 through PyTorch's own kernels,
on the CPU; everything between them stays in floating point.
"""

import copy
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from heredity.core.errors import ConfigError, ModelError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.nn.inference import outputs


def quantise(model: nn.Module, calibration: UInt8[Tensor, "n c h w"], *, skip: Collection[str] = ()) -> nn.Module:
    """An int8 copy of a model; `calibration` are unlabelled images from which the scales of activations are taken.

    Layers whose names are in `skip` stay in floating point, such as "head", which is small and often sensitive.

    The copy runs on the CPU and cannot be trained or saved as safetensors: its packed weights are no plain tensors. Raises
    ConfigError for a model without linear or convolution layers or without calibration images, ModelError where this build
    of PyTorch has no int8 kernels.
    """
    if len(calibration) == 0:
        raise ConfigError("there are no images to calibrate with", remedy="give some dozen unlabelled images")
    quantisation = _kernels()
    copied = copy.deepcopy(model).cpu().eval()
    if not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in copied.modules()):
        raise ConfigError("the model has no linear or convolution layer to quantise", remedy="give another model")
    with _quietly():
        for name, layer in list(copied.named_modules()):
            if type(layer) is nn.Conv2d and name not in skip:
                wrapped = quantisation.QuantWrapper(layer)
                wrapped.qconfig = quantisation.get_default_qconfig(torch.backends.quantized.engine)  # pyright: ignore
                _put(copied, name, wrapped)
        quantisation.prepare(copied, inplace=True)
        outputs(copied, calibration)
        quantisation.convert(copied, inplace=True)
        linear = {name for name, layer in copied.named_modules() if type(layer) is nn.Linear and name not in skip}
        how = dict.fromkeys(linear, quantisation.default_dynamic_qconfig)
        copied = quantisation.quantize_dynamic(copied, how, dtype=torch.qint8)
    parent = lineage_of(model)
    born = Lineage(
        f"{parent.name}/int8",
        "post-training quantisation to int8",
        settings={"calibration": len(calibration)},
        parents=(parent,),
        marks=parent.marks,
    )
    return record(copied, born, weights=int8_weights(copied))


def int8_weights(model: nn.Module) -> dict[str, Tensor]:
    """The int8 weights of every quantised layer, by the layer's name.

    >>> net = quantise(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
    >>> int8_weights(net)["1"].dtype
    torch.int8
    """
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if callable(weight) and isinstance(packed := weight(), Tensor) and packed.is_quantized:
            found[name] = packed.int_repr()
    return found


def _kernels() -> Any:
    try:
        from torch.ao import quantization
    except ImportError as error:
        raise ModelError(
            "this PyTorch has no torch.ao.quantization", remedy="PyTorch announced its removal: install torch 2.14"
        ) from error
    if torch.backends.quantized.engine in ("none", ""):
        raise ModelError("this build of PyTorch has no int8 kernels", remedy="use the usual CPU build")
    return quantization


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


@contextmanager
def _quietly() -> Iterator[None]:
    """PyTorch warns of the move of these functions to another package at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
