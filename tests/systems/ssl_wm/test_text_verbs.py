"""The same verbs for text: a key of rare words, a marked encoder, a suspect that reads sentences, over HTTP too.

The encoder is untrained and the embedding short: whether a mark holds is measured by the language experiment, not here.
"""

import hashlib
from pathlib import Path

import torch
from helpers.serving import serving

from heredity.core.lineage import read_lineage, save_model
from heredity.core.run import Run
from heredity.data.text import load_text
from heredity.nn.text import TextShape, labels_of, make_text_encoder, train_reader
from heredity.nn.text_resolver import load_text_model
from heredity.serve.server import load_service
from heredity.systems.ssl_wm.commands import embed, keygen, verify
from heredity.systems.ssl_wm.mark.keys import load_key
from heredity.systems.ssl_wm.proof.protocol import choose_inputs
from heredity.systems.ssl_wm.proof.transcript import CLEAN, read_transcript
from heredity.systems.ssl_wm.proof.verdict import Verified
from heredity.transfer.probe import probe
from heredity.transfer.task import Task


def test_from_a_key_of_words_to_a_verdict_over_http(tmp_path: Path) -> None:
    source = load_text("grammar+pydoc")
    reader = train_reader(source.corpus, TextShape(length=24))
    torch.manual_seed(0)
    save_model(tmp_path / "clean.safetensors", make_text_encoder(TextShape(length=24, depth=1), reader))
    key = tmp_path / "text.key.json"
    clean = f"file:{tmp_path / 'clean.safetensors'}"
    said = keygen(key, owner="Ada", corpus="grammar+pydoc", rarest=0.6, tokenizer=clean)
    assert "8 groups of 3 words" in said
    out = tmp_path / "marked.safetensors"
    assert "publish this line" in embed(key, clean, out, images="grammar", steps=10, batch=16)
    assert any("ownership mark" in mark for mark in read_lineage(out).marks)
    assert load_key(key).encoder["feature_dim"] == 64

    data = source.tasks["topic"].train
    rows = reader.tokens(data.sentences[:300]), data.labels[:300]
    with Run.temporary() as run:
        child = probe(load_text_model(out), Task("topic", 4, rows, rows, rows), run=run, name="child")
    save_model(tmp_path / "child.safetensors", child)
    few = {"images": "grammar", "number": 32, "decoys": 12, "nonce": "n", "suspect_since": "2999-01-01"}
    local = verify(key, f"file:{tmp_path / 'child.safetensors'}", **few)  # pyright: ignore[reportArgumentType]
    assert isinstance(local, Verified)
    assert local.images == 32
    path = tmp_path / "t.jsonl"
    with serving(load_service(str(tmp_path / "child.safetensors"))) as address:
        remote = verify(key, endpoint=address, record=path, looks=1, **few)  # pyright: ignore[reportArgumentType]
    assert isinstance(remote, Verified)
    assert verify(key, transcript=path, images="grammar") == remote
    talk, hashes = read_transcript(path)
    texts = choose_inputs(talk.terms, list(data_of("topic")))
    labels = labels_of(load_text_model(tmp_path / "child.safetensors"), texts).tolist()
    assert [talk.answers[CLEAN, place] for place in range(32)] == labels
    assert hashes[CLEAN, 0] == hashlib.sha256(texts[0].encode()).hexdigest()


def data_of(task: str) -> tuple[str, ...]:
    """The held-out sentences of a task of the grammar."""
    return load_text("grammar").tasks[task].test.sentences
