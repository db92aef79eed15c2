"""The whole recipe: smoke through the command line, paper on a miniature, kill and resume, ideas taken out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import heredity
from helpers.recipe import computed_and_kept, metrics_of, smoke_run

from heredity.core.errors import ConfigError
from heredity.core.execute import Order, claims_of, run_once
from heredity.core.lineage import read_lineage
from heredity.core.run import FitSlot, Machine
from heredity.core.settings import override
from heredity.data.images import make_source
from heredity.report.plain import read_results
from heredity.systems.tinymim import SYSTEM
from heredity.systems.tinymim.config import ARMS, PRESETS, distillation_of

CPU = Machine(accelerator="cpu")
FEW = {"arms": ("relations",), "dense": ()}


def same_weights(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, bit by bit, and say so of themselves."""
    return read_lineage(one).content == read_lineage(other).content


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("smoke") / "run"
    assert "relation-beats-cls" in smoke_run("tinymim", place)
    return place


def test_smoke_leaves_everything_a_run_promises(smoke: Path) -> None:
    results = read_results(smoke)
    reported = {claim["id"] for claim in results["claims"] if claim["reported"]}
    assert {claim["id"] for claim in results["claims"]} == {
        "relation-beats-cls",
        "relation-beats-feature",
        "intermediate-beats-last",
        "weak-regularisation-preferred",
        "beats-scratch-mim",
        "beats-scratch-supervised",
        "dense-transfer-gains",
        "sequential-not-worse",
    }
    assert all(claim["measured"]["value"] is not None for claim in results["claims"])
    assert reported == {claim.id for claim in claims_of(SYSTEM) if claim.reported}
    measured = {name: metric["value"] for name, metric in results["metrics"].items()}
    without = max(measured["accuracy/scratch"], measured["accuracy/mae"])
    assert measured["margin/without-teacher"] == pytest.approx(measured["accuracy/relations"] - without)
    figures = {path.stem[3:] for path in (smoke / "figures").glob("*.json")}
    assert figures == {"relations", "losses", "accuracy", "dense", "cost"}
    assert "cannot be shown" not in (smoke / "report.html").read_text()
    assert not list((smoke / "stages").rglob("targets-*.safetensors"))


def test_students_carry_their_family_tree(smoke: Path) -> None:
    line = read_lineage(smoke / "stages/finetuned--sequential/model.safetensors")
    made = []
    while line.parents:
        (line,) = line.parents
        made.append((line.name, line.made_by))
    assert made == [
        ("student/sequential", "TinyMIM (relations)"),
        ("student/assistant", "TinyMIM (relations)"),
        ("teacher", "masked autoencoding"),
    ]


def test_every_switch_is_an_arm_and_an_ablation() -> None:
    study = PRESETS["study"]
    for name in study.arms:
        if ARMS[name].kind not in ("scratch", "mae"):
            distillation_of(study, name)
    free = set(study.arms) - {"scratch", "mae", "relations", "cls", "feature", "last-block", "sequential"}
    assert free <= set(SYSTEM.ablations)
    for ablation in SYSTEM.ablations:
        SYSTEM.preset("study", ablation=ablation)


def test_killed_at_any_step_it_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(PRESETS["smoke"], {"arms": ("mae", "sequential"), "dense": ("sequential",)})
    whole = run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "whole")
    ticked = 0
    tick = FitSlot.tick

    def killed(self: FitSlot, step: int, losses: dict[str, float]) -> None:
        nonlocal ticked
        ticked += 1
        tick(self, step, losses)
        if ticked % 4 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(FitSlot, "tick", killed)
    order, kills = Order(SYSTEM, "smoke", config, machine=CPU), 0
    while True:
        try:
            again = run_once(order, tmp_path / "killed", resume=kills > 0, checkpoint_seconds=0.0)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 5
    assert again["metrics"] == whole["metrics"]
    for path in sorted((tmp_path / "whole/stages").glob("*/model.safetensors")):
        assert same_weights(path, tmp_path / "killed/stages" / path.parent.name / path.name), path


