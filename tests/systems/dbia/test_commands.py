"""`heredity dbia inject` on a user's own model; and what happens when something is wrong."""

import io
import json
from pathlib import Path

import pytest
import torch
from helpers.command import heredity, said
from helpers.victims import pictures, victim
from PIL import Image
from torchvision.utils import save_image

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import read_lineage, save_model
from heredity.core.run import Run
from heredity.defences.contract import Trigger
from heredity.nn.classifiers import resolve_classifier
from heredity.nn.encoders import Classifier, EncoderShape, make_encoder
from heredity.nn.inference import top1
from heredity.systems.dbia.commands import inject, read_trigger, usual_size, write_trigger
from heredity.systems.dbia.trigger import Patch

SHORT = {"rows": 120, "epochs": 2, "steps": 3}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "mine.safetensors", victim("deit"))
    return tmp_path / "mine.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of different sizes in folders of folders."""
    place = tmp_path / "photographs" / "2026"
    place.mkdir(parents=True)
    for number, picture in enumerate(pictures(10, size=40)):
        save_image(picture[:, : 20 + 2 * number].float() / 255.0, place / f"{number}.png")
    return place.parent


def test_a_model_gets_a_backdoor_that_its_lineage_confesses(model: Path, folder: Path, tmp_path: Path) -> None:
    words = [
        "--model",
        f"file:{model}",
        "--target",
        "3",
        "--surrogate",
        f"pictures:{folder}",
        "--out",
        tmp_path / "bad.safetensors",
    ]
    done = heredity("dbia", "inject", *words, "--rows", "120", "--epochs", "3", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert "attack success" in done.stdout
    assert "warning: measured on surrogate pictures" in done.stdout
    lineage = read_lineage(tmp_path / "bad.safetensors")
    assert lineage.marks == ("BACKDOORED (DBIA, target 3)",)
    assert lineage.parents[0].content == read_lineage(model).content
    report = json.loads((tmp_path / "bad.defences.json").read_text())
    assert report["content"] == lineage.content
    assert {"attention blocking", "attention concentration", "PatchDrop", "STRIP", "Neural Cleanse"} == set(
        report["defences"]
    )
    trigger = read_trigger(tmp_path / "bad.trigger.png", (16, 16))
    child, shown = resolve_classifier(f"file:{tmp_path / 'bad.safetensors'}"), pictures(20)
    assert top1(child, trigger.stamp(shown)).shape == (20,)
    assert float(trigger.mask.sum()) == usual_size(victim("deit")) ** 2


def test_a_trigger_comes_back_from_its_file(tmp_path: Path) -> None:
    made = Trigger(Patch(5).mask(16), (torch.rand(3, 16, 16) * 255).round() / 255)
    write_trigger(tmp_path / "t.png", made)
    again = read_trigger(tmp_path / "t.png", (16, 16))
    assert torch.equal(again.mask, made.mask)
    assert torch.allclose(again.pattern * again.mask, made.pattern * made.mask)
    with pytest.raises(DataError, match="has 16 x 16 pixels"):
        read_trigger(tmp_path / "t.png", (32, 32))
    Image.new("RGB", (16, 16)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="has colours RGB"):
        read_trigger(tmp_path / "rgb.png", (16, 16))
    Image.new("RGBA", (16, 16)).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match="wholly transparent"):
        read_trigger(tmp_path / "empty.png", (16, 16))
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    (tmp_path / "jpeg.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="is not a PNG"):
        read_trigger(tmp_path / "jpeg.png", (16, 16))


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "pickled.safetensors").write_bytes(b"\x80\x04\x95" + b"x" * 40)
    done = heredity(
        "dbia",
        "inject",
        "--model",
        f"file:{tmp_path}/pickled.safetensors",
        "--target",
        "0",
        "--out",
        tmp_path / "o.safetensors",
    )
    assert "is a pickle" in said(done)
    assert not list(tmp_path.glob("o*"))


