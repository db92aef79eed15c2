import io
import json
import os
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heredity.core.errors import DataError
from heredity.data.images import SOURCES, check_source, load_images, make_source
from heredity.data.published import read_idx

WRITTEN = {
    "imagefolder": "imagefolder",
    "cifar10": "cifar10",
    "cifar10-python": "cifar10",
    "cifar100": "cifar100",
    "stl10": "stl10",
    "idx": "idx",
    "gtsrb": "gtsrb",
    "npz": "npz",
}


@pytest.mark.parametrize(("layout", "kind"), WRITTEN.items())
def test_every_layout_that_is_written_is_read_back(tmp_path: Path, layout: str, kind: str) -> None:
    make_source(layout, tmp_path / "made", rows=40)
    found = load_images(f"{kind}:{tmp_path / 'made'}", size=16)
    assert len(found.train.images) == 40
    assert found.train.images.dtype == torch.uint8
    assert found.train.images.shape[1:] == (3, 16, 16)
    assert set(found.train.labels.tolist()) <= set(range(len(found.train.classes)))
    assert len(found.test.images) > 0
    assert "ready" in check_source(f"{kind}:{tmp_path / 'made'}")


def test_pixels_survive_the_lossless_layouts(tmp_path: Path) -> None:
    pixels = {}
    for layout in ("cifar10", "cifar10-python", "npz"):
        make_source(layout, tmp_path / layout, rows=30, seed=3)
        pixels[layout] = load_images(f"{WRITTEN[layout]}:{tmp_path / layout}").train.images
    assert torch.equal(pixels["cifar10"], pixels["cifar10-python"])


