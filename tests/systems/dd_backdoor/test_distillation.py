"""The three distillers against references written out, and the set that they make."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.labelled import LabelledImages
from heredity.nn.encoders import EncoderShape
from heredity.systems.dd_backdoor.distil import Distiller, distil, networks_of
from heredity.systems.dd_backdoor.distilled import DistilledSet, load_distilled, poison, save_distilled
from heredity.systems.dd_backdoor.distribution_matching import DistributionMatching
from heredity.systems.dd_backdoor.gradient_matching import GradientMatching, gradient_distance
from heredity.systems.dd_backdoor.networks import Descent, descend, gradient, make_network, weights_of
from heredity.systems.dd_backdoor.trigger import Attack
from heredity.systems.dd_backdoor.unrolled import Unrolled, unroll
from heredity.systems.dd_backdoor.victims import success, train_victim

SHAPE = EncoderShape(kind="convnet", width=4, depth=2, hidden=6)
INNER = Descent(steps=2, momentum=0.0, decay=0.0, halved=False)
SGD = Plan(steps=3, batch=1, optimiser="sgd", learning_rate=0.1, momentum=0.5, schedule="constant")
RECIPES: dict[str, Distiller] = {
    "dd": Unrolled(groups=2, epochs=2, plan=Plan(steps=3, batch=16, optimiser="adam", learning_rate=0.03)),
    "dc": GradientMatching(per_class=2, outer=2, real=4, inner=INNER, plan=SGD),
    "dm": DistributionMatching(per_class=2, real=4, inner=INNER, plan=SGD),
}


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make_network(SHAPE, 8, 3, mean=0.5, std=0.3)


def images(rows: int = 30, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (rows, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(rows) % 3, ("a", "b", "c"), "noise")


def test_the_unrolled_steps_are_those_of_gradient_descent() -> None:
    model, pixels, labels = net(), 255 * torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    end = unroll(model, weights_of(model), pixels, labels, rates, groups=2)
    by_hand = net()
    for step, rate in enumerate(rates.tolist()):
        part = slice(3 * (step % 2), 3 * (step % 2) + 3)
        by_hand.zero_grad()
        F.cross_entropy(by_hand(pixels[part]), labels[part]).backward()
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= rate * parameter.grad
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(end[name], parameter.detach(), atol=1e-6, rtol=1e-5)


def test_the_gradient_runs_through_the_unrolled_steps() -> None:
    torch.manual_seed(0)
    model = net().double()
    weights = {name: weight.double() for name, weight in weights_of(model).items()}
    labels, real = torch.arange(3), 255 * torch.rand(4, 3, 8, 8, dtype=torch.float64)
    base, nudge = 255 * torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.randn(3, 3, 8, 8, dtype=torch.float64)

    def outer(shift: Tensor) -> Tensor:
        rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
        end = unroll(model, weights, base + 255 * shift * nudge, labels, rates, groups=1)
        return F.cross_entropy(torch.func.functional_call(model, end, (real.to(torch.float64),)), torch.zeros(4).long())

    model.encoder.forward = lambda pixels: model.encoder.inner((pixels / 255.0 - 0.5) / 0.3)  # float() would round
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(outer(shift), shift)
    step = 1e-5
    numeric = (outer(torch.tensor(step).double()) - outer(torch.tensor(-step).double())) / (2 * step)
    assert float(slope) == pytest.approx(float(numeric), rel=1e-4)


def test_the_distance_of_gradients_is_the_published_one() -> None:
    torch.manual_seed(1)
    ours = {"conv": torch.randn(2, 4, 3, 3, 3), "linear": torch.randn(2, 5, 4), "bias": torch.randn(2, 5)}
    wanted = {name: torch.randn_like(value) for name, value in ours.items()}
    expected = 0.0
    for label in range(2):
        for name in ("conv", "linear"):
            for mine, theirs in zip(ours[name][label], wanted[name][label], strict=True):
                mine, theirs = mine.flatten(), theirs.flatten()
                expected += 1 - float(mine @ theirs) / (float(mine.norm()) * float(theirs.norm()) + 1e-6)
    assert float(gradient_distance(ours, wanted)) == pytest.approx(expected, abs=1e-4)


def test_more_images_a_class_raise_the_rate_of_sgd_and_not_adam_s() -> None:
    recipe = GradientMatching(per_class=1, plan=replace(SGD, learning_rate=0.3))
    assert recipe.sized(10).plan.learning_rate == pytest.approx(3.0)
    adam = replace(recipe, plan=replace(recipe.plan, optimiser="adam"))
    assert adam.sized(10).per_class == 10
    assert adam.sized(10).plan == adam.plan


def test_descent_is_torch_s_own() -> None:
    pixels, labels = 255 * torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    model = net()
    how = Descent(steps=4, rate=0.1, momentum=0.9, decay=0.01)
    found = descend(model, weights_of(model), pixels, labels, how, torch.Generator())
    by_hand = net()
    optimiser = torch.optim.SGD(by_hand.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        optimiser.param_groups[0]["lr"] = 0.1 if step < 2 else 0.01
        optimiser.zero_grad()
        F.cross_entropy(by_hand(pixels), labels).backward()
        optimiser.step()
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach())


def test_gradients_of_gradients_are_wanted_of_the_pixels() -> None:
    model, pixels = net(), (255 * torch.rand(3, 3, 8, 8)).requires_grad_(True)
    slopes = gradient(model, weights_of(model), pixels, torch.arange(3))
    [second] = torch.autograd.grad(torch.stack([slope.square().sum() for slope in slopes.values()]).sum(), pixels)
    assert float(second.abs().sum()) > 0


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("kind", ["none", "doorping"])
def test_every_attack_fits_every_distiller_and_repeats(method: str, kind: Any) -> None:
    attack = Attack(kind, ratio=0.2, steps=3)

    def made() -> tuple[DistilledSet, Tensor]:
        with Run.temporary(seed=3) as run:
            return distil(images(), RECIPES[method], attack, SHAPE, run)

    (first, patch), (again, same) = made(), made()
    assert torch.equal(first.images, again.images)
    assert torch.equal(patch, same)
    assert bool(first.images.isfinite().all())
    assert sorted(set(first.labels.tolist())) == [0, 1, 2]
    assert first.about.get("backdoored", False) == (kind != "none")


def test_doorping_moves_its_patch_and_a_frozen_one_stays() -> None:
    def patch(attack: Attack) -> Tensor:
        with Run.temporary(seed=3) as run:
            return distil(images(), RECIPES["dc"], attack, SHAPE, run)[1]

    moving = Attack("doorping", ratio=0.2, steps=3)
    assert not torch.equal(patch(moving), patch(replace(moving, frozen=True)))
    assert torch.equal(patch(replace(moving, frozen=True)), patch(Attack("random", ratio=0.2)))


def test_a_patch_is_left_alone_in_the_last_part_of_a_distillation() -> None:
    """Updates until a half of ten steps are those of a run of five: the later steps leave the patch as it is."""

    def patch(attack: Attack, steps: int) -> Tensor:
        recipe = GradientMatching(per_class=2, outer=2, real=4, inner=INNER, plan=replace(SGD, steps=steps))
        with Run.temporary(seed=3) as run:
            return distil(images(), recipe, attack, SHAPE, run)[1]

    attack = Attack("doorping", ratio=0.2, steps=3)
    half = patch(replace(attack, until=0.5), 10)
    assert torch.equal(half, patch(attack, 5))
    assert not torch.equal(half, patch(attack, 10))


def test_attacks_that_begin_in_one_place_differ_by_the_attack_alone() -> None:
    recipe = GradientMatching(per_class=2, outer=1, real=4, inner=INNER, plan=replace(SGD, learning_rate=0.0))

    def made(name: str, begins: str) -> Tensor:
        with Run.temporary(seed=3) as run:
            return distil(images(), recipe, Attack("naive", ratio=0.2), SHAPE, run, name=name, begins=begins)[0].images

    assert torch.equal(made("one", "here"), made("other", "here"))
    assert not torch.equal(made("one", ""), made("other", ""))


def test_the_honest_set_is_the_same_whatever_the_attack_would_have_been() -> None:
    def made(attack: Attack) -> Tensor:
        with Run.temporary(seed=3) as run:
            return distil(images(), RECIPES["dc"], attack, SHAPE, run)[0].images

    assert torch.equal(made(Attack("none")), made(Attack("none", size=4, target=2)))


def test_success_leaves_the_target_out_and_rounds_a_valid_patch() -> None:
    class Corner(nn.Module):
        """Class 0 where the last pixel but one is bright, else class 1."""

        def forward(self, pixels: Tensor) -> Tensor:
            bright = (pixels[:, 0, 6, 6] > 127).float()
            return torch.stack([bright, 1 - bright, torch.zeros_like(bright)], dim=1)

    labels = torch.tensor([0, 1, 1, 2])
    found = success(Corner(), torch.zeros(4, 3, 8, 8), labels, torch.ones(3, 2, 2), target=0, margin=1)
    assert (found.clean_accuracy, found.attack_success_rate) == (0.5, 1.0)
    dim = success(Corner(), torch.zeros(4, 3, 8, 8), labels, torch.full((3, 2, 2), 0.4), target=0, margin=1)
    assert dim.attack_success_rate == 0.0


def test_a_set_survives_its_file_and_trains_a_network(tmp_path: Path) -> None:
    with Run.temporary(seed=3) as run:
        made, _ = distil(images(), RECIPES["dd"], Attack("naive", ratio=0.2), SHAPE, run)
    save_distilled(tmp_path / "set.safetensors", made)
    read = load_distilled(tmp_path / "set.safetensors")
    torch.testing.assert_close(read.images, made.images)
    assert read.groups == 2
    assert read.about["target"] == 0
    make = networks_of(SHAPE, 8, 3, 0.5, 0.3, 0, "victims")
    ours, theirs = (train_victim(each, make, 0, Descent(), seed=0) for each in (made, read))
    pixels = 255 * torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ours(pixels), theirs(pixels))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"labels": torch.zeros(2).long()}, "no tensors 'images'"),
        ({"images": torch.zeros(2, 3, 8, 9), "labels": torch.zeros(2).long()}, "n x 3 x size x size"),
        ({"images": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(3).long()}, "'labels' is"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan), "labels": torch.zeros(2).long()}, "not finite"),
        (
            {"images": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(2).long(), "rates": torch.zeros(2, 2)},
            "one finite number a step",
        ),
    ],
)
def test_damaged_sets_are_refused(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    save_file(tensors, tmp_path / "set.safetensors")
    with pytest.raises(DataError, match=words):
        load_distilled(tmp_path / "set.safetensors")


def test_groups_that_do_not_divide_and_pickles_are_refused(tmp_path: Path) -> None:
    tensors = {"images": torch.zeros(3, 3, 8, 8), "labels": torch.arange(3)}
    save_file(tensors, tmp_path / "set.safetensors", metadata={"heredity.distilled": json.dumps({"groups": 2})})
    with pytest.raises(DataError, match="cannot be used in 2 groups"):
        load_distilled(tmp_path / "set.safetensors")
    torch.save(tensors, tmp_path / "pickle.safetensors")
    with pytest.raises(ModelError, match="pickle"):
        load_distilled(tmp_path / "pickle.safetensors")


def test_a_class_that_the_attack_empties_is_named() -> None:
    data = images(3)
    with pytest.raises(DataError, match="class b has no image left"):
        poison(data, Attack("naive", target=0), torch.tensor([False, True, False]))


def test_more_starting_images_than_a_class_has_are_refused() -> None:
    with Run.temporary() as run, pytest.raises(DataError, match="start from noise"):
        distil(images(6), GradientMatching(per_class=5, start="real", plan=SGD), Attack(), SHAPE, run)


def test_doorping_needs_a_hidden_layer() -> None:
    shape = EncoderShape(kind="residual", width=4)
    with Run.temporary() as run, pytest.raises(ConfigError, match="needs a hidden one"):
        distil(images(), RECIPES["dc"], Attack("doorping", ratio=0.2), shape, run)
