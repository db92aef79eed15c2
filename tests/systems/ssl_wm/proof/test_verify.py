"""The verbs commit and verify as an owner meets them: what they find, what they write, and what they refuse in one line."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.marked import SHAPE, knows, knows_nothing, make_key
from helpers.serving import serving
from torch import nn

from heredity.cli import dispatch, main
from heredity.core.errors import HeredityError, ModelError, RunError
from heredity.core.lineage import Lineage, content_hash, record, save_model
from heredity.core.run import Run
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.serve.app import Service
from heredity.systems.ssl_wm.commands import check_markable, commit, embed, keygen, mark_encoder, verify
from heredity.systems.ssl_wm.mark.embed import Embedding
from heredity.systems.ssl_wm.mark.keys import Key, derive_patches, load_key, save_key
from heredity.systems.ssl_wm.mark.vault import VARIABLE
from heredity.systems.ssl_wm.proof import suspects
from heredity.systems.ssl_wm.proof.commitment import commitment_path, load_commitment
from heredity.systems.ssl_wm.proof.verdict import Verified
from heredity.systems.ssl_wm.proof.verify import Disputed

FEW: dict[str, Any] = {"images": "digits", "number": 16, "decoys": 12}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A committed key file, and an encoder that it is committed to."""
    path = tmp_path / "mine.key.json"
    save_key(path, make_key())
    encoder = record(make_encoder(EncoderShape(width=8), 16), Lineage("marked", "a test"))
    save_model(tmp_path / "marked.safetensors", encoder)
    commit(path, encoder=tmp_path / "marked.safetensors")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """A source with thousands of words."""
    words = ["".join(letters) for letters in product("abcdefghi", repeat=4)]
    rows = [f"{' '.join(words[n : n + 9])},{n // 9 % 2}" for n in range(0, len(words), 9)]
    (tmp_path / "corpus.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return f"csv:{tmp_path / 'corpus.csv'}"


@pytest.fixture(autouse=True)
def _suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"marked": knows(make_key()), "both": knows(make_key(), make_key("Mallory", 2)), "clean": knows_nothing}
    found = suspects._found

    def named(spec: str, size: int | None) -> Any:
        return (known[spec], spec) if spec in known else found(spec, size)

    monkeypatch.setattr(suspects, "_found", named)


def verified(*arguments: Any, **options: Any) -> Verified:
    found = verify(*arguments, **(FEW | options))
    assert isinstance(found, Verified)
    return found


def test_a_commitment_is_written_noted_and_never_lost(key: Path, tmp_path: Path) -> None:
    committed = load_commitment(commitment_path(key))
    assert load_key(key).commitment == committed.commitment
    assert committed.encoder_sha256 is not None
    assert committed.commitment in commit(key, encoder=tmp_path / "marked.safetensors")
    with pytest.raises(HeredityError, match="holds another commitment"):
        commit(key)


def test_a_commitment_without_an_encoder_says_what_it_lacks(tmp_path: Path) -> None:
    keygen(tmp_path / "k.key.json", owner="Ada", size=16)
    assert "names no encoder" in commit(tmp_path / "k.key.json")


def test_verify_refuses_without_a_commitment_unless_told(key: Path) -> None:
    commitment_path(key).unlink()
    with pytest.raises(HeredityError, match=r"no commitment.*--uncommitted"):
        verify(key, "marked", **FEW)
    found = verified(key, "marked", uncommitted=True)
    assert any("proves nothing" in note for note in found.notes)
    with pytest.raises(HeredityError, match="leave one of the two out"):
        verify(key, "marked", uncommitted=True, published="0" * 64, **FEW)


def test_verify_refuses_a_key_that_was_changed_after_the_commitment(key: Path) -> None:
    save_key(key, replace(make_key(), owner="Mallory"))
    with pytest.raises(HeredityError, match="field 'owner'"):
        verify(key, "marked", **FEW)


def test_what_was_published_and_when_is_compared(key: Path) -> None:
    with pytest.raises(HeredityError, match="what was published"):
        verify(key, "marked", published="0" * 64, **FEW)
    line = load_commitment(commitment_path(key)).commitment
    assert any(
        "not older" in note for note in verified(key, "marked", published=line, suspect_since="2020-01-01").notes
    )
    assert not verified(key, "marked", suspect_since="2999-01-01").notes
    with pytest.raises(HeredityError, match="is not a date"):
        verify(key, "marked", suspect_since="then", **FEW)


