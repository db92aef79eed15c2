"""Files of the released layouts, written here: MAE's encoder, its training file, a fine-tuned one, TinyMIM's, TinyMIM*'s."""

import argparse
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heredity.core.errors import ModelError
from heredity.core.lineage import lineage_of, read_lineage
from heredity.nn.attention import attention_blocks
from heredity.nn.encoders import Classifier, Normalised
from heredity.nn.resolver import load_file
from heredity.systems.tinymim.checkpoints import import_checkpoint, read_checkpoint
from heredity.systems.tinymim.commands import import_file

WIDTH, DEPTH = 192, 12


@functools.cache
def made(width: int, depth: int, tokens: int, normed: bool) -> dict[str, Tensor]:
    return _layout(width, depth, tokens=tokens, normed=normed)


def layout(width: int = WIDTH, depth: int = DEPTH, *, tokens: int = 197, normed: bool = True) -> dict[str, Tensor]:
    """An encoder's state dict with the names and shapes of spec section 6.2."""
    return dict(made(width, depth, tokens, normed))


def _layout(width: int, depth: int, *, tokens: int, normed: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return 0.02 * torch.randn(*shape, generator=random)

    state = {
        "cls_token": some(1, 1, width),
        "pos_embed": some(1, tokens, width),
        "patch_embed.proj.weight": some(width, 3, 16, 16),
        "patch_embed.proj.bias": some(width),
    }
    for block in range(depth):
        at = f"blocks.{block}."
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }.items():
            state[at + name] = some(*shape)
    if normed:
        state |= {"norm.weight": 1 + some(width), "norm.bias": some(width)}
    return state


def test_the_released_count_of_tensors() -> None:
    assert len(layout()) == 150
    assert len(layout(32, 24)) == 294


def test_a_tinymim_file_becomes_a_timm_model_with_its_heads(tmp_path: Path) -> None:
    state = layout()
    torch.save({"model": state}, tmp_path / "TinyMIM-PT-T.pth")
    said = import_file(tmp_path / "TinyMIM-PT-T.pth")
    assert "read as tinymim" in said
    assert "taken for 6, 12 in the last block" in said
    model = load_file(tmp_path / "TinyMIM-PT-T.safetensors", image=224)
    assert isinstance(model, Normalised)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert [block.attn.num_heads for block in attention_blocks(model)] == [6] * 11 + [12]  # pyright: ignore
    for name, tensor in model.inner.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert lineage_of(model).made_by == "TinyMIM (released)"
    assert read_lineage(tmp_path / "TinyMIM-PT-T.safetensors").name == "TinyMIM-PT-T"


def test_the_forward_pass_is_the_published_one() -> None:
    """Written from the spec: pre-norm blocks, attention per head with scale 1/sqrt(d), CLS after the last norm."""
    state = {name: tensor.double() for name, tensor in layout().items()}
    found = import_checkpoint(layout(), name="x", kind="tinymim", size=224).model.double()
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    weight = state["patch_embed.proj.weight"].reshape(WIDTH, -1)
    patches = (
        torch.nn.functional.unfold(pixels, 16, stride=16).transpose(1, 2) @ weight.T + state["patch_embed.proj.bias"]
    )
    tokens = torch.cat([state["cls_token"], patches], dim=1) + state["pos_embed"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    for block in range(DEPTH):
        at, heads = f"blocks.{block}", 12 if block == DEPTH - 1 else 6
        width = WIDTH // heads
        qkv = norm(tokens, f"{at}.norm1") @ state[f"{at}.attn.qkv.weight"].T + state[f"{at}.attn.qkv.bias"]
        mixed = []
        for head in range(heads):
            query, key, value = (
                qkv[..., part * WIDTH + head * width : part * WIDTH + (head + 1) * width] for part in range(3)
            )
            mixed.append((query @ key.transpose(1, 2) / width**0.5).softmax(-1) @ value)
        tokens = tokens + torch.cat(mixed, -1) @ state[f"{at}.attn.proj.weight"].T + state[f"{at}.attn.proj.bias"]
        inner = norm(tokens, f"{at}.norm2") @ state[f"{at}.mlp.fc1.weight"].T + state[f"{at}.mlp.fc1.bias"]
        fed = torch.nn.functional.gelu(inner) @ state[f"{at}.mlp.fc2.weight"].T + state[f"{at}.mlp.fc2.bias"]
        tokens = tokens + fed
    assert isinstance(found, Normalised)
    torch.testing.assert_close(found.inner(pixels), norm(tokens, "norm")[:, 0], atol=1e-6, rtol=1e-6)


def test_a_training_file_loses_its_decoder_and_says_so(tmp_path: Path) -> None:
    state: dict[str, Any] = layout() | {
        "mask_token": torch.zeros(1, 1, 512),
        "decoder_embed.weight": torch.zeros(512, WIDTH),
        "decoder_norm.bias": torch.zeros(512),
    }
    content = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1.0), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "mae_full.pth")
    said = import_file(tmp_path / "mae_full.pth", out=tmp_path / "m.safetensors")
    assert "read as mae" in said
    assert "left out 2 tensors of decoder" in said
    assert "taken for 3, 3 in the last block" in said


