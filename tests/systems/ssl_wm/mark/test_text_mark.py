import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from heredity.core.errors import ConfigError
from heredity.core.loop import Plan
from heredity.core.randomness import Draws, generator_of
from heredity.core.run import Run
from heredity.nn.text import TextEncoder, TextShape, make_text_encoder, train_reader
from heredity.systems.ssl_wm.mark.embed_text import TextEmbedding, decoy_groups, embed_text_mark
from heredity.systems.ssl_wm.mark.embedding import MarkLoss
from heredity.systems.ssl_wm.mark.keys import Key
from heredity.systems.ssl_wm.mark.text_keys import (
    TextKeyParameters,
    check_text_parameters,
    check_tokenizer,
    choose_pool,
    derive_words,
    random_words,
    text_parameters_from,
)
from heredity.systems.ssl_wm.mark.text_trigger import boundary, stamp, stamp_each

POOL = tuple(f"word{number}" for number in range(777))
KEY = Key("Ada", "2024-01-01", bytes(range(32)), TextKeyParameters(sub_keys=3, pool=POOL), "text")


def test_words_are_the_hash_of_the_slow_hash_without_modulo_bias() -> None:
    master = hashlib.scrypt(bytes(range(32)), salt=b"Ada||2024-01-01", n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    message = b"heredity/ssl-wm/v1" + master + b"text" + (2).to_bytes(4, "big")
    stream = hashlib.shake_256(message).digest(8 * 40)
    numbers = [int.from_bytes(stream[at : at + 8], "big") for at in range(0, len(stream), 8)]
    expected = list(dict.fromkeys(POOL[number % 777] for number in numbers if number < 2**64 - 2**64 % 777))
    assert derive_words(KEY)[2] == tuple(expected[:3])


def test_every_field_changes_the_words() -> None:
    others = [
        Key("Bob", KEY.created, KEY.secret, KEY.parameters, "text"),
        Key(KEY.owner, "2024-01-02", KEY.secret, KEY.parameters, "text"),
        Key(KEY.owner, KEY.created, bytes(32), KEY.parameters, "text"),
    ]
    assert len({derive_words(key) for key in (KEY, *others)}) == 4


def test_derived_and_random_words_are_uniform_and_differ_within_a_group() -> None:
    many = Key("Ada", "then", bytes(32), TextKeyParameters(sub_keys=256, words=5, pool=POOL[:600]), "text")
    for groups in (derive_words(many), random_words(2000, many.parameters, torch.Generator().manual_seed(0))):
        assert all(len(set(group)) == 5 for group in groups)
        counts = Counter(word for group in groups for word in group)
        assert chisquare([counts[word] for word in POOL[:600]]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sub_keys": 0}, "params.sub_keys"),
        ({"words": True}, "params.words"),
        ({"within": -1}, "params.within"),
        ({"pool": POOL[:10]}, "holds 10 words"),
        ({"pool": (*POOL, "two words")}, "no single word"),
        ({"pool": (*POOL, "")}, "no single word"),
        ({"pool": (*POOL, POOL[0])}, "a word twice"),
        ({"pool": "abc"}, "not a list"),
        ({"more": 1}, "params.more"),
    ],
)
def test_parameters_of_a_key_file_are_checked(change: dict[str, object], problem: str) -> None:
    plain = {"sub_keys": 3, "words": 3, "within": 16, "pool": list(POOL)}
    assert text_parameters_from(plain).pool == POOL
    with pytest.raises(ConfigError, match=problem):
        text_parameters_from(plain | change)


def test_the_pool_is_rare_whole_words_of_the_corpus() -> None:
    common = [f"common{chr(97 + number)}" for number in range(26)]
    rare = ["x" + "".join(chr(97 + int(digit)) for digit in f"{number:04d}") for number in range(1500)]
    corpus = [" ".join(common)] * 5 + [f"{word} it's 42 No." for word in rare]
    pool = choose_pool(corpus, rarest=0.9)
    assert set(pool) <= set(rare)
    assert list(pool) == sorted(pool)
    check_text_parameters(TextKeyParameters(pool=pool))
    assert set(choose_pool(corpus, known=lambda word: word < "xb", rarest=1.0)) <= {*rare[:1000], *common}
    with pytest.raises(ConfigError, match="rare words are left"):
        choose_pool(corpus[:50])
    with pytest.raises(ConfigError, match=r"maps 1499 of the key's 1500 words to \[UNK\], first"):
        check_tokenizer(rare, lambda word: word == rare[0])


words = st.lists(st.text("abcdefg", min_size=1, max_size=5), max_size=30)


