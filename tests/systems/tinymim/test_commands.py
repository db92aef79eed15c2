"""The verbs on pictures of one's own: a folder of every mode, a teacher in a file, and what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command import heredity, said
from PIL import Image

from heredity.core.errors import ConfigError, DataError, HeredityError, ModelError, RunError
from heredity.core.lineage import Lineage, read_lineage, record, save_model
from heredity.data.images import make_source
from heredity.nn.encoders import Classifier, EncoderShape, Normalised, ResidualEncoder, make_encoder
from heredity.nn.resolver import load_file
from heredity.systems.tinymim.commands import distil, evaluate, export, finetune
from heredity.systems.tinymim.encoders import untrained

SHAPE = "vit:width=16,depth=3,heads=2,patch=4"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's file, labelled pictures, and a folder with pictures of every mode."""
    folder = tmp_path_factory.mktemp("verbs")
    torch.manual_seed(0)
    teacher = untrained(EncoderShape(kind="vit", width=24, patch=4, depth=4, heads=4), 16)
    save_model(folder / "teacher.safetensors", record(teacher, Lineage("teacher", "a test")))
    make_source("digits", folder / "digits", rows=40)
    mixed = folder / "mixed" / "deeper"
    mixed.mkdir(parents=True)
    random = np.random.default_rng(0)
    colour = random.integers(256, size=(20, 24, 3), dtype=np.uint8)
    Image.fromarray(colour).save(mixed / "rgb.png")
    Image.fromarray(colour).convert("L").save(mixed / "grey.png")
    Image.fromarray(colour).convert("RGBA").save(mixed / "rgba.png")
    Image.fromarray(colour).convert("CMYK").save(mixed / "cmyk.jpg")
    Image.fromarray(colour).convert("P").save(mixed / "palette.gif")
    Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(mixed / "deep.png")
    return folder


def test_from_a_folder_to_a_classifier(place: Path) -> None:
    student, child = place / "student.safetensors", place / "child.safetensors"
    teacher = f"file:{place / 'teacher.safetensors'}"
    told = distil(
        teacher, SHAPE, str(place / "mixed"), student, size=16, steps=2, batch=4, views=2, cache=place / "targets"
    )
    assert "pictures 6" in told
    assert "qk" in told
    assert (place / "targets/targets-00000.safetensors").exists()
    assert not (place / "student.safetensors.run").exists()
    lineage = read_lineage(student)
    assert lineage.made_by == "TinyMIM (relations)"
    assert lineage.parents[0].name == "teacher"
    assert load_file(student, image=16).inner.blocks[-1].attn.num_heads == 4  # pyright: ignore
    data = f"imagefolder:{place / 'digits'}"
    told = finetune(str(student), data, child, steps=2, batch=8)
    assert "10 held-out pictures, 10 classes" in told
    share = told.partition(" %")[0]
    assert evaluate(child, place / "digits/test").startswith(f"{share} % of 10 pictures")
    assert "10 pictures" in evaluate(child, place / "digits/test", variant="a")
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    told = export(child, place / "child.onnx")
    assert "onnxruntime differs from torch" in told
    assert (place / "child.onnx").stat().st_size > 10_000


def test_through_an_assistant(place: Path) -> None:
    out = place / "sequential.safetensors"
    distil(
        f"file:{place / 'teacher.safetensors'}",
        SHAPE,
        f"imagefolder:{place / 'digits'}",
        out,
        assistant="vit:width=20,depth=4,heads=4,patch=4",
        size=16,
        steps=1,
        batch=4,
    )
    lineage = read_lineage(out)
    assert lineage.parents[0].name == "assistant"
    assert lineage.parents[0].parents[0].name == "teacher"


def test_a_distillation_that_was_interrupted_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heredity.core.run import FitSlot

    words = (f"file:{place / 'teacher.safetensors'}", SHAPE, str(place / "mixed"))
    distil(*words, place / "whole.safetensors", size=16, steps=4, batch=4)
    tick = FitSlot.tick

    def killed(self: FitSlot, step: int, losses: dict[str, float]) -> None:
        tick(self, step, losses)
        self._last = -1e9
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FitSlot, "tick", killed)
        with pytest.raises(KeyboardInterrupt):
            distil(*words, place / "again.safetensors", size=16, steps=4, batch=4)
    assert (place / "again.safetensors.run").is_dir()
    with pytest.raises(RunError, match=r"begun with .*remove .*again\.safetensors\.run"):
        distil(*words, place / "again.safetensors", size=16, steps=5, batch=4)
    distil(*words, place / "again.safetensors", size=16, steps=4, batch=4)
    assert read_lineage(place / "again.safetensors").content == read_lineage(place / "whole.safetensors").content


