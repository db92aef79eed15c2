"""Writing the embedded text in the layouts that users bring: readers and writers test each other."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from heredity.core.errors import DataError, suggestion
from heredity.core.files import write_text
from heredity.data.text import embedded
from heredity.data.text.records import TextTask


def make_source(source: str, directory: Path, *, rows: int = 200, seed: int = 0) -> str:
    """Write the grammar's tasks as CSV files, or in the layout of ag-news or sst-2, or pydoc's prose as wikitext.

    `rows` training sentences and a quarter as many held-out ones. Returns a description. Raises DataError when the folder is
    not empty or nothing of that name is generated.
    """
    layouts = ("grammar", "ag-news", "sst-2", "wikitext")
    if source not in layouts:
        raise DataError(f"no generated text {source!r}", remedy=suggestion(source, layouts))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is not an empty folder", remedy="choose another")
    if rows < 8:
        raise DataError(f"{rows} rows are too few for four classes", remedy="choose --rows of at least 8")
    if source == "wikitext":
        paragraphs = embedded.pydoc().corpus[:rows]
        write_text(
            directory / "wiki.train.tokens", " \n = Help = \n \n" + "".join(f" {text} \n" for text in paragraphs)
        )
        return f"{directory}: {len(paragraphs)} paragraphs; read it as wikitext:{directory}"
    tasks = embedded.grammar(seed, train=rows, test=max(8, rows // 4), unlabelled=8).tasks
    if source == "grammar":
        for name, task in tasks.items():
            lines = [(text, task.classes[label], part) for part, text, label in _rows(task)]
            _write_table(directory / f"{name}.csv", [("text", "label", "split"), *lines])
        return f"{directory}: {rows} + {max(8, rows // 4)} sentences; read them as csv:{directory / 'topic.csv'}"
    for part, file in (("train", "train"), ("test", "test" if source == "ag-news" else "dev")):
        chosen = [
            (text, label)
            for of, text, label in _rows(tasks["topic" if source == "ag-news" else "sentiment"])
            if of == part
        ]
        if source == "ag-news":
            table = [(str(label + 1), *text.split(" ", 1)) for text, label in chosen]
            _write_table(directory / f"{file}.csv", table, quoting=csv.QUOTE_ALL)
        else:
            lines = "".join(f"{text}\t{label}\n" for text, label in chosen)
            write_text(directory / f"{file}.tsv", "sentence\tlabel\n" + lines)
    return f"{directory}: {rows} + {max(8, rows // 4)} sentences; read them as {source}:{directory}"


def _rows(task: TextTask) -> list[tuple[str, str, int]]:
    return [
        (part, text, label)
        for part, data in (("train", task.train), ("test", task.test))
        for text, label in zip(data.sentences, data.labels.tolist(), strict=True)
    ]


def _write_table(path: Path, rows: Sequence[Sequence[str]], quoting: int = csv.QUOTE_MINIMAL) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerows(rows)  # pyright: ignore[reportArgumentType]
    write_text(path, buffer.getvalue())
