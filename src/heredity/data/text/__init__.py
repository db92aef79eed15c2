"""Text sources by name: what is embedded, and what users have on disk."""

from pathlib import Path

import torch

from heredity.core.errors import DataError, suggestion
from heredity.data.text import embedded, published
from heredity.data.text.records import LabelledText, TextSource, TextTask
from heredity.data.text.write import make_source

SOURCES = {
    "grammar": "sentences from 400 templates, embedded; labelled by topic (4) and sentiment (2)",
    "pydoc": "prose of Python's help, embedded; no labels",
    "ag-news:DIR": "train.csv and test.csv: class 1..4, title, description; no header",
    "sst-2:DIR": "train.tsv and dev.tsv of GLUE: sentence<TAB>label",
    "wikitext:DIR": "wiki.train.tokens or wiki.train.raw; no labels",
    "csv:FILE": "a header with the columns text and label, and perhaps split (train or test)",
}


def list_sources() -> list[tuple[str, str]]:
    """Names of all text sources with what they are or the layout they need."""
    return list(SOURCES.items())


def knows(source: str) -> bool:
    """Whether a source names text.

    >>> knows("ag-news:somewhere"), knows("digits")
    (True, False)
    """
    return source.partition(":")[0] in {name.partition(":")[0] for name in SOURCES}


def load_text(source: str, *, seed: int = 0) -> TextSource:
    """Read a source into memory. Several may be joined by "+": their sentences and their tasks are put together.

    `seed` makes what is generated and splits what has no published split. Raises DataError naming file, line and remedy.

    >>> load_text("grammar").tasks["topic"].classes
    ('sport', 'food', 'science', 'music')
    """
    if "+" in source:
        parts = [load_text(part, seed=seed) for part in source.split("+")]
        tasks = {name: task for part in parts for name, task in part.tasks.items()}
        if len(tasks) < sum(len(part.tasks) for part in parts):
            raise DataError(f"two parts of {source!r} have a task of one name", remedy="name each source once")
        corpus = tuple(sentence for part in parts for sentence in part.corpus)
        return TextSource(corpus, tasks, " + ".join(part.caption for part in parts))
    kind, colon, place = source.partition(":")
    known = {name.partition(":")[0]: name for name in SOURCES}
    if kind not in known:
        raise DataError(f"unknown text source {source!r}", remedy=suggestion(kind, known))
    if (":" in known[kind]) != bool(place) or (colon and not place):
        raise DataError(f"{source!r} does not name a source", remedy=f"write {known[kind]}")
    if kind == "grammar":
        return embedded.grammar(seed)
    if kind == "pydoc":
        return embedded.pydoc()
    path = Path(place).expanduser()
    if kind == "csv":
        return published.csv_file(path, seed)
    if not path.is_dir():
        raise DataError(f"no folder {path}", remedy=f"{kind} needs {SOURCES[known[kind]]}")
    return {"ag-news": published.ag_news, "sst-2": published.sst_2, "wikitext": published.wikitext}[kind](path)


def check_source(source: str) -> str:
    """Read a source and describe it: sentences, words, tasks, how many rows each class has, and a sample."""
    found = load_text(source)
    words = sum(len(sentence.split()) for sentence in found.corpus)
    lines = [
        f"{found.caption}: ready",
        f"  corpus    {len(found.corpus)} sentences, {words} words",
        f"  sample    {found.corpus[0][:100]}",
    ]
    for name, task in found.tasks.items():
        lines.append(f"  task      {name}: {len(task.classes)} classes")
        for title, part in (("training", task.train), ("test", task.test)):
            counts = torch.bincount(part.labels, minlength=len(task.classes)).tolist()
            shown = [f"{label} {count}" for label, count in zip(task.classes, counts, strict=True)]
            lines.append(f"  {title:<9} " + ", ".join(shown[:12]) + (" ..." if len(shown) > 12 else ""))
    if not found.tasks:
        lines.append("  labels    none: for pre-training only")
    return "\n".join(lines)


__all__ = [
    "LabelledText",
    "TextSource",
    "TextTask",
    "check_source",
    "knows",
    "list_sources",
    "load_text",
    "make_source",
]
