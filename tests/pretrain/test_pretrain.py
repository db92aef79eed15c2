import pytest
import torch
from lightly.loss import NTXentLoss
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.pretrain.contrastive import SimCLR, simclr
from heredity.pretrain.mae import MAE, MaskedAutoencoder, mae, reconstruction_loss

IMAGES = load_images("digits").train.images[:256]


def test_simclr_learns_and_drops_its_head() -> None:
    encoder = make_encoder(EncoderShape(width=8), 16)
    before = set(encoder.state_dict())
    with Run.temporary() as run:
        history = run.table(
            "s",
            lambda: (
                simclr(encoder, IMAGES, SimCLR(plan=Plan(steps=12, batch=64, learning_rate=3e-3)), run)
                .values[:, 0]
                .tolist()
            ),
        )
    assert history[-1] < history[0]
    assert set(encoder.state_dict()) == before


def test_the_contrastive_loss_is_nt_xent_by_hand() -> None:
    """Chen et al. 2020, equation 1, pair by pair."""
    a, b = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    z = nn.functional.normalize(torch.cat([a, b]), dim=1)
    total = 0.0
    for i in range(8):
        similar = torch.exp(z[i] @ z.T / 0.5)
        positive = similar[(i + 4) % 8]
        total += float(-torch.log(positive / (similar.sum() - similar[i])))
    assert float(NTXentLoss(temperature=0.5)(a, b)) == pytest.approx(total / 8, rel=1e-5)


def test_mae_learns() -> None:
    encoder = make_encoder(EncoderShape(kind="vit", width=32, depth=2), 16)
    with Run.temporary() as run:
        history = run.table(
            "m",
            lambda: (
                mae(encoder, IMAGES, MAE(plan=Plan(steps=15, batch=64, learning_rate=3e-3)), run).values[:, 0].tolist()
            ),
        )
    assert history[-1] < history[0]


def test_only_masked_patches_count() -> None:
    """He et al. 2022: the loss is the mean squared error on masked patches alone, of normalised pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels, predicted = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 4, 48, generator=generator)
    hidden = torch.tensor([[1, 3], [0, 2]])
    total, count = 0.0, 0
    for image in range(2):
        for patch in range(4):
            if patch not in hidden[image].tolist():
                continue
            row, column = divmod(patch, 2)
            block = pixels[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            target = block.permute(1, 2, 0).reshape(-1)
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            total += float((predicted[image, patch] - target).square().mean())
            count += 1
    ours = reconstruction_loss(predicted, pixels, hidden, 4, MAE())
    assert float(ours) == pytest.approx(total / count, rel=1e-4)


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    encoder = make_encoder(EncoderShape(kind="vit", width=32, depth=2), 16)
    net = MaskedAutoencoder(encoder.inner, MAE()).eval()
    pixels = torch.randn(1, 3, 16, 16)
    changed = pixels.clone()
    changed[:, :, :4, :4] = 9.0
    kept = torch.tensor([[5, 6, 10]])
    assert torch.equal(net(pixels, kept), net(changed, kept))


def test_a_convolutional_net_cannot_be_a_masked_autoencoder() -> None:
    with Run.temporary() as run, pytest.raises(ModelError, match="transformer"):
        run.table("m", lambda: mae(make_encoder(EncoderShape(), 16), IMAGES, MAE(plan=Plan(steps=1)), run))
