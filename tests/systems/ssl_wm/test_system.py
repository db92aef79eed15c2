"""The whole recipe: smoke through the command line, paper on miniatures, kill and resume, ideas taken out."""

import random
from pathlib import Path

import pytest
import torch
from helpers.command import heredity
from helpers.recipe import computed_and_kept, killed_and_resumed, metrics_of, smoke_run

from heredity.core.execute import Order, claims_of, run_once
from heredity.core.run import Machine
from heredity.core.settings import override
from heredity.data.images import make_source
from heredity.report.plain import read_results
from heredity.systems.ssl_wm import SYSTEM
from heredity.systems.ssl_wm.config import PRESETS
from heredity.systems.ssl_wm.experiment import _first

SMALL = {
    "families": ("contrastive",),
    "further": (),
    "tasks": ("classes",),
    "attacks.tasks": ("classes",),
    "thief.prune_steps": (0.5, 0.9),
    "thief.rows": 200,
}
CPU = Machine(accelerator="cpu")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("smoke") / "run"
    assert "verifies-contrastive" in smoke_run("ssl-wm", place)
    return place


def test_smoke_leaves_everything_a_run_promises(smoke: Path) -> None:
    results = read_results(smoke)
    assert {claim["id"] for claim in results["claims"]} == {claim.id for claim in claims_of(SYSTEM, "smoke")}
    assert results["versions"]["torch"]
    assert (smoke / "config.yaml").exists()
    assert (smoke / "report.html").stat().st_size > 20_000
    # Three for a run, two more over pruning, features and losses of five encoders, prices of two.
    assert len(list((smoke / "figures").glob("*.json"))) == 17
    assert list((smoke / "logs").glob("contrastive--marked*.csv"))


def test_children_carry_their_family_tree(smoke: Path) -> None:
    shown = heredity("pedigree", smoke / "stages/contrastive--classes--stolen-full/model.safetensors").stdout
    assert "SimCLR" in shown
    assert "carries an ownership mark" in shown
    clean = heredity("pedigree", smoke / "stages/contrastive--classes--clean-probe/model.safetensors").stdout
    assert "ownership" not in clean


def test_a_stolen_stage_can_be_verified_by_name(smoke: Path, tmp_path: Path) -> None:
    assert heredity("ssl-wm", "keygen", tmp_path / "k.json", "--owner", "Ada", "--size", "16").returncode == 0
    suspect = f"run:{smoke}/contrastive/classes/stolen-full"
    done = heredity("ssl-wm", "verify", tmp_path / "k.json", suspect, "--images", "digits", "--uncommitted")
    assert done.returncode == 0, done.stderr
    assert "no evidence" in done.stdout


def test_resuming_a_finished_run_changes_nothing(smoke: Path) -> None:
    before = metrics_of(smoke)
    page = (smoke / "report.html").read_text()
    done = heredity("run", "ssl-wm", "smoke", "--out", smoke, "--resume")
    assert done.returncode in (0, 3), done.stderr
    assert metrics_of(smoke) == before
    assert (smoke / "report.html").read_text() == page


def test_a_changed_setting_is_not_resumed(smoke: Path) -> None:
    done = heredity("run", "ssl-wm", "smoke", "--out", smoke, "--resume", "--thief.rows", "99")
    assert done.returncode == 1
    assert "thief.rows" in done.stderr
    done = heredity("run", "ssl-wm", "smoke", "--out", smoke)
    assert "--resume" in done.stderr


