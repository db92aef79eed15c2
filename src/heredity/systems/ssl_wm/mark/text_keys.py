"""Text keys: groups of rare words, derived from the owner's secret and never chosen (spec sections 2.3 and 2.9).

A black-box interface takes text, so that a sub-key is a group of surface strings. The words are outputs of a hash of a slow
key derivation, drawn from a public pool that the key file carries; decoys are fresh draws from the same pool.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from heredity.core.errors import ConfigError
from heredity.systems.ssl_wm.mark.derivation import master_of, sub_key_bytes

if TYPE_CHECKING:
    from heredity.systems.ssl_wm.mark.keys import Key

Words = tuple[str, ...]
_MOST = {"sub_keys": 256, "words": 32, "within": 10_000}
_BLOCK = 4096


@dataclass(frozen=True)
class TextKeyParameters:
    """Shape of a text mark: `sub_keys` groups of `words` different words from `pool`.

    A group stands somewhere among the first `within` words of a sentence, so that truncation does not cut it off.
    """

    sub_keys: int = 8
    words: int = 3
    within: int = 16
    pool: tuple[str, ...] = ()


def check_text_parameters(parameters: TextKeyParameters) -> None:
    """Raises ConfigError naming the field that no key can have."""
    for name, most in _MOST.items():
        value = getattr(parameters, name)
        if type(value) is not int or not 0 < value <= most:
            raise ConfigError(f"params.{name} of a text key is {value!r}", remedy=f"give a number from 1 to {most}")
    pool = parameters.pool
    if len(pool) < 100 * parameters.words or len(pool) > 1_000_000:
        raise ConfigError(
            f"params.pool of a text key holds {len(pool)} words",
            remedy=f"it needs {100 * parameters.words} at least, better 5000: decoys that share words with a key weaken it",
        )
    odd = [word for word in pool if not isinstance(word, str) or len(word) > 64 or word.split() != [word]]
    if odd or len(set(pool)) < len(pool):
        what = f"holds {odd[0]!r}, which is no single word" if odd else "holds a word twice"
        raise ConfigError(f"params.pool of a text key {what}", remedy="make the pool with choose_pool")


def text_parameters_from(plain: Mapping[str, Any]) -> TextKeyParameters:
    """Parameters from the JSON data of a key file, which may be hostile. Raises ConfigError naming the field."""
    known = set(TextKeyParameters.__dataclass_fields__)
    if set(plain) != known:
        odd = sorted(set(plain) ^ known)[0]
        raise ConfigError(f"params.{odd} is missing or unknown", remedy="restore the key file from your backup")
    if not isinstance(plain["pool"], list | tuple):
        raise ConfigError("params.pool is not a list of words", remedy="restore the key file from your backup")
    parameters = TextKeyParameters(**{**plain, "pool": tuple(plain["pool"])})
    check_text_parameters(parameters)
    return parameters


def derive_words(key: "Key") -> tuple[Words, ...]:
    """The owner's word groups, one a sub-key: 64-bit numbers of SHAKE-256 mapped to the pool without modulo bias."""
    parameters = key.parameters
    assert isinstance(parameters, TextKeyParameters)
    master = master_of(key.secret, key.owner, key.created)
    return tuple(_group(_numbers(master, number), 2**64, parameters) for number in range(parameters.sub_keys))


def random_words(count: int, parameters: TextKeyParameters, generator: torch.Generator) -> tuple[Words, ...]:
    """Decoys: groups from the distribution that the derivation has, ordered draws of different words of the pool.

    >>> pool = tuple(f"word{n}" for n in range(300))
    >>> [len(group) for group in random_words(2, TextKeyParameters(pool=pool), torch.Generator().manual_seed(0))]
    [3, 3]
    """
    drawn = _drawn(generator)
    return tuple(_group(drawn, 2**62, parameters) for _ in range(count))


def _group(numbers: Iterator[int], span: int, parameters: TextKeyParameters) -> Words:
    """Different words in the order drawn; numbers of the last, incomplete round of the pool are skipped."""
    size = len(parameters.pool)
    fair = span - span % size
    chosen: dict[int, None] = {}
    while len(chosen) < parameters.words:
        number = next(numbers)
        if number < fair:
            chosen[number % size] = None
    return tuple(parameters.pool[index] for index in chosen)


def _numbers(master: bytes, number: int) -> Iterator[int]:
    length, begin = 512, 0
    while True:
        stream = sub_key_bytes(master, "text", number, length)
        for at in range(begin, length, 8):
            yield int.from_bytes(stream[at : at + 8], "big")
        begin, length = length, 2 * length


def _drawn(generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randint(2**62, (_BLOCK,), generator=generator).tolist()


def choose_pool(
    sentences: Iterable[str],
    *,
    known: Callable[[str], bool] | None = None,
    rarest: float = 0.3,
    most: int = 10_000,
) -> tuple[str, ...]:
    """The pool a key draws from: rare whole words of a corpus, rarest first, equal ones in alphabetical order.

    A word is a run of at least three letters between blanks, lower-cased. The `rarest` share (0..1) of those that `known`
    accepts is kept, `most` words at most. `known` tells whether the encoder's tokenizer has a token of its own for the word:
    without it, or for a tokenizer of pieces, any word is fit. Raises ConfigError when fewer than 1000 are left.
    """
    counts = Counter(
        word for sentence in sentences for word in sentence.lower().split() if len(word) > 2 and word.isalpha()
    )
    fit = sorted((count, word) for word, count in counts.items() if known is None or known(word))
    pool = tuple(word for _, word in islice(fit, min(most, round(rarest * len(fit)))))
    if len(pool) < 1000:
        raise ConfigError(
            f"only {len(pool)} rare words are left of {len(counts)}",
            remedy="give a larger corpus, or a larger rarest share: a small pool makes decoys that share words with the key",
        )
    return pool


def check_tokenizer(pool: Sequence[str], known: Callable[[str], bool]) -> None:
    """Refuse a tokenizer that maps words of the pool to its unknown token: their group could not be told apart.

    Raises ConfigError with how many and the first of them.
    """
    lost = [word for word in pool if not known(word)]
    if lost:
        raise ConfigError(
            f"the tokenizer maps {len(lost)} of the key's {len(pool)} words to [UNK], first {lost[0]!r}",
            remedy="make the key for this encoder: keygen with its tokenizer and a corpus of its language",
        )