def test_a_fine_tuned_file_becomes_a_classifier(tmp_path: Path) -> None:
    state = layout(normed=False) | {
        "fc_norm.weight": torch.ones(WIDTH),
        "fc_norm.bias": torch.zeros(WIDTH),
        "head.weight": torch.randn(7, WIDTH),
        "head.bias": torch.randn(7),
    }
    torch.save({"model": state}, tmp_path / "mae_finetuned.pth")
    import_file(tmp_path / "mae_finetuned.pth", out=tmp_path / "c.safetensors")
    model = load_file(tmp_path / "c.safetensors", image=224)
    assert isinstance(model, Classifier)
    assert torch.equal(model.head.weight, state["head.weight"])
    assert model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, 7)


def test_a_star_file_becomes_an_encoder_with_a_distillation_token() -> None:
    state = layout(tokens=198) | {
        "dist_token": torch.zeros(1, 1, WIDTH),
        "conv1x1.0.weight": torch.ones(WIDTH),
        "conv1x1.1.weight": torch.zeros(1280, WIDTH),
        "head.weight": torch.zeros(1000, 1280),
        "head.bias": torch.zeros(1000),
    }
    found = import_checkpoint(state, name="star", kind="tinymim")
    assert "left out 2 tensors of conv1x1" in found.notes
    assert [block.attn.num_heads for block in attention_blocks(found.model)] == [12] * 12  # pyright: ignore


def test_positions_of_another_grid_are_interpolated() -> None:
    found = import_checkpoint(layout(), name="x", kind="mae", size=112)
    assert "positions interpolated from 14 x 14 to 7 x 7 patches" in found.notes
    assert found.model(torch.zeros(1, 3, 112, 112, dtype=torch.uint8)).shape == (1, WIDTH)


def test_missing_and_extra_keys_are_named_by_group() -> None:
    state = layout()
    for name in ("attn.qkv.weight", "mlp.fc1.weight"):
        del state[f"blocks.3.{name}"]
    state["surprise"] = torch.zeros(1)
    with pytest.raises(
        ModelError, match=r"lacks blocks\.3\.attn\.qkv\.weight, blocks\.3\.mlp\.fc1\.weight and has unknown surprise"
    ):
        import_checkpoint(state, name="x", kind="mae")
    with pytest.raises(ModelError, match="width of 200 and 12 blocks are no released shape"):
        import_checkpoint(layout(200), name="x", kind="mae")
    with pytest.raises(ModelError, match="no cls_token"):
        import_checkpoint({"a": torch.zeros(1)}, name="x", kind="mae")
    with pytest.raises(ModelError, match="not finite"):
        import_checkpoint(layout() | {"norm.bias": torch.full((WIDTH,), torch.nan)}, name="x", kind="mae")
    with pytest.raises(ModelError, match="cannot be split into 7 heads"):
        import_checkpoint(layout(), name="x", kind="mae", heads=7)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def test_a_harmful_file_is_not_opened(tmp_path: Path) -> None:
    torch.save({"model": Harmful()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "c.pth").write_bytes(b"PK nothing")
    for name in "abc":
        with pytest.raises(ModelError, match="not opened"):
            read_checkpoint(tmp_path / f"{name}.pth")
    assert not Path("harmed").exists()
    with pytest.raises(ModelError, match="no file"):
        read_checkpoint(tmp_path / "d.pth")
    torch.save({"model": {"w": 3}}, tmp_path / "e.pth")
    with pytest.raises(ModelError, match="not a state dict"):
        read_checkpoint(tmp_path / "e.pth")
