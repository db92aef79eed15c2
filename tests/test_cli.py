import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.command import heredity, said

from heredity.cli import dispatch, main
from heredity.core.errors import HeredityError
from heredity.systems import TEN


def test_help_and_list_import_nothing_heavy() -> None:
    """They answer in under half a second because torch stays out; the import list says so on any machine."""
    for words in (["--help"], ["list"], ["list", "--json"], ["show", "ssl-wm"]):
        code = (
            "import sys; from heredity.cli import dispatch; "
            f"assert dispatch({words!r}) == 0; "
            "heavy = {'torch', 'lightning', 'sklearn', 'matplotlib', 'timm', 'numpy'} & set(sys.modules); "
            "print('HEAVY', *sorted(heavy))"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        if words[0] != "show":
            assert shown.splitlines()[-1] == "HEAVY"


def test_the_list_is_truthful(capsys: pytest.CaptureFixture[str]) -> None:
    dispatch(["list", "--json"])
    rows = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert len(TEN) == 10
    assert rows["ssl-wm"] == "runs"
    assert {name for name, state in rows.items() if state == "not yet"} == {e.name for e in TEN if not e.module}


def test_show_names_what_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    dispatch(["show", "ssl-wm", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"smoke", "quick", "paper", "attacks", "language", "detectors", "full"} == set(shown["presets"])
    assert {"keygen", "embed", "commit", "verify", "search"} == set(shown["verbs"])
    assert {claim["id"] for claim in shown["claims"]} == {
        "verifies-contrastive",
        "verifies-generative",
        "false-positives-bounded",
        "utility-kept",
        "survives-fine-tuning",
        "survives-pruning",
        "forged-keys-fail",
        "survives-quantisation",
        "survives-extraction",
        "ambiguity-resolved",
        "verifies-language",
        "evades-detection",
    }
    assert {"no-mark", "no-invariance", "no-utility", "no-decoys", "wrong-key"} <= set(shown["ablations"])
    assert {claim["depends_on"] for claim in shown["claims"]} <= set(shown["ablations"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu", "ssl-wm"], "run"),
        (["run", "ssl-mw"], "ssl-wm"),
        (["run", "chtr3d"], "not there yet"),
        (["run", "ssl-wm", "quik"], "quick"),
        (["run", "ssl-wm", "--theif.rows", "3"], "thief"),
        (["run", "ssl-wm", "--thief.row", "3"], "rows"),
        (["run", "ssl-wm", "--thief.rows", "many"], "thief.rows"),
        (["run", "ssl-wm", "--families", "contrastiv"], "contrastive"),
        (["run", "ssl-wm", "--seeds", "0"], "--seeds"),
        (["run", "ssl-wm", "--seed", "x"], "seed"),
        (["run", "ssl-wm", "--ablation", "no-mrak"], "no-mark"),
        (["run", "ssl-wm", "--config", "none.yaml"], "none.yaml"),
        (["run"], "heredity run --help"),
        (["show", "nothing"], "ssl-wm"),
        (["report", "nowhere"], "results.json"),
        (["pedigree", "nowhere.safetensors"], "nowhere.safetensors"),
        (["data", "imagefolder:nowhere"], "nowhere"),
        (["data", "make", "digit", "d"], "generated"),
        (["ssl-wm", "verfy"], "verify"),
        (["ssl-wm", "keygen"], "keygen --help"),
        (["run", "ssl-wm", "smoke", "--precision", "7-bit", "--out", "p"], "--precision"),
    ],
)
def test_a_users_mistake_is_one_line_with_the_remedy(words: list[str], message: str) -> None:
    with pytest.raises(HeredityError) as caught:
        dispatch(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_are_lines_and_with_debug_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "nothing"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(HeredityError):
        main(["--debug", "run", "nothing"])


def test_the_process_says_one_line_too() -> None:
    assert "ssl-wm" in said(heredity("run", "ssl-mw"))


def test_a_dry_run_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", "ssl-wm", "paper", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "cifar10:data/cifar10: MISSING" in shown
    assert "contrastive" in shown
    assert "memory" in shown
    assert dispatch(["run", "ssl-wm", "--dry-run"]) == 0
    assert "ready" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_sources_are_listed_made_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["data"]) == 0
    assert "imagefolder:DIR" in capsys.readouterr().out
    assert dispatch(["data", "make", "stl10", str(tmp_path / "made"), "--rows", "40"]) == 0
    assert dispatch(["data", f"stl10:{tmp_path / 'made'}"]) == 0
    assert "40 images" in capsys.readouterr().out


def test_verbs_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["ssl-wm", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("keygen", "embed", "verify"))
    with pytest.raises(SystemExit) as stopped:
        dispatch(["ssl-wm", "verify", "--help"])
    assert stopped.value.code == 0
    assert "--decoys" in capsys.readouterr().out


def test_a_config_file_of_another_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"system": "dbia", "config": {}}))
    with pytest.raises(HeredityError, match="dbia"):
        dispatch(["run", "ssl-wm", "--config", str(tmp_path / "c.yaml")])
