"""Writing small sets in published layouts, from embedded images: readers and writers test each other."""

import gzip
from collections.abc import Callable
from pathlib import Path
from pickle import dumps

import numpy as np
from PIL import Image

from heredity.core.errors import DataError, suggestion
from heredity.core.files import write_bytes, write_text
from heredity.data import embedded
from heredity.data.labelled import ImageSource, LabelledImages, resize


def make_source(source: str, directory: Path, *, rows: int = 200, seed: int = 0) -> str:
    """Write `digits` or `photos` as an ImageFolder, or photograph tiles in the layout a name says; returns a description.

    Layouts: imagefolder, cifar10, cifar10-python, cifar100, stl10, idx, gtsrb, npz. `rows` training images and a quarter as
    many test images are written. Raises DataError when the folder is not empty.
    """
    if source not in WRITERS:
        raise DataError(f"no generated set {source!r}", remedy=suggestion(source, WRITERS))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is not an empty folder", remedy="choose another")
    content = embedded.digits(None, seed) if source in ("digits", "idx") else embedded.photos(32, seed)
    train, test = _evenly(content.train, rows), _evenly(content.test, max(1, rows // 4))
    written = WRITERS[source](ImageSource(train, test, content.caption), directory)
    return f"{directory}: {len(train.labels)} + {len(test.labels)} images; read it as {written}:{directory}"


def _evenly(data: LabelledImages, rows: int) -> LabelledImages:
    """The first rows, class after class in turn, so that a small set has every class."""
    if not 0 < rows <= len(data.labels):
        raise DataError(f"cannot take {rows} of {len(data.labels)} rows", remedy="choose another --rows")
    by_class = [np.flatnonzero(data.labels.numpy() == label).tolist() for label in range(len(data.classes))]
    turns = [found[turn] for turn in range(max(map(len, by_class))) for found in by_class if turn < len(found)]
    return data.rows(data.labels.new_tensor(turns[:rows]))


def _hwc(data: LabelledImages) -> np.ndarray:
    return data.images.permute(0, 2, 3, 1).numpy()


def _write_folder(source: ImageSource, directory: Path) -> str:
    for part, data in (("train", source.train), ("test", source.test)):
        for number, (pixels, label) in enumerate(zip(_hwc(data), data.labels.tolist(), strict=True)):
            _picture(directory / part / data.classes[label] / f"{number:05d}.png", pixels)
    return "imagefolder"


def _picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _records(data: LabelledImages, labels: int) -> bytes:
    planes = data.images.reshape(len(data.labels), -1).numpy()
    heads = np.repeat(data.labels.numpy().astype(np.uint8)[:, None], labels, axis=1)
    return np.concatenate([heads, planes], axis=1).tobytes()


def _write_cifar10(source: ImageSource, directory: Path) -> str:
    for number, rows in enumerate(np.array_split(np.arange(len(source.train.labels)), 5), start=1):
        part = source.train.rows(source.train.labels.new_tensor(rows.tolist()))
        write_bytes(directory / f"data_batch_{number}.bin", _records(part, 1))
    write_bytes(directory / "test_batch.bin", _records(source.test, 1))
    return "cifar10"


def _write_cifar100(source: ImageSource, directory: Path) -> str:
    write_bytes(directory / "train.bin", _records(source.train, 2))
    write_bytes(directory / "test.bin", _records(source.test, 2))
    return "cifar100"


def _write_cifar10_python(source: ImageSource, directory: Path) -> str:
    for name, data in (("data_batch_1", source.train), ("test_batch", source.test)):
        batch = {b"data": data.images.reshape(len(data.labels), -1).numpy(), b"labels": data.labels.tolist()}
        write_bytes(directory / name, dumps(batch, protocol=2))
    return "cifar10"


def _write_stl10(source: ImageSource, directory: Path) -> str:
    for part, data in (("train", source.train), ("test", source.test)):
        columns_first = resize(data.images, 96).transpose(2, 3).contiguous()
        write_bytes(directory / f"{part}_X.bin", columns_first.numpy().tobytes())
        write_bytes(directory / f"{part}_y.bin", (data.labels + 1).numpy().astype(np.uint8).tobytes())
    return "stl10"


def _write_idx(source: ImageSource, directory: Path) -> str:
    for prefix, data in (("train", source.train), ("t10k", source.test)):
        grey = resize(data.images, 28)[:, 0].numpy()
        sizes = b"".join(size.to_bytes(4, "big") for size in grey.shape)
        count = len(grey).to_bytes(4, "big")
        write_bytes(
            directory / f"{prefix}-images-idx3-ubyte.gz",
            gzip.compress(b"\0\0\x08\x03" + sizes + grey.tobytes(), mtime=0),
        )
        labels = data.labels.numpy().astype(np.uint8).tobytes()
        write_bytes(
            directory / f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01" + count + labels, mtime=0)
        )
    return "idx"


def _write_gtsrb(source: ImageSource, directory: Path) -> str:
    frames: dict[int, int] = {}
    for pixels, label in zip(_hwc(source.train), source.train.labels.tolist(), strict=True):
        number = frames[label] = frames.get(label, -1) + 1
        track, frame = divmod(number, 5)
        _picture(directory / "Final_Training" / "Images" / f"{label:05d}" / f"{track:05d}_{frame:05d}.ppm", pixels)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, (pixels, label) in enumerate(zip(_hwc(source.test), source.test.labels.tolist(), strict=True)):
        _picture(directory / "Final_Test" / "Images" / f"{number:05d}.ppm", pixels)
        lines.append(f"{number:05d}.ppm;32;32;0;0;31;31;{label}")
    write_text(directory / "GT-final_test.csv", "\n".join(lines) + "\n")
    return "gtsrb"


def _write_npz(source: ImageSource, directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    for part, data in (("train", source.train), ("test", source.test)):
        np.savez_compressed(directory / f"{part}.npz", images=_hwc(data), labels=data.labels.numpy())
    return "npz"


WRITERS: dict[str, Callable[[ImageSource, Path], str]] = {
    "digits": _write_folder,
    "photos": _write_folder,
    "imagefolder": _write_folder,
    "cifar10": _write_cifar10,
    "cifar10-python": _write_cifar10_python,
    "cifar100": _write_cifar100,
    "stl10": _write_stl10,
    "idx": _write_idx,
    "gtsrb": _write_gtsrb,
    "npz": _write_npz,
}
