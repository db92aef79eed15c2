"""The whole recipe: smoke through the command line, the paper's preset in miniature, ideas taken out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import recipe
from helpers.command import heredity
from helpers.recipe import computed_and_kept, smoke_run

from heredity.core.errors import ConfigError, DataError
from heredity.core.execute import Order, run_once
from heredity.core.run import Machine
from heredity.core.settings import override
from heredity.data.images import load_images
from heredity.data.labelled import ImageSource
from heredity.report.plain import read_results
from heredity.systems.dbia import SYSTEM, experiment
from heredity.systems.dbia.config import PRESETS
from heredity.systems.dbia.needs import needs

CPU = Machine(accelerator="cpu")
IDS = {
    "attack-succeeds-vit",
    "attack-succeeds-deit",
    "attack-succeeds-swin",
    "clean-accuracy-kept",
    "attention-trigger-beats-random",
    "false-trigger-rate",
    "cheaper-than-poisoning",
}
SMALL = {"victims": ("deit",), "detailed": "deit", "defences.on": False}


def metrics_of(directory: Path) -> dict[str, Any]:
    """All but the clock's."""
    found = recipe.metrics_of(directory)
    return {name: value for name, value in found.items() if "seconds" not in name and name != "cost/worst_ratio"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("smoke") / "run"
    smoke_run("dbia", place)
    return place


def test_smoke_leaves_everything_a_run_promises(smoke: Path) -> None:
    results = read_results(smoke)
    assert {claim["id"] for claim in results["claims"]} == IDS
    assert [table["title"] for table in results["tables"]] == [
        "Attacks",
        "Share of attention on the trigger's place",
        "What it takes (vit)",
        "Defences (vit)",
    ]
    attacks = results["tables"][0]["rows"]
    for kind in ("vit", "deit", "swin"):
        for trigger in ("attention", "random"):
            recipes = {row[2] for row in attacks if row[0] == kind and row[1] == trigger}
            assert {"keep-clean", "paper"} <= recipes, (kind, trigger)
    assert {path.stem[3:] for path in (smoke / "figures").glob("*.json")} == {
        "triggers",
        "attention-vit",
        "attention-deit",
        "attention-swin",
        "success",
        "accuracy",
        "rows",
        "defences",
        "pruning",
    }
    page = (smoke / "report.html").read_text()
    assert "cannot be shown" not in page
    defended = {row[0] for row in results["tables"][3]["rows"]}
    assert {"Neural Cleanse", "STRIP", "Fine-Pruning", "attention concentration", "PatchDrop"} <= defended


def test_a_child_says_that_it_is_backdoored(smoke: Path) -> None:
    shown = heredity("pedigree", smoke / "stages/swin--attention-keep-clean--child/model.safetensors").stdout
    assert "BACKDOORED (DBIA, target 0)" in shown
    assert "from swin/victim" in shown


def test_kept_stages_equal_recomputed_ones(tmp_path: Path) -> None:
    """A challenge copies what an ablation leaves alone: the result must be that of computing it."""
    config = override(PRESETS["smoke"], SMALL)
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "whole")
    for name in SYSTEM.ablations:
        changed = override(config, SYSTEM.ablations[name].changes)
        order = Order(SYSTEM, "smoke", changed, ablation=name, machine=CPU)
        fresh, kept, _ = computed_and_kept(tmp_path / "whole", order, tmp_path / name)
        assert metrics_of(kept) == metrics_of(fresh), name
        assert metrics_of(fresh) != metrics_of(tmp_path / "whole"), name


def test_settings_can_be_judged_without_the_test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On validation pictures whatever lies in the test part changes no figure."""
    config = override(PRESETS["smoke"], SMALL | {"score": "validation"})
    whole = load_images("digits", size=16)
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "as-it-is")
    other = replace(whole.test, images=255 - whole.test.images, labels=whole.test.labels.flip(0))
    monkeypatch.setattr(experiment, "load_images", _only("digits", replace(whole, test=other)))
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "other-test-pictures")
    assert metrics_of(tmp_path / "as-it-is") == metrics_of(tmp_path / "other-test-pictures")


def _only(source: str, found: ImageSource) -> Callable[..., ImageSource]:
    def load(name: str, **options: Any) -> ImageSource:
        assert name == source
        return found

    return load


def test_validation_pictures_are_taken_out_of_the_training_part() -> None:
    whole = load_images("digits", size=16)
    config = override(PRESETS["smoke"], {"score": "validation", "validation": 0.25})
    parts = experiment.scored(whole, config, 0)
    train, held, test = (
        [image.numpy().tobytes() for image in part.images] for part in (parts.train, parts.test, whole.test)
    )
    assert len(held) == pytest.approx(0.25 * len(whole.train.labels), abs=10)
    assert sorted(train + held) == sorted(image.numpy().tobytes() for image in whole.train.images)
    assert sorted(held) != sorted(test)
    assert experiment.scored(whole, PRESETS["smoke"], 0) is whole
    with pytest.raises(ConfigError, match="validation cannot be"):
        experiment.scored(whole, override(config, {"validation": 1.0}), 0)


def test_without_an_injection_nothing_succeeds_and_a_random_trigger_beats_itself_by_nothing(tmp_path: Path) -> None:
    config = override(PRESETS["smoke"], SMALL)
    for name, metric in (("no-injection", "deit/gain"), ("random-trigger", "advantage_over_random")):
        changed = override(config, SYSTEM.ablations[name].changes)
        results = run_once(Order(SYSTEM, "smoke", changed, ablation=name, machine=CPU), tmp_path / name)
        assert results["metrics"][metric]["value"] == 0.0


def test_the_paper_preset_takes_two_steps(tmp_path: Path) -> None:
    """The published settings, on victims made here: patch of 48 pixels two from the border, 1500 and 200 rows, target 4."""
    changes = {
        "data": "digits",
        "surrogate": "photos",
        "surrogate_rows": 8,
        "target": 4,
        "victims": ("deit",),
        "deit.model": "train",
        "deit.shape.kind": "deit",
        "deit.shape.patch": 16,
        "deit.shape.width": 16,
        "deit.shape.depth": 2,
        "deit.shape.heads": 2,
        "deit.plan.batch": 8,
        "search.groups": 2,
        "search.starts": 1,
        "badnets.plan.batch": 8,
        "injection.plan.batch": 8,
        "defences.on": False,
        "size": 224,
    }
    config = override(PRESETS["paper"], changes)
    assert not config.search.patch.aligned
    # 497 test pictures of 224 pixels would be looked at by every row: a few of the training part are enough.
    config = override(config, {"data": "digits", "size": 224, "score": "validation", "validation": 0.03})
    results = run_once(Order(SYSTEM, "paper", config, limit_steps=2, machine=CPU), tmp_path / "run")
    assert results["metrics"]["deit/attention/paper/original_pictures"]["value"] == 0.0


def test_it_says_what_it_will_take() -> None:
    done = heredity("run", "dbia", "quick", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "photos" in done.stdout
    assert "vit victim" in done.stdout
    assert any("MISSING" in state for state in needs(PRESETS["paper"]).sources.values())


def test_a_target_or_a_trigger_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, kind, message in (
        ({"target": 10}, ConfigError, "target 10 is no class"),
        ({"search.patch.size": 17, "victims": ("vit",)}, ConfigError, "does not fit into an image of 16"),
        ({"surrogate": "nowhere"}, DataError, "unknown data source"),
    ):
        order = Order(SYSTEM, "smoke", override(PRESETS["smoke"], changes), machine=CPU)
        with pytest.raises(kind, match=message):
            run_once(order, tmp_path / message[:6])
