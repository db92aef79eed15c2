from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heredity.core.errors import DataError
from heredity.data import pictures
from heredity.data.pictures import Pictures, balanced, labelled_folder, labelled_pictures, unlabelled


def folder(place: Path, parts: tuple[str, ...] = ("train", "val"), classes: str = "ab", each: int = 3) -> Path:
    random = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (place / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(256, size=(10, 14, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / part / name / f"{number}.png")
    return place


def test_pictures_on_disk_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    train, test = labelled_pictures(f"imagefolder:{tmp_path}", size=8)
    monkeypatch.setattr(pictures, "_IN_MEMORY", 0)
    lazy, _ = labelled_pictures(f"imagefolder:{tmp_path}", size=8)
    assert lazy.pictures.memory is None
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(lazy.pictures[rows], train.pictures[rows])
    assert torch.equal(lazy.chosen(rows).pictures[torch.tensor([1])], train.pictures[torch.tensor([0])])
    assert len(lazy.pictures) == len(test.pictures) == 6
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.classes == ("a", "b")


def test_a_broken_file_on_disk_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    broken = tmp_path / "train/a/1.png"
    broken.write_bytes(broken.read_bytes()[:80])
    for limit in (0, 2**30):
        monkeypatch.setattr(pictures, "_IN_MEMORY", limit)
        with pytest.raises(DataError, match=r"1 of 12 pictures cannot be read, first .*1\.png"):
            unlabelled(str(tmp_path), size=8)
        found = unlabelled(str(tmp_path), size=8, skip_corrupt=True)
        assert len(found) == 11
        assert found.skipped[0].startswith(str(broken))


def test_labels_follow_what_could_be_read(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train/a/0.png").write_bytes(b"")
    found = labelled_folder(tmp_path / "train", size=8, skip_corrupt=True)
    assert found.labels.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(DataError, match="a class 'b' that was not trained on"):
        labelled_folder(tmp_path / "val", ("a", "c"), size=8)


def test_the_labelled_rows_are_balanced_and_the_others_are_the_rest() -> None:
    labels = torch.tensor([0, 1] * 10 + [1] * 20)
    rows, others = balanced(labels, 4, seed=0, name="x")
    assert labels[rows].bincount().tolist() == [4, 4]
    assert sorted(rows.tolist() + others.tolist()) == list(range(40))
    assert not torch.equal(balanced(labels, 4, seed=1, name="x")[0].sort().values, rows.sort().values)


def test_places_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        unlabelled(str(tmp_path / "nowhere"), size=8)
    with pytest.raises(DataError, match="holds no pictures"):
        unlabelled(str(tmp_path), size=8)
    assert len(Pictures(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))) == 2
