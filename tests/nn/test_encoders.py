import pytest
import torch
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.lineage import architecture_of
from heredity.nn.encoders import Classifier, EncoderShape, Normalised, feature_size, make_encoder, vision_transformer
from heredity.nn.resolver import build

IMAGES = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SHAPES = [
    (EncoderShape(width=8), 32),
    (EncoderShape(kind="residual", width=8, norm="batch"), 32),
    (EncoderShape(kind="vit", width=32, depth=2, patch=8), 32),
    (EncoderShape(kind="resnet18"), 512),
    (EncoderShape(kind="resnet18-large-stem"), 512),
]


@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_every_shape_gives_one_vector_an_image(shape: EncoderShape, features: int) -> None:
    encoder = make_encoder(shape, 32)
    assert feature_size(encoder, image=32) == features
    again = build(architecture_of(encoder) or {})
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(IMAGES), encoder.eval()(IMAGES))


def test_scaling_by_hand() -> None:
    scaled = Normalised(nn.Identity(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(IMAGES)
    assert torch.allclose(scaled[:, 2], (IMAGES[:, 2] / 255 - 0.3) / 4)


def test_a_classifier_is_rebuilt_from_its_record() -> None:
    made = Classifier(make_encoder(EncoderShape(width=8), 32), features=32, classes=5)
    assert build(architecture_of(made) or {})(IMAGES).shape == (2, 5)


def test_patches_must_tile() -> None:
    with pytest.raises(ModelError, match="do not tile"):
        vision_transformer(image=30, patch=4)


def test_an_encoder_without_pooling_is_refused() -> None:
    with pytest.raises(ModelError, match="not one vector per image"):
        feature_size(Normalised(nn.Conv2d(3, 4, 3)), image=32)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"kind": "shape", "image": 10**9},
        {"kind": "timm", "name": "os.system", "image": 32},
        {"kind": "classifier", "features": -1, "classes": 2, "encoder": {}},
        {"kind": "classifier", "features": 1, "classes": 2, "encoder": {"kind": "classifier"}},
    ],
)
def test_hostile_architecture_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        build(record)