def test_digits_split_without_overlap_and_by_seed() -> None:
    first, again, other = (load_images("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert len(first.train.labels) + len(first.test.labels) == 1797
    assert torch.bincount(first.test.labels).min() > 30


def test_what_comes_class_by_class_is_shuffled_and_nothing_else(tmp_path: Path) -> None:
    """A detector that takes the first hundred rows of a folder would otherwise see one class."""
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3

    def read(order: np.ndarray, seed: int) -> tuple[torch.Tensor, list[int]]:
        for part in ("train", "test"):
            np.savez(tmp_path / f"{part}.npz", images=images[order], labels=labels[order])
        found = load_images(f"npz:{tmp_path}", seed=seed)
        assert found.train.labels.tolist() == found.test.labels.tolist()
        return found.train.images, found.train.labels.tolist()

    by_class, as_it_is = np.argsort(labels, kind="stable"), np.arange(60)
    pictures, told = read(by_class, 0)
    assert len(set(told[:15])) == 3
    assert (told, sorted(told)) == (read(by_class, 0)[1], sorted(labels.tolist()))
    assert told != read(by_class, 1)[1]
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [known[image.permute(1, 2, 0).contiguous().numpy().tobytes()] for image in pictures] == told
    assert read(as_it_is, 0)[1] == labels.tolist()


def test_photograph_tiles_come_from_disjoint_halves() -> None:
    found = load_images("photos", size=32)
    assert len(found.train.classes) >= 5
    train = {bytes(image.numpy().tobytes()) for image in found.train.images}
    assert not any(bytes(image.numpy().tobytes()) in train for image in found.test.images)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "digits"),
        ("digits:here", "does not name a source"),
        ("cifar10", "write cifar10:DIR"),
        ("imagefolder:/nowhere/at/all", "no folder"),
        ("", "unknown data source"),
    ],
)
def test_a_wrong_source_names_the_remedy(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(source)


@pytest.mark.parametrize("kind", [name.partition(":")[0] for name in SOURCES if ":" in name])
def test_an_empty_folder_is_refused_with_the_layout(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError) as caught:
        load_images(f"{kind}:{tmp_path}")
    assert "\n" not in str(caught.value)


def folder(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((20, 24, 3), 10 * number, np.uint8)).save(root / name / f"{number}.png")
    return root


def test_a_corrupt_picture_is_named_or_skipped(tmp_path: Path) -> None:
    folder(tmp_path / "d", cats=8, dogs=8)
    (tmp_path / "d/cats/broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match=r"broken\.png"):
        load_images(f"imagefolder:{tmp_path / 'd'}", size=16)
    found = load_images(f"imagefolder:{tmp_path / 'd'}", size=16, skip_corrupt=True)
    assert len(found.train.images) + len(found.test.images) == 16
    assert "broken.png" in found.skipped[0]


def test_modes_become_rgb(tmp_path: Path) -> None:
    folder(tmp_path / "d", a=6, b=6)
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "d/a/sixteen.png")
    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(tmp_path / "d/a/grey.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(tmp_path / "d/a/alpha.png")
    Image.new("CMYK", (20, 20)).save(tmp_path / "d/a/cmyk.jpg")
    Image.new("P", (20, 20)).save(tmp_path / "d/a/palette.gif")
    assert load_images(f"imagefolder:{tmp_path / 'd'}", size=16).train.images.shape[1] == 3


def test_one_class_is_warned_about(tmp_path: Path) -> None:
    assert "one class only" in check_source(f"imagefolder:{folder(tmp_path / 'd', only=12)}")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def test_a_pickle_in_place_of_cifar_runs_nothing(tmp_path: Path) -> None:
    make_source("cifar10-python", tmp_path / "made", rows=30)
    batch = next((tmp_path / "made").rglob("data_batch_1"))
    batch.write_bytes(pickle.dumps({b"data": Harmful(), b"labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"mkdir|data_batch_1"):
        load_images(f"cifar10:{tmp_path / 'made'}")
    assert not Path("harmed").exists()


def test_a_pickle_inside_npz_runs_nothing(tmp_path: Path) -> None:
    harmful = np.empty(1, dtype=object)
    harmful[0] = Harmful()
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", images=harmful, labels=np.zeros(1, int))
    with pytest.raises(DataError):
        load_images(f"npz:{tmp_path}")
    assert not Path("harmed").exists()


def test_labels_outside_their_range_are_refused(tmp_path: Path) -> None:
    make_source("cifar10", tmp_path / "made", rows=30)
    batch = next((tmp_path / "made").rglob("data_batch_1.bin"))
    content = bytearray(batch.read_bytes())
    content[0] = 77
    batch.write_bytes(content)
    with pytest.raises(DataError, match=r"outside 0\.\.9"):
        load_images(f"cifar10:{tmp_path / 'made'}")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    make_source("cifar10", tmp_path / "made", rows=30)
    batch = next((tmp_path / "made").rglob("data_batch_1.bin"))
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match="not whole CIFAR records"):
        load_images(f"cifar10:{tmp_path / 'made'}")


@given(st.binary(max_size=64), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_any_bytes_as_idx_give_a_tensor_or_a_clear_error(content: bytes, dimensions: int) -> None:
    path = Path("fuzzed.idx")
    path.write_bytes(content)
    try:
        found = read_idx(path, dimensions=dimensions)
    except DataError:
        return
    assert found.ndim == dimensions


def test_an_idx_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    path.write_bytes(struct.pack(">I3I", 0x803, 2**31 - 1, 2**31 - 1, 28))
    with pytest.raises(DataError, match="promises"):
        read_idx(path, dimensions=3)


def test_annotations_cannot_leave_their_folder(tmp_path: Path) -> None:
    make_source("gtsrb", tmp_path / "made", rows=60)
    answers = next((tmp_path / "made").rglob("GT-final_test.csv"))
    lines = answers.read_text().splitlines()
    cells = lines[1].split(";")
    cells[0] = "../../secret.ppm"
    answers.write_text("\n".join([lines[0], ";".join(cells), *lines[2:]]))
    with pytest.raises(DataError, match="not a plain file name"):
        load_images(f"gtsrb:{tmp_path / 'made'}", size=16)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "d", a=6, b=6)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (30_000, 30_000)).save(buffer, format="PNG")
    (tmp_path / "d/a/bomb.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"bomb\.png"):
        load_images(f"imagefolder:{tmp_path / 'd'}", size=16)


@pytest.mark.parametrize(
    ("source", "rows", "classes"),
    [("cifar10:cifar10-subset", 6000, 10), ("npz:gtsrb", 3010, 43), ("idx:mnist", 7000, 10)],
)
def test_real_files_are_read(real_data: Path, source: str, rows: int, classes: int) -> None:
    kind, _, name = source.partition(":")
    found = load_images(f"{kind}:{real_data / name}")
    assert len(found.train.labels) == rows
    assert len(torch.unique(found.train.labels)) == classes
    assert json.dumps(found.train.classes)
