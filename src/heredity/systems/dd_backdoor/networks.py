"""Networks as functions of their weights: what distillation and the attack need of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad

from heredity.core.errors import ConfigError
from heredity.nn.encoders import Classifier, EncoderShape, feature_size, make_encoder

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent on a small set: steps, rate, momentum, weight decay; `batch` 0 takes all rows at once.

    `halved` lowers the rate to a tenth after half of the steps, as the papers on distillation do.
    """

    steps: int = 150
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    batch: int = 0
    halved: bool = True


def make_network(shape: EncoderShape, size: int, classes: int, *, mean: float, std: float) -> Classifier:
    """An untrained classifier of pixels 0..255 that scales them by the training set's mean and deviation (of 0..1)."""
    encoder = make_encoder(shape, size)
    encoder.mean.fill_(mean)
    encoder.std.fill_(std)
    return Classifier(encoder, features=feature_size(encoder, image=size), classes=classes)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's weights, without gradients."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def put(network: nn.Module, weights: Weights) -> None:
    """Write weights into a network."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])


def cross_entropy(
    network: nn.Module, weights: Weights, pixels: Float[Tensor, "n c h w"], labels: Int[Tensor, "n"]
) -> Float[Tensor, ""]:
    """The loss of a network with these weights."""
    return F.cross_entropy(functional_call(network, dict(weights), (pixels,)), labels)


def gradient(
    network: nn.Module, weights: Weights, pixels: Float[Tensor, "n c h w"], labels: Int[Tensor, "n"]
) -> dict[str, Tensor]:
    """The gradient with respect to the weights, itself differentiable with respect to the pixels (torch.func)."""

    def loss(inner: dict[str, Tensor]) -> Tensor:
        return cross_entropy(network, inner, pixels, labels)

    return grad(loss)(dict(weights))


def descend(
    network: nn.Module,
    weights: Weights,
    pixels: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    how: Descent,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Weights after gradient descent on a few images. Nothing is differentiated through."""
    inner = {name: weight.detach().clone().requires_grad_(True) for name, weight in weights.items()}
    optimiser = torch.optim.SGD(list(inner.values()), how.rate, momentum=how.momentum, weight_decay=how.decay)
    batch = how.batch or len(pixels)
    with torch.enable_grad():
        for step in range(how.steps):
            if how.halved and step == how.steps // 2:
                optimiser.param_groups[0]["lr"] = how.rate / 10
            rows = torch.randperm(len(pixels), generator=generator)[:batch] if batch < len(pixels) else slice(None)
            optimiser.zero_grad()
            cross_entropy(network, inner, pixels[rows], labels[rows]).backward()
            optimiser.step()
    return {name: weight.detach() for name, weight in inner.items()}


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """A network in eval mode whose weights take no gradient; both are put back afterwards."""
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    training = network.training
    network.requires_grad_(False).eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        network.train(training)
        for parameter, want in wanted:
            parameter.requires_grad_(want)


def hidden_layer(network: nn.Module) -> nn.Linear:
    """The linear layer before the last one. Raises ConfigError for a network without: it has no neuron to choose."""
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if len(found) < 2:
        raise ConfigError(
            f"the network's linear layers are {', '.join(name for name, _ in found) or 'none'}: DOORPING needs a hidden one",
            remedy="choose the convnet or the alexnet, or the attack naive",
        )
    return found[-2][1]


def hidden_values(network: nn.Module, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n units"]:
    """What the hidden linear layer gives for some images, before its activation. The hook goes with the call."""
    seen: list[Tensor] = []
    hook = hidden_layer(network).register_forward_hook(lambda layer, given, made: seen.append(made.clone()))
    try:
        network(pixels)
    finally:
        hook.remove()
    return seen[0]
