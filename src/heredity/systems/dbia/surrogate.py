"""Surrogate pictures: any photographs of another domain than the victim's. Their labels are never looked at."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.folders import ENDINGS, read_pictures
from heredity.data.images import load_images
from heredity.data.labelled import resize

FEW = 100


@dataclass(frozen=True)
class Surrogate:
    """All that the attack is given besides the victim's weights: pictures to train on, and others to judge by."""

    images: UInt8[Tensor, "n 3 size size"]
    held_out: UInt8[Tensor, "m 3 size size"]
    name: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before trusting what was made from so little."""
        few = len(self.images) < FEW
        return (f"only {len(self.images)} surrogate pictures: {FEW} or more are usual",) if few else ()


def load_surrogate(source: str, *, size: int, rows: int, held_out: int = 300, seed: int = 0) -> Surrogate:
    """Pictures of any image source (see `heredity data`), or random square crops of the pictures below a folder.

    `pictures:DIR` takes any folder, however its pictures lie; a fifth of its files is held out. Other sources give their
    training part to the attack and their test part for judging. Raises DataError for a source without pictures.
    """
    kind, _, place = source.partition(":")
    if kind == "pictures":
        images, held = _crops(Path(place).expanduser(), size, rows, held_out, seed)
    else:
        found = load_images(source, size=size, seed=seed)
        images, held = found.train.images, found.test.images
    draw = generator_of(seed, "surrogate", source)
    return surrogate_of(
        images[torch.randperm(len(images), generator=draw)[:rows]],
        held[torch.randperm(len(held), generator=draw)[:held_out]],
        source,
    )


def surrogate_of(images: Tensor, held_out: Tensor, name: str) -> Surrogate:
    """Checked surrogate pictures. Raises DataError for none, for another type, or for pictures that are not RGB."""
    for part, pictures in (("surrogate", images), ("held-out surrogate", held_out)):
        if len(pictures) == 0:
            raise DataError(f"{name}: there are no {part} pictures", remedy="give photographs of any other domain")
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise DataError(
                f"{name}: {part} pictures are {pictures.dtype} of shape {tuple(pictures.shape)}",
                remedy="give uint8 RGB, n x 3 x height x width",
            )
    return Surrogate(images, held_out, name)


def _crops(folder: Path, size: int, rows: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", remedy="pictures:DIR takes a folder with pictures somewhere below it")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if len(files) < 2:
        raise DataError(f"{folder} holds {len(files)} pictures", remedy="give at least two: one is held out")
    order = torch.randperm(len(files), generator=generator_of(seed, "surrogate files")).tolist()
    held = max(1, len(files) // 5)
    parts = {"held out": (order[:held], held_out), "train": (order[held:], rows)}
    cut = {
        name: _cut([files[row] for row in chosen], size, wanted, seed, name) for name, (chosen, wanted) in parts.items()
    }
    return cut["train"], cut["held out"]


def _cut(files: list[Path], size: int, wanted: int, seed: int, part: str) -> Tensor:
    """So many square crops, from a third of the shorter side to all of it, each resized with antialias."""
    draw = generator_of(seed, "surrogate crops", part)
    files = files[:wanted]
    each = -(-wanted // len(files))
    crops = []
    for file in files:
        whole = read_pictures([(file, 0)], ("picture",), str(file), None, skip_corrupt=False)[0]
        height, width = whole.images.shape[2:]
        for _ in range(each):
            share, down, across = torch.rand(3, generator=draw).tolist()
            side = max(1, round(min(height, width) * (1 / 3 + 2 / 3 * share)))
            top, left = round(down * (height - side)), round(across * (width - side))
            crops.append(resize(whole.images[:, :, top : top + side, left : left + side], size))
    return torch.cat(crops)[:wanted]


def blended_backgrounds(
    images: UInt8[Tensor, "n 3 h w"], *, groups: int, per_group: int, generator: torch.Generator
) -> Float[Tensor, "groups 3 h w"]:
    """Pixel-wise means of a few pictures each, in [0, 1]: contents without one salient object (spec, section 2.1).

    >>> blended_backgrounds(torch.full((4, 3, 2, 2), 51, dtype=torch.uint8), groups=2, per_group=2,
    ...                     generator=torch.Generator()).unique()
    tensor([0.2000])
    """
    if len(images) < per_group:
        raise DataError(f"{len(images)} surrogate pictures cannot be blended by {per_group}", remedy="give more")
    chosen = torch.stack([torch.randperm(len(images), generator=generator)[:per_group] for _ in range(groups)])
    return images[chosen].float().mean(dim=1) / 255.0


def varied(images: UInt8[Tensor, "n 3 h w"], *, generator: torch.Generator) -> UInt8[Tensor, "n 3 h w"]:
    """One variation of each picture: half of them grey, half inverted, all with the contrast between one and six times usual.

    Photographs are soft and colourful; a victim of scanned digits or drawings never saw such. Pictures of every contrast keep
    more of a foreign victim's behaviour in place, whatever its task is, and ask nothing about it.
    """

    def draw(low: float = 0.0, high: float = 1.0) -> Float[Tensor, "n 1 1 1"]:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    unit = images.float() / 255.0
    unit = torch.where(draw() < 0.5, unit.mean(dim=1, keepdim=True).expand_as(unit), unit)
    brightness = unit.mean(dim=1).flatten(1)
    ranked = brightness.sort(dim=1).values
    place = (draw(0.3, 0.9)[:, 0, 0] * (ranked.shape[1] - 1)).long()
    pivot = ranked.gather(1, place)[:, :, None, None]
    spread = brightness.std(dim=1)[:, None, None, None].clamp(min=0.02)
    unit = (0.5 + 0.125 * 6.0 ** draw() * (unit - pivot) / spread).clamp(0, 1)
    unit = torch.where(draw() < 0.5, 1.0 - unit, unit)
    return (255.0 * unit).round().to(torch.uint8)


def drawn_shapes(count: int, size: int, *, generator: torch.Generator) -> UInt8[Tensor, "n 3 size size"]:
    """Generated pictures: two to five soft, bent strokes of one colour and one width on another colour, anywhere.

    Photographs hold textures everywhere; drawings, scans and signs hold few lines on plain ground. Made of nothing but random
    numbers, they keep a victim's behaviour in place where photographs do not reach.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    # Quadratic Bezier curves through three random points, each as 20 of its points; unwanted ones lie far away.
    begin, bend, end = draw(5, 1, 2), draw(5, 1, 2), draw(5, 1, 2)
    along = torch.linspace(0, 1, 20)[:, None]
    curve = (1 - along).square() * begin + 2 * along * (1 - along) * bend + along.square() * end
    wanted = torch.arange(5)[:, None, None] < 2 + (4 * draw(1, 1, 1)).long()
    points = torch.where(wanted, curve, torch.full_like(curve, 10.0)).flatten(1, 2)
    width = 0.03 + 0.12 * draw(1, 1, 1)
    # Distances are smooth: a coarse map of them, enlarged, is as good, and every pixel to every point would take long.
    side = min(size, 32)
    axis = torch.linspace(0, 1, side)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
    near = [torch.cdist(pixels.expand(len(part), -1, -1), part).amin(dim=2) for part in points.split(256)]
    away = torch.cat(near).unflatten(1, (1, side, side))
    if side < size:
        away = F.interpolate(away, size=(size, size), mode="bilinear", align_corners=True)
    ink = torch.exp(-((away / width) ** 2))
    ground, colour = draw(3, 1, 1), draw(3, 1, 1)
    grey = draw(1, 1, 1) < 0.5
    ground, colour = (torch.where(grey, one[:, :1].expand_as(one), one) for one in (ground, colour))
    plain = draw(1, 1, 1) < 0.5
    ground, colour = (
        torch.where(plain, (ground > 0.5).float(), ground),
        torch.where(plain, (ground <= 0.5).float(), colour),
    )
    return (255 * (ground * (1 - ink) + colour * ink)).round().to(torch.uint8)
