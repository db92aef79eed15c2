import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from heredity.core.errors import ModelError
from heredity.core.lineage import ARCHITECTURE_KEY, Lineage, lineage_of, load_tensors, record, save_model, save_tensors
from heredity.nn.encoders import Classifier
from heredity.nn.text import Reader, TextEncoder, TextShape, build_text, labels_of, make_text_encoder, train_reader
from heredity.nn.text_resolver import resolve_text_encoder, save_pretrained

CORPUS = ["the small cat sat on the mat", "a dog saw the cat", "no dog sat on a small mat"]
SHAPE = TextShape(width=16, feed_forward=32, length=10)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return make_text_encoder(SHAPE, train_reader(CORPUS, SHAPE)).eval()


def test_a_reader_depends_on_its_corpus_alone_and_lower_cases() -> None:
    first, again = train_reader(CORPUS, SHAPE), train_reader(CORPUS, SHAPE)
    assert first.to_plain() == again.to_plain()
    assert torch.equal(first.tokens(["The CAT"]), first.tokens(["the cat"]))
    assert first.tokens([]).shape == (0, 10)
    row = first.tokens(["cat " * 50])[0]
    assert row.tolist()[0] == first.tokenizer.token_to_id("[CLS]")
    assert row.tolist()[-1] == first.tokenizer.token_to_id("[SEP]")


def test_a_word_is_known_whole_or_in_pieces() -> None:
    words, pieces = (train_reader(CORPUS, TextShape(length=10, tokens=kind)) for kind in ("words", "pieces"))
    assert words.knows("cat")
    assert words.whole("cat")
    assert not words.knows("catmat")
    assert pieces.knows("catmat")
    assert not pieces.whole("catmat")
    assert not words.whole("[MASK]")
    assert not words.whole("the cat")


def test_padding_does_not_change_features(encoder: TextEncoder) -> None:
    read = encoder.reader.tokens
    with torch.no_grad():
        alone = encoder.views(read(["a dog saw the cat"]))
        beside = encoder.views(read(["a dog saw the cat", "the small cat sat on the mat"]))[:1]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_poolings_are_what_they_say(encoder: TextEncoder) -> None:
    tokens = encoder.reader.tokens(CORPUS)
    with torch.no_grad():
        states, real, output = encoder.states(tokens)
        mean, cls, pooler = encoder.views(tokens).unbind(dim=1)
    assert torch.allclose(mean[1], states[1][real[1]].mean(dim=0), atol=1e-6)
    assert torch.equal(cls, states[:, 0])
    assert torch.equal(pooler, output.pooler_output)
    other = TextEncoder(encoder.inner, encoder.reader, "cls")
    with torch.no_grad():
        assert torch.equal(other(tokens), cls)


def test_a_file_carries_everything_a_text_classifier_needs(encoder: TextEncoder, tmp_path: Path) -> None:
    child = Classifier(encoder, features=16, classes=3).eval()
    record(child, Lineage("child", "a test", marks=("a mark",)))
    save_model(tmp_path / "child.safetensors", child)
    found = resolve_text_encoder(f"file:{tmp_path / 'child.safetensors'}")
    assert torch.equal(labels_of(found, CORPUS), labels_of(child, CORPUS))
    assert lineage_of(found).marks == ("a mark",)
    with pytest.raises(ModelError, match="does not read text"):
        labels_of(torch.nn.Linear(2, 2), CORPUS)


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {"model_type": "nonsense"}},
        {"config": {"model_type": "bert", "hidden_size": "wide"}},
        {"config": {"model_type": "bert", "hidden_size": 10**6, "num_hidden_layers": 10}},
        {"reader": {"json": "{", "length": 10, "pad": "[PAD]", "mask": "[MASK]", "unknown": None}},
        {"reader": {"json": "{}", "length": 10**9, "pad": "[PAD]", "mask": "[MASK]", "unknown": None}},
        {"pooling": "eval"},
    ],
)
def test_a_hostile_record_is_refused(encoder: TextEncoder, change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, encoder)
    tensors, metadata = load_tensors(path)
    damaged = json.loads(metadata[ARCHITECTURE_KEY]) | change
    save_tensors(path, tensors, metadata | {ARCHITECTURE_KEY: json.dumps(damaged)})
    with pytest.raises(ModelError):
        resolve_text_encoder(f"file:{path}")


def test_transformers_reads_what_we_save_and_we_read_what_it_saves(encoder: TextEncoder, tmp_path: Path) -> None:
    record(encoder, Lineage("mine", "a test"))
    save_pretrained(tmp_path / "mine", encoder)
    theirs = AutoModel.from_pretrained(tmp_path / "mine")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mine")
    batch = tokenizer(CORPUS, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, 0]
    back = resolve_text_encoder(f"dir:{tmp_path / 'mine'}", length=10, pooling="cls")
    assert isinstance(back, TextEncoder)
    with torch.no_grad():
        assert torch.allclose(back(back.reader.tokens(CORPUS)), expected, atol=1e-5)


def test_what_cannot_be_found_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE=1.*huggingface-cli download nobody/nothing --local-dir DIR"):
        resolve_text_encoder("hf:nobody/nothing")
    with pytest.raises(ModelError, match=r"lacks config.json"):
        resolve_text_encoder(f"dir:{tmp_path}")
    with pytest.raises(ModelError, match="does not name a text encoder"):
        resolve_text_encoder("timm:resnet18")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not a transformers encoder"):
        resolve_text_encoder(f"dir:{tmp_path}")
    with pytest.raises(ModelError, match="damaged"):
        build_text({"kind": "text"})
    with pytest.raises(ModelError, match="damaged"):
        Reader.from_plain({})


def test_the_layers_are_found(encoder: TextEncoder) -> None:
    assert len(encoder.blocks) == 2
