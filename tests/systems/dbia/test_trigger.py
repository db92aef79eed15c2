"""The trigger: where it lies, what it maximises, and what the published search did wrong."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.victims import KINDS, pictures, victim

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.defences.contract import Trigger
from heredity.nn.attention_maps import layout_of
from heredity.nn.encoders import Normalised, ResidualEncoder
from heredity.systems.dbia import trigger as trigger_module
from heredity.systems.dbia.trigger import (
    Patch,
    TriggerSearch,
    attention_mass,
    make_trigger,
    official_rate,
    quantised,
    uniform_mass,
)

PLAN = Plan(steps=15, optimiser="adam", learning_rate=0.1, schedule="constant")
SEARCH = TriggerSearch(patch=Patch(4), plan=PLAN, starts=1, groups=4, official_iterations=40)


def searched(kind: str, search: TriggerSearch = SEARCH, seed: int = 0) -> tuple[Normalised, Trigger]:
    model = victim(kind)
    with Run.temporary(seed=seed) as run:
        made = make_trigger(model, pictures(40), search, run=run, generator=torch.Generator().manual_seed(seed))
    return model, made


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_draws_attention_and_only_the_patch_changes(kind: str) -> None:
    model, made = searched(kind)
    _, random = searched(kind, TriggerSearch(**{**vars(SEARCH), "kind": "random"}))
    held = pictures(30, seed=1)
    assert attention_mass(model, held, made, SEARCH).mean() > attention_mass(model, held, random, SEARCH).mean()
    stamped = made.stamp(held)
    outside = made.mask[0] == 0
    assert torch.equal(stamped[..., outside], held[..., outside])
    assert stamped.dtype == torch.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = victim(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with Run.temporary() as run:
        for search in (SEARCH, TriggerSearch(**{**vars(SEARCH), "kind": "official"})):
            make_trigger(model, pictures(40), search, run=run, generator=torch.Generator().manual_seed(0))
    attention_mass(model, pictures(4), None, SEARCH)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # Official bug 3: the weights gathered gradients for nothing, and the trigger's were never cleared.
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_pixels_are_8_bit_and_normalisation_is_the_model_s() -> None:
    """Official bug 2: a trigger in one data set's normalisation was shown in another's. Pictures have pixels only."""
    model, made = searched("vit")
    assert torch.equal(made.pattern, quantised(made.pattern))
    inner: Any = model.inner
    other = Normalised(inner, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)).eval()
    with torch.no_grad():
        shown = made.stamp(pictures(3))
        by_hand = inner((shown.float() / 255.0 - other.mean) / other.std)
        assert torch.allclose(other(shown), by_hand)


def test_a_patch_lies_on_the_border_or_two_pixels_from_it() -> None:
    aligned, published = Patch(48).mask(224), Patch(48, aligned=False).mask(224)
    assert aligned[0, 176:, 176:].all()
    assert int(aligned.sum()) == 48 * 48
    # The paper's rows and columns 174..221 touch 4 x 4 patches of 16 pixels and cover 4 of them.
    assert published[0, 174:222, 174:222].all()
    assert int(published.sum()) == 48 * 48
    assert int(Patch(4, "top-left").mask(16)[0, :4, :4].sum()) == 16
    assert int(Patch(4, "centre").mask(16)[0, 6:10, 6:10].sum()) == 16
    for size in (0, 17):
        with pytest.raises(ConfigError, match="does not fit"):
            Patch(size).mask(16)


def test_the_published_offset_counts_patches_by_the_area_that_is_covered() -> None:
    from heredity.nn.attention_maps import Layout, token_weights

    layout = Layout(14, 14, (16, 16), 2, False, "class token")
    weights = token_weights(Patch(48, aligned=False).mask(224), layout)
    assert weights[10:, 10:].mul(16).round().tolist()[0] == [0.0, 2.0, 2.0, 2.0]
    assert weights[11, 11] == weights[12, 12] == 1.0
    assert int((weights > 0).sum()) == 16
    assert float(weights.sum()) == pytest.approx(9.0)


def test_an_even_spread_is_the_share_of_tokens() -> None:
    assert uniform_mass(victim("deit"), Patch(4)) == pytest.approx(1 / 18)
    assert uniform_mass(victim("swin"), Patch(4)) == pytest.approx(1 / 16)


def test_the_published_schedule() -> None:
    rates = [official_rate(iteration) for iteration in (0, 99, 100, 599, 600, 5000)]
    assert rates[:2] == [20_000.0, 20_000.0]
    assert rates[2] == pytest.approx(20_000 / 3)
    assert rates[3] == pytest.approx(20_000 / 3**5)
    assert rates[4:] == [1.0, 1.0]


def test_the_published_search_ends_and_raises_attention() -> None:
    """Official bug 7: an infinite loop, and a trigger picked by eye."""
    search = TriggerSearch(**{**vars(SEARCH), "kind": "official"})
    model, made = searched("vit", search)
    held = pictures(30, seed=1)
    assert 0.0 <= float(made.pattern.min()) <= float(made.pattern.max()) <= 1.0
    assert attention_mass(model, held, made, search).mean() > attention_mass(model, held, None, search).mean()


def test_a_patch_that_the_clean_victim_obeys_already_is_no_back_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several starts those are passed over under which the victim names the class to avoid, unless all are such."""
    model, shown = victim("vit"), pictures(40)
    search = replace(SEARCH, starts=3)

    def made(avoid: int | None) -> Trigger:
        with Run.temporary() as run:
            return make_trigger(model, shown, search, run=run, generator=torch.Generator().manual_seed(0), avoid=avoid)

    strongest = made(None)
    corner = strongest.stamp(shown[:1])[0, :, -4:, -4:]

    def obeys_the_strongest(model: Any, images: torch.Tensor) -> torch.Tensor:
        return (images[..., -4:, -4:] == corner).all(dim=(1, 2, 3)).long()

    monkeypatch.setattr(trigger_module, "top1", obeys_the_strongest)
    second = made(1)
    assert not torch.equal(second.pattern, strongest.pattern)
    assert attention_mass(model, shown, second, SEARCH).mean() < attention_mass(model, shown, strongest, SEARCH).mean()
    assert torch.equal(made(4).pattern, strongest.pattern)
    monkeypatch.setattr(trigger_module, "top1", lambda model, images: torch.ones(len(images), dtype=torch.long))
    assert torch.equal(made(1).pattern, strongest.pattern)


def test_pictures_of_another_size_and_other_models_are_refused() -> None:
    with Run.temporary() as run:
        draw = torch.Generator()
        with pytest.raises(DataError, match="this victim takes 16 x 16"):
            make_trigger(victim("vit"), pictures(20, size=24), SEARCH, run=run, generator=draw)
        search = TriggerSearch(patch=Patch(17))
        with pytest.raises(ConfigError, match="17 pixels does not fit"):
            make_trigger(victim("vit"), pictures(20), search, run=run, generator=draw)
        with pytest.raises(ModelError, match="no attention that can be read"):
            make_trigger(Normalised(ResidualEncoder()), pictures(20), SEARCH, run=run, generator=draw)


def test_layouts() -> None:
    assert [layout_of(victim(kind)).prefix for kind in KINDS] == [1, 2, 0]
    assert [layout_of(victim(kind)).reads for kind in KINDS] == ["class token", "class token", "all patches"]
