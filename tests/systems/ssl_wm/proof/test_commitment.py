import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.marked import make_key

from heredity.systems.ssl_wm.mark.keys import load_key, save_key
from heredity.systems.ssl_wm.mark.vault import FILE_VARIABLE, VARIABLE, PassphraseError
from heredity.systems.ssl_wm.proof.commitment import (
    CommitmentError,
    check_commitment,
    commit_to,
    commitment_path,
    date_warnings,
    load_commitment,
    save_commitment,
)

KEY = make_key()
COMMITTED = commit_to(KEY, "e" * 64, committed="2026-01-02T00:00:00+00:00")


def test_the_commitment_is_the_hash_the_spec_writes_down() -> None:
    content = {
        "version": 1,
        "owner": "Ada",
        "created": KEY.created,
        "modality": "image",
        "params": asdict(KEY.parameters),
        "key_hash": hashlib.sha256(KEY.secret).hexdigest(),
        "encoder_sha256": "e" * 64,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert COMMITTED.commitment == hashlib.sha256(b"heredity/ssl-wm/commit/v1" + canonical).hexdigest()


def test_it_comes_back_and_betrays_no_secret(tmp_path: Path) -> None:
    path = commitment_path(tmp_path / "mine.key.json")
    save_commitment(path, COMMITTED)
    assert path.name == "mine.commitment.json"
    assert load_commitment(path) == COMMITTED
    assert KEY.secret.hex() not in path.read_text()
    check_commitment(KEY, COMMITTED, source="it", published=COMMITTED.commitment.upper() + "\n")


@pytest.mark.parametrize(
    ("key", "commitment", "message"),
    [
        (make_key(owner="Mallory"), COMMITTED, "'owner'"),
        (make_key(number=2), COMMITTED, "'key_hash'"),
        (replace(KEY, created="2020-01-01"), COMMITTED, "'created'"),
        (replace(KEY, parameters=replace(KEY.parameters, margin=2)), COMMITTED, r"'params\.margin'"),
        (KEY, replace(COMMITTED, encoder_sha256="f" * 64), "'commitment' is not the hash"),
        (KEY, replace(COMMITTED, commitment="0" * 64), "'commitment' is not the hash"),
        (replace(KEY, encoder={"sha256": "f" * 64}), COMMITTED, "'encoder_sha256'"),
        (replace(KEY, commitment="1" * 64), COMMITTED, "another commitment"),
    ],
)
def test_a_changed_key_or_commitment_is_refused_by_the_field(key: Any, commitment: Any, message: str) -> None:
    with pytest.raises(CommitmentError, match=message):
        check_commitment(key, commitment, source="mine.commitment.json")


def test_what_was_published_must_be_it() -> None:
    with pytest.raises(CommitmentError, match="what was published"):
        check_commitment(KEY, COMMITTED, source="it", published="0" * 64)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_what_is_no_commitment_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(CommitmentError):
        load_commitment(tmp_path / "c.json")


@pytest.mark.parametrize("field", ["owner", "params", "encoder_sha256", "commitment", "committed"])
def test_a_malformed_field_is_named(tmp_path: Path, field: str) -> None:
    save_commitment(tmp_path / "c.json", COMMITTED)
    (tmp_path / "c.json").write_text(json.dumps(json.loads((tmp_path / "c.json").read_text()) | {field: 7}))
    with pytest.raises(CommitmentError, match=field):
        load_commitment(tmp_path / "c.json")


def test_a_missing_commitment_names_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(CommitmentError, match=r"ssl-wm commit.*--uncommitted"):
        load_commitment(tmp_path / "c.json")


NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "message"),
    [
        ("2026-01-02", "not older than the suspect"),
        ("2025-12-31", "not older than the suspect"),
        (None, "nothing was said about when"),
        ("2026-01-03", ""),
    ],
)
def test_dates_are_compared(since: str | None, message: str) -> None:
    found = date_warnings(COMMITTED, since, now=NOW)
    assert any(message in line for line in found) if message else not found


def test_odd_dates_are_said_or_refused() -> None:
    assert "yet to come" in date_warnings(replace(COMMITTED, committed="2030-01-01"), "2031-01-01", now=NOW)[0]
    assert "is not a date" in date_warnings(replace(COMMITTED, committed="soon"), None, now=NOW)[0]
    with pytest.raises(CommitmentError, match="'tomorrow' is not a date"):
        date_warnings(COMMITTED, "tomorrow", now=NOW)


def test_a_protected_key_opens_with_its_passphrase_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.key.json"
    save_key(path, KEY, passphrase="open sesame")
    assert KEY.secret.hex() not in path.read_text()
    assert "Ada" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, passphrase="open sesame") == KEY
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(PassphraseError, match="does not open with this passphrase"):
        load_key(path)
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "word").write_text("open sesame\n")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "word"))
    assert load_key(path) == KEY
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(PassphraseError, match="cannot read"):
        load_key(path)
    monkeypatch.delenv(FILE_VARIABLE)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(PassphraseError, match=VARIABLE):
        load_key(path)


@pytest.mark.parametrize(
    "change",
    [{"n": 2**30}, {"kdf": "md5"}, {"cipher": "none"}, {"salt": "zz"}, {"data": "!"}, {"nonce": ""}, {"data": "QUJD"}],
)
def test_a_damaged_protected_key_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "mine.key.json"
    save_key(path, KEY, passphrase="x")
    content = json.loads(path.read_text())
    content["protected"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(PassphraseError):
        load_key(path, passphrase="x")


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="empty"):
        save_key(tmp_path / "k.json", KEY, passphrase="")
    assert not (tmp_path / "k.json").exists()
