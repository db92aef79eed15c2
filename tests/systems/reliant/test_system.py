"""The whole recipe: smoke through the command line, paper on a miniature, kill and resume, ideas taken out."""

from pathlib import Path

import pytest
from helpers.command import heredity
from helpers.recipe import computed_and_kept, killed_and_resumed, metrics_of, smoke_run

from heredity.core.execute import Order, run_once
from heredity.core.run import Machine
from heredity.core.settings import override
from heredity.data.graphs import make_source
from heredity.report.plain import read_results
from heredity.systems.reliant import SYSTEM
from heredity.systems.reliant.config import PRESETS

CPU = Machine(accelerator="cpu")
SMALL = {
    "teachers": ("gcn",),
    "students": ("mlp",),
    "front.alphas": (1.0,),
    "front.readings": ("penalty", "absorb-kd"),
    "debiasing.reading": "absorb-kd",
}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("smoke") / "run"
    assert "proxy-matters" in smoke_run("reliant", place)
    return place


def test_smoke_leaves_everything_a_run_promises(smoke: Path) -> None:
    results = read_results(smoke)
    claims = {claim["id"]: claim["reported"] for claim in results["claims"]}
    assert claims == {
        "bias-inherited": False,
        "bias-reduced": False,
        "utility-kept": False,
        "framework-agnostic": False,
        "proxy-matters": True,
    }
    cells = {name.rsplit("/", 2)[0] for name in results["metrics"] if name.endswith("/reliant/accuracy")}
    assert len(cells) == 2 * 2 * 3
    assert {path.stem[3:] for path in (smoke / "figures").glob("*.json")} == {
        "inherited",
        "fronts",
        "decisions",
        "utility",
    }
    assert (smoke / "report.html").stat().st_size > 20_000
    assert "cannot be shown" not in (smoke / "report.html").read_text()


def test_students_carry_their_family_tree(smoke: Path) -> None:
    shown = heredity("pedigree", smoke / "stages/sage--cpf-mlp--code-0.5/model.safetensors").stdout
    assert "distillation (cpf)" in shown
    assert "from teacher/sage  (labels" in shown


def test_killed_at_any_moment_it_ends_in_the_same_bits(smoke: Path, tmp_path: Path) -> None:
    words = ["run", "reliant", "smoke", "--quiet"]
    assert killed_and_resumed(words, tmp_path / "killed", (0.6, 1.7))
    assert metrics_of(tmp_path / "killed") == metrics_of(smoke)


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


def test_the_paper_preset_takes_two_steps_on_the_published_layout(tmp_path: Path) -> None:
    make_source("bail", tmp_path / "data/bail", rows=150)
    paper = PRESETS["paper"]
    # The published nets, losses and rates stay; one cell a framework, and one point a front.
    changes = {
        "data": f"bail:{tmp_path}/data/bail?official",
        "teachers": ("sage",),
        "students": ("mlp",),
        "front.teacher": "sage",
        "front.alphas": (1.0,),
        "front.readings": ("penalty",),
        "front.adversary": (),
        "resamples": 10,
    }
    results = run_once(Order(SYSTEM, "paper", override(paper, changes), limit_steps=2, machine=CPU), tmp_path / "run")
    log = (tmp_path / "run/logs/sage--akd-mlp--code-1.0.csv").read_text().splitlines()
    assert log[0] == "distillation,bias,rival/loss,proxies/bias"
    assert len(log) == 3
    assert results["metrics"]["cells/number"]["value"] == 3


def test_it_says_what_it_will_take(tmp_path: Path) -> None:
    done = heredity("run", "reliant", "quick", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "biased-sbm" in done.stdout
    assert "fronts" in done.stdout
    missing = heredity("run", "reliant", "paper", "--dry-run")
    assert missing.returncode == 0, missing.stderr
    assert "MISSING" in missing.stdout


def test_several_processes_are_refused(tmp_path: Path) -> None:
    words = ["run", "reliant", "smoke", "--devices", "2", "--accelerator", "cpu", "--out", tmp_path / "r"]
    done = heredity(*words)
    assert done.returncode == 1
    assert "use --devices 1" in done.stderr
