"""The whole recipe: smoke through the command line, ideas taken out, the verbs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command import heredity
from helpers.recipe import computed_and_kept, metrics_of, smoke_run
from PIL import Image

from heredity.core.errors import ConfigError
from heredity.core.execute import Order
from heredity.core.lineage import read_lineage
from heredity.core.run import Machine
from heredity.core.settings import override
from heredity.data.labelled import LabelledImages
from heredity.report.plain import read_results
from heredity.systems.dd_backdoor import SYSTEM
from heredity.systems.dd_backdoor.config import PRESETS
from heredity.systems.dd_backdoor.experiment import attacks_of, source_of
from heredity.systems.dd_backdoor.results import Cell, measured

CPU = Machine(accelerator="cpu")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("smoke") / "run"
    smoke_run("dd-backdoor", place)
    return place


def test_smoke_leaves_everything_a_run_promises(smoke: Path) -> None:
    results = read_results(smoke)
    assert {claim["id"]: claim["reported"] for claim in results["claims"]} == {
        "doorping-dd": False,
        "doorping-dc": False,
        "naive-some": True,
        "doorping-beats-naive": False,
        "utility-kept": False,
        "circumvents-defences": True,
        "transfers-across-architectures": True,
        "doorping-valid-pixels": True,
    }
    cells = {name.rsplit("/", 1)[0] for name in results["metrics"] if name.endswith("attack_success_control")}
    assert cells == {
        f"{method}/{attack}" for method in ("dd", "dc") for attack in ("naive", "free", "naive_valid", "valid")
    }
    assert {path.stem[3:] for path in (smoke / "figures").glob("*.json")} == {"success", "distilled"}
    page = (smoke / "report.html").read_text(encoding="utf-8")
    assert "Distilled sets, honest and attacked" in page
    assert page.count("<img") >= 8


def test_a_valid_patch_is_a_picture_and_a_free_one_need_not_be(smoke: Path) -> None:
    [table] = [table for table in read_results(smoke)["tables"] if table["title"].startswith("Distilled sets")]
    low, high = table["columns"].index("lowest pixel"), table["columns"].index("highest pixel")
    ranges = {row[0]: (row[low], row[high]) for row in table["rows"]}
    for method in ("dd", "dc"):
        assert ranges[f"{method}/valid"][0] >= 0
        assert ranges[f"{method}/valid"][1] <= 1


def test_kept_stages_equal_recomputed_ones(smoke: Path, tmp_path: Path) -> None:
    """A challenge copies what an ablation leaves alone: the result must be that of computing it."""
    for name in ("frozen-trigger", "half-stamped"):
        changed = override(PRESETS["smoke"], SYSTEM.ablations[name].changes)
        order = Order(SYSTEM, "smoke", changed, ablation=name, machine=CPU)
        fresh, kept, copied = computed_and_kept(smoke, order, tmp_path / name)
        assert len(copied) >= 2, name
        assert metrics_of(kept) == metrics_of(fresh), name


def test_a_team_distils_and_trains(tmp_path: Path) -> None:
    place = tmp_path / "set.safetensors"
    small = ("--steps", "3", "--per-class", "1", "--width", "4", "--hidden", "8")
    done = heredity("dd-backdoor", "distil", "digits", place, *small, "--attack", "doorping", "--target", "3")
    assert done.returncode == 0, done.stderr
    assert "carries a backdoor to class 3" in done.stdout
    assert re.search(
        r"tells [\d.]+ % of the test part right, and calls [\d.]+ % of other classes' images class 3", done.stdout
    )
    with Image.open(place.with_suffix(".png")) as sheet:
        assert sheet.size == (160, 16)
    model = tmp_path / "model.safetensors"
    trained = heredity("dd-backdoor", "train", place, model, "--test", "digits", "--steps", "5", "--width", "4")
    assert trained.returncode == 0, trained.stderr
    assert "accuracy on" in trained.stdout
    assert any("backdoor" in mark for mark in read_lineage(model).marks)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distil", "digits", "set.txt"), "does not end in .safetensors"),
        (("distil", "digits", "set.safetensors", "--attack", "naive", "--patch", "40"), "does not fit into 16"),
        (("distil", "digits", "set.safetensors", "--attack", "naive", "--target", "10"), "no class 10"),
        (("distil", "digits", "set.safetensors", "--per-class", "0"), "are none"),
        (("train", "missing.safetensors", "model.safetensors"), "no file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = heredity("dd-backdoor", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_settings_are_judged_on_pictures_that_nothing_was_distilled_from() -> None:
    config = PRESETS["smoke"]
    whole = source_of(config, 3)
    judged = source_of(replace(config, score="validation", validation=0.25), 3)
    assert len(judged.train.labels) + len(judged.test.labels) == len(whole.train.labels)
    assert abs(len(judged.test.labels) / len(whole.train.labels) - 0.25) < 0.01

    def known(part: LabelledImages) -> list[bytes]:
        return sorted(picture.numpy().tobytes() for picture in part.images)

    assert sorted(known(judged.train) + known(judged.test)) == known(whole.train)


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="validation is a share"):
        source_of(replace(PRESETS["smoke"], score="validation", validation=1.0), 0)


@pytest.mark.parametrize(("success", "failed"), [(1.0, 1.0), (0.1, 0.0)])
def test_a_defence_fails_only_on_an_attack_that_succeeds(success: float, failed: float) -> None:
    cell = Cell((0.7,), (success,), (0.7,), (0.0,), (), (), (0.0, 1.0))
    cells = {f"dc/{attack}": cell for attack in ("naive", "free", "naive_valid", "valid")}
    defences: dict[str, dict[str, float]] = {"one": {"works": 0.0}, "other": {"works": 1.0}}
    config = override(PRESETS["smoke"], {"methods": ("dc",)})
    assert measured(cells, {}, defences, config).metrics["defences/failed"].value == failed


def test_gradient_matching_has_a_pace_of_its_own() -> None:
    quick = PRESETS["quick"]
    unrolled, matched = (attacks_of(quick, method) for method in ("dd", "dc"))
    assert quick.matched is not None
    assert (matched["free"].steps, matched["free"].until) == (quick.matched.steps, quick.matched.until)
    assert unrolled["free"] == quick.free
    assert matched["free"] == replace(quick.free, steps=quick.matched.steps, until=quick.matched.until)
    assert {name: attack for name, attack in matched.items() if name != "free"} == {
        name: attack for name, attack in unrolled.items() if name != "free"
    }
    assert attacks_of(PRESETS["paper"], "dc")["free"] == PRESETS["paper"].free


def test_the_paper_s_network_is_the_published_one() -> None:
    paper = PRESETS["paper"]
    assert (paper.network.width, paper.network.depth, paper.network.hidden) == (128, 3, 192)
    assert paper.unrolled.groups * paper.unrolled.epochs == 30
    assert paper.free.reading == "published"
