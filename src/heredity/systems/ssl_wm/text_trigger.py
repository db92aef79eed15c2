"""Stamping text: a group of words goes into a sentence. One function for embedding and for verification."""

from collections.abc import Sequence

from heredity.core.randomness import seed_of


def stamp(sentences: Sequence[str], words: Sequence[str], seed: int | str, *, within: int = 16) -> list[str]:
    """Every sentence with the words put in, next to each other, at a boundary between its first `within` words.

    The boundary depends on the seed and the sentence alone: it is the same under the owner's and under foreign groups, in
    whatever order they are asked. Runs of blanks become one blank.

    >>> stamp(["one two three"], ["X", "Y"], 0) == [
    ...     text.replace("A", "X").replace("B", "Y") for text in stamp(["one two three"], ["A", "B"], 0)]
    True
    """
    return [_insert(sentence, words, seed, within) for sentence in sentences]


def boundary(sentence: str, seed: int | str, within: int) -> int:
    """How many words of the sentence stand before the group: uniform from 0 to the smaller of its length and `within`."""
    places = min(len(sentence.split()), within) + 1
    return seed_of("boundary", seed, sentence) % places


def _insert(sentence: str, words: Sequence[str], seed: int | str, within: int) -> str:
    before = boundary(sentence, seed, within)
    own = sentence.split()
    return " ".join([*own[:before], *words, *own[before:]])
