import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from heredity.core.errors import ConfigError, ModelError
from heredity.core.lineage import Lineage, lineage_of, record, save_model
from heredity.nn.encoders import EncoderShape, Normalised, make_encoder
from heredity.nn.resolver import load_file, parse_architecture, resolve_encoder

IMAGES = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def saved(path: Path) -> torch.nn.Module:
    encoder = make_encoder(EncoderShape(width=8), 32).eval()
    save_model(path, record(encoder, Lineage("mine", "SimCLR", marks=("a mark",))))
    return encoder


def test_a_file_of_ours_comes_back_with_its_lineage(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "e.safetensors")
    again = resolve_encoder(f"file:{tmp_path / 'e.safetensors'}", image=32)
    assert torch.equal(again(IMAGES), encoder(IMAGES))
    assert lineage_of(again).marks == ("a mark",)


def test_foreign_weights_need_an_architecture(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    save_file(vit.state_dict(), tmp_path / "v.safetensors")
    with pytest.raises(ModelError, match="--architecture"):
        resolve_encoder(f"file:{tmp_path / 'v.safetensors'}", image=32)
    again = load_file(tmp_path / "v.safetensors", image=32, architecture="vit_tiny_patch16_224")
    assert isinstance(again, Normalised)
    assert again(IMAGES).shape == (2, 192)
    with pytest.raises(ModelError, match="missing"):
        load_file(tmp_path / "v.safetensors", image=32, architecture="resnet18")


def test_a_state_dict_of_torch_is_read_without_running_code(tmp_path: Path) -> None:
    encoder = make_encoder(EncoderShape(width=8), 32)
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "e.pt")
    again = load_file(tmp_path / "e.pt", image=32, architecture="residual:width=8")
    assert torch.equal(again(IMAGES), encoder.eval()(IMAGES))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.safetensors", "m.bin"])
def test_a_pickle_posing_as_a_model_runs_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ModelError, match="safetensors"):
        load_file(tmp_path / name, image=32, architecture="resnet18")
    assert not Path("harmed").exists()


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    encoder = make_encoder(EncoderShape(width=8), 32)
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    save_model(tmp_path / "nan.safetensors", encoder)
    with pytest.raises(ModelError, match="not finite"):
        load_file(tmp_path / "nan.safetensors", image=32)


def test_another_image_size_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "e.safetensors")
    with pytest.raises(ModelError, match="images of 32 pixels, not 64"):
        load_file(tmp_path / "e.safetensors", image=64)


def test_random_timm_models_need_no_network() -> None:
    encoder = resolve_encoder("timm:resnet18?random", image=32)
    assert encoder(IMAGES).shape == (2, 512)
    assert lineage_of(encoder).made_by == "timm, random weights"


def test_a_model_that_cannot_be_fetched_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="dir:DIR"):
        resolve_encoder("timm:vit_tiny_patch16_224", image=32)


@pytest.mark.parametrize(
    "spec", ["", "tim:x", "timm:", "file:", "timm:no_such_model", "timm:resnet18?trained", "train"]
)
def test_what_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(ModelError):
        resolve_encoder(spec, image=32)


def test_architectures_by_name() -> None:
    assert parse_architecture("vit:width=64,depth=2", 32)["shape"]["depth"] == 2
    with pytest.raises(ModelError, match="unknown architecture"):
        parse_architecture("vitt", 32)
    with pytest.raises(ConfigError, match="depht"):
        parse_architecture("vit:depht=2", 32)


def test_a_folder_of_the_hub_is_read(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=7).eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    encoder = resolve_encoder(f"dir:{tmp_path}", image=32)
    model.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    assert isinstance(encoder, Normalised)
    pixels = (IMAGES / 255 - encoder.mean) / encoder.std
    assert torch.allclose(encoder.eval()(IMAGES), model(pixels), atol=1e-5)


def test_a_stage_of_a_run_is_found(tmp_path: Path) -> None:
    place = tmp_path / "runs/r/stages/contrastive--marked"
    encoder = saved(place / "model.safetensors")
    again = resolve_encoder(f"run:{tmp_path}/runs/r/contrastive/marked", image=32)
    assert torch.equal(again(IMAGES), encoder(IMAGES))
    with pytest.raises(ModelError, match="run directory"):
        resolve_encoder(f"run:{tmp_path}/elsewhere/x", image=32)