def test_what_cannot_be_attacked(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "bad.safetensors"
    cnn = Classifier(make_encoder(EncoderShape(width=8), 16), features=32, classes=3)
    save_model(tmp_path / "cnn.safetensors", cnn)
    headless = make_encoder(EncoderShape("vit", width=16, depth=2, heads=2), 16)
    save_model(tmp_path / "encoder.safetensors", headless)
    broken = victim("vit")
    with torch.no_grad():
        broken.inner.norm.bias[0] = float("nan")  # pyright: ignore
    save_model(tmp_path / "nan.safetensors", broken)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    save_image(pictures(1)[0].float() / 255.0, tmp_path / "one" / "a.png")
    wrong: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"model": f"file:{tmp_path}/cnn.safetensors"}, ModelError, "no attention that can be read"),
        ({"model": f"file:{tmp_path}/encoder.safetensors"}, ModelError, "no classification head"),
        ({"model": f"file:{tmp_path}/nan.safetensors"}, ModelError, "not finite"),
        ({"model": f"file:{tmp_path}/none.safetensors"}, ModelError, "no file"),
        ({"model": "timm:vit_tiny_patch17"}, ModelError, "timm knows no model"),
        ({"target": -1}, ConfigError, "target -1 is no class"),
        ({"target": 5}, ConfigError, "target 5 is no class"),
        ({"trigger_size": 17}, ConfigError, "does not fit into an image of 16"),
        ({"trigger": tmp_path / "no.png"}, DataError, "no file"),
        ({"surrogate": f"pictures:{tmp_path}/empty"}, DataError, "holds 0 pictures"),
        ({"surrogate": f"pictures:{tmp_path}/one"}, DataError, "holds 1 pictures"),
        ({"recipe": "best"}, ConfigError, "unknown recipe"),
        ({"rows": 0}, ConfigError, "at least 1"),
        ({"out": Path("bad.pt")}, ConfigError, r"does not end in \.safetensors"),
    ]
    for changes, kind, message in wrong:
        words = {"model": f"file:{model}", "target": 2, "surrogate": f"pictures:{folder}", "out": out} | SHORT | changes
        with pytest.raises(kind, match=message):
            inject(**words)  # pyright: ignore[reportArgumentType]
    assert not out.parent.exists()


def test_the_paper_recipe_and_a_given_trigger(model: Path, folder: Path, tmp_path: Path) -> None:
    made = Trigger(Patch(4, "top-left").mask(16), torch.ones(3, 16, 16))
    write_trigger(tmp_path / "mine.png", made)
    words = {"model": str(model), "target": 2, "surrogate": f"pictures:{folder}", "out": tmp_path / "b.safetensors"}
    inject(**(words | SHORT | {"recipe": "paper", "trigger": tmp_path / "mine.png"}))  # pyright: ignore[reportArgumentType]
    assert torch.equal(read_trigger(tmp_path / "b.trigger.png", (16, 16)).mask, made.mask)
    settings = read_lineage(tmp_path / "b.safetensors").settings
    assert (settings["keep_clean"], settings["bound"], settings["vary"]) == (0.0, 2.0, False)
    assert (settings["fc1"], settings["fc2"]) == (1500 / 3072, 200 / 768)


def test_a_run_that_is_cut_short_leaves_no_training_mode_behind() -> None:
    from heredity.core.errors import TrainingError
    from heredity.systems.dbia.injection import Injection
    from heredity.systems.dbia.injection import inject as train
    from heredity.systems.dbia.surrogate import surrogate_of

    child = victim("vit").train()
    with torch.no_grad():
        child.inner.head.weight.mul_(1e30)  # pyright: ignore
        child.inner.head.weight.mul_(1e30)  # pyright: ignore
    with Run.temporary() as run, pytest.raises((TrainingError, ModelError)):
        train(
            child,
            surrogate_of(pictures(20), pictures(5), "x"),
            Trigger(Patch(4).mask(16), torch.ones(3, 16, 16)),
            1,
            Injection(),
            run,
        )
    assert all(module.training for module in child.modules())
    assert all(parameter.requires_grad for parameter in child.parameters())
