from pathlib import Path

import pytest

from heredity.cli import dispatch
from heredity.core.errors import ConfigError, DataError
from heredity.data.sources import KINDS, check_source, list_sources, make_source


def test_every_kind_lists_sources_it_knows() -> None:
    listed = list_sources()
    assert set(listed) == set(KINDS)
    assert all(listed.values())


def test_a_source_goes_to_the_module_that_knows_it(tmp_path: Path) -> None:
    assert "1300 images" in check_source("digits")
    assert "3000 nodes" in check_source("biased-sbm")
    assert "read it as cifar10:" in make_source("cifar10-python", tmp_path / "made", rows=30)


def test_an_unknown_source_suggests_one_of_any_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data source 'biased-sbn' .*'biased-sbm'"):
        check_source("biased-sbn")
    with pytest.raises(DataError, match=r"no generated set 'digit' .*'digits'"):
        make_source("digit", tmp_path / "made")


def test_the_command_line_lists_writes_and_checks_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["data"]) == 0
    listed = capsys.readouterr().out
    assert "images\n  digits" in listed
    assert "graphs\n  biased-sbm" in listed
    place = str(tmp_path / "made")
    assert dispatch(["data", "make", "german", place, "--rows", "120", "--seed", "3"]) == 0
    assert f"read it as german:{place}" in capsys.readouterr().out
    assert dispatch(["data", f"german:{place}?drop=noise_0"]) == 0
    described = capsys.readouterr().out
    assert "german (120 nodes" in described
    assert "columns left out: noise_0" in described
    with pytest.raises(DataError, match="not an empty folder"):
        dispatch(["data", "make", "bail", place])
    with pytest.raises(ConfigError, match="nodes must lie in"):
        dispatch(["data", "make", "bail", str(tmp_path / "none"), "--rows", "10"])
    assert not (tmp_path / "none").exists()
