"""The verbs, from a new key to a verdict, and what they refuse."""

import json
import pickle
import stat
from pathlib import Path

import pytest
import torch

from heredity.cli import dispatch
from heredity.core.errors import HeredityError
from heredity.core.lineage import Lineage, read_lineage, record, save_model
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.resolver import resolve_encoder
from heredity.pretrain.contrastive import SimCLR, simclr
from heredity.systems.ssl_wm.commands import Verified, embed, keygen, resolve_suspect, verify
from heredity.systems.ssl_wm.mark.keys import load_key
from heredity.transfer.probe import probe
from heredity.transfer.task import Task


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, an encoder pre-trained on digits, the marked encoder, and two children of thieves."""
    place = tmp_path_factory.mktemp("owner")
    digits = load_images("digits").train
    with Run.temporary() as run:
        recipe = SimCLR(plan=Plan(steps=40, batch=128, learning_rate=2e-3))
        encoder = run.model(
            "clean",
            make=lambda: make_encoder(EncoderShape(width=8), 16),
            train=lambda net: simclr(net, digits.images, recipe, run),
            made_by="SimCLR",
        )
    save_model(place / "clean.safetensors", encoder)
    keygen(place / "mine.key.json", owner="Ada", size=16)
    embed(
        place / "mine.key.json",
        f"file:{place / 'clean.safetensors'}",
        place / "marked.safetensors",
        images="digits",
        # Keys come from the operating system. After 150 steps two of twelve were not yet found at 1e-4, after 300 all were.
        steps=400,
        batch=32,
    )
    rows = (digits.images[:400], digits.labels[:400])
    task = Task("digits", 10, rows, rows, rows)
    for name in ("clean", "marked"):
        with Run.temporary() as run:
            child = probe(
                resolve_encoder(f"file:{place / f'{name}.safetensors'}", image=16), task, run=run, name="child"
            )
        save_model(place / f"{name}-child.safetensors", child)
    return place


def test_a_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    assert "8 patches" in keygen(path, owner="Ada")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(HeredityError, match="exists"):
        keygen(path, owner="Ada")


def test_the_marked_encoder_says_what_it_carries(owner: Path) -> None:
    lineage = read_lineage(owner / "marked.safetensors")
    assert any("ownership mark" in mark for mark in lineage.marks)
    assert lineage.parents[0].made_by == "SimCLR"
    assert load_key(owner / "mine.key.json").encoder["sha256"] == lineage.content


def test_the_thief_is_found_and_the_innocent_is_not(owner: Path, tmp_path: Path) -> None:
    key = owner / "mine.key.json"
    found = verify(
        key, f"file:{owner / 'marked-child.safetensors'}", images="digits", picks=50_000, out=tmp_path / "v.json"
    )
    assert isinstance(found, Verified)
    assert found.verdict.p < 1e-4
    assert found.sentence.startswith("behaviour bound to the committed key")
    assert json.loads((tmp_path / "v.json").read_text())["verdict"]["queries"] == found.verdict.queries == 33 * 128
    innocent = verify(key, f"file:{owner / 'clean-child.safetensors'}", images="digits", picks=50_000)
    assert isinstance(innocent, Verified)
    assert innocent.verdict.p > 1e-3
    assert innocent.sentence.startswith("no evidence")


def test_the_verdict_repeats_and_depends_on_the_nonce(owner: Path) -> None:
    arguments = (owner / "mine.key.json", f"file:{owner / 'marked-child.safetensors'}")
    first, again, other = (
        verify(*arguments, images="digits", decoys=12, number=32, nonce=nonce, suspect_since="2999-01-01")
        for nonce in ("a", "a", "b")
    )
    assert isinstance(first, Verified)
    assert isinstance(other, Verified)
    assert first == again
    assert first.verdict.flip_decoy != other.verdict.flip_decoy


def test_any_python_callable_can_be_a_suspect(owner: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_api.py").write_text(
        "def predict(images):\n    return (images.float().mean((1, 2, 3)) > 80).long()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert dispatch(["ssl-wm", "verify", str(owner / "mine.key.json"), "their_api:predict", "--images", "digits"]) == 0


def test_a_suspect_of_another_size_is_asked_in_its_own(owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def suspect(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] == 32
        return (images[:, 0, 8, 8] > 80).long()

    import sys

    module = type(sys)("their_larger_api")
    module.predict = suspect  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["their_larger_api"] = module
    key = owner / "mine.key.json"
    found = verify(key, "their_larger_api:predict", images="digits", size=32, decoys=12, number=32)
    assert isinstance(found, Verified)
    assert found.verdict.p > 1e-4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("file:missing.safetensors", "no file"),
        ("nonsense", "does not name a suspect"),
        ("no_such_module:predict", "cannot import"),
        ("os:no_such_name", "cannot import"),
        ("os:system; rm", "does not name a suspect"),
    ],
)
def test_suspects_that_cannot_be_asked(spec: str, message: str) -> None:
    with pytest.raises(HeredityError, match=message):
        resolve_suspect(spec, 16)


def test_an_encoder_is_no_suspect(owner: Path) -> None:
    with pytest.raises(HeredityError, match="not a classifier"):
        resolve_suspect(f"file:{owner / 'marked.safetensors'}", 16)


def test_a_constant_suspect_is_inconclusive(owner: Path) -> None:
    from heredity.systems.ssl_wm.commands import verify_suspect

    key = load_key(owner / "mine.key.json")
    found = verify_suspect(lambda images: torch.zeros(len(images)).long(), load_images("digits").test.images[:16], key)
    assert found.sentence.startswith("inconclusive")


def refused(owner: Path, out: Path, message: str, **changes: object) -> None:
    arguments = {
        "key": owner / "mine.key.json",
        "encoder": f"file:{owner / 'clean.safetensors'}",
        "out": out,
        "images": "digits",
        "steps": 1,
        "batch": 8,
    } | changes
    with pytest.raises(HeredityError, match=message):
        embed(**arguments)  # pyright: ignore[reportArgumentType]
    assert not out.exists()


def test_what_embedding_refuses(owner: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps({"a": 1}))
    refused(owner, out, "pickle", encoder=f"file:{tmp_path / 'evil.safetensors'}")
    refused(owner, out, "no folder", images="imagefolder:nowhere")
    (tmp_path / "empty").mkdir()
    refused(owner, out, "class folders|pictures", images=f"imagefolder:{tmp_path / 'empty'}")
    keygen(tmp_path / "large.key.json", owner="Ada", size=32)
    refused(owner, out, "images of 16 pixels, not 32", key=tmp_path / "large.key.json")
    broken = json.loads((owner / "mine.key.json").read_text()) | {"owner": "Mallory"}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    refused(owner, out, "was changed", key=tmp_path / "broken.json")
    net = make_encoder(EncoderShape(width=8), 16)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    save_model(tmp_path / "nan.safetensors", record(net, Lineage("nan", "nothing")))
    refused(owner, out, "not finite", encoder=f"file:{tmp_path / 'nan.safetensors'}")
    refused(owner, out, "a classifier, not an encoder", encoder=f"file:{owner / 'marked-child.safetensors'}")


def test_an_output_that_cannot_be_written_is_said(owner: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(owner, tmp_path / "file" / "o.safetensors", "cannot write")
