"""Each detector finds what was planted, stays quiet where nothing was, and leaves the model as it found it."""

from collections.abc import Callable

import pytest
import torch
from helpers.planted import CLASSES, TARGET, Encoder, TwoLayers, images, stamped
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.defences import decree, neural_cleanse, outlier, strip
from heredity.defences.contract import InputFilter, ModelVerdict, calibrate
from heredity.defences.reverse import Search, smallest_triggers, stamp
from heredity.metrics.detection import auroc

NC = neural_cleanse.NeuralCleanse(Search(steps=150, batch=16))
DECREE = decree.Decree(Search(steps=150, batch=24, learning_rate=0.5, raise_by=5.0, lower_by=5.0, least=1e-5))
CLEAN, GUILTY = 19, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cleanse(model: nn.Module, clean: Tensor) -> ModelVerdict:
    return neural_cleanse.scan(model, clean, NC, generator=generator())


def blind(model: nn.Module, clean: Tensor) -> ModelVerdict:
    return decree.scan(model, clean, DECREE, generator=generator())


@pytest.mark.parametrize(("scan", "make"), [(cleanse, TwoLayers), (blind, Encoder)])
def test_a_scan_finds_the_planted_and_leaves_the_clean_alone(
    scan: Callable[[nn.Module, Tensor], ModelVerdict], make: Callable[..., nn.Module]
) -> None:
    known = [scan(make(seed, planted=False), images(seed, 48)).score for seed in range(CLEAN)]
    threshold = calibrate(known, 0.05, source="clean models")
    fresh = [scan(make(seed, planted=False), images(seed, 48)).score for seed in range(100, 105)]
    guilty = [scan(make(seed, planted=True), images(seed, 48)) for seed in range(200, 200 + GUILTY)]
    # At a rate of 5 %, two of five would be a 2 % event.
    assert sum(threshold.flags(score) for score in fresh) <= 1
    assert all(threshold.flags(verdict.score) for verdict in guilty)
    assert all(float(verdict.triggers[0].mask[:, -2:, -2:].mean()) > 0.3 for verdict in guilty)


def test_neural_cleanse_names_the_class() -> None:
    verdict = cleanse(TwoLayers(200, planted=True), images(200, 48))
    assert verdict.flagged
    assert verdict.suspects[0] == TARGET
    assert len(verdict.class_scores) == CLASSES
    assert verdict.measures["smallest"] < 0.5 * verdict.measures["median"]
    assert verdict.measures["turned"] > 0.9
    assert verdict.cost.queries > 1000


def test_classes_in_groups_give_the_same_patches() -> None:
    whole = neural_cleanse.NeuralCleanse(Search(steps=60, batch=16, stall=60))
    grouped = neural_cleanse.NeuralCleanse(whole.search, at_once=3)
    one, other = (
        neural_cleanse.scan(TwoLayers(0, planted=True), images(0, 48), how, generator=generator())
        for how in (whole, grouped)
    )
    assert one.measures["smallest"] == pytest.approx(other.measures["smallest"], abs=1e-3)
    assert one.class_scores == pytest.approx(other.class_scores, abs=0.05)


def test_decree_measures_the_share_of_the_picture() -> None:
    verdict = blind(Encoder(200, planted=True), images(200, 48))
    assert verdict.score == pytest.approx(1 - verdict.measures["PL1"])
    assert verdict.measures["PL1"] < 0.1
    assert verdict.flagged
    assert verdict.measures["cosine"] > 0.9 > verdict.measures["clean cosine"]


def test_an_encoder_that_no_patch_blinds_scores_nothing() -> None:
    brief = decree.Decree(Search(steps=3, batch=24))
    verdict = decree.scan(Encoder(0, planted=False), images(0, 48), brief, generator=generator())
    assert verdict.measures["PL1"] == 1.0
    assert verdict.score == 0.0


def test_mean_cosine_is_the_mean_over_pairs() -> None:
    rows = torch.randn(7, 4, generator=generator())
    table = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    brute = (table.sum() - 7) / 42
    assert float(decree.mean_cosine(rows)) == pytest.approx(float(brute), abs=1e-6)


FILTERS: list[tuple[Callable[..., InputFilter], type[nn.Module]]] = [
    (lambda model, clean: strip.fit(model, clean, strip.Strip(overlays=16), generator=generator()), TwoLayers),
    (lambda model, clean: outlier.fit(model, clean, outlier.Outlier(), generator=generator()), Encoder),
    (lambda model, clean: outlier.fit(model, clean, outlier.Outlier("nearest"), generator=generator()), Encoder),
    (
        lambda model, clean: outlier.fit(model, clean, outlier.Outlier(features="before-head"), generator=generator()),
        TwoLayers,
    ),
]


