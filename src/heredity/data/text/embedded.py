"""Text that is on every machine: the prose of Python's own help, and sentences from a small grammar with two labellings."""

import re
from typing import Literal

import torch

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.text.records import LabelledText, TextSource, TextTask, labelled_text

TOPICS = ("sport", "food", "science", "music")
SENTIMENTS = ("negative", "positive")

# First half of each list: words of labelled training sentences. Second half: words of held-out sentences only. Unlabelled
# sentences use all of them, so that only an encoder that read those knows what the held-out ones mean.
_NOUNS = {
    "sport": """goal striker referee stadium tennis marathon keeper penalty cyclist relay captain sprint
        coach hockey racket swimmer umpire league boxer javelin jersey dribble athlete trophy""",
    "food": """soup pasta bakery dessert curry waiter salad cheese oven recipe pancake noodle
        bread stew kitchen sauce pastry chef omelette butter menu dumpling biscuit gravy""",
    "science": """telescope atom enzyme laser fossil microscope galaxy neuron isotope satellite theorem genome
        electron crystal comet protein physicist laboratory bacteria orbit molecule glacier reactor quark""",
    "music": """violin chorus melody drummer opera guitar rhythm pianist ballad trumpet concert lyric
        cello singer harmony orchestra tenor chord sonata banjo symphony flute tempo soprano""",
}
_ADJECTIVES = {
    "negative": """awful dull clumsy tedious sloppy bitter dreadful weak messy gloomy stale feeble
        horrible boring lousy shabby grim bland rotten pathetic dismal crude nasty hopeless""",
    "positive": """superb lovely brilliant charming graceful delightful vivid splendid clever joyful fresh elegant
        wonderful magnificent pleasant stunning cheerful refined perfect radiant excellent bright thrilling admirable""",
}
_VERBS = {
    "negative": "failed collapsed disappointed bored annoyed faltered stumbled sank dragged broke irritated frustrated",
    "positive": "succeeded triumphed impressed shone excited flourished soared glowed sparkled won inspired amazed",
}
_OPENINGS = (
    "yesterday",
    "in the end",
    "as the town expected",
    "after a long week",
    "to be honest",
    "according to the report",
    "once again",
    "last summer",
    "for most visitors",
    "",
)
_CORES = (
    "the {a} {n} and the {m} {v}",
    "a {n} like this , {a} and near the {m} , {v}",
    "we saw the {n} , the {m} and one {a} {k}",
    "the {n} {v} while the {a} {m} waited",
    "everybody called the {n} {a} because the {m} {v}",
    "it was a {a} {n} , and the {m} {v} too",
    "the {m} made the {n} look {a}",
    "her {n} {v} , his {m} stayed {a}",
)
_ENDINGS = (
    "said the reporter",
    "before the {k} arrived",
    "and nobody talked about the {k}",
    "so the people went home",
    ".",
)
# Unlabelled text has lists of keywords too. They teach which words belong together, which a small network takes thousands of
# steps to find out from sentences alone.
_KEYWORDS = ("{n} {m} {k} {l}", "{a} {b} {v} {w}", "{n} {a} {m} {b}", "{a} {v} {n} {k}")
TEMPLATES = len(_OPENINGS) * len(_CORES) * len(_ENDINGS)


def grammar(seed: int, *, train: int = 4000, test: int = 1200, unlabelled: int = 18_000) -> TextSource:
    """Sentences from 400 templates, labelled by topic (4 classes) and by sentiment (2 classes).

    Training and held-out sentences share no topic or sentiment word: whoever memorises words gains nothing, whoever learnt
    from the unlabelled sentences which words keep company with which does. A seed gives the same sentences everywhere.

    >>> sorted(grammar(0, train=8, test=8, unlabelled=8).tasks)
    ['sentiment', 'topic']
    """
    whole, others = (0.0, 1.0), generator_of("grammar", seed, "keywords")
    corpus = _sentences(unlabelled // 3, whole, generator_of("grammar", seed, "unlabelled"))[0]
    corpus += _sentences(unlabelled - len(corpus), whole, others, keywords=True)[0]
    parts = {
        "train": _sentences(train, (0.0, 0.5), generator_of("grammar", seed, "train")),
        "test": _sentences(test, (0.5, 1.0), generator_of("grammar", seed, "test")),
    }

    def task(name: str, classes: tuple[str, ...], which: Literal[1, 2]) -> TextTask:
        made: dict[str, LabelledText] = {
            part: labelled_text(found[0], found[1] if which == 1 else found[2], len(classes), name=f"grammar {part}")
            for part, found in parts.items()
        }
        return TextTask(name, classes, made["train"], made["test"])

    tasks = {"topic": task("topic", TOPICS, 1), "sentiment": task("sentiment", SENTIMENTS, 2)}
    return TextSource(tuple(corpus), tasks, f"grammar ({train} + {test} sentences, {unlabelled} unlabelled)")


def _sentences(
    count: int, share: tuple[float, float], generator: torch.Generator, *, keywords: bool = False
) -> tuple[list[str], list[int], list[int]]:
    """Sentences with their topics and sentiments; `share` is the part of every word list that may be used."""

    def part(words: str) -> list[str]:
        listed = words.split()
        return listed[round(share[0] * len(listed)) : round(share[1] * len(listed))]

    nouns = [part(_NOUNS[topic]) for topic in TOPICS]
    adjectives, verbs = ([part(kinds[name]) for name in SENTIMENTS] for kinds in (_ADJECTIVES, _VERBS))

    # All draws at once; their number is so large that the remainder is as good as uniform.
    draws = torch.randint(2**40, (count, 11), generator=generator).tolist()
    sentences, topics, sentiments = [], [], []
    for number, (first, second, third, *others) in enumerate(draws):
        topic, sentiment = number % len(TOPICS), number // len(TOPICS) % len(SENTIMENTS)
        parts = ((_KEYWORDS, second),) if keywords else ((_OPENINGS, first), (_CORES, second), (_ENDINGS, third))
        frame = " ".join(choices[draw % len(choices)] for choices, draw in parts)
        slots = {}
        for letters, words in (("nmkl", nouns[topic]), ("ab", adjectives[sentiment]), ("vw", verbs[sentiment])):
            for slot in letters:
                slots[slot] = words[others[len(slots)] % len(words)]
        sentences.append(" ".join(frame.format(**slots).split()))
        topics.append(topic)
        sentiments.append(sentiment)
    return sentences, topics, sentiments


def pydoc() -> TextSource:
    """The prose of Python's help topics as sentences, without labels: the only English text that every Python carries.

    Markup and code are left out. Raises DataError where a distribution split the module off.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python lacks pydoc_data.topics",
            remedy="install your distribution's package of Python's documentation",
        ) from None
    sentences = []
    for name in sorted(topics):
        prose = [block for block in topics[name].split("\n\n") if block and not block.startswith((" " * 6, ">>>"))]
        for block in prose:
            plain = re.sub(r"[*`\"|=+~^<>\[\]{}()-]+", " ", block)
            for sentence in re.split(r"(?<=[.:;]) ", " ".join(plain.split())):
                if len(sentence.split()) > 3:
                    sentences.append(sentence)
    return TextSource(tuple(sentences), {}, f"pydoc ({len(sentences)} sentences)")
