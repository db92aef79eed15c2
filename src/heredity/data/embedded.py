"""Real images that installed packages carry: nothing is downloaded."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.labelled import ImageSource, LabelledImages, labelled, resize, split

# Colour photographs that lie in the scikit-image wheel (others are fetched on first use, and are not named here).
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
    "ihc.png",
)
SAMPLES = ("china.jpg", "flower.jpg")
_HELD_OUT = 497 / 1797


def digits(size: int | None, seed: int) -> ImageSource:
    """scikit-learn's 1797 scanned digits, 8 x 8 grey, resized (16 pixels unless told), as RGB: 1300 to train, 497 held out.

    The file lists digits by writer; they are shuffled by the seed, stratified by class.
    """
    flat, targets = load_digits(return_X_y=True)
    grey = torch.tensor(flat * (255 / 16)).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    names = tuple(str(digit) for digit in range(10))
    whole = labelled(grey, torch.tensor(targets), names, name="digits", size=size or 16)
    train, test = split(whole, _HELD_OUT, generator_of("digits", seed))
    return ImageSource(train, test, f"digits ({len(train.labels)} + {len(test.labels)} rows)")


def photos(size: int | None, seed: int, *, tiles: int = 200) -> ImageSource:
    """Tiles of bundled colour photographs; the label is the photograph.

    Training tiles come from the left half of each photograph, test tiles from the right; tiles do not overlap. At most
    `tiles` of a photograph's half are used, chosen by the seed, so that large photographs do not dominate.
    """
    side = size or 32
    parts: dict[str, tuple[list[Tensor], list[int]]] = {"train": ([], []), "test": ([], [])}
    pictures = photographs()
    for label, pixels in enumerate(pictures.values()):
        middle = pixels.shape[1] // 2
        halves = {"train": pixels[:, :middle], "test": pixels[:, middle:]}
        for part, half in halves.items():
            cut = _tiles(half, side)
            order = torch.randperm(len(cut), generator=generator_of("photos", seed, label, part))
            keep = cut[order[: tiles if part == "train" else tiles // 4]]
            parts[part][0].append(keep)
            parts[part][1].extend([label] * len(keep))
    names = tuple(pictures)

    def gather(part: str) -> LabelledImages:
        images, labels = torch.cat(parts[part][0]), torch.tensor(parts[part][1])
        order = torch.randperm(len(labels), generator=generator_of("photos", seed, part))
        return labelled(images[order], labels[order], names, name="photos", size=side)

    train, test = gather("train"), gather("test")
    return ImageSource(train, test, f"photos ({len(train.labels)} + {len(test.labels)} tiles)")


def photographs() -> dict[str, np.ndarray]:
    """Bundled photographs by name, H x W x 3 uint8. Raises DataError when an installed version no longer carries one."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    found = {}
    for file in PHOTOGRAPHS:
        if not (folder / file).is_file():
            raise DataError(f"scikit-image no longer carries {file}", remedy="install scikit-image 0.25 or 0.26")
        with Image.open(folder / file) as picture:
            found[file.split(".")[0]] = np.asarray(picture.convert("RGB"))
    for file in SAMPLES:
        found[file.split(".")[0]] = np.asarray(load_sample_image(file))
    return found


def _tiles(pixels: np.ndarray, side: int) -> Tensor:
    """Non-overlapping square tiles, at a scale that makes the photograph's shorter side 12 tiles."""
    scale = max(1, min(pixels.shape[0], pixels.shape[1] * 2) // (12 * side))
    step = side * scale
    rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
    cut = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    tiles = torch.tensor(cut.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, step, step).copy())
    # A tile of one colour (the border of the retina, the night sky) says nothing, and would lie in both halves.
    varied = tiles.flatten(1).float().std(dim=1) > 2.0
    return resize(tiles[varied], side)
