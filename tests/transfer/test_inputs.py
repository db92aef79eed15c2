import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from heredity.core.errors import ConfigError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.data.images import load_images
from heredity.transfer.inputs import Treatment, treat, treated

IMAGES = load_images("digits").train.images[:16]
ALL = ["noise 0.1", "jpeg 50", "resize 0.5", "blur 0.7", "shift 2", "bits 3"]


@pytest.mark.parametrize("text", ALL)
def test_a_treatment_keeps_shape_and_type_changes_pixels_and_repeats(text: str) -> None:
    how = Treatment.parse(text)
    assert str(how) == text
    before = IMAGES.clone()
    seen = treat(IMAGES, how)
    assert seen.shape == IMAGES.shape
    assert seen.dtype == torch.uint8
    assert torch.equal(IMAGES, before)
    assert not torch.equal(seen, IMAGES)
    assert torch.equal(seen, treat(IMAGES, how))


def test_strengths_that_do_nothing() -> None:
    for text in ("noise 0", "resize 1", "blur 0", "shift 0", "bits 8"):
        assert torch.equal(treat(IMAGES, Treatment.parse(text)), IMAGES), text


@given(st.integers(1, 8))
@settings(max_examples=8, deadline=None)
def test_bits_leave_that_many_levels(bits: int) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert len(treat(ramp, Treatment("bits", bits)).unique()) == 2**bits


def test_a_shift_moves_right_and_down_and_repeats_the_border() -> None:
    moved = treat(IMAGES, Treatment("shift", 3))
    assert torch.equal(moved[..., 3:, 3:], IMAGES[..., :-3, :-3])
    assert torch.equal(moved[..., :3, 3:], IMAGES[..., :1, :-3].expand(-1, -1, 3, -1))


def test_jpeg_is_pillows() -> None:
    image = IMAGES[0].permute(1, 2, 0).numpy()
    worse, better = (
        np.abs(treat(IMAGES[:1], Treatment("jpeg", q))[0].permute(1, 2, 0).numpy().astype(int) - image).mean()
        for q in (30, 90)
    )
    assert worse > better
    grey = treat(IMAGES[:1, :1], Treatment("jpeg", 50))
    assert grey.shape == (1, 1, 16, 16)
    with pytest.raises(ConfigError, match="channels"):
        treat(IMAGES[:1, :2], Treatment("jpeg", 50))
    assert Image.fromarray(image).size == (16, 16)


def test_noise_has_the_stated_deviation() -> None:
    grey = torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = treat(grey, Treatment("noise", 0.1)).float() / 255
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.03)
    assert not torch.equal(treat(grey, Treatment("noise", 0.1), seed=1).float() / 255, noisy)


@pytest.mark.parametrize("text", ["jpg 50", "jpeg", "jpeg high", "jpeg 0", "bits 9", "noise -1", "noise nan", ""])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Treatment.parse(text)


def test_a_treated_suspect_says_so_and_keeps_its_marks() -> None:
    suspect = record(nn.Flatten(), Lineage("child", "probe", marks=("a mark",)))
    served = treated(suspect, Treatment("bits", 1))
    assert set(served(IMAGES).unique().tolist()) == {0, 255}
    assert lineage_of(served).marks == ("a mark",)
    assert lineage_of(served).parents[0].name == "child"
