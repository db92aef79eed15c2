"""Pictures asked for by row, from memory or from files that are too many for it; with labels, or without."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.folders import ENDINGS, class_folders, decode, listed_pictures
from heredity.data.images import load_images

_IN_MEMORY = 2 * 2**30
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Pictures:
    """uint8 RGB pictures of one size, asked for by row numbers: from memory, or decoded from files when they are wanted.

    `skipped` names files that were left out, with the reason.

    >>> pictures = Pictures(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    >>> len(pictures), pictures[torch.tensor([4, 4])].shape
    (5, torch.Size([2, 3, 8, 8]))
    """

    memory: UInt8[Tensor, "n c h w"] | None = None
    files: tuple[Path, ...] = ()
    size: int = 0
    skipped: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.files) if self.memory is None else len(self.memory)

    def chosen(self, rows: Int[Tensor, "m"]) -> "Pictures":
        """Some rows, in that order."""
        if self.memory is not None:
            return Pictures(self.memory[rows], size=self.size)
        return Pictures(files=tuple(self.files[row] for row in rows.tolist()), size=self.size)

    def __getitem__(self, rows: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch c h w"]:
        if self.memory is not None:
            return self.memory[rows.cpu()].to(rows.device)
        with ThreadPoolExecutor(max_workers=8) as pool:
            pictures = list(pool.map(lambda row: decode(self.files[row], self.size), rows.tolist()))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(rows.device)


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with a class number each, and the classes' names."""

    pictures: Pictures
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]

    def chosen(self, rows: Int[Tensor, "m"]) -> "LabelledPictures":
        """Some rows, in that order."""
        return LabelledPictures(self.pictures.chosen(rows), self.labels[rows], self.classes)


def unlabelled(source: str, *, size: int, seed: int = 0, skip_corrupt: bool = False) -> Pictures:
    """Pictures of a folder (with or without sub-folders), or the training part of an image source, without its labels.

    Pictures of any mode become RGB: the shorter side is scaled to `size`, then the centre is cut out. Folders that would take
    more than 2 GiB stay on disk. Raises DataError for an empty folder, and for pictures that cannot be decoded, naming the
    first; with `skip_corrupt` they are left out and named in `skipped`.
    """
    place = Path(source).expanduser()
    if not place.is_dir():
        if ":" in source or source in ("digits", "photos"):
            return labelled_pictures(source, size=size, seed=seed, skip_corrupt=skip_corrupt)[0].pictures
        raise DataError(f"no folder {place}", remedy="give a folder of pictures, or a source of heredity data")
    listed = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    return read(listed, place, size=size, skip_corrupt=skip_corrupt)[0]


def labelled_pictures(
    source: str, *, size: int, seed: int = 0, skip_corrupt: bool = False
) -> tuple[LabelledPictures, LabelledPictures]:
    """Training and test part of an image source; a folder too large for memory stays on disk.

    Raises DataError as `load_images` does.
    """
    kind, _, place = source.partition(":")
    directory = Path(place).expanduser()
    held = next((directory / name for name in ("val", "test", "valid") if (directory / name).is_dir()), None)
    on_disk = kind == "imagefolder" and (directory / "train").is_dir() and held is not None
    if not on_disk or held is None or (held / "val_annotations.txt").is_file():
        found = load_images(source, size=size, seed=seed, skip_corrupt=skip_corrupt)
        train, test = (
            LabelledPictures(Pictures(part.images, size=size, skipped=found.skipped), part.labels, part.classes)
            for part in (found.train, found.test)
        )
        return train, test
    classes = class_folders(directory / "train")
    return (
        labelled_folder(directory / "train", classes, size=size, skip_corrupt=skip_corrupt),
        labelled_folder(held, classes, size=size, skip_corrupt=skip_corrupt),
    )


def labelled_folder(
    directory: Path, classes: tuple[str, ...] | None = None, *, size: int, skip_corrupt: bool = False
) -> LabelledPictures:
    """One level of class folders. Raises DataError for a class folder that is not among `classes`, if these are given."""
    present = class_folders(directory)
    known = classes or present
    strange = sorted(set(present) - set(known))
    if strange:
        raise DataError(
            f"{directory} has a class {strange[0]!r} that was not trained on", remedy="give the classes of train/"
        )
    listed = listed_pictures(directory, known)
    pictures, good = read([path for path, _ in listed], directory, size=size, skip_corrupt=skip_corrupt)
    return LabelledPictures(pictures, torch.tensor([label for _, label in listed])[good], known)


def balanced(labels: Int[Tensor, "n"], each: int, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Rows with `each` of every class that has so many, chosen by the seed, and all other rows, shuffled."""
    order = torch.randperm(len(labels), generator=generator_of(seed, name))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        chosen[order[labels[order] == label][:each]] = True
    return order[chosen[order]], order[~chosen[order]]


def read(listed: list[Path], place: Path, *, size: int, skip_corrupt: bool) -> tuple[Pictures, Tensor]:
    """Pictures of some files, and the numbers of those that could be read. Raises DataError as `unlabelled` does."""
    if not listed:
        raise DataError(f"{place} holds no pictures", remedy=f"known endings: {', '.join(sorted(ENDINGS))}")
    in_memory = len(listed) * 3 * size * size <= _IN_MEMORY
    with ThreadPoolExecutor(max_workers=8) as pool:
        looked = list(pool.map(lambda path: _look(path, size if in_memory else None), listed))
    corrupt = tuple(f"{path}: {said}" for path, said in zip(listed, looked, strict=True) if isinstance(said, str))
    if corrupt and not skip_corrupt:
        raise DataError(
            f"{len(corrupt)} of {len(listed)} pictures cannot be read, first {corrupt[0]}",
            remedy="mend or remove them, or add --skip-corrupt",
        )
    good = [number for number, found in enumerate(looked) if not isinstance(found, str)]
    if not good:
        raise DataError(f"{place} holds no readable pictures", remedy="check the folder")
    if in_memory:
        whole = torch.from_numpy(np.stack([np.asarray(looked[number]) for number in good])).permute(0, 3, 1, 2)
        return Pictures(whole.contiguous(), size=size, skipped=corrupt), torch.tensor(good)
    return Pictures(files=tuple(listed[number] for number in good), size=size, skipped=corrupt), torch.tensor(good)


def _look(path: Path, size: int | None) -> "np.ndarray | str":
    """The picture where it shall stay in memory, else an empty array after a check; or what is wrong with it."""
    try:
        if size is not None:
            return decode(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                picture.verify()
        return np.empty(0)
    except _UNREADABLE as error:
        return str(error)[:100]
