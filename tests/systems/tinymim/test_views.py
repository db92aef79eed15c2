from dataclasses import replace

import pytest
import torch

from heredity.core.errors import ConfigError
from heredity.core.randomness import Draws, generator_of
from heredity.data.pictures import Pictures
from heredity.systems.tinymim.views import COLOURS, Views, check_cacheable, recoloured, shifted, view

IMAGES = torch.randint(256, (3, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PICTURES = Pictures(IMAGES, size=6)


def draws(step: int = 0) -> Draws:
    return Draws(generator_of(step))


def test_nine_shifts_repeat_edges() -> None:
    every = shifted(IMAGES[:1].expand(9, -1, -1, -1), torch.arange(9), 1)
    assert torch.equal(every[4], IMAGES[0])
    for number, (down, right) in enumerate([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]):
        for y in range(6):
            for x in range(6):
                source = IMAGES[0, :, min(5, max(0, y + down)), min(5, max(0, x + right))]
                assert torch.equal(every[number, :, y, x], source)


def test_finite_views_are_the_same_whoever_asks() -> None:
    for how in (Views(shift=1), Views(fixed=3)):
        rows = torch.arange(3 * how.count)
        whole = view(PICTURES, rows, how, draws(0), seed=1)
        assert torch.equal(view(PICTURES, rows[[7, 2]], how, draws(1), seed=1), whole[[7, 2]])
        check_cacheable(how)
    assert not torch.equal(view(PICTURES, torch.tensor([0]), Views(fixed=3), draws(), seed=2), whole[:1])
    with pytest.raises(ConfigError, match="drawn anew"):
        check_cacheable(Views())


def test_only_the_students_colours_change() -> None:
    strong = replace(COLOURS, brightness=0.4)
    seen = recoloured(IMAGES, Views(colour=strong), draws())
    assert not torch.equal(seen, IMAGES)
    assert torch.equal(recoloured(IMAGES, Views(colour=None), draws()), IMAGES)
    # Without colour changes the "view" is the picture itself: no geometry is left in it.
    still = replace(strong, brightness=0.0, contrast=0.0, saturation=0.0)
    assert (recoloured(IMAGES, Views(colour=still), draws()).int() - IMAGES.int()).abs().max() <= 1
