import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heredity.core.errors import HeredityError
from heredity.systems.ssl_wm.mark.keys import KeyParameters, random_patches
from heredity.systems.ssl_wm.mark.trigger import place, stamp_all, stamp_each

GENERATOR = torch.Generator().manual_seed(0)


def test_the_published_place() -> None:
    """Official code: rows H-2-8 to H-2 of a 32-pixel image, and the same columns."""
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    patch = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    stamped = stamp_all(images, patch, KeyParameters())[0, 0, 0]
    rows, columns = stamped.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 29, 22, 29)


@given(side=st.integers(1, 15), margin=st.integers(0, 16), scale=st.sampled_from([0.5, 1, 2, 3.5, 7]))
def test_only_the_patch_changes_at_any_size(side: int, margin: int, scale: float) -> None:
    shape = KeyParameters(patch=side, margin=margin, reference_size=32)
    images = torch.randint(256, (3, 3, int(32 * scale), int(32 * scale)), generator=GENERATOR, dtype=torch.uint8)
    first, width = place(shape, images.shape[-1])
    assert first >= 0
    assert first + width <= images.shape[-1]
    stamped = stamp_all(images, random_patches(2, shape, GENERATOR), shape)
    outside = torch.ones_like(images[0, 0], dtype=torch.bool)
    outside[first : first + width, first : first + width] = False
    assert torch.equal(stamped[..., outside], images.expand(2, -1, -1, -1, -1)[..., outside])
    inside = stamped[..., ~outside]
    assert torch.equal(inside[:, :1].expand_as(inside), inside)


def test_stamping_each_is_the_diagonal_of_stamping_all() -> None:
    shape = KeyParameters(patch=5, margin=1, reference_size=16)
    images = torch.randint(256, (4, 3, 16, 16), generator=GENERATOR, dtype=torch.uint8)
    patches = random_patches(4, shape, GENERATOR)
    before = images.clone()
    every = stamp_all(images, patches, shape)
    assert torch.equal(stamp_each(images, patches, shape), every[torch.arange(4), torch.arange(4)])
    assert torch.equal(images, before)
    assert torch.equal(every[2, 1, :, 10:15, 10:15], patches[2])


def test_what_does_not_fit_is_refused() -> None:
    shape = KeyParameters()
    patches = random_patches(1, shape, GENERATOR)
    with pytest.raises(HeredityError, match="1 channels, the key is for 3"):
        stamp_all(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), patches, shape)
    with pytest.raises(Exception, match="square ones"):
        stamp_all(torch.zeros(1, 3, 32, 30, dtype=torch.uint8), patches, shape)
