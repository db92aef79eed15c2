from pathlib import Path

import pytest

from heredity.core.errors import DataError
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
