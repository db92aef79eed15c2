import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from heredity.systems.ssl_wm.mark.keys import (
    Key,
    KeyFileError,
    KeyParameters,
    derive_patches,
    generate_key,
    load_key,
    random_patches,
    save_key,
)

KEY = generate_key("Ada", KeyParameters(sub_keys=3, patch=4), secret=bytes(range(32)), created="2024-01-01")


def test_patches_are_the_hash_of_the_slow_hash() -> None:
    master = hashlib.scrypt(bytes(range(32)), salt=b"Ada||2024-01-01", n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    message = b"heredity/ssl-wm/v1" + master + b"image" + (2).to_bytes(4, "big")
    expected = hashlib.shake_256(message).digest(4 * 4 * 3)
    assert bytes(derive_patches(KEY)[2].permute(1, 2, 0).reshape(-1).tolist()) == expected


def test_every_field_changes_every_patch() -> None:
    before = derive_patches(KEY)
    for other in (
        Key("Bob", KEY.created, KEY.secret, KEY.parameters),
        Key(KEY.owner, "2024-01-02", KEY.secret, KEY.parameters),
        Key(KEY.owner, KEY.created, bytes(32), KEY.parameters),
    ):
        assert (derive_patches(other) == before).float().mean() < 0.1


def test_random_patches_have_the_distribution_of_derived_ones() -> None:
    many = generate_key("Ada", KeyParameters(sub_keys=200, patch=8), secret=bytes(32), created="then")
    derived = derive_patches(many).float()
    drawn = random_patches(200, many.parameters, torch.Generator().manual_seed(0)).float()
    for patches in (derived, drawn):
        assert abs(patches.mean() - 127.5) < 1.5
        assert abs(patches.var() - (256**2 - 1) / 12) < 100
        assert patches.min() == 0
        assert patches.max() == 255


def test_a_key_file_comes_back_as_it_was_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "mine.key.json"
    save_key(path, KEY)
    assert load_key(path) == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY.secret.hex() not in repr(KEY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owner": "Mallory"}, "was changed after it was made"),
        ({"created": "1999-01-01"}, "was changed after it was made"),
        ({"secret": "00" * 32}, "was changed after it was made"),
        ({"fingerprint": ""}, "was changed after it was made"),
        ({"version": 2}, "key version 2"),
        ({"format": "other"}, "'format'"),
        ({"modality": "sound"}, "a key for 'sound'"),
        ({"modality": "text"}, r"params\.channels"),
        ({"commitment": 7}, "'commitment'"),
        ({"secret": "zz"}, "'secret'"),
        ({"secret": 7}, "'secret'"),
        ({"params": {}}, r"params\."),
        ({"params": {**vars(KEY.parameters), "patch": 30}}, "half an image"),
        ({"params": {**vars(KEY.parameters), "patch": -1}}, "not a positive number"),
        ({"params": {**vars(KEY.parameters), "patch": True}}, "not a positive number"),
        ({"params": {**vars(KEY.parameters), "position": "middle"}}, "position 'middle'"),
        ({"params": {**vars(KEY.parameters), "extra": 1}}, r"params\.extra"),
    ],
)
def test_a_tampered_key_file_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.key.json"
    save_key(path, KEY)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(KeyFileError, match=message):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{", b"1"])
def test_what_is_no_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.key.json"
    path.write_bytes(content)
    with pytest.raises(KeyFileError):
        load_key(path)


def test_a_missing_key_file_names_keygen(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="keygen"):
        load_key(tmp_path / "none.json")


def test_a_key_needs_an_owner() -> None:
    with pytest.raises(KeyFileError, match="owner"):
        generate_key(" ", KeyParameters())
