"""A system in a package of its own has everything the house has."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import heredity
from helpers.plug_in import SOURCE, install


@pytest.fixture(scope="module")
def plug_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plug-in"))


def test_it_is_under_sixty_lines_of_its_own() -> None:
    lines = [line for line in SOURCE.read_text().splitlines() if line.strip()]
    assert len(lines) < 60


def test_it_is_listed_and_shown(plug_in: Path) -> None:
    assert "eleventh" in heredity("list", path=plug_in).stdout
    shown = json.loads(heredity("show", "eleventh", "--json", path=plug_in).stdout)
    assert shown["claims"][0]["id"] == "answers-inherited"


def test_it_runs_reports_and_resumes(plug_in: Path, tmp_path: Path) -> None:
    done = heredity("run", "eleventh", "--out", tmp_path / "r", path=plug_in)
    assert done.returncode == 0, done.stderr
    assert "holds  answers-inherited" in done.stdout
    assert "A student that learns" in (tmp_path / "r/report.html").read_text()
    before = json.loads((tmp_path / "r/results.json").read_text())
    again = heredity("run", "eleventh", "--out", tmp_path / "r", "--resume", path=plug_in)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "r/results.json").read_text())["metrics"] == before["metrics"]
    assert "distillation" in heredity("pedigree", tmp_path / "r/stages/student/model.safetensors").stdout


def test_a_failed_claim_is_exit_code_three(plug_in: Path, tmp_path: Path) -> None:
    done = heredity("run", "eleventh", "--ablation", "no-teacher", "--out", tmp_path / "r", path=plug_in)
    assert done.returncode == 3, done.stderr
    assert "FAILS  answers-inherited" in done.stdout


def test_several_seeds_are_judged_together(plug_in: Path, tmp_path: Path) -> None:
    done = heredity("run", "eleventh", "--seeds", "3", "--plan.steps", "100", "--out", tmp_path / "r", path=plug_in)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "r/results.json").read_text())
    assert results["seeds"] == [0, 1, 2]
    assert len({run["metrics"]["agreement"]["value"] for run in results["runs"]}) >= 1
    assert results["runs"][0]["config"]["plan"]["steps"] == 100
    low, high = results["summary"]["agreement"]["interval"]
    assert low <= results["summary"]["agreement"]["mean"] <= high
    assert heredity("report", tmp_path / "r", "--no-open").returncode == 0


def test_a_challenge_takes_the_idea_out(plug_in: Path, tmp_path: Path) -> None:
    done = heredity("challenge", "eleventh", "--out", tmp_path / "r", path=plug_in)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("supported ")
    kept = "stages/teacher/model.safetensors"
    whole, without = (tmp_path / "r" / name / "seed-0" / kept for name in ("whole", "no-teacher"))
    assert whole.read_bytes() == without.read_bytes()
    verdict = json.loads((tmp_path / "r/challenge.json").read_text())["verdicts"][0]
    assert verdict["verdict"] == "supported"
    assert verdict["holds_without"] == {"no-teacher": False}


def test_two_processes_agree_with_one(plug_in: Path, tmp_path: Path) -> None:
    """The two-process CPU run (gloo): every process gets half of each batch, and the same numbers are drawn."""
    metrics, losses = [], []
    for devices in (1, 2):
        place = tmp_path / str(devices)
        done = heredity(
            "run", "eleventh", "--devices", str(devices), "--accelerator", "cpu", "--out", place, path=plug_in
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("answers-inherited") == 1
        metrics.append(json.loads((place / "results.json").read_text())["metrics"]["agreement"]["value"])
        losses.append([float(line) for line in (place / "logs/teacher.0.csv").read_text().splitlines()[1:]])
    assert metrics[0] == pytest.approx(metrics[1], abs=1.01)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)


def test_ctrl_c_prints_the_resume_command(plug_in: Path, tmp_path: Path) -> None:
    import os

    environment = os.environ | {"PYTHONPATH": str(plug_in), "OMP_NUM_THREADS": "1"}
    words = ["run", "eleventh", "--out", str(tmp_path / "r"), "--plan.steps", "1000000"]
    # A test run that was itself started in the background hands on an ignored SIGINT.
    process = subprocess.Popen(
        [sys.executable, "-m", "heredity", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "teacher" in line:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: heredity run eleventh" in error
    assert "--resume" in error
    assert "Traceback" not in error