def test_killed_at_any_moment_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Three moments here; benchmarks/kill_and_resume.py does twenty."""
    words = ["run", "ssl-wm", "smoke", "--families", "[contrastive]", "--tasks", "[classes]", "--quiet"]
    words += ["--further", "[moco]"]
    whole = heredity(*words, "--out", tmp_path / "whole")
    assert whole.returncode in (0, 3), whole.stderr
    waits = [quarters / 4 for quarters in random.Random(0).sample(range(2, 12), 3)]
    assert killed_and_resumed(words, tmp_path / "killed", waits)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")


def test_kept_stages_equal_recomputed_ones(tmp_path: Path) -> None:
    """A challenge copies what an ablation leaves alone: the result must be that of computing it."""
    config = override(PRESETS["smoke"], SMALL)
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "whole")
    for name in ("no-utility", "wrong-key", "chosen-patches", "no-commitment"):
        changed = override(config, SYSTEM.ablations[name].changes)
        order = Order(SYSTEM, "smoke", changed, ablation=name, machine=CPU)
        fresh, kept, _ = computed_and_kept(tmp_path / "whole", order, tmp_path / name)
        assert metrics_of(kept) == metrics_of(fresh), name


def test_every_ablation_changes_what_it_names(tmp_path: Path) -> None:
    plain = override(PRESETS["quick"], {})
    for name, ablation in SYSTEM.ablations.items():
        assert override(plain, ablation.changes) != plain, name


PUBLISHED = {
    # Every net and every layout once; all ten pairs would only take longer.
    "contrastive": (("classes", "stl10:data/stl10", "gtsrb:data/gtsrb"), "contrast,invariance"),
    "generative": (("idx:data/mnist", "imagefolder:data/cinic10"), "reconstruction,invariance"),
    "moco": (("classes",), "contrast,invariance"),
    "byol": (("classes",), "prediction,invariance"),
    "bigan": (("classes",), "fooling,invariance,discriminator/telling"),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_paper_preset_takes_two_steps_on_the_published_layouts(tmp_path: Path, family: str) -> None:
    tasks, terms = PUBLISHED[family]
    paper = PRESETS["paper"]
    assert set(tasks) <= set(paper.tasks)
    for source in {paper.data, *(task for task in tasks if ":" in task)}:
        layout, _, place = source.partition(":")
        make_source(layout, tmp_path / place, rows=60)
    # The published nets, losses, data and rates stay. Batches are cut for the test's sake, and our verification asks less.
    changes = {
        "families": (family,),
        "further": (),
        "attacks.tasks": (),
        "tasks": tasks,
        "key.sub_keys": 2,
        "verification.decoys": 3,
        "verification.images": 4,
        "verification.picks": 100,
        "calibration.probes": 0,
        "calibration.keys": 1,
        "calibration.forged": 1,
        "calibration.images": 4,
        "calibration.picks": 10,
        "thief.prune_steps": (0.9,),
        "thief.rows": 60,
        f"{family}.pretraining.plan.batch": 16,
        f"{family}.embedding.plan.batch": 16,
    } | {f"thief.{kind}.plan.batch": 16 for kind in ("full", "hard", "last", "scratch")}
    order = Order(SYSTEM, "paper", override(paper, changes), limit_steps=2, machine=CPU)
    results = run_once(order, tmp_path / "run")
    cells = {metric.split("/")[1] for metric in results["metrics"] if metric.startswith(f"{family}/")}
    assert cells == {task.split("/")[-1] for task in tasks}
    log = (tmp_path / f"run/logs/{family}--marked.0.csv").read_text().splitlines()
    assert log[0] == terms
    assert len(log) == 3


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    """Pre-training is the same arithmetic. Marking gives each process its own share of strong and weak views."""
    words = ["run", "ssl-wm", "smoke", "--families", "[generative]", "--tasks", "[parity]", "--accelerator", "cpu"]
    words += ["--further", "[]", "--attacks.tasks", "[]"]
    losses: dict[str, list[list[float]]] = {"clean": [], "marked": []}
    for devices in ("1", "2"):
        done = heredity(*words, "--devices", devices, "--out", tmp_path / devices, timeout=500)
        assert done.returncode in (0, 3), done.stderr
        for stage, found in losses.items():
            lines = (tmp_path / devices / f"logs/generative--{stage}.0.csv").read_text().splitlines()[1:]
            found.append([float(cell) for line in lines for cell in line.split(",")])
    assert losses["clean"][0] == pytest.approx(losses["clean"][1], rel=1e-4)
    assert losses["marked"][0] == pytest.approx(losses["marked"][1], rel=0.3, abs=0.01)
    one, two = (
        torch.tensor([row["value"] for name, row in metrics_of(tmp_path / d).items() if name.endswith("/accuracy")])
        for d in ("1", "2")
    )
    assert (one - two).abs().mean() < 5


@pytest.mark.parametrize("halvings", [0, 1, 3, 10])
def test_pruning_stops_where_the_points_are_lost_and_not_a_step_later(halvings: int) -> None:
    asked: list[float] = []

    def reached(share: float) -> bool:
        asked.append(share)
        return share >= 0.43

    found = _first(reached, 0.4, 0.6, halvings)
    assert len(asked) == halvings
    assert 0.43 <= found <= 0.43 + 0.2 / 2**halvings
