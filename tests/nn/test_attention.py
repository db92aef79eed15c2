from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from heredity.core.errors import ModelError
from heredity.nn.attention import attention_blocks, number_of, recorded, run_up_to, split_heads
from heredity.nn.encoders import Normalised, ResidualEncoder, vision_transformer

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    known = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    return timm.models.VisionTransformer(**known | options).eval()  # pyright: ignore[reportArgumentType]


def distilled() -> nn.Module:
    sizes: dict[str, Any] = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 4,
        "num_classes": 0,
    }
    return timm.create_model("deit_tiny_distilled_patch16_224", **sizes).eval()


def outputs_of_attention(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """What each block's attention gives, by timm's own arithmetic."""
    given: list[Tensor] = []
    attentions: list[Any] = [block.attn for block in attention_blocks(model)]
    hooks = [attention.register_forward_hook(lambda _, __, out: given.append(out)) for attention in attentions]
    model(pixels)
    for hook in hooks:
        hook.remove()
    return given


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "normalised queries and keys": lambda: small(qk_norm=True),
    "registers, no class token": lambda: small(class_token=False, reg_tokens=2, global_pool="avg"),
    "distilled": distilled,
}


@pytest.mark.parametrize("kind", MODELS)
def test_records_are_what_timm_attends_with(kind: str) -> None:
    model = MODELS[kind]()
    with torch.no_grad(), recorded(model) as seen:
        expected = outputs_of_attention(model, PIXELS)
    assert list(seen) == [1, 2, 3]
    for block, read, output in zip(attention_blocks(model), seen.values(), expected, strict=True):
        weights = (read.query @ read.key.transpose(-2, -1) * read.scale).softmax(dim=-1)
        ours = block.attn.proj((weights @ read.value).transpose(1, 2).flatten(2))  # pyright: ignore
        torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)


def test_swin_is_read_by_windows() -> None:
    torch.manual_seed(0)
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(1, 1), embed_dim=24)
    swin.eval()
    with torch.no_grad(), recorded(swin) as seen:
        (output, _) = outputs_of_attention(swin, torch.rand(1, 3, 56, 56))
    read, attention = seen[1], attention_blocks(swin)[0].attn
    assert read.query.shape == (4, 3, 49, 8)
    product = read.query @ read.key.transpose(-2, -1) * read.scale + attention._get_rel_pos_bias()  # pyright: ignore
    ours = attention.proj((product.softmax(dim=-1) @ read.value).transpose(1, 2).flatten(2))  # pyright: ignore
    torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)


def test_hooks_go_away_even_after_an_error() -> None:
    model = small()
    with recorded(model, [-1]) as seen:
        model(PIXELS)
    assert list(seen) == [3]
    with pytest.raises(AssertionError), recorded(model):
        model(torch.zeros(1, 3, 8, 8))
    run_up_to(model, PIXELS, 2)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_flow_through_records() -> None:
    model = small()
    with recorded(model, [2]) as seen:
        model(PIXELS)
    seen[2].value.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0  # pyright: ignore
    assert model.blocks[2].attn.qkv.weight.grad is None  # pyright: ignore


@pytest.mark.parametrize("wrap", [False, True])
def test_running_up_to_a_block_gives_what_a_whole_run_records_and_computes_no_more(wrap: bool) -> None:
    inner = small()
    model = Normalised(inner) if wrap else inner
    images = (PIXELS * 255).to(torch.uint8) if wrap else PIXELS
    with recorded(model) as seen:
        model(images)
    ran: list[int] = []
    for number, block in enumerate(attention_blocks(model), 1):
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))  # pyright: ignore
    reached = run_up_to(model, images, -1)
    assert torch.equal(reached.attention.value, seen[3].value)
    assert torch.equal(reached.attention.query, seen[3].query)
    assert reached.tokens.shape == (2, 17, 32)
    assert ran == [1, 2]


def test_kept_patches_are_the_only_ones_that_run() -> None:
    model = small()
    everything = run_up_to(model, PIXELS, 1).tokens
    kept = torch.tensor([[3, 0], [15, 7]])
    some = run_up_to(model, PIXELS, 1, kept=kept).tokens
    assert torch.equal(some[1], everything[1][[0, 16, 8]])
    assert run_up_to(model, PIXELS, 3, kept=kept).attention.key.shape == (2, 4, 3, 8)
    with pytest.raises(ModelError, match="some of its patches"):
        run_up_to(timm.create_model("swin_tiny_patch4_window7_224", img_size=56, depths=(1,)), PIXELS, 1, kept=kept)


def test_heads_are_cut_as_a_loop_would() -> None:
    qkv = torch.arange(2 * 5 * 24.0).reshape(2, 5, 24)
    read = split_heads(qkv, 2)
    for head in range(2):
        assert torch.equal(read.query[1, head], qkv[1, :, 4 * head : 4 * head + 4])
        assert torch.equal(read.key[1, head], qkv[1, :, 8 + 4 * head : 12 + 4 * head])
        assert torch.equal(read.value[1, head], qkv[1, :, 16 + 4 * head : 20 + 4 * head])
    again = read.with_heads(4)
    assert again.scale == 2**-0.5
    assert torch.equal(again.with_heads(2).key, read.key)
    with pytest.raises(ModelError, match="width of 8 cannot be split into 3 heads"):
        split_heads(qkv, 3)


def test_models_without_readable_attention_are_named() -> None:
    with pytest.raises(ModelError, match=r"ResidualEncoder has no attention.*Conv2d"):
        attention_blocks(Normalised(ResidualEncoder(width=8)))
    with pytest.raises(ModelError, match="rotates queries and keys"):
        attention_blocks(timm.create_model("vit_pe_core_tiny_patch16_384"))
    with pytest.raises(ModelError, match="bias outside"):
        attention_blocks(timm.create_model("beit_base_patch16_224", depth=1))
    with pytest.raises(ModelError, match="mixes its heads"):
        attention_blocks(timm.create_model("cait_xxs24_224"))


@pytest.mark.parametrize("block", [0, 5, -5])
def test_blocks_that_do_not_exist_are_refused(block: int) -> None:
    with pytest.raises(ModelError, match=f"no block {block} in a model of 4 blocks"):
        run_up_to(vision_transformer(image=16, patch=4), PIXELS, block)
    assert number_of(4, 4) == number_of(-1, 4) == 4
