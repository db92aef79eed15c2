import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heredity.core.errors import ModelError
from heredity.core.lineage import (
    METADATA_KEY,
    Lineage,
    content_hash,
    lineage_of,
    load_model,
    load_tensors,
    read_lineage,
    record,
    save_model,
    save_tensors,
)


def test_a_child_knows_its_parents(tmp_path: Path) -> None:
    parent = record(nn.Linear(2, 2), Lineage("parent", "pre-training", marks=("marked",)))
    child = record(nn.Linear(2, 2), Lineage("child", "probe", settings={"a": 1}, parents=(lineage_of(parent),)))
    save_model(tmp_path / "child.safetensors", child)
    known = read_lineage(tmp_path / "child.safetensors")
    assert known.name == "child"
    assert known.parents[0].content == content_hash(parent.state_dict())
    assert known.parents[0].marks == ("marked",)
    again = load_model(tmp_path / "child.safetensors", nn.Linear(2, 2))
    assert lineage_of(again) == known


def test_changed_weights_lose_their_lineage(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, record(nn.Linear(2, 2), Lineage("m", "x")))
    tensors, metadata = load_tensors(path)
    tensors["bias"] += 1
    save_tensors(path, tensors, metadata)
    with pytest.raises(ModelError, match="not those the lineage was written for"):
        read_lineage(path)


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04rest", b"\x80\x02}q\x00.", b"", b"\xff" * 64, struct.pack("<Q", 10) + b"{not json}"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        load_tensors(path)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="weights_only=True"):
        load_tensors(tmp_path / "m.pt")


def test_misfits_name_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, record(nn.Linear(2, 2), Lineage("m", "x")))
    with pytest.raises(ModelError, match="'weight' has shape"):
        load_model(path, nn.Linear(3, 2))
    with pytest.raises(ModelError, match="1 unknown"):
        load_model(path, nn.Linear(2, 2, bias=False))
    save_tensors(path, {"weight": torch.full((2, 2), float("nan")), "bias": torch.zeros(2)}, {})
    with pytest.raises(ModelError, match="not finite"):
        load_model(path, nn.Linear(2, 2))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "parents", "marks"]), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(json_values)
def test_hostile_lineage_is_refused_or_read(plain: object) -> None:
    try:
        known = Lineage.from_plain(plain)
    except ModelError:
        return
    json.dumps(known.to_plain())


def test_endless_ancestry_is_refused() -> None:
    plain: dict[str, object] = {"name": "a", "made_by": "b", "content": "", "parents": []}
    for _ in range(100):
        plain = {**plain, "parents": [plain]}
    with pytest.raises(ModelError):
        Lineage.from_plain(plain)


def test_the_key_of_the_metadata_is_stable() -> None:
    assert METADATA_KEY == "heredity.lineage"


@pytest.mark.parametrize("second", [2, 3, 4, 5])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, second: int) -> None:
    """896 = 0x380: the bytes that a pickle of protocol 3 begins with are also the length of an honest header."""
    path, wanted = tmp_path / "m.safetensors", 0x80 + 256 * second
    for padding in range(wanted - 160, wanted, 8):
        save_tensors(path, {"w": torch.zeros(1)}, {"note": "x" * padding})
        if path.read_bytes()[:2] == bytes([0x80, second]):
            break
    else:
        pytest.fail("no header of that length")
    assert torch.equal(load_tensors(path)[0]["w"], torch.zeros(1))
