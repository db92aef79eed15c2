import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from heredity.core.errors import ConfigError, HeredityError, RunError
from heredity.core.files import read_json, write_json
from heredity.core.outcome import Bars, Pictures
from heredity.core.run import Machine, Run

MACHINE = Machine(accelerator="cpu")
IDENTITY = {"system": "toy", "seed": 1, "config": {"a": {"b": 2}}}


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    calls = []
    for resume in (False, True):
        run = Run.open(tmp_path / "r", IDENTITY, machine=MACHINE, resume=resume)
        assert run.table("t", lambda: calls.append(1) or {"x": 1.5}) == {"x": 1.5}
        made = run.model("a/b", make=lambda: nn.Linear(2, 2), train=lambda m: calls.append(2), made_by="nothing")
        tensors = run.tensors("z", lambda: {"k": torch.arange(3)})
        assert torch.equal(tensors["k"], torch.arange(3))
        assert isinstance(made, nn.Linear)
    assert calls == [1, 2]


def test_stages_are_seeded_by_name_not_by_order(tmp_path: Path) -> None:
    def made(run: Run, names: list[str]) -> dict[str, torch.Tensor]:
        return {n: run.model(n, make=lambda: nn.Linear(3, 3), train=lambda m: None, made_by="x").weight for n in names}

    first = made(Run.open(tmp_path / "a", IDENTITY, machine=MACHINE), ["one", "two"])
    second = made(Run.open(tmp_path / "b", IDENTITY, machine=MACHINE), ["two", "one"])
    assert torch.equal(first["one"], second["one"])
    assert not torch.equal(first["one"], first["two"])


def test_the_users_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run = Run.open(tmp_path / "a", IDENTITY, machine=MACHINE)
    run.model("m", make=lambda: nn.Linear(3, 3), train=lambda m: None, made_by="x")
    assert torch.equal(torch.rand(3), expected)


def test_resume_with_other_settings_names_the_field(tmp_path: Path) -> None:
    Run.open(tmp_path / "r", IDENTITY, machine=MACHINE)
    with pytest.raises(RunError, match="already holds a run"):
        Run.open(tmp_path / "r", IDENTITY, machine=MACHINE)
    with pytest.raises(RunError, match=r"config\.a\.b = 2, not 3"):
        Run.open(tmp_path / "r", {**IDENTITY, "config": {"a": {"b": 3}}}, machine=MACHINE, resume=True)


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not an empty directory"):
        Run.open(tmp_path, IDENTITY, machine=MACHINE)


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"x\.json: No space left on device"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_disk_that_fills_up_during_a_run_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(tmp_path / "r", IDENTITY, machine=MACHINE)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(RunError, match="free disk space"):
        run.model("m", make=lambda: nn.Linear(2, 2), train=lambda m: None, made_by="x")
    monkeypatch.setattr(os, "fsync", real)
    run = Run.open(tmp_path / "r", IDENTITY, machine=MACHINE, resume=True)
    run.model("m", make=lambda: nn.Linear(2, 2), train=lambda m: None, made_by="x")
    assert (tmp_path / "r/stages/m/model.safetensors").exists()


def test_figures_are_plain_data(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", IDENTITY, machine=MACHINE)
    run.figure("bars", Bars(("a",), {"s": (1.0,)}, "u"), caption="c", alt="a")
    run.figure("pics", Pictures(((np.zeros((2, 2, 3), np.uint8),),), ("row",)), caption="c", alt="a")
    names = sorted(path.name for path in (tmp_path / "r/figures").iterdir())
    assert names == ["00-bars.json", "01-pics.json"]
    assert read_json(tmp_path / "r/figures/00-bars.json")["data"]["labels"] == ["a"]


@pytest.mark.parametrize("name", ["../up", "a//b", "", "a b", "/abs"])
def test_stage_names_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError), Run.temporary() as run:
        run.table(name, lambda: 1)


def test_stages_do_not_nest_or_repeat() -> None:
    with Run.temporary() as run:
        with pytest.raises(ConfigError, match="do not nest"):
            run.table("a", lambda: run.table("b", lambda: 1))
        run.table("c", lambda: 1)
        with pytest.raises(ConfigError, match="exists twice"):
            run.table("c", lambda: 1)


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HeredityError, match="cannot write"):
        Run.open(tmp_path / "file" / "r", IDENTITY, machine=MACHINE)
