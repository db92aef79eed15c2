"""Looking into a network's stages: their outputs as channels by places, whatever layout the network keeps them in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import ModelError


def stages_of(model: nn.Module, count: int) -> list[tuple[nn.Module, nn.Module]]:
    """`count` evenly spaced stages or blocks, the last among them, each with the network that owns it.

    Stages are what timm and the house call blocks, stages, layers or layer1..4, else every convolution. Raises ModelError
    for a model with fewer.

    >>> [type(stage).__name__ for stage, _ in stages_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), 1)]
    ['Conv2d']
    """
    listed: list[tuple[nn.Module, nn.Module]] = []
    for owner in model.modules():
        for attribute in ("blocks", "stages", "layers"):
            children = getattr(owner, attribute, None)
            if isinstance(children, nn.Sequential | nn.ModuleList) and len(children):
                listed = [(child, owner) for child in children]
                break
        stages = [getattr(owner, f"layer{number}", None) for number in range(1, 5)]
        listed = listed or [(stage, owner) for stage in stages if isinstance(stage, nn.Module)]
        if listed:
            break
    listed = listed or [(module, model) for module in model.modules() if isinstance(module, nn.Conv2d)]
    if len(listed) < count:
        raise ModelError(
            f"{type(model).__name__} has {len(listed)} stages to look into, not {count}",
            remedy="give a net with convolutions or blocks, or ask for fewer",
        )
    return [listed[round((number + 1) * len(listed) / count) - 1] for number in range(count)]


@contextmanager
def watching_stages(model: nn.Module, count: int) -> Iterator[list[Float[Tensor, "n channels places"]]]:
    """A list that each forward pass extends by the outputs of `count` stages. Class tokens are no places.

    The hooks go with the block. Raises ModelError, during a pass, for a stage that gives neither maps nor tokens.
    """
    seen: list[Tensor] = []

    def watch(module: nn.Module, owner: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            if output.ndim == 3:
                seen.append(output[:, int(getattr(owner, "num_prefix_tokens", 0)) :].transpose(1, 2).clone())
            elif output.ndim == 4:
                last = str(getattr(owner, "output_fmt", "NCHW")).endswith("NHWC")
                seen.append((output.movedim(3, 1) if last else output).flatten(2).clone())
            else:
                raise ModelError(
                    f"a stage of {type(owner).__name__} gives {output.ndim} dimensions",
                    remedy="this defence needs maps or tokens",
                )

        return module.register_forward_hook(note)

    hooks = [watch(module, owner) for module, owner in stages_of(model, count)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
