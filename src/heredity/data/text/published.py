"""Text as it was published: AG News, GLUE's SST-2, WikiText, and a CSV file of one's own.

Readers are strict: an error names file, line, field and remedy. Files are read as UTF-8 and never executed.
"""

import csv
import html
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.text.records import LabelledText, TextSource, TextTask, labelled_text, split_text

AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
SST_2 = ("negative", "positive")
_MOST_ROWS = 20_000_000
_MOST_CHARACTERS = 1_000_000


def ag_news(directory: Path) -> TextSource:
    """`train.csv` and `test.csv`: no header, three quoted columns: class 1..4, title, description.

    A backslash stands for the line breaks of the original feed, and ` #36;` for a character whose ampersand was lost.
    """

    def part(file: str) -> LabelledText:
        path, sentences, labels = directory / file, [], []
        for line, row in _csv_rows(path):
            if len(row) != 3:
                raise DataError(
                    f"{path}, line {line}: {len(row)} columns instead of 3",
                    remedy="AG News has class, title, description",
                )
            if row[0] not in ("1", "2", "3", "4"):
                raise DataError(
                    f"{path}, line {line}: class {row[0][:20]!r} is not 1, 2, 3 or 4", remedy="see classes.txt"
                )
            sentences.append(_mended(f"{row[1]} {row[2]}"))
            labels.append(int(row[0]) - 1)
        return labelled_text(sentences, labels, 4, name=str(path))

    train, test = part("train.csv"), part("test.csv")
    return _source("ag-news", AG_NEWS, train, test)


def _mended(text: str) -> str:
    return " ".join(html.unescape(re.sub(r" #(\d{1,5});", r"&#\1;", text)).replace("\\", " ").split())


def sst_2(directory: Path) -> TextSource:
    """`train.tsv` and `dev.tsv` of GLUE: header `sentence<TAB>label`, no quoting. Its test file has no labels."""

    def part(file: str) -> LabelledText:
        path, sentences, labels = directory / file, [], []
        lines = _lines(path)
        _, header = next(lines, (0, ""))
        if header.split("\t") != ["sentence", "label"]:
            raise DataError(
                f"{path}, line 1: the header is {header[:40]!r}", remedy="SST-2 begins with sentence<TAB>label"
            )
        for line, text in lines:
            sentence, tab, label = text.rpartition("\t")
            if not tab or label not in ("0", "1") or not sentence.strip():
                raise DataError(
                    f"{path}, line {line}: not a sentence, a tab and 0 or 1: {text[:40]!r}", remedy="mend the line"
                )
            sentences.append(sentence.strip())
            labels.append(int(label))
        return labelled_text(sentences, labels, 2, name=str(path))

    train, test = part("train.tsv"), part("dev.tsv")
    return _source("sst-2", SST_2, train, test)


def wikitext(directory: Path) -> TextSource:
    """`wiki.train.tokens` (or `.raw`): one paragraph a line; no headings (` = Title = `), no labels."""
    found = next((path for end in ("tokens", "raw") if (path := directory / f"wiki.train.{end}").is_file()), None)
    if found is None:
        raise DataError(f"{directory} lacks wiki.train.tokens", remedy="wikitext needs it, or wiki.train.raw")
    paragraphs = [text.strip() for _, text in _lines(found)]
    sentences = [
        sentence
        for paragraph in paragraphs
        if paragraph and not paragraph.startswith("=")
        for sentence in re.split(r"(?<= [.!?]) ", paragraph)
        if len(sentence.split()) > 3
    ]
    if not sentences:
        raise DataError(f"{found} holds no paragraphs", remedy="check the file")
    return TextSource(tuple(sentences), {}, f"wikitext {directory.name} ({len(sentences)} sentences)")


def csv_file(path: Path, seed: int) -> TextSource:
    """A CSV file with the columns `text` and `label`, and perhaps `split` (train or test); labels may be any words.

    Without `split`, a fifth of each class is held out, by the seed.
    """
    rows = _csv_rows(path)
    _, header = next(rows, (0, []))
    columns = [name.strip().lower() for name in header]
    for name in ("text", "label"):
        if columns.count(name) != 1:
            raise DataError(
                f"{path}, line 1: no column {name!r}", remedy="the header must name the columns text and label"
            )
    at = {name: columns.index(name) for name in ("text", "label", "split") if name in columns}
    sentences, words, parts = [], [], []
    for line, row in rows:
        if len(row) != len(columns):
            raise DataError(f"{path}, line {line}: {len(row)} columns instead of {len(columns)}", remedy="quote commas")
        sentence, label = " ".join(row[at["text"]].split()), row[at["label"]].strip()
        for name, value in (("text", sentence), ("label", label)):
            if not value:
                raise DataError(f"{path}, line {line}: field {name!r} is empty", remedy="fill it in or remove the line")
        part = row[at["split"]].strip() if "split" in at else "train"
        if part not in ("train", "test"):
            raise DataError(f"{path}, line {line}: field 'split' is {part[:20]!r}", remedy="write train or test")
        sentences.append(sentence)
        words.append(label)
        parts.append(part == "test")
    classes = tuple(sorted(set(words)))
    if len(classes) > 1000:
        raise DataError(f"{path} has {len(classes)} different labels", remedy="is 'label' the right column?")
    whole = labelled_text(sentences, [classes.index(word) for word in words], len(classes), name=str(path))
    if "split" in at:
        held = torch.tensor(parts)
        train, test = (whole.rows(torch.nonzero(mask).flatten()) for mask in (~held, held))
        if not len(train.labels) or not len(test.labels):
            raise DataError(f"{path}: the column 'split' leaves no train or no test rows", remedy="mark some of each")
    else:
        train, test = split_text(whole, 0.2, generator_of("csv", seed))
    return _source(path.stem, classes, train, test)


def _source(name: str, classes: tuple[str, ...], train: LabelledText, test: LabelledText) -> TextSource:
    caption = f"{name} ({len(train.labels)} + {len(test.labels)} rows)"
    return TextSource(train.sentences, {name: TextTask(name, classes, train, test)}, caption)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. Raises DataError for a file that is missing, not UTF-8, or no text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line or len(line) > _MOST_CHARACTERS or number > _MOST_ROWS:
                    raise DataError(f"{path}, line {number}: not a line of text", remedy="is this the right file?")
                yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise DataError(f"no file {path}", remedy="check the folder; see heredity data for the layout") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8: {error}", remedy="convert it to UTF-8") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((text + "\n" for _, text in _lines(path)), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}", remedy="quote fields with commas or quotes"
        ) from error
