import pytest
import torch
from torch import nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.data.images import load_images
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import outputs, top1
from heredity.transfer.quantise import int8_weights, quantise

IMAGES = load_images("digits").train.images[:200]


def model(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = make_encoder(EncoderShape(kind=kind, width=8 if kind == "residual" else 32, depth=2), 16)  # pyright: ignore[reportArgumentType]
        made = Classifier(encoder, features=32, classes=10)
    return record(made.eval(), Lineage("child", "probe", marks=("a mark",)))


@pytest.mark.parametrize("kind", ["residual", "vit"])
def test_int8_answers_nearly_what_floats_answer(kind: str) -> None:
    child = model(kind)
    before = {name: value.clone() for name, value in child.state_dict().items()}
    small = quantise(child, IMAGES[:50])
    assert all(torch.equal(value, before[name]) for name, value in child.state_dict().items())
    there, here = outputs(child, IMAGES), outputs(small, IMAGES)
    assert not torch.equal(there, here)
    assert float((there - here).abs().mean()) < 0.05 * float(there.std())
    assert float((top1(child, IMAGES) == top1(small, IMAGES)).float().mean()) > 0.95
    assert lineage_of(small).marks == ("a mark",)
    assert lineage_of(small).content != lineage_of(child).content


def test_every_layer_is_int8_with_a_scale_a_channel() -> None:
    child = model("residual")
    weights = int8_weights(quantise(child, IMAGES[:20]))
    layers = [layer for layer in child.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(weights) == len(layers)
    assert all(weight.dtype == torch.int8 for weight in weights.values())
    # Rounded to the nearest step of a channel: no weight is off by more than half a step of the largest one.
    stem = child.get_submodule("encoder.inner.stem.0").weight.detach()  # pyright: ignore
    found = weights["encoder.inner.stem.0.module"]
    step = stem.abs().amax(dim=(1, 2, 3), keepdim=True) / 127.5
    assert float((found.float() * step - stem).abs().max()) <= 0.51 * float(step.max())


def test_skipped_layers_stay_in_floating_point() -> None:
    child = model("residual")
    small = quantise(child, IMAGES[:20], skip=("head", "encoder.inner.stem.0"))
    assert len(int8_weights(small)) == len(int8_weights(quantise(child, IMAGES[:20]))) - 2
    assert isinstance(small.get_submodule("head"), nn.Linear)
    assert torch.equal(small.get_submodule("head").weight, child.get_submodule("head").weight)  # pyright: ignore


def test_the_same_images_give_the_same_scales() -> None:
    once, twice = (quantise(model("residual"), IMAGES[:20]) for _ in range(2))
    assert torch.equal(outputs(once, IMAGES), outputs(twice, IMAGES))


def test_nothing_to_quantise() -> None:
    with pytest.raises(ConfigError, match="images"):
        quantise(model("residual"), IMAGES[:0])
    with pytest.raises(ConfigError, match="layer"):
        quantise(nn.Identity(), IMAGES)