@pytest.mark.parametrize(("fit", "make"), FILTERS)
def test_a_filter_rejects_stamped_images_and_few_others(
    fit: Callable[..., InputFilter], make: Callable[..., nn.Module]
) -> None:
    clean, others = images(0, 200), images(0, 400)[200:]
    found = fit(make(0, planted=True), clean)
    honest, marked = found(others), found(stamped(others))
    assert 0 < (found.threshold.false_positive_rate or 0) <= 0.01
    assert auroc(marked.scores.tolist(), honest.scores.tolist()) > 0.95
    assert float(marked.rejected.float().mean()) > 0.8
    assert float(honest.rejected.float().mean()) < 0.06
    quiet = fit(make(0, planted=False), clean)
    assert float(quiet(others).rejected.float().mean()) < 0.06
    assert found.cost.queries > 0
    assert marked.cost.queries > 0


def scores_of(scan: Callable[..., ModelVerdict | InputFilter], model: nn.Module, clean: Tensor) -> Tensor:
    found = scan(model, clean)
    return found(clean[:10]).scores if isinstance(found, InputFilter) else torch.tensor(found.score)


ALL = [(cleanse, TwoLayers), (blind, Encoder), *FILTERS]


@pytest.mark.parametrize(("scan", "make"), ALL)
def test_same_seed_same_score_whatever_the_order_and_the_model_is_left_alone(
    scan: Callable[..., ModelVerdict | InputFilter], make: Callable[..., nn.Module]
) -> None:
    model, clean = make(0, planted=True).train(), images(0, 200)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    order = torch.cat([torch.arange(10), 10 + torch.randperm(190, generator=generator(1))])
    first = scores_of(scan, model, clean)
    assert torch.equal(first, scores_of(scan, model, clean))
    assert torch.equal(first, scores_of(scan, model, clean[order]))
    assert torch.allclose(first, scores_of(scan, model, clean.float() / 255), atol=1e-5)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize(("scan", "make"), ALL)
def test_weights_that_are_not_numbers_are_an_error(
    scan: Callable[..., ModelVerdict | InputFilter], make: Callable[..., nn.Module]
) -> None:
    model = make(0, planted=True)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        scan(model, images(0, 200))


def test_what_cannot_be_examined_is_refused() -> None:
    two = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    with pytest.raises(ModelError, match="at least three"):
        cleanse(two, images(0, 8))
    with pytest.raises(DataError, match="too few"):
        blind(Encoder(0, planted=False), images(0, 1))
    with pytest.raises(DataError, match="too few"):
        strip.fit(two, images(0, 32), strip.Strip(overlays=32), generator=generator())
    with pytest.raises(DataError, match="cannot state"):
        strip.fit(two, images(0, 40), strip.Strip(overlays=32), generator=generator())
    with pytest.raises(ConfigError, match="overlays"):
        strip.fit(two, images(0, 40), strip.Strip(overlays=0), generator=generator())
    with pytest.raises(ConfigError, match="neighbour"):
        outlier.fit(two, images(0, 40), outlier.Outlier(neighbour=0), generator=generator())
    found = strip.fit(two, images(0, 140), generator=generator())
    with pytest.raises(DataError, match="fitted on"):
        found(torch.zeros(2, 3, 4, 4))


def test_strips_entropy_by_hand() -> None:
    model, clean = TwoLayers(0, planted=True).eval(), images(0, 120)
    found = strip.fit(model, clean, strip.Strip(overlays=20, rejection=0.05), generator=generator())
    even = nn.Sequential(nn.Flatten(), nn.Linear(300, 4))
    with torch.no_grad():
        even[1].weight.zero_()  # pyright: ignore
        even[1].bias.zero_()  # pyright: ignore
    flat = strip.fit(even, clean, strip.Strip(overlays=20, rejection=0.05), generator=generator())
    assert torch.allclose(flat(clean[:5]).scores, torch.full((5,), -2.0), atol=1e-5)
    assert bool((found(clean[:5]).scores <= 0).all())


def test_the_search_finds_a_mask_as_small_as_it_can_be() -> None:
    """Success needs half of one pixel's mask: the smallest mask is that and next to nothing elsewhere."""

    def goal(masks: Tensor, patterns: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        inside = masks[:, 0, 0, 0]
        return 5 * torch.relu(0.55 - inside) + 0 * patterns.sum(dim=(1, 2, 3)), (inside.detach() >= 0.5).float()

    found = smallest_triggers(goal, 2, torch.zeros(3, 4, 4), Search(steps=400, stall=200), generator())
    assert bool(found.found.all())
    assert bool(((found.sizes > 0.48) & (found.sizes < 1.2)).all())
    assert torch.equal(found.masks[0], found.masks[1])


def test_stamping_every_image_under_every_trigger() -> None:
    clean, masks, patterns = torch.rand(3, 3, 4, 4), torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4)
    brute = torch.stack(
        [torch.stack([(1 - m) * x + m * p for x in clean]) for m, p in zip(masks, patterns, strict=True)]
    )
    assert torch.allclose(stamp(clean, masks, patterns), brute)
