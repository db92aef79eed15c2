"""Image sources by name: what is embedded, and what users have on disk."""

from dataclasses import replace
from pathlib import Path

import torch

from heredity.core.errors import DataError, suggestion
from heredity.core.randomness import generator_of
from heredity.data import embedded, folders, published
from heredity.data.labelled import ImageSource, LabelledImages, labelled
from heredity.data.write_images import WRITERS, make_source

SOURCES = {
    "digits": "1797 real scanned digits, embedded (scikit-learn)",
    "photos": "tiles of nine real photographs, embedded (scikit-image, scikit-learn); label = photograph",
    "imagefolder:DIR": "train/<class>/* and test/ or val/<class>/*; or <class>/* alone; Tiny-ImageNet's layout too",
    "cifar10:DIR": "data_batch_*.bin and test_batch.bin, or the python batches",
    "cifar100:DIR": "train.bin and test.bin, or the python batches",
    "stl10:DIR": "train_X.bin, train_y.bin, test_X.bin, test_y.bin",
    "idx:DIR": "MNIST, Fashion-MNIST, KMNIST: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
    "gtsrb:DIR": "Final_Training/Images/000cc/*.ppm, with Final_Test/Images and GT-final_test.csv where there",
    "npz:DIR": "train.npz and test.npz, each with images uint8 [n,h,w,3] and integer labels [n]",
}


def list_sources() -> list[tuple[str, str]]:
    """Names of all sources with what they are or the layout they need."""
    return list(SOURCES.items())


def knows(source: str) -> bool:
    """Whether this module reads or writes a source of that name."""
    kind = source.partition(":")[0]
    return kind in WRITERS or kind in {name.partition(":")[0] for name in SOURCES}


def load_images(source: str, *, size: int | None = None, seed: int = 0, skip_corrupt: bool = False) -> ImageSource:
    """Read a source into memory as uint8 RGB images of `size` pixels (its own size unless told).

    `seed` splits and shuffles what has no published split, and shuffles what comes class by class: detectors and repairs look
    at the first few hundred rows. Raises DataError naming file, field and remedy.

    >>> load_images("digits").train.images.shape
    torch.Size([1300, 3, 16, 16])
    """
    found = _read(source, size, seed, skip_corrupt)
    return replace(found, train=_mixed(found.train, seed), test=_mixed(found.test, seed))


def _mixed(part: LabelledImages, seed: int) -> LabelledImages:
    if bool((part.labels.diff() < 0).any()):
        return part
    return part.rows(torch.randperm(len(part.labels), generator=generator_of(seed, "order of the classes")))


def _read(source: str, size: int | None, seed: int, skip_corrupt: bool) -> ImageSource:
    kind, colon, place = source.partition(":")
    known = {name.partition(":")[0]: ":" in name for name in SOURCES}
    if kind not in known:
        raise DataError(f"unknown data source {source!r}", remedy=suggestion(kind, known))
    if known[kind] != bool(place) or (colon and not place):
        wanted = next(name for name in SOURCES if name.partition(":")[0] == kind)
        raise DataError(f"{source!r} does not name a source", remedy=f"write {wanted}")
    if kind == "digits":
        return embedded.digits(size, seed)
    if kind == "photos":
        return embedded.photos(size, seed)
    directory = Path(place).expanduser()
    if not directory.exists():
        raise DataError(f"no folder {directory}", remedy=f"{kind} needs {SOURCES[f'{kind}:DIR']}")
    if not directory.is_dir():
        raise DataError(f"{directory} is a file, not a folder", remedy=f"{kind} needs {SOURCES[f'{kind}:DIR']}")
    if kind == "imagefolder":
        return folders.image_folder(directory, size=size, seed=seed, skip_corrupt=skip_corrupt)
    if kind == "gtsrb":
        return folders.gtsrb(directory, size=size, seed=seed, skip_corrupt=skip_corrupt)
    if kind in ("cifar10", "cifar100"):
        found = published.cifar(directory, int(kind[5:]))
    else:
        found = {"stl10": published.stl10, "idx": published.idx, "npz": published.npz}[kind](directory)
    name = f"{kind} {directory.name}"
    train, test = (
        labelled(found[part][0], found[part][1], found["classes"], name=name, size=size) for part in ("train", "test")
    )
    return ImageSource(train, test, f"{name} ({len(train.labels)} + {len(test.labels)} rows)")


def check_source(source: str) -> str:
    """Read a source and describe it: rows, size, classes, and how many images each class has."""
    found = load_images(source, size=None if source.partition(":")[0] not in ("imagefolder", "gtsrb") else 32)
    lines = [f"{found.caption}: ready"]
    for title, part in (("training", found.train), ("test", found.test)):
        counts = torch.bincount(part.labels, minlength=len(part.classes)).tolist()
        lines.append(
            f"  {title:<9} {len(part.labels)} images of {part.images.shape[-1]} pixels, {len(part.classes)} classes"
        )
        shown = [f"{name} {count}" for name, count in zip(part.classes, counts, strict=True)]
        lines.append("            " + ", ".join(shown[:12]) + (" ..." if len(shown) > 12 else ""))
    if sum(bool(count) for count in torch.bincount(found.train.labels).tolist()) < 2:
        lines.append("  warning   one class only: no downstream task can be trained on it")
    lines += [f"  skipped   {line}" for line in found.skipped[:5]]
    return "\n".join(lines)


__all__ = ["ImageSource", "LabelledImages", "check_source", "knows", "list_sources", "load_images", "make_source"]
