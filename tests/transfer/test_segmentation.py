import pytest
import torch
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.lineage import Lineage, record
from heredity.core.loop import Plan, fit, optimiser_of
from heredity.core.run import Run
from heredity.nn.encoders import EncoderShape, Normalised, ResidualEncoder, make_encoder, vision_transformer
from heredity.transfer.layerwise import layer_groups
from heredity.transfer.segmentation import Segmentation, Segmenter, segment, segmented


def test_a_patch_answers_for_its_own_pixels() -> None:
    encoder = make_encoder(EncoderShape(kind="vit", width=16, patch=2, depth=1, heads=2), 8)
    model = Segmenter(encoder, classes=3)
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.zero_()
        model.head.bias.copy_(torch.arange(12.0))
    scores = model(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert scores.shape == (1, 3, 8, 8)
    # Channel c of pixel (y, x) of each patch is entry 4 c + 2 y + x.
    assert scores[0, 1, 2:4, 4:6].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    with pytest.raises(ModelError, match="token for every patch"):
        Segmenter(Normalised(ResidualEncoder(width=8)), classes=2)


def test_it_learns_which_half_is_bright() -> None:
    images = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    images[:4, :, :, :4] = 255
    images[4:, :, :, 4:] = 255
    masks = (images[:, 0] > 0).long()
    torch.manual_seed(0)
    encoder = record(
        make_encoder(EncoderShape(kind="vit", width=16, patch=2, depth=1, heads=2), 8), Lineage("e", "test")
    )
    how = Segmentation(plan=Plan(steps=40, batch=8, learning_rate=1e-2))
    with Run.temporary() as run:
        model = segment(encoder, images, masks, how, classes=2, run=run, name="s")  # pyright: ignore[reportArgumentType]
    assert (segmented(model, images) == masks).float().mean() > 0.95


def test_layers_learn_at_rates_that_decay_towards_the_input() -> None:
    vit, head = vision_transformer(image=8, patch=4, depth=3, width=16, heads=2), nn.Linear(16, 2)
    plan = Plan(
        steps=1, batch=2, learning_rate=1.0, weight_decay=0.1, schedule="constant", optimiser="sgd", momentum=0.0
    )
    groups = layer_groups(vit, head, plan, 0.5)
    rates = {id(item): group["lr_scale"] for group in groups for item in group["params"]}
    decays = {id(item): group["weight_decay"] for group in groups for item in group["params"]}
    named = dict(vit.named_parameters())
    expected = {
        "pos_embed": 0.5**4,
        "blocks.0.mlp.fc1.weight": 0.5**3,
        "blocks.2.attn.qkv.weight": 0.5,
        "fc_norm.weight": 1.0,
    }
    assert {name: rates[id(named[name])] for name in expected} == expected
    assert rates[id(head.weight)] == 1.0
    assert decays[id(named["pos_embed"])] == decays[id(named["cls_token"])] == decays[id(head.bias)] == 0.0
    assert decays[id(named["blocks.0.mlp.fc1.weight"])] == 0.1
    assert len(rates) == len(named) + 2


def test_groups_learn_at_their_own_rate_in_fit() -> None:
    layers = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    model = nn.ModuleList(layers)
    groups = [{"params": [layers[0].weight], "lr_scale": 0.5}, {"params": [layers[1].weight]}]
    before = [layer.weight.item() for layer in layers]
    plan = Plan(steps=1, batch=1, learning_rate=0.1, schedule="constant", optimiser="sgd", momentum=0.0)
    assert len(optimiser_of(model, plan, groups=groups).param_groups) == 2

    def step(trained: nn.Module, rows: torch.Tensor, draws: object) -> dict[str, torch.Tensor]:
        return {"sum": layers[0].weight.sum() + layers[1].weight.sum()}

    with Run.temporary() as run:
        fit(model, step, rows=1, plan=plan, run=run, groups=groups)
    moved = [old - layer.weight.item() for old, layer in zip(before, layers, strict=True)]
    assert moved == pytest.approx([0.05, 0.1])
