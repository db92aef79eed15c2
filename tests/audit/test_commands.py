"""`heredity scan` and `heredity repair` as users meet them, bad input above all."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from heredity.audit import calibration
from heredity.audit.calibration import SCANNERS, shipped_threshold
from heredity.audit.mend import REPAIRS
from heredity.audit.models import load_image_set, open_model
from heredity.audit.scan import filters_for
from heredity.core.lineage import lineage_of, read_lineage, save_model
from heredity.data.images import load_images
from heredity.nn.classifiers import TransformerShape, make_transformer
from heredity.nn.encoders import Classifier, make_encoder

from .conftest import SHAPE, Call


def complaint(found: tuple[int, str, str]) -> str:
    """The one line of a command that could not do its work."""
    code, output, errors = found
    lines = [line for line in errors.splitlines() if line.startswith("heredity: ")]
    assert code == 1, errors
    assert output == ""
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def test_a_scan_states_a_rate_for_every_verdict(call: Call, classifier: Path) -> None:
    code, output, _ = call("scan", classifier, "--data", "digits", "--inputs", "digits", "--json", "--quiet")
    found = json.loads(output)
    assert code == (3 if found["flagged"] else 0)
    rows = {row["detector"]: row for row in found["detectors"]}
    assert {*SCANNERS, "strip", "beatrix", "outlier"} == set(rows)
    assert found["flagged"] == any(row["flagged"] for row in rows.values())
    for row in rows.values():
        assert row["flagged"] is None or 0 < row["false_positive_rate"] < 0.5
        assert row["flagged"] == (None if row["score"] is None else row["score"] > row["threshold"])
    assert rows["neural-cleanse"]["threshold"] == -0.01
    assert rows["neural-cleanse"]["threshold_from"] == "19 clean models made up for this test"
    again = json.loads(call("scan", classifier, "--data", "digits", "--inputs", "digits", "--json", "--quiet")[1])
    for row in (*found["detectors"], *again["detectors"]):
        row.pop("seconds")
    assert again == found


def test_a_scan_for_people_names_what_it_did_not_ask(call: Call, classifier: Path) -> None:
    _, output, errors = call("scan", classifier, "--data", "digits")
    assert "strip" in output
    assert "give some with --inputs" in output
    assert "false-positive rate" in output
    assert "asking neural-cleanse" in errors


def test_thresholds_from_clean_models_made_for_the_scan(
    call: Call, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = replace(calibration.LEARNING, plan=replace(calibration.LEARNING.plan, epochs=1))
    monkeypatch.setattr(calibration, "LEARNING", brief)
    monkeypatch.setattr(calibration, "SCANNERS", {"neuron-stimulation": SCANNERS["neuron-stimulation"]})
    monkeypatch.setattr("heredity.audit.scan.SCANNERS", {"neuron-stimulation": SCANNERS["neuron-stimulation"]})
    _, output, _ = call("scan", classifier, "--data", "digits", "--calibrate", 2, "--json", "--quiet")
    row = json.loads(output)["detectors"][0]
    assert row["false_positive_rate"] == pytest.approx(1 / 3)
    assert "2 clean models of this architecture" in row["threshold_from"]


def test_mntd_learns_from_shadows_made_for_the_scan(
    call: Call, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heredity.audit.scan.FITTED", 60)
    monkeypatch.setattr("heredity.audit.scan.SCANNERS", {})
    code, output, _ = call("scan", classifier, "--data", "digits", "--shadows", 4, "--json", "--quiet")
    row = json.loads(output)["detectors"][0]
    assert row["detector"] == "mntd"
    assert row["false_positive_rate"] == 0.5
    assert row["flagged"] == (row["score"] > row["threshold"]) == (code == 3)
    assert "four or more" in complaint(call("scan", classifier, "--data", "digits", "--shadows", 2, "--quiet"))


def test_without_clean_models_on_file_nobody_knows_how_often_a_verdict_is_wrong(
    call: Call, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "shipped", lambda: {"models": "none", "scores": {}})
    code, output, _ = call("scan", classifier, "--data", "digits", "--json", "--quiet")
    assert code == 0
    for row in json.loads(output)["detectors"][: len(SCANNERS)]:
        assert row["flagged"] is None
        assert row["false_positive_rate"] is None
        assert row["threshold"] == row["measures"]["published threshold"]
        assert row["score"] == row["measures"]["published score"]
        assert "no verdict before --calibrate" in row["threshold_from"]


def test_the_clean_models_on_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content: Any = json.loads(files("heredity.audit").joinpath("clean_models.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(calibration, "shipped", lambda: content)
    assert set(content["scores"]) <= {*SCANNERS, "activation-clustering"}
    assert content["models"]
    for name in content["scores"]:
        known = shipped_threshold(name)
        assert known is not None
        threshold, models = known
        assert threshold.false_positive_rate == pytest.approx(1 / (threshold.clean + 1))
        assert threshold.clean >= 10
        assert str(threshold.clean) in models


def test_an_encoder_is_asked_through_decree_alone(call: Call, tmp_path: Path) -> None:
    save_model(tmp_path / "encoder.safetensors", make_encoder(SHAPE, 8))
    assert "no classification head" in complaint(call("scan", tmp_path / "encoder.safetensors", "--data", "digits"))
    _, output, _ = call("scan", tmp_path / "encoder.safetensors", "--data", "digits", "--encoder", "--json", "--quiet")
    [row] = json.loads(output)["detectors"]
    assert row["detector"] == "decree"
    assert row["false_positive_rate"] is None


def test_filters_on_attention_are_for_transformers() -> None:
    vit = make_transformer(TransformerShape(width=16, depth=1, heads=2), image=16, classes=3)
    net = Classifier(make_encoder(SHAPE, 8), features=16, classes=3)
    assert set(filters_for(vit)) - set(filters_for(net)) == {
        "attention-blocking",
        "patch-drop",
        "attention-concentration",
    }


def image_set(path: Path, images: Tensor, labels: Tensor) -> Path:
    save_file({"images": images.contiguous(), "labels": labels.contiguous()}, path)
    return path


def test_a_training_set_is_scanned_for_pixels_samples_and_what_it_teaches(call: Call, tmp_path: Path) -> None:
    digits = load_images("digits", size=8).train
    outside = digits.images[:60].float() / 255
    outside[0, :, :2, :2] = 1.7
    path = image_set(tmp_path / "set.safetensors", outside, digits.labels[:60])
    code, output, _ = call("scan", path, "--json", "--quiet")
    rows = {row["detector"]: row for row in json.loads(output)["detectors"]}
    assert code == 3
    assert rows["pixel-range"]["flagged"]
    assert rows["pixel-range"]["score"] == pytest.approx(12 / outside.numel())
    assert {"activation-clustering", "spectral-signatures", *SCANNERS} < set(rows)
    assert rows["activation-clustering"]["flagged"] is None
    assert "samples in a class" in rows["activation-clustering"]["note"]


def test_bytes_and_grey_images_are_image_sets_too(tmp_path: Path) -> None:
    grey = torch.randint(0, 256, (6, 1, 5, 5), dtype=torch.uint8)
    found = load_image_set(str(image_set(tmp_path / "set.safetensors", grey, torch.arange(6))))
    assert found.images.shape == (6, 3, 5, 5)
    assert found.outside == 0
    assert torch.equal(found.images[:, :1], grey.float() / 255)


IMAGES, LABELS = torch.rand(6, 3, 8, 8), torch.arange(6) % 3


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (IMAGES[0], LABELS, "'images' has shape (3, 8, 8)"),
        (IMAGES[:, :2], LABELS, "'images' has shape (6, 2, 8, 8)"),
        (IMAGES[..., :4], LABELS, "'images' has shape"),
        (IMAGES[:0], LABELS[:0], "'images' has shape (0, 3, 8, 8)"),
        (IMAGES, LABELS[:2], "'labels' has shape (2,)"),
        (IMAGES, LABELS.float(), "'labels' has shape (6,) and type torch.float32"),
        (IMAGES, LABELS - 1, "'labels' go from -1"),
        (IMAGES.int(), LABELS, "'images' has type torch.int32"),
        (IMAGES / 0, LABELS, "not finite"),
        (IMAGES, LABELS * 0, "the set has 1 classes"),
    ],
)
def test_training_sets_that_cannot_be_read(
    call: Call, tmp_path: Path, images: Tensor, labels: Tensor, problem: str
) -> None:
    path = image_set(tmp_path / "set.safetensors", images, labels)
    assert problem in complaint(call("scan", path, "--quiet"))


def test_models_that_cannot_be_opened(call: Call, classifier: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickled.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "renamed.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"head.weight": torch.zeros(3, 4)}, tmp_path / "bare.safetensors")
    broken = dict(load_file(classifier))
    broken["head.bias"] = torch.full_like(broken["head.bias"], torch.nan)
    with safe_open(classifier, framework="pt") as file:
        metadata = dict(file.metadata())
    save_file(broken, tmp_path / "broken.safetensors", metadata=metadata)
    for command in (("scan",), ("repair", "--with", "anp", "--out", tmp_path / "out.safetensors")):
        for name, problem in (
            ("pickled.pt", "is a pickle"),
            ("renamed.safetensors", "is a pickle"),
            ("text.safetensors", "is not a safetensors file"),
            ("bare.safetensors", "does not say its architecture"),
            ("broken.safetensors", "not finite"),
            ("absent.safetensors", "no file"),
        ):
            words = [command[0], tmp_path / name, *command[1:], "--data", "digits"]
            assert problem in complaint(call(*words)), name
    assert not (tmp_path / "out.safetensors").exists()
    assert "timm knows no model" in complaint(
        call("scan", classifier, "--architecture", "resnet9999", "--data", "digits")
    )
    assert "unknown data source" in complaint(call("scan", classifier, "--data", "nothing"))
    assert "--calibrate 1" in complaint(call("scan", classifier, "--data", "digits", "--calibrate", 1))


def test_a_foreign_timm_classifier_by_the_name_of_its_architecture(call: Call, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=5)
    save_file(net.state_dict(), tmp_path / "foreign.safetensors")
    opened = open_model(str(tmp_path / "foreign.safetensors"), architecture="test_resnet", size=32)
    assert opened.model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 5)
    assert opened.size == 32
    assert lineage_of(opened.model).name == "foreign"
    headless = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    save_file(headless, tmp_path / "headless.safetensors")
    assert "no classification head" in complaint(
        call("scan", tmp_path / "headless.safetensors", "--architecture", "test_resnet", "--data", "digits")
    )


@pytest.mark.parametrize("how", [name for name in REPAIRS if name in ("fine-pruning", "nad")])
def test_a_repair_writes_a_child_with_its_lineage(call: Call, classifier: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "child.safetensors"
    code, output, _ = call("repair", classifier, "--with", how, "--data", "digits", "--rows", 80, "--out", out)
    assert code == 0
    assert "before" in output
    assert "after" in output
    lineage = read_lineage(out)
    assert lineage.made_by == f"defence: {how}"
    assert lineage.parents[0].content == read_lineage(classifier).content
    child = open_model(str(out))
    assert child.content == lineage.content != lineage.parents[0].content
    assert f"{out} exists" in complaint(call("repair", classifier, "--with", how, "--data", "digits", "--out", out))


def test_repairs_that_cannot_be_done_write_nothing(call: Call, classifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "child.safetensors"
    save_model(tmp_path / "encoder.safetensors", make_encoder(SHAPE, 8))
    tail = ["--out", out]
    for words, problem in (
        (["repair", classifier, "--with", "pruning", "--data", "digits"], "unknown repair 'pruning'"),
        (["repair", classifier, "--with", "fine-pruning", "--data", "digits", "--rows", 10], "clean images"),
        (["repair", classifier, "--with", "fine-pruning", "--data", "digits", "--rows", 0], "--rows 0"),
        (["repair", tmp_path / "encoder.safetensors", "--with", "anp", "--data", "digits"], "no classification head"),
        (["repair", classifier, "--with", "anp", "--data", "imagefolder:nowhere"], "no folder"),
    ):
        assert problem in complaint(call(*words, *tail))
        assert not out.exists()
    narrow = tmp_path / "narrow.safetensors"
    save_model(narrow, Classifier(make_encoder(SHAPE, 8), features=16, classes=4))
    assert "but the model has 4 classes" in complaint(
        call("repair", narrow, "--with", "anp", "--data", "digits", *tail)
    )
    assert not out.exists()
