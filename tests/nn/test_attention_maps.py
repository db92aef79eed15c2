"""Maps recomputed from queries and keys are timm's own; rollout is the product it claims to be; nothing is left behind."""

import pytest
import torch
from helpers.victims import KINDS, SHAPES, pictures, victim
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.attention import attention_blocks, recorded
from heredity.nn.attention_maps import (
    heaviest_window,
    layout_of,
    patch_attention,
    rollout,
    softmax_map,
    token_weights,
    transformer_in,
)
from heredity.nn.classifiers import TransformerShape, make_transformer
from heredity.nn.encoders import Normalised, ResidualEncoder, vision_transformer


def timm_s_maps(model: nn.Module, shown: Tensor) -> list[Tensor]:
    """What timm's own unfused attention computes: the input of its attention dropout."""
    maps: list[Tensor] = []
    hooks = []
    for block in attention_blocks(model):
        block.attn.fused_attn = False  # pyright: ignore
        hooks.append(block.attn.attn_drop.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0])))  # pyright: ignore
    with torch.no_grad():
        model(shown)
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_timm(kind: str) -> None:
    """Fails clearly where an upgrade of timm changes what its attention multiplies, adds or masks."""
    model, shown = victim(kind), pictures(3)
    with torch.no_grad(), recorded(model) as seen:
        model(shown)
    ours = [softmax_map(seen[number], block) for number, block in enumerate(attention_blocks(model), start=1)]
    theirs = timm_s_maps(model, shown)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_swin_with_a_shift_has_its_mask() -> None:
    shifted = [block for block in attention_blocks(victim("swin")) if any(block.shift_size)]  # pyright: ignore
    assert shifted
    assert all(block.attn_mask is not None for block in shifted)


@pytest.mark.parametrize("upto", [1, 2, -1, None])
@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_one_row_of_the_rollout_is_that_of_the_product(kind: str, upto: int | None) -> None:
    model, shown = victim(kind), pictures(3)
    last = {None: 2, -1: 3}.get(upto, upto)
    whole = rollout(timm_s_maps(model, shown)[:last])
    assert torch.allclose(whole.sum(dim=-1), torch.ones(whole.shape[:2]), atol=1e-5)
    prefix = layout_of(model).prefix
    with torch.no_grad():
        row = patch_attention(model, shown, upto=upto)
    assert torch.allclose(row.flatten(1), whole[:, 0, prefix:], atol=1e-5)


def test_rollout_by_hand() -> None:
    first, second = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    half = [(attention + torch.eye(2)) / 2 for attention in (first, second)]
    assert torch.allclose(rollout([first[None, None], second[None, None]])[0], half[1] @ half[0])


def test_a_head_that_pools_reads_all_patches() -> None:
    model = Normalised(vision_transformer(image=16, patch=4, width=16, depth=2, heads=2)).eval()
    assert layout_of(model).reads == "all patches"
    with torch.no_grad():
        row = patch_attention(model, pictures(2), objective="last", upto=-1)
    theirs = timm_s_maps(model, pictures(2))[-1].mean(dim=1)[:, 1:, 1:].mean(dim=1)
    assert torch.allclose(row.flatten(1), theirs, atol=1e-5)


@pytest.mark.parametrize("objective", ["rollout", "last"])
def test_swin_gives_what_its_last_stage_receives(objective: str) -> None:
    model, shown = victim("swin"), pictures(3)
    with torch.no_grad():
        held = patch_attention(model, shown, objective=objective)  # pyright: ignore
    assert torch.allclose(held.sum(dim=(1, 2)), torch.ones(3), atol=1e-5)
    maps = timm_s_maps(model, shown)[-1:] if objective == "last" else timm_s_maps(model, shown)[-2:]
    coarse = torch.stack([one.mean(dim=(1, 2)) for one in maps]).mean(dim=0).unflatten(1, (2, 2))
    assert torch.allclose(held[:, ::2, ::2] * 4, coarse, atol=1e-5)


def test_windows_are_put_back_where_their_tokens_lie() -> None:
    """A Swin of one stage with shifted windows: attention that each token receives within its own window."""
    model = make_transformer(
        TransformerShape("swin", width=16, depth=2, heads=2, stages=1, window=2), image=16, classes=3
    )
    model.eval()
    block = transformer_in(model).layers[-1].blocks[1]  # pyright: ignore
    assert tuple(block.shift_size) == (1, 1)
    with torch.no_grad():
        held = patch_attention(model, pictures(2), objective="last")
    received = timm_s_maps(model, pictures(2))[-1].mean(dim=(1, 2)).reshape(2, 2, 2, 2, 2)
    expected = torch.zeros(2, 4, 4)
    for down in range(2):
        for across in range(2):
            for y in range(2):
                for x in range(2):
                    expected[:, (2 * down + y + 1) % 4, (2 * across + x + 1) % 4] = received[:, down, across, y, x] / 4
    assert torch.allclose(held, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_pixels_and_hooks_go(kind: str) -> None:
    model = victim(kind)
    shown = pictures(2).float().requires_grad_()
    patch_attention(model, shown)[:, -1, -1].sum().backward()
    assert shown.grad is not None
    assert float(shown.grad.abs().sum()) > 0
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_of_patches_under_a_mask() -> None:
    layout = layout_of(victim("vit"))
    mask = torch.zeros(1, 16, 16)
    mask[:, 10:, 10:] = 1.0
    weights = token_weights(mask, layout)
    assert weights[2:, 2:].tolist() == [[0.25, 0.5], [0.5, 1.0]]
    with pytest.raises(ModelError, match="made for images of 24 x 24"):
        token_weights(torch.zeros(1, 24, 24), layout)


def test_the_heaviest_window() -> None:
    draw = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    best, row, column = heaviest_window(draw, 2)
    for index in range(5):
        sums = {(y, x): float(draw[index, y : y + 2, x : x + 2].sum()) for y in range(3) for x in range(3)}
        place = max(sums, key=lambda key: sums[key])
        assert (int(row[index]), int(column[index])) == place
        assert float(best[index]) == pytest.approx(sums[place], abs=1e-5)


def test_other_models_are_refused() -> None:
    with pytest.raises(ModelError, match="no attention that can be read"):
        layout_of(Normalised(ResidualEncoder(width=8)))
    with pytest.raises(ModelError, match="is no vision transformer: it has 0"):
        transformer_in(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_classifiers_are_built_again_from_their_files(kind: str, tmp_path: object) -> None:
    from pathlib import Path

    from heredity.core.lineage import save_model
    from heredity.nn.classifiers import resolve_classifier

    file = Path(str(tmp_path)) / "victim.safetensors"
    save_model(file, victim(kind))
    again = resolve_classifier(f"file:{file}")
    with torch.no_grad():
        assert torch.equal(again(pictures(2)), victim(kind)(pictures(2)))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="do not tile"):
        make_transformer(SHAPES["vit"], image=18, classes=3)
    with pytest.raises(ModelError, match="3 heads do not share"):
        make_transformer(TransformerShape(width=16, heads=3), image=16, classes=3)
