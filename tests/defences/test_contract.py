import pytest
import torch
from helpers.planted import TwoLayers, images
from torch import Tensor, nn

from heredity.core.errors import DataError, ModelError
from heredity.defences import neural_cleanse
from heredity.defences.contract import (
    Threshold,
    Trigger,
    as_unit,
    calibrate,
    classes_of,
    clean_images,
    examining,
    features_before_head,
)
from heredity.nn.encoders import EncoderShape, make_encoder

IMAGES = images(0, 24)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (IMAGES[:0], "no clean images"),
        (IMAGES[0], "n x channels"),
        (IMAGES.int(), "type torch.int32"),
        (IMAGES.float(), "pixels from"),
        (torch.full((1, 3, 4, 4), torch.nan), "pixels from nan"),
    ],
)
def test_images_that_no_defence_takes(given: Tensor, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        as_unit(given)
    with pytest.raises(DataError, match=problem):
        neural_cleanse.scan(TwoLayers(0, planted=False), given, generator=generator())


def test_the_order_of_clean_images_is_their_own() -> None:
    mixed = IMAGES[torch.randperm(len(IMAGES), generator=generator())]
    assert torch.equal(clean_images(mixed, at_least=1), clean_images(IMAGES, at_least=1))
    with pytest.raises(DataError, match="too few"):
        clean_images(IMAGES, at_least=25)


def test_unit_floats_and_bytes_are_the_same_to_a_house_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_encoder(EncoderShape(width=8), 10)
    with examining(model) as ask:
        answers = ask.all(as_unit(IMAGES))
    assert torch.allclose(answers, model.eval()(IMAGES), atol=1e-5)


def test_every_modules_mode_is_put_back_even_after_an_error() -> None:
    model = TwoLayers(0, planted=False).train()
    model.hidden.eval()
    with examining(model) as ask:
        assert not any(module.training for module in model.modules())
    with pytest.raises(ModelError), examining(model) as ask:
        ask(torch.full((1, 3, 10, 10), torch.nan))
    assert model.training
    assert model.drop.training
    assert not model.hidden.training


def test_queries_are_counted_and_gradients_reach_no_weight() -> None:
    model = TwoLayers(0, planted=False)
    with examining(model) as ask:
        patch = torch.zeros(3, 10, 10, requires_grad=True)
        torch.autograd.grad(ask(as_unit(IMAGES) * patch).sum(), patch)
        ask.all(as_unit(IMAGES), batch=5)
    assert ask.cost().queries == 48
    assert all(parameter.grad is None for parameter in model.parameters())


class Broken(nn.Module):
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answer.expand(len(pixels), *self.answer.shape[1:])


def test_answers_that_no_defence_can_use() -> None:
    with examining(Broken(torch.full((1, 4), torch.inf))) as ask, pytest.raises(ModelError, match="not finite"):
        ask(as_unit(IMAGES))
    with examining(Broken(torch.zeros(1, 4, 2, 2))) as ask, pytest.raises(ModelError, match="one row per image"):
        ask(as_unit(IMAGES))
    with pytest.raises(ModelError, match="at least three"):
        classes_of(torch.zeros(5, 2))


def test_features_before_the_head_are_a_copy_and_the_hook_goes() -> None:
    model = TwoLayers(0, planted=False).eval()
    with features_before_head(model) as seen:
        model(IMAGES)
        assert len(model.head._forward_pre_hooks) == 1
    assert torch.equal(seen[0], torch.relu(model.hidden(IMAGES.float().flatten(1) / 255)))
    assert not model.head._forward_pre_hooks
    with pytest.raises(ModelError, match="no linear head"), features_before_head(nn.ReLU()):
        pass


def test_a_trigger_stamps_bytes_as_bytes() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[:, :2] = 1.0
    stamped = Trigger(mask, torch.full((3, 10, 10), 0.2)).stamp(IMAGES)
    assert stamped.dtype == torch.uint8
    assert bool((stamped[:, :, :2] == 51).all())
    assert torch.equal(stamped[:, :, 2:], IMAGES[:, :, 2:])


def test_a_threshold_knows_where_it_comes_from() -> None:
    found = calibrate([float(score) for score in range(9)], 0.1, source="clean models")
    assert found == Threshold(8.0, "clean models", 0.1, 9)
    assert found.flags(8.5)
    assert not found.flags(8.0)
    assert Threshold(2.0, "paper").false_positive_rate is None