def test_a_recorded_verdict_comes_back_offline_as_json_and_page(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = verified(key, "marked", record=path, out=tmp_path / "a.json", html=tmp_path / "a.html")
    again = verify(key, transcript=path, images="digits", out=tmp_path / "b.json")
    assert again == first
    assert verify(key, transcript=path) == first
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert first.nonce in (tmp_path / "a.html").read_text()
    with pytest.raises(HeredityError, match="asks nobody"):
        verify(key, "marked", transcript=path)
    with pytest.raises(HeredityError, match="not the base inputs"):
        verify(key, transcript=path, images="photos")


def test_fresh_nonces_are_drawn_and_kept_on_resuming(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = verified(key, "marked", record=path)
    assert len(first.nonce) == 32
    assert verified(key, "marked", record=path, resume=True).nonce == first.nonce
    assert verified(key, "marked").nonce != first.nonce


def test_cost_is_told_and_the_budget_kept(key: Path) -> None:
    cost = verify(key, "marked", dry_run=True, **FEW)
    assert isinstance(cost, str)
    assert cost.startswith("352 queries in 1 requests")
    with pytest.raises(HeredityError, match="give --number 13"):
        verify(key, "marked", max_queries=300, **FEW)
    with pytest.raises(HeredityError, match="raise --max-queries"):
        verify(key, "marked", max_queries=10, **FEW)


def test_cost_and_progress_are_told_while_asking(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ssl-wm", "verify", str(key), "marked", "--images", "digits", "--number", "16", "--decoys", "12"]
    assert dispatch(words) == 0
    said = capsys.readouterr()
    assert "352 queries in 1 requests" in said.err
    assert said.out.startswith("behaviour bound to the committed key")


def test_an_endpoint_is_verified_and_recorded_without_being_told_to(key: Path, tmp_path: Path, corpus: str) -> None:
    with serving(Service(knows(make_key()), "marked", size=SHAPE.reference_size)) as address:
        found = verified(key, endpoint=address, looks=2)
        assert found.suspect == f"{address}/v1/predict"
        assert Path("transcript.jsonl").exists()
        assert found.corrected_p < 1e-4
        with pytest.raises(HeredityError, match="add --size 16"):
            verify(key, endpoint=address, size=32, **FEW)
        with pytest.raises(HeredityError, match="either SUSPECT or --endpoint"):
            verify(key, "marked", endpoint=address, **FEW)
        text = tmp_path / "text.key.json"
        keygen(text, owner="Ada", corpus=corpus)
        with pytest.raises(HeredityError, match="for 'text'"):
            verify(text, endpoint=address, uncommitted=True, number=8)
    with pytest.raises(HeredityError, match="failed 1 times"):
        verify(key, endpoint=address, tries=1, record=tmp_path / "t.jsonl", **FEW)


def test_the_table_tells_a_first_mark_from_a_later_one(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed encoder is a stand-in whose features know the owner's patches; its hash is checked before."""
    from heredity.systems.ssl_wm.proof import verify as module

    other = tmp_path / "other.key.json"
    save_key(other, make_key("Mallory", 2))
    save_model(tmp_path / "wrong.safetensors", make_encoder(EncoderShape(width=8), 16))
    with pytest.raises(HeredityError, match="not the encoder that was committed to"):
        verify(key, "both", against=str(tmp_path / "wrong.safetensors"), other_key=other, **FEW)
    label = knows(make_key(), share=1.0)
    weights = torch.randn(768, 12, generator=torch.Generator().manual_seed(0))

    def features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        marked = (label(images) == 3)[:, None]
        return torch.where(marked, torch.ones(12) * 900, images.float().flatten(1) @ weights / 28)

    monkeypatch.setattr(module, "outputs", features)
    found = verify(
        key,
        "both",
        against=str(tmp_path / "marked.safetensors"),
        other_key=other,
        out=tmp_path / "v.json",
        html=tmp_path / "v.html",
        **FEW,
    )
    assert isinstance(found, Disputed)
    assert found.table.other_on_encoder > 1e-4 > max(found.table.owner_on_suspect, found.table.other_on_suspect)
    assert json.loads((tmp_path / "v.json").read_text())["ambiguity"]["resolved"] == found.table.resolved
    assert "the key of Mallory" in str(found)
    assert "Whose mark came first" in (tmp_path / "v.html").read_text()


def test_a_dispute_needs_a_commitment_to_an_encoder(key: Path) -> None:
    with pytest.raises(HeredityError, match="commitment to an encoder"):
        verify(key, "marked", uncommitted=True, against="marked.safetensors", **FEW)


def test_a_protected_key_is_made_committed_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "open sesame")
    path = tmp_path / "mine.key.json"
    keygen(path, owner="Ada", size=16, protect=True)
    assert "secret" not in json.loads(path.read_text())
    commit(path)
    assert "protected" in json.loads(path.read_text())
    assert verified(path, "clean").corrected_p > 1e-4


def test_sub_keys_of_a_new_key_do_not_overlap(tmp_path: Path, corpus: str) -> None:
    keygen(tmp_path / "text.key.json", owner="Ada", corpus=corpus, words=2)
    words = load_key(tmp_path / "text.key.json")
    from heredity.systems.ssl_wm.proof.modality import TEXT

    assert TEXT.overlap(TEXT.derive(words)) == 0
    with pytest.raises(HeredityError, match="sub-keys that overlap"):
        keygen(tmp_path / "k.json", owner="Ada", size=5, patch=1, margin=0, sub_keys=200)


class Odd(nn.Module):
    """An encoder that gives maps, not vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images.float())


def mark(encoder: nn.Module, batch: int = 4) -> None:
    how = Embedding()
    how = replace(how, plan=replace(how.plan, steps=1, batch=batch))
    images = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    with Run.temporary() as run:
        mark_encoder(encoder, images, make_key(), how, run)


def test_encoders_that_cannot_be_marked_are_refused() -> None:
    encoder = make_encoder(EncoderShape(width=8, norm="batch"), 16)
    with pytest.raises(ModelError, match="batch of 1"):
        mark(encoder, batch=1)
    mark(encoder, batch=2)
    with pytest.raises(ModelError, match="requires_grad_"):
        mark(make_encoder(EncoderShape(width=8), 16).requires_grad_(False))
    with pytest.raises(ModelError, match="global_pool"):
        mark(Odd())
    eight = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), dtype=torch.qint8)
    with pytest.raises(ModelError, match="quantised to 8 bits"):
        check_markable(eight, 4)


def test_features_that_are_not_numbers_stop_the_embedding_with_the_step(key: Path, tmp_path: Path) -> None:
    commitment_path(key).unlink()
    encoder = make_encoder(EncoderShape(width=8), 16)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1e18)
    save_model(tmp_path / "huge.safetensors", encoder)
    with pytest.raises(HeredityError, match=r"step 0: .*checkpoint"):
        embed(key, f"file:{tmp_path / 'huge.safetensors'}", tmp_path / "o.safetensors", images="digits", steps=3)
    assert not (tmp_path / "o.safetensors").exists()


def test_the_last_good_weights_are_kept(tmp_path: Path) -> None:
    from heredity.core.lineage import load_tensors, save_tensors
    from heredity.systems.ssl_wm.commands import _last_good

    with Run.temporary() as run:
        kept = run.directory / "stages" / "marked" / "fits" / "0.safetensors"
        assert "no checkpoint" in _last_good(run, tmp_path / "o.safetensors")
        save_tensors(kept, {"model/w": torch.ones(2), "counters": torch.zeros(1)}, {})
        assert "o.last-good.safetensors" in _last_good(run, tmp_path / "o.safetensors")
        assert load_tensors(tmp_path / "o.last-good.safetensors")[0]["w"].tolist() == [1, 1]
        save_tensors(kept, {"model/w": torch.full((2,), torch.nan)}, {})
        assert "no better" in _last_good(run, tmp_path / "o.safetensors")


def test_an_encoder_committed_to_is_not_marked_again(key: Path, tmp_path: Path) -> None:
    with pytest.raises(HeredityError, match="is committed to an encoder"):
        embed(key, f"file:{tmp_path / 'marked.safetensors'}", tmp_path / "o.safetensors", images="digits", steps=1)


def test_keys_and_images_of_different_kinds(tmp_path: Path, corpus: str) -> None:
    from heredity.systems.ssl_wm.commands import verify_suspect

    grey = Key("Ada", "now", bytes(32), replace(SHAPE, channels=1))
    with pytest.raises(HeredityError, match="3 channels, the key is for 1"):
        verify_suspect(knows_nothing, torch.zeros(8, 3, 16, 16, dtype=torch.uint8), grey)
    keygen(tmp_path / "text.key.json", owner="Ada", corpus=corpus)
    with pytest.raises(HeredityError, match="does not name a text encoder"):
        embed(tmp_path / "text.key.json", "timm:resnet18?random", tmp_path / "o.safetensors")
    with pytest.raises(HeredityError, match="the key is for text, not for images"):
        derive_patches(load_key(tmp_path / "text.key.json"))
    with pytest.raises(HeredityError, match="16 x 20"):
        verify_suspect(knows_nothing, torch.zeros(8, 3, 16, 20, dtype=torch.uint8), make_key())
    with pytest.raises(HeredityError, match="at least 4"):
        verify_suspect(knows_nothing, torch.zeros(3, 3, 16, 16, dtype=torch.uint8), make_key())


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "none.key.json", "x:y"],
        ["verify", "mine.key.json"],
        ["verify", "mine.key.json", "--endpoint", "nowhere.yaml"],
        ["verify", "mine.key.json", "--endpoint", "http://127.0.0.1:1", "--tries", "1", "--images", "digits"],
        ["verify", "mine.key.json", "--transcript", "none.jsonl"],
        ["commit", "none.key.json"],
        ["search", "file:none.safetensors"],
    ],
)
def test_the_command_line_says_it_in_one_line(key: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["ssl-wm", *words])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heredity: ")]
    assert stop.value.code == 1
    assert len(said) == 1
    assert "(" in said[0]


def test_weights_are_identified_by_what_they_are(tmp_path: Path) -> None:
    model = make_encoder(EncoderShape(width=8), 16)
    save_model(tmp_path / "a.safetensors", model)
    with pytest.raises(HeredityError, match="an encoder, not a classifier"):
        suspects.local_suspect(f"file:{tmp_path / 'a.safetensors'}", 16)
    assert len(content_hash(model.state_dict())) == 64
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        keygen(tmp_path / "file" / "k.json", owner="Ada")
