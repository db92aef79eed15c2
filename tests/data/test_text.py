import csv
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heredity.core.errors import DataError
from heredity.data.text import check_source, knows, load_text, make_source
from heredity.data.text import embedded as grammar_words
from heredity.data.text.published import csv_file


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_training_and_held_out_sentences_of_the_grammar_share_no_content_word() -> None:
    found = load_text("grammar", seed=3)
    content = {
        word
        for table in (grammar_words._NOUNS, grammar_words._ADJECTIVES, grammar_words._VERBS)
        for words in table.values()
        for word in words.split()
    }
    used = [
        {word for sentence in part.sentences for word in sentence.split()} & content
        for part in (found.tasks["topic"].train, found.tasks["topic"].test)
    ]
    assert not used[0] & used[1]
    assert content <= {word for sentence in found.corpus for word in sentence.split()}
    assert grammar_words.TEMPLATES == 400


def test_a_seed_repeats_the_grammar_and_classes_are_balanced() -> None:
    first, again, other = (load_text("grammar", seed=seed) for seed in (1, 1, 2))
    assert first.corpus == again.corpus != other.corpus
    for task in first.tasks.values():
        counts = torch.bincount(task.train.labels)
        assert (counts == counts[0]).all()


def test_sources_are_joined_by_a_plus() -> None:
    both = load_text("grammar+pydoc")
    assert len(both.corpus) == len(load_text("grammar").corpus) + len(load_text("pydoc").corpus)
    assert set(both.tasks) == {"topic", "sentiment"}
    with pytest.raises(DataError, match="one name"):
        load_text("grammar+grammar")


@pytest.mark.parametrize("layout", ["grammar", "ag-news", "sst-2", "wikitext"])
def test_what_is_written_in_a_published_layout_is_read_back(layout: str, tmp_path: Path) -> None:
    said = make_source(layout, tmp_path / "set", rows=40, seed=1)
    name = said.rpartition(" ")[2] if layout != "grammar" else f"csv:{tmp_path / 'set' / 'topic.csv'}"
    found = load_text(name.replace("as ", ""))
    assert len(found.corpus) == 40
    if found.tasks:
        [task] = found.tasks.values()
        assert len(task.test.labels) == 10
        assert set(task.train.sentences) == set(found.corpus)
    assert "ready" in check_source(name)
    with pytest.raises(DataError, match="not an empty folder"):
        make_source(layout, tmp_path / "set")


def test_ag_news_mends_what_the_feed_broke(tmp_path: Path) -> None:
    for file in ("train.csv", "test.csv"):
        write(tmp_path / file, '"1","Title","A second\\team, the  #36;10 ""prize"" &lt;b&gt;"\n"4","T","D"\n')
    found = load_text(f"ag-news:{tmp_path}")
    assert found.corpus[0] == 'Title A second team, the $10 "prize" <b>'
    assert found.tasks["ag-news"].train.labels.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("train.csv", '"1","a","b"\n"5","a","b"\n', r"train.csv, line 2: class '5'"),
        ("train.csv", '"1","a","b"\n"2","a"\n', r"train.csv, line 2: 2 columns instead of 3"),
        ("train.csv", '"1","a","b"\n"2","a","b\n', r"train.csv, line \d: "),
        ("train.csv", '"1","a","b"\n"1","c","d"\n', "one class only"),
        ("train.csv", "", "holds no rows"),
    ],
)
def test_errors_of_ag_news_name_file_and_line(file: str, text: str, problem: str, tmp_path: Path) -> None:
    write(tmp_path / "train.csv", text)
    with pytest.raises(DataError, match=problem):
        load_text(f"ag-news:{tmp_path}")


def test_sst_2_keeps_quotes_and_names_the_line_of_an_error(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", 'sentence\tlabel\na "film\n\t1\n'.replace("\n\t", "\t") + "bad\t0\n")
    write(tmp_path / "train.tsv", "sentence\tlabel\nit 's a \"film\t1\nno\t0\n")
    found = load_text(f"sst-2:{tmp_path}")
    assert found.corpus == ("it 's a \"film", "no")
    write(tmp_path / "train.tsv", "sentence\tlabel\nfine\t1\nno label\n")
    with pytest.raises(DataError, match=r"train.tsv, line 3: not a sentence"):
        load_text(f"sst-2:{tmp_path}")
    write(tmp_path / "train.tsv", "index\tsentence\n0\tfine\n")
    with pytest.raises(DataError, match="line 1: the header"):
        load_text(f"sst-2:{tmp_path}")


def test_wikitext_leaves_headings_out(tmp_path: Path) -> None:
    write(
        tmp_path / "wiki.train.raw", " \n = A Title = \n \n One two three four . Five six seven eight . \n = = B = = \n"
    )
    assert load_text(f"wikitext:{tmp_path}").corpus == ("One two three four .", "Five six seven eight .")
    with pytest.raises(DataError, match=r"lacks wiki\.train\.tokens"):
        load_text(f"wikitext:{tmp_path.parent}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("text,class\na,b\n", "line 1: no column 'label'"),
        ("text,label\na,x\n,y\n", "line 3: field 'text' is empty"),
        ("text,label\na,x\nb\n", "line 3: 1 columns instead of 2"),
        ("text,label,split\na,x,train\nb,y,dev\n", "line 3: field 'split' is 'dev'"),
        ("text,label,split\na,x,train\nb,y,train\n", "no test rows|no train or no test"),
        ("text,label\na,x\nb,x\n", "one class only"),
        ("text,label\na\0,x\n", "line 2: not a line of text"),
    ],
)
def test_errors_of_a_csv_file_name_line_and_field(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        load_text(f"csv:{write(tmp_path / 'own.csv', text)}")


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=12)


@given(rows=st.lists(st.tuples(words, st.sampled_from("xyz")), min_size=4, max_size=20))
def test_any_text_survives_a_csv_file(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [("a", "x"), ("b", "y"), *rows]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("text", "label", "split"), *((*row, "train") for row in rows), ("t", "x", "test")])
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    path.write_bytes(buffer.getvalue().encode())
    found = csv_file(path, 0).tasks["own"]
    expected = [" ".join(text.split()) for text, _ in rows]
    assert list(found.train.sentences) == expected
    assert [found.classes[label] for label in found.train.labels.tolist()] == [label for _, label in rows]


def test_names_that_are_no_sources() -> None:
    for name, problem in (("ag-news", "write ag-news:DIR"), ("grammar:x", "write grammar"), ("agnews:x", "ag-news")):
        with pytest.raises(DataError, match=problem):
            load_text(name)
    with pytest.raises(DataError, match="no folder"):
        load_text("sst-2:nowhere")
    assert knows("csv:x.csv")
    assert not knows("cifar10:x")


def test_the_real_files_are_read(real_data: Path) -> None:
    assert len(load_text(f"ag-news:{real_data / 'ag-news'}").corpus) == 5000
    assert len(load_text(f"sst-2:{real_data / 'sst-2'}").tasks["sst-2"].test.labels) == 872
    assert len(load_text(f"wikitext:{real_data / 'wikitext-2'}").corpus) > 10_000