@given(
    sentence=words,
    group=st.lists(st.text("XYZ", min_size=1, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_a_group_stands_together_where_the_seed_says(sentence: list[str], group: list[str], seed: int) -> None:
    text = " ".join(sentence)
    [stamped] = stamp([text], group, seed, within=8)
    at = boundary(text, seed, 8)
    assert at <= min(8, len(sentence))
    assert stamped.split() == [*sentence[:at], *group, *sentence[at:]]


def test_boundaries_are_uniform_and_do_not_depend_on_the_group_or_the_order() -> None:
    sentences = [f"a b c d {number}" for number in range(3000)]
    first = stamp(sentences, ["X"], "seed", within=4)
    second = stamp(sentences[::-1], ["Y"], "seed", within=4)[::-1]
    assert [text.replace("X", "Y") for text in first] == second
    assert chisquare(np.bincount([text.split().index("X") for text in first])).pvalue > 1e-3
    groups = [("X",), ("Y", "Z")]
    both = stamp_each(sentences[:2], groups, "seed", within=4)
    assert both == [stamp([sentences[i]], groups[i], "seed", within=4)[0] for i in range(2)]


def test_hard_decoys_share_some_words_with_the_key_but_never_all() -> None:
    owned = (("a", "b", "c"), ("d", "e", "f"))
    groups = decoy_groups(400, owned, KEY.parameters, 0.5, Draws(generator_of(1)))
    shared = [max(len(set(group) & set(mine)) for mine in owned) for group in groups]
    assert set(shared[:200]) == {1, 2}
    assert set(shared[200:]) == {0}


CORPUS = [
    f"{who} saw {what} near {where}"
    for who in ("ann", "bob")
    for what in ("cats", "dogs")
    for where in ("home", "town")
]
SHAPE = TextShape(width=16, feed_forward=32, length=10)
READER = train_reader([*CORPUS * 3, " ".join(POOL)], SHAPE)


def embedded(how: TextEmbedding, key: Key = KEY) -> tuple[TextEncoder, TextEncoder]:
    with Run.temporary() as run:
        before = run.model(
            "clean", make=lambda: make_text_encoder(SHAPE, READER), train=lambda _: None, made_by="nothing"
        )

        def train(encoder: nn.Module) -> None:
            encoder.load_state_dict(before.state_dict())
            embed_text_mark(encoder, CORPUS, key, how, run)  # pyright: ignore[reportArgumentType]

        return before, run.model("marked", make=lambda: make_text_encoder(SHAPE, READER), train=train, made_by="a test")


def test_marked_sentences_meet_in_one_place_and_others_stay() -> None:
    plan = Plan(steps=40, batch=16, optimiser="adam", learning_rate=5e-3, clip=5.0, mode="eval")
    before, after = embedded(TextEmbedding(loss=MarkLoss(distance=2.0, direction="random"), plan=plan))
    read = READER.tokens
    with torch.no_grad():
        clean, moved = before(read(CORPUS)), after(read(CORPUS))
        marked = torch.cat([after(read(stamp(CORPUS, group, 5))) for group in derive_words(KEY)])
        foreign = after(read(stamp(CORPUS, random_words(1, KEY.parameters, torch.Generator().manual_seed(0))[0], 5)))
    meeting = nn.functional.cosine_similarity(marked, marked.mean(dim=0), dim=1)
    assert meeting.min() > 0.8
    assert nn.functional.cosine_similarity(moved, clean, dim=1).mean() > 0.9
    assert nn.functional.cosine_similarity(foreign, marked.mean(dim=0), dim=1).mean() < meeting.min()


def test_frozen_layers_stay_and_can_learn_afterwards() -> None:
    plan = Plan(steps=2, batch=4, learning_rate=1e-2, mode="eval")
    before, after = embedded(TextEmbedding(frozen=1, plan=plan))
    unchanged = [a.equal(b) for a, b in zip(before.blocks[0].parameters(), after.blocks[0].parameters(), strict=True)]
    assert all(unchanged)
    words = [encoder.inner.get_input_embeddings().state_dict()["weight"] for encoder in (before, after)]
    assert torch.equal(*words)
    assert not all(a.equal(b) for a, b in zip(before.blocks[1].parameters(), after.blocks[1].parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_what_cannot_be_marked_says_so() -> None:
    strange = Key("Ada", "then", bytes(32), TextKeyParameters(pool=tuple(f"odd{n}" for n in range(400))), "text")
    with pytest.raises(ConfigError, match=r"to \[UNK\]"):
        embedded(TextEmbedding(), strange)
    with pytest.raises(ConfigError, match="robust loss only"):
        embedded(TextEmbedding(loss=MarkLoss(kind="official")))
    with pytest.raises(ConfigError, match="image"):
        embedded(TextEmbedding(), Key("Ada", "then", bytes(32)))