def test_corrupt_pictures_are_counted_named_and_skipped_only_when_asked(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("one", "two"):
        Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "one.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    words = (f"file:{place / 'teacher.safetensors'}", SHAPE, str(folder), tmp_path / "s.safetensors")
    with pytest.raises(DataError, match=r"2 of 4 pictures cannot be read, first .*broken\.png.*--skip-corrupt"):
        distil(*words, size=16, steps=1, batch=2)
    told = distil(*words, size=16, steps=1, batch=2, skip_corrupt=True)
    assert "pictures 2, 2 unreadable ones left out" in told
    assert len((tmp_path / "s.safetensors.skipped.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"images": "nowhere"}, DataError, "no folder nowhere"),
        ({"images": "empty"}, DataError, "holds no pictures"),
        ({"teacher": "conv.safetensors"}, ModelError, "no attention that can be read"),
        ({"teacher": "missing.safetensors"}, ModelError, "no file"),
        ({"student": "vit_tinny"}, HeredityError, "vit_tinny"),
        ({"student": "resnet18"}, ModelError, "no attention that can be read"),
        ({"student": "vit:width=18,depth=2,heads=2,patch=4"}, ModelError, "18 cannot be split into 4 teacher heads"),
        (
            {"student": "vit:width=16,depth=2,heads=2,patch=8"},
            ModelError,
            "grid of 2 x 2 patches and the teacher of 4 x 4",
        ),
        ({"block": 5}, ModelError, "no block 5 in a model of 4 blocks"),
        ({"adapt": "relation-heads", "relation_heads": 5}, ModelError, "cannot be split into 5 relation heads"),
        ({"masked": 1.5}, ConfigError, "masked cannot be 1.5"),
        ({"cache": "there"}, ConfigError, "drawn anew cannot be cached"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    conv = record(make_encoder(EncoderShape(width=8), 16), Lineage("c", "a test"))
    save_model(tmp_path / "conv.safetensors", conv)
    options: dict[str, Any] = {
        "teacher": "teacher.safetensors",
        "student": SHAPE,
        "images": str(place / "mixed"),
    } | changes
    teacher = options.pop("teacher")
    source = place if teacher == "teacher.safetensors" else tmp_path
    if options["images"] == "empty":
        options["images"] = str(tmp_path / "empty")
    if "cache" in options:
        options["cache"] = tmp_path / "cache"
    with pytest.raises(error, match=says) as found:
        distil(teacher=f"file:{source / teacher}", out=tmp_path / "s.safetensors", size=16, steps=1, batch=2, **options)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.glob("s.safetensors*"))


def test_evaluation_refuses_what_it_cannot_tell(place: Path, tmp_path: Path) -> None:
    encoder = make_encoder(EncoderShape(kind="vit", width=16, patch=4, depth=2, heads=2), 16)
    model = record(Classifier(encoder, features=16, classes=2), Lineage("c", "a test"))
    save_model(tmp_path / "c.safetensors", model)
    with pytest.raises(DataError, match=r"c\.safetensors\.classes\.txt"):
        evaluate(tmp_path / "c.safetensors", place / "digits/test")
    (tmp_path / "c.safetensors.classes.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match="class '2' that was not trained on"):
        evaluate(tmp_path / "c.safetensors", place / "digits/test")
    for corruption in ("fog", "snow"):
        for severity in range(1, 6):
            for name in "01":
                folder = tmp_path / "C" / corruption / str(severity) / name
                folder.mkdir(parents=True)
                Image.fromarray(np.full((16, 16, 3), 40 * severity, np.uint8)).save(folder / "x.png")
    told = evaluate(tmp_path / "c.safetensors", tmp_path / "C", variant="c")
    assert "mean corruption error (unnormalised) 50.0 %" in told
    assert "needs all 15 corruptions" in told
    save_model(tmp_path / "bare.safetensors", Normalised(ResidualEncoder(width=8)))
    with pytest.raises(ConfigError, match="does not say the size"):
        evaluate(tmp_path / "bare.safetensors", tmp_path / "C")


def test_the_command_line_says_errors_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"nothing")
    assert "not opened" in said(heredity("import", "tinymim", tmp_path / "x.pth"))
