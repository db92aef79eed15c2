"""Published binary layouts: CIFAR, STL-10, the MNIST family, and npz. Files are hostile until they are checked."""

import gzip
import io
import zipfile
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heredity.core.errors import DataError

_MAX_BYTES = 8 * 2**30
Part = tuple[Tensor, Tensor]


def cifar(directory: Path, classes: int) -> dict[str, Any]:
    """CIFAR-10 or CIFAR-100, binary or python batches: {"train": (images, labels), "test": ..., "classes": names}."""
    binary = {10: ("data_batch_*.bin", "test_batch.bin"), 100: ("train.bin", "test.bin")}[classes]
    python = {10: ("data_batch_[1-5]", "test_batch"), 100: ("train", "test")}[classes]
    for folder in (
        directory,
        *(directory / f"cifar-{classes}-{kind}" for kind in ("batches-bin", "batches-py", "binary", "python")),
    ):
        for patterns, read in ((binary, _cifar_binary), (python, _cifar_python)):
            found = [sorted(path for path in folder.glob(pattern) if path.is_file()) for pattern in patterns]
            if all(found):
                train, test = ([read(path, classes) for path in paths] for paths in found)
                return {"train": _joined(train), "test": _joined(test), "classes": _cifar_names(folder, classes)}
    raise DataError(
        f"{directory} holds no CIFAR-{classes} batches",
        remedy=f"it must hold {binary[0]} and {binary[1]}, or {python[0]} and {python[1]}",
    )


def _joined(parts: list[Part]) -> Part:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _cifar_names(folder: Path, classes: int) -> tuple[str, ...]:
    listed = folder / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")
    names = listed.read_text(encoding="utf-8", errors="replace").split() if listed.is_file() else []
    return tuple(names) if len(names) == classes else tuple(str(number) for number in range(classes))


def _cifar_binary(path: Path, classes: int) -> Part:
    labels = 1 if classes == 10 else 2
    content = _bytes(path)
    if not content or len(content) % (labels + 3072):
        raise DataError(f"{path}: {len(content)} bytes are not whole CIFAR records", remedy="the file is damaged")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, labels + 3072)
    return _checked(records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1].long(), classes, path)


class _ArraysOnly(Unpickler):
    """Reads the published batches, which are pickles, and admits nothing but what an array of bytes needs."""

    _ADMITTED = frozenset(
        [
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        ]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _cifar_python(path: Path, classes: int) -> Part:
    try:
        batch = _ArraysOnly(io.BytesIO(_bytes(path)), encoding="bytes").load()
        pixels, labels = batch[b"data"], batch[b"labels" if classes == 10 else b"fine_labels"]
    except DataError:
        raise
    except Exception as error:
        problem = f"{path} is not a CIFAR batch: {str(error)[:120]}"
        raise DataError(problem, remedy="use the published files, or the binary version") from error
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"{path}: field 'data' is not n x 3072 bytes", remedy="use the published files")
    if not isinstance(labels, list) or len(labels) != len(pixels) or any(type(label) is not int for label in labels):
        raise DataError(f"{path}: field 'labels' is not one number per image", remedy="use the published files")
    return _checked(torch.tensor(pixels).reshape(-1, 3, 32, 32), torch.tensor(labels), classes, path)


def _checked(images: Tensor, labels: Tensor, classes: int, path: Path) -> Part:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"{path}: a label is outside 0..{classes - 1}", remedy="the file is damaged or of another set")
    return images, labels


def stl10(directory: Path) -> dict[str, Any]:
    """STL-10 binary: 96 x 96 planes stored column by column, labels 1..10."""
    folder = directory / "stl10_binary" if (directory / "stl10_binary").is_dir() else directory
    found: dict[str, Any] = {"classes": tuple(str(number) for number in range(10))}
    for part in ("train", "test"):
        content, labels = _bytes(folder / f"{part}_X.bin"), _bytes(folder / f"{part}_y.bin")
        if not content or len(content) % (3 * 96 * 96) or len(content) // (3 * 96 * 96) != len(labels):
            raise DataError(f"{folder / part}_X.bin and _y.bin do not match", remedy="use the published binary files")
        images = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3, 96, 96).transpose(2, 3)
        numbers = torch.frombuffer(bytearray(labels), dtype=torch.uint8).long() - 1
        found[part] = _checked(images, numbers, 10, folder / f"{part}_y.bin")
    return found


def idx(directory: Path) -> dict[str, Any]:
    """The MNIST family: `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, plain or gzipped, also below `<Name>/raw`."""
    for folder in (directory, directory / "raw", *sorted(directory.glob("*/raw"))):
        if any(folder.glob("train-images-idx3-ubyte*")):
            break
    else:
        raise DataError(f"{directory} holds no train-images-idx3-ubyte[.gz]", remedy="give the folder of the idx files")
    found: dict[str, Any] = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(_plain_or_gzip(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_plain_or_gzip(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
        found[part] = (images[:, None], labels.long())
    classes = int(max(found["train"][1].max(), found["test"][1].max())) + 1
    return found | {"classes": tuple(str(number) for number in range(classes))}


def _plain_or_gzip(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} lacks {name}[.gz]", remedy="copy all four idx files there")


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """One idx file of bytes with so many dimensions. Raises DataError for another magic number, or sizes that do not fit."""
    content = _bytes(path)
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path} is not an idx file of bytes with {dimensions} dimensions", remedy="use the published files"
        )
    sizes = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(dimensions)]
    expected = 1
    for size in sizes:
        expected *= size
    if expected != len(content) - header or expected == 0:
        raise DataError(
            f"{path}: the header promises {sizes}, the file holds {len(content) - header} bytes", remedy="copy it again"
        )
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(sizes)


def npz(path: Path) -> dict[str, Any]:
    """`train.npz` and `test.npz` in a folder, each with `images` uint8 [n,h,w,3] or [n,h,w] and integer `labels`."""
    found: dict[str, Any] = {}
    for part in ("train", "test"):
        file = path / f"{part}.npz"
        arrays = _arrays(file)
        images, labels = arrays.get("images"), arrays.get("labels")
        if (
            images is None
            or images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or images.shape[3:] not in ((), (1,), (3,))
        ):
            raise DataError(
                f"{file}: field 'images' is not uint8 [n,h,w] or [n,h,w,3]", remedy="save it so with numpy.savez"
            )
        if labels is None or labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise DataError(
                f"{file}: field 'labels' is not one integer per image", remedy="save it so with numpy.savez"
            )
        pixels = torch.tensor(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
        found[part] = (pixels, torch.tensor(labels.astype(np.int64)))
    classes = int(max(found["train"][1].max(), found["test"][1].max())) + 1
    return found | {"classes": tuple(str(number) for number in range(classes))}


def _arrays(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError(f"no file {file}", remedy="npz:DIR needs train.npz and test.npz there")
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise DataError(f"{file} unpacks to more than {_MAX_BYTES >> 30} GB", remedy="give a smaller file")
        with np.load(file, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in ("images", "labels") if name in loaded}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DataError(f"{file} is not a readable npz: {error}", remedy="save it with numpy.savez") from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES >> 30} GB", remedy="give the published file")
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"no file {path}", remedy="copy the published files there") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="copy it again") from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path} unpacks to more than {_MAX_BYTES >> 30} GB", remedy="give the published file")
    return content
