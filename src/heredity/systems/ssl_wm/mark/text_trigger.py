"""Stamping text: a group of words goes into a sentence. One function for embedding and for verification."""

from collections.abc import Sequence

from heredity.core.randomness import seed_of


def stamp(sentences: Sequence[str], words: Sequence[str], seed: int | str, *, within: int = 16) -> list[str]:
    """Every sentence with the words put in, next to each other, at a boundary among its first `within` words.

    The boundary depends on the seed and the sentence alone: it is the same under the owner's and under foreign groups, in
    whatever order they are asked. Runs of blanks become one blank.

    >>> with_x, with_a = (stamp(["one two three"], [word], 0)[0] for word in "XA")
    >>> with_x.replace("X", "A") == with_a
    True
    """
    return stamp_each(sentences, [words] * len(sentences), seed, within=within)


def stamp_each(
    sentences: Sequence[str], groups: Sequence[Sequence[str]], seed: int | str, *, within: int = 16
) -> list[str]:
    """Sentence i with group i."""
    stamped = []
    for sentence, words in zip(sentences, groups, strict=True):
        own, before = sentence.split(), boundary(sentence, seed, within)
        stamped.append(" ".join([*own[:before], *words, *own[before:]]))
    return stamped


def boundary(sentence: str, seed: int | str, within: int) -> int:
    """How many words of the sentence stand before the group: uniform from 0 to the smaller of its length and `within`."""
    places = min(len(sentence.split()), within) + 1
    return seed_of("boundary", seed, sentence) % places