def test_kept_stages_equal_recomputed_ones(tmp_path: Path) -> None:
    """A challenge copies what an ablation leaves alone: the result must be that of computing it."""
    config = override(PRESETS["smoke"], {"arms": ("relations", "sequential"), "dense": ()})
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "whole")
    for name in ("untrained-assistant",):
        order = Order(SYSTEM, "smoke", override(config, SYSTEM.ablations[name].changes), ablation=name, machine=CPU)
        fresh, kept, _ = computed_and_kept(tmp_path / "whole", order, tmp_path / name)
        assert metrics_of(kept) == metrics_of(fresh), name
        for path in sorted((fresh / "stages").glob("*/model.safetensors")):
            assert same_weights(path, kept / "stages" / path.parent.name / path.name), path


def test_the_paper_preset_takes_two_steps_on_a_miniature(tmp_path: Path) -> None:
    make_source("imagefolder", tmp_path / "data/imagenet", rows=40)
    # The published losses, views, schedules and rates stay; networks, pictures and batches are cut for the test's sake.
    shapes = {"teacher": (32, 8, 4), "student": (24, 4, 2)}
    changes: dict[str, Any] = {
        "size": 32,
        "arms": ("mae", "relations"),
        "data": f"imagefolder:{tmp_path}/data/imagenet",
    }
    for side, (width, depth, heads) in shapes.items():
        changes |= {f"{side}.width": width, f"{side}.depth": depth, f"{side}.heads": heads, f"{side}.patch": 8}
    changes |= {f"{plan}.plan.batch": 4 for plan in ("teaching", "mae", "distillation", "finetuning")}
    order = Order(SYSTEM, "paper", override(PRESETS["paper"], changes), limit_steps=2, machine=CPU)
    run_once(order, tmp_path / "run")
    log = (tmp_path / "run/logs/student--relations.0.csv").read_text().splitlines()
    assert log[0] == "qk,vv"
    assert len(log) == 3


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    words = [
        "run",
        "tinymim",
        "smoke",
        "--arms",
        "[relations]",
        "--dense",
        "[]",
        "--accelerator",
        "cpu",
        "--devices",
        "2",
    ]
    words += ["--distillation.drop_path", "0.2", "--distillation.cache", "false"]
    done = heredity(*words, "--out", tmp_path / "2")
    assert done.returncode in (0, 3), done.stderr
    config = override(PRESETS["smoke"], FEW | {"distillation.drop_path": 0.2, "distillation.cache": False})
    run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "1")
    losses: list[torch.Tensor] = []
    for devices in ("1", "2"):
        logs = sorted((tmp_path / devices / "logs").glob("*.csv"))
        rows = [line.split(",") for log in logs for line in log.read_text().splitlines()[1:]]
        losses.append(torch.tensor([float(cell) for row in rows for cell in row]))
    assert len(losses[0]) > 10
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)


def test_it_says_what_it_will_take(tmp_path: Path) -> None:
    needs = SYSTEM.load("needs")
    quick, paper = needs(PRESETS["quick"]), needs(PRESETS["paper"])
    assert quick.parameters["teacher"] > quick.parameters["student"]
    assert "MISSING" in paper.sources["imagefolder:data/imagenet"]
    assert paper.parameters["teacher"] > 3e8
    assert quick.memory_mb < 2000


def test_an_arm_that_does_not_exist_is_named(tmp_path: Path) -> None:
    config = override(PRESETS["smoke"], FEW | {"main": "relation"})
    with pytest.raises(ConfigError, match=r"unknown arm 'relation'.*'relations'"):
        run_once(Order(SYSTEM, "smoke", config, machine=CPU), tmp_path / "run")
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        SYSTEM.preset("smok")
