import pytest
import torch
import torch.nn.functional as F
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.loop import Plan
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.pretrain.bigan import Bidirectional, BiGAN, bigan, bigan_objective

IMAGES = load_images("digits").train.images[:128]
SMALL = BiGAN(code=8, width=8, blur=0.0, plan=Plan(steps=3, batch=32, optimiser="adam", learning_rate=1e-3))


def encoder() -> nn.Module:
    return make_encoder(EncoderShape(width=8), 16)


def test_the_losses_are_those_of_the_game() -> None:
    """Donahue et al. 2017, equation 2, with the generator's loss that does not saturate."""
    objective = bigan_objective(encoder(), IMAGES, SMALL)
    module = objective.module.eval()
    assert isinstance(module, Bidirectional)
    prior, noise = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    real, generated = module(IMAGES[:6], prior, noise)
    with torch.no_grad():
        mean, deviation = module.code(module.encoder(IMAGES[:6])).chunk(2, dim=1)
        first = module.discriminator(IMAGES[:6].float() / 127.5 - 1, mean + noise * torch.sigmoid(deviation))
        second = module.discriminator(module.generator(prior), prior)
    assert torch.allclose(real, first, atol=1e-5)
    assert torch.allclose(generated, second, atol=1e-5)


def test_each_side_has_its_own_loss_of_the_same_scores() -> None:
    """Minus the mean log probability of what each side wants to be believed; real pairs are believed by nine tenths."""
    objective = bigan_objective(encoder(), IMAGES, SMALL)
    [turn] = objective.turns
    real, generated = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])

    class Fixed(nn.Module):
        def forward(self, *pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return real, generated

    fool, tell = (
        next(iter(step(Fixed(), torch.arange(2), Draws(generator_of(0))).values()))
        for step in (objective.step, turn.step)
    )
    soft = F.softplus
    assert float(fool) == pytest.approx(float((soft(real) + soft(-generated)).mean()), rel=1e-5)
    believed = 0.9 * soft(-real) + 0.1 * soft(real)
    assert float(tell) == pytest.approx(float((believed + soft(generated)).mean()), rel=1e-5)


def test_nobody_moves_anothers_weights() -> None:
    objective = bigan_objective(encoder(), IMAGES, SMALL)
    [turn] = objective.turns
    own = {id(parameter) for parameter in turn.module.parameters()}
    assert own == {id(parameter) for parameter in objective.module.get_submodule("discriminator").parameters()}
    assert turn.plan.learning_rate == pytest.approx(SMALL.discriminator_rate * SMALL.plan.learning_rate)


def test_all_three_learn_and_only_the_encoder_stays() -> None:
    net = encoder()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with Run.temporary() as run:
        run.table("train", lambda: bigan(net, IMAGES, SMALL, run).values.tolist())
    assert net.state_dict().keys() == before.keys()
    assert all(
        not torch.equal(value, before[name]) for name, value in net.state_dict().items() if name.endswith("weight")
    )


def test_an_image_that_four_does_not_divide_is_refused() -> None:
    with pytest.raises(ModelError, match="18"):
        bigan_objective(encoder(), torch.zeros(4, 3, 18, 18, dtype=torch.uint8), SMALL)
