"""Folders of pictures: ImageFolder, Tiny-ImageNet and GTSRB as they lie on disk."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.labelled import ImageSource, LabelledImages, labelled, split

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_MAX_PIXELS = 64_000_000
Listed = list[tuple[Path, int]]


def image_folder(directory: Path, *, size: int | None, seed: int, skip_corrupt: bool) -> ImageSource:
    """`train/<class>/*` with `test/` or `val/<class>/*`; or `<class>/*` alone, split 80/20 by the seed, stratified."""
    trained = directory / "train"
    held = next((directory / name for name in ("test", "val", "valid") if (directory / name).is_dir()), None)
    if not trained.is_dir():
        classes = class_folders(directory)
        whole, skipped = read_pictures(listed_pictures(directory, classes), classes, directory.name, size, skip_corrupt)
        train, test = split(whole, 0.2, generator_of("imagefolder", seed))
        return ImageSource(train, test, _caption(directory, train, test), skipped)
    if held is None:
        raise DataError(
            f"{directory} has train/ but neither test/ nor val/", remedy="add one, or give one level of class folders"
        )
    classes = class_folders(trained)
    annotations = held / "val_annotations.txt"
    later = _annotated(annotations, classes) if annotations.is_file() else listed_pictures(held, classes)
    train, skipped = read_pictures(listed_pictures(trained, classes), classes, directory.name, size, skip_corrupt)
    test, more = read_pictures(later, classes, directory.name, size, skip_corrupt)
    return ImageSource(train, test, _caption(directory, train, test), (*skipped, *more))


def _caption(directory: Path, train: LabelledImages, test: LabelledImages) -> str:
    return f"{directory.name} ({len(train.labels)} + {len(test.labels)} pictures, {len(train.classes)} classes)"


def class_folders(directory: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted. Raises DataError when there are none."""
    if not directory.is_dir():
        raise DataError(f"no folder {directory}", remedy="check the path after imagefolder:")
    found = sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{directory} has no class folders", remedy="it must hold one folder of pictures per class")
    return tuple(found)


def listed_pictures(directory: Path, classes: Sequence[str]) -> Listed:
    """Picture files with their class's number, class by class. Raises DataError when there are none."""
    listed: Listed = []
    for label, name in enumerate(classes):
        folder = directory / name
        inner = folder / "images" if (folder / "images").is_dir() else folder
        if inner.is_dir():
            listed += [(path, label) for path in sorted(inner.iterdir()) if path.suffix.lower() in ENDINGS]
    if not listed:
        raise DataError(f"{directory} holds no pictures", remedy=f"known endings: {', '.join(sorted(ENDINGS))}")
    return listed


def _annotated(annotations: Path, classes: Sequence[str]) -> Listed:
    """Tiny-ImageNet's validation part: `file<TAB>class<TAB>box`."""
    numbers = {name: label for label, name in enumerate(classes)}
    listed: Listed = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        file, _, rest = line.partition("\t")
        name = rest.split("\t")[0]
        if name not in numbers:
            raise DataError(
                f"{annotations}, line {number}: class {name!r} has no training folder", remedy="complete train/"
            )
        listed.append((annotations.parent / "images" / _plain_name(file, annotations), numbers[name]))
    return listed


def _plain_name(file: str, named_in: Path) -> str:
    if not file or file != Path(file).name or file in ("..", "."):
        raise DataError(
            f"{named_in}: {file!r} is not a plain file name", remedy="the annotation file is damaged or hostile"
        )
    return file


def gtsrb(directory: Path, *, size: int | None, seed: int, skip_corrupt: bool) -> ImageSource:
    """GTSRB as published: `Final_Training/Images/000cc/*.ppm`; split by track, since frames of a track are near copies."""
    folder = directory / "GTSRB" if (directory / "GTSRB").is_dir() else directory
    trained = folder / "Final_Training" / "Images"
    if not trained.is_dir():
        raise DataError(
            f"{directory} holds no Final_Training/Images", remedy="unpack GTSRB_Final_Training_Images.zip there"
        )
    classes = class_folders(trained)
    listed = listed_pictures(trained, classes)
    answers = folder / "GT-final_test.csv"
    if answers.is_file():
        train_list, test_list = listed, _gtsrb_test(folder / "Final_Test" / "Images", answers, len(classes))
    else:
        train_list, test_list = _by_track(listed, seed)
    train, skipped = read_pictures(train_list, classes, "gtsrb", size or 32, skip_corrupt)
    test, more = read_pictures(test_list, classes, "gtsrb", size or 32, skip_corrupt)
    return ImageSource(train, test, _caption(directory, train, test), (*skipped, *more))


def _gtsrb_test(images: Path, answers: Path, classes: int) -> Listed:
    with answers.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    listed: Listed = []
    for number, row in enumerate(rows, start=2):
        label = (row.get("ClassId") or "").strip()
        if not label.isdigit() or int(label) >= classes:
            raise DataError(f"{answers}, line {number}: field ClassId is {label!r}", remedy="use the published file")
        listed.append((images / _plain_name(row.get("Filename") or "", answers), int(label)))
    return listed


def _by_track(listed: Listed, seed: int) -> tuple[Listed, Listed]:
    train: Listed = []
    test: Listed = []
    for label in sorted({label for _, label in listed}):
        frames = [path for path, own in listed if own == label]
        tracks = sorted({path.name.split("_")[0] for path in frames})
        order = torch.randperm(len(tracks), generator=generator_of("gtsrb", seed, label)).tolist()
        held = {tracks[position] for position in order[: max(1, len(tracks) // 5)]} if len(tracks) > 1 else set()
        for path in frames:
            (test if path.name.split("_")[0] in held else train).append((path, label))
    return train, test


def read_pictures(
    listed: Listed, classes: Sequence[str], name: str, size: int | None, skip_corrupt: bool
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Decode pictures of any mode to RGB of one size (shorter side, then centre crop).

    Raises DataError naming the first file that cannot be decoded, unless corrupt files shall be skipped; and when pictures
    differ in size and no `size` is given.
    """
    pictures, labels, corrupt = [], [], []
    for path, label in listed:
        try:
            pictures.append(decode(path, size))
            labels.append(label)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            corrupt.append(f"{path}: {str(error)[:100]}")
    if corrupt and not skip_corrupt:
        raise DataError(
            f"{len(corrupt)} of {len(listed)} pictures cannot be read, first {corrupt[0]}",
            remedy="mend or remove them, or add --skip-corrupt",
        )
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        raise DataError(f"pictures of {name} differ in size: {sorted(sizes)[:2]}", remedy="set --size")
    if not pictures:
        raise DataError(f"{name} holds no readable pictures", remedy="check the folder")
    images = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2)
    return labelled(images, torch.tensor(labels), tuple(classes), name=name, size=size), tuple(corrupt)


def decode(path: Path, size: int | None) -> np.ndarray:
    """One picture of any mode as H x W x 3 uint8, its shorter side scaled to `size` and the centre cut out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
            if picture.mode.startswith("I") or picture.mode == "F":
                values = np.asarray(picture, dtype=np.float64)
                scale = 257.0 if values.max() > 255 else 1.0
                colour = Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
            else:
                colour = picture.convert("RGB")
            if size is None:
                return np.asarray(colour)
            factor = size / min(colour.size)
            scaled = colour.resize((max(size, round(colour.width * factor)), max(size, round(colour.height * factor))))
            left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
            return np.asarray(scaled.crop((left, top, left + size, top + size)))
