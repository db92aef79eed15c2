import torch

from heredity.core.randomness import Draws, generator_of
from heredity.data.augment import Augmentation, augment

IMAGES = torch.randint(256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PLAIN = Augmentation(scale=(1.0, 1.0), brightness=0.0, contrast=0.0)
STRONG = Augmentation(flip=0.5, rotate=15.0, saturation=0.4, grey=0.2, noise=0.02, aspect=1.3)


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(augment(IMAGES, PLAIN, Draws(generator_of(1))), IMAGES)


def test_always_flipping_mirrors() -> None:
    flipped = augment(
        IMAGES, Augmentation(scale=(1.0, 1.0), brightness=0.0, contrast=0.0, flip=1.0), Draws(generator_of(1))
    )
    assert (flipped.int() - IMAGES.flip(-1).int()).abs().max() <= 1


def test_the_same_seed_gives_the_same_views_and_another_does_not() -> None:
    first, again, other = (augment(IMAGES, STRONG, Draws(generator_of(seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8


def test_samples_get_views_of_their_own() -> None:
    same = IMAGES[:1].expand(8, -1, -1, -1)
    views = augment(same, STRONG, Draws(generator_of(3)))
    assert len({bytes(view.numpy().tobytes()) for view in views}) == 8


def test_grey_views_have_equal_channels() -> None:
    grey = augment(
        IMAGES, Augmentation(scale=(1.0, 1.0), brightness=0, contrast=0, grey=1.0, jitter=1.0), Draws(generator_of(0))
    )
    assert (grey[:, 0].int() - grey[:, 2].int()).abs().max() <= 1
