"""Magnitude pruning: the smallest weights of the whole network become zero, without retraining."""

import copy

from torch import nn
from torch.nn.utils import prune as torch_prune

from heredity.core.errors import ConfigError
from heredity.core.lineage import Lineage, lineage_of, record


def prune(model: nn.Module, share: float) -> nn.Module:
    """A copy in which the given share (0..1) of all weights of linear and convolution layers is zero, smallest first.

    Normalisation layers, biases and embeddings keep their values. Pruning a pruned copy further equals pruning the
    original, since zeros are the smallest. Raises ConfigError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ConfigError(f"cannot prune a share of {share}", remedy="give a share from 0 up to, not including, 1")
    pruned = copy.deepcopy(model)
    layers = [layer for layer in pruned.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d)]
    if not layers:
        raise ConfigError("the model has no linear or convolution layer to prune", remedy="give another model")
    targets = [(layer, "weight") for layer in layers]
    torch_prune.global_unstructured(targets, pruning_method=torch_prune.L1Unstructured, amount=share)
    for layer, weight in targets:
        torch_prune.remove(layer, weight)
    parent = lineage_of(model)
    return record(
        pruned,
        Lineage(
            f"{parent.name}/pruned-{share:g}",
            "magnitude pruning",
            settings={"share": share},
            parents=(parent,),
            marks=parent.marks,
        ),
    )


def sparsity(model: nn.Module) -> float:
    """Share of zero weights in linear and convolution layers, 0..1."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))
