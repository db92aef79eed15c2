import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from helpers.runs import MARK, change_figure, claim, results, several, write_run

from heredity.core.errors import RunError
from heredity.report.page import render, write_report
from heredity.report.plain import read_results


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, ids, links, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(directory: Path, plain: dict[str, Any] | None = None) -> Page:
    return Page(render(write_run(directory, plain)))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html = render(write_run(tmp_path / "r"))
    found = Page(html)
    assert "http" not in re.sub(r'http-equiv|xmlns="[^"]*"', "", html)
    assert not found.all("script")
    assert not found.all("link")
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in found.all("img"))
    assert "default-src 'none'" in html
    assert all((link["href"] or "").startswith("#") for link in found.all("a"))


def test_the_page_can_be_read_by_a_screen_reader(tmp_path: Path) -> None:
    found = page(tmp_path / "r")
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == 1
    levels = [int(name[1]) for name, _ in found.tags if re.fullmatch("h[1-6]", name)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in found.all("svg"))
    assert all("alt" in image for image in found.all("img"))
    assert all(cell.get("scope") for cell in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        for reference in (attributes.get("href"), "#" + (attributes.get("aria-labelledby") or "")):
            if reference and reference.startswith("#") and len(reference) > 1:
                assert reference[1:] in ids


def test_everything_is_said(tmp_path: Path) -> None:
    text = page(tmp_path / "r").text
    for said in (
        "1 of 2 claims hold",
        "heredity run ssl-wm quick --seed 0",
        "96.38",
        "5.1×10⁻⁶",
        "not measured",
        MARK,
        "Caption of heatmap.",
        "key",
        "2.15.0",
        "teacher",
    ):
        assert said in text, said


def test_what_is_hostile_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\ud800"
    bad = results(
        title=evil,
        paper=evil,
        command=evil,
        config={evil: evil},
        claims=[claim(evil, True, evil, 1.0)],
        tables=[{"title": evil, "columns": [evil], "rows": [[evil]], "note": evil}],
        stages=[{"name": evil, "seconds": 1.0}],
        metrics={evil: {"value": 1.0, "unit": evil, "higher_is_better": True}},
    )
    directory = write_run(tmp_path / "r")
    (directory / "results.json").write_text(json.dumps(bad))
    (directory / "config.yaml").write_text("a: '<script>'\n")
    for figure in (directory / "figures").glob("*.json"):
        change_figure(figure, caption=evil, alt=evil)
    found = Page(render(directory))
    assert not found.all("script")
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in found.all("img"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_several_seeds_are_summarised(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    write_run(directory / "seed-3")
    (directory / "results.json").write_text(json.dumps(several()))
    text = Page(render(directory)).text
    assert "3, 4" in text
    assert "by seed" in text
    assert "Figures of the first seed (3)" in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "r")
    assert render(directory) == render(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "movie"},
        {"data": None},
        {"data": {}},
        {"data": {"labels": ["a"], "series": {"s": ["x"]}}},
        {"data": {"labels": ["a"] * 10**4, "series": {"s": [1.0] * 10**4}}},
        {"data": {"grid": [["bm90IGEgcG5n"]], "captions": ["x"]}, "kind": "pictures"},
        {"caption": 5},
    ],
)
def test_a_figure_that_cannot_be_drawn_is_said_not_fatal(tmp_path: Path, changes: dict[str, Any]) -> None:
    directory = write_run(tmp_path / "r")
    change_figure(next((directory / "figures").glob("*-bars.json")), **changes)
    html = render(directory)
    assert "cannot be shown" in html
    assert str(tmp_path) not in html


def test_a_damaged_model_is_said_not_fatal(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "r")
    (directory / "stages/probe/model.safetensors").write_bytes(b"no")
    html = render(directory)
    assert "stages/probe/model.safetensors" in html
    assert str(tmp_path) not in html


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 2}', "[" * 100_000, '{"schema": 1}'])
def test_damaged_results_are_one_clear_line(tmp_path: Path, content: str) -> None:
    directory = write_run(tmp_path / "r")
    (directory / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json") as caught:
        write_report(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [("claims", 0, "holds"), ("metrics", "accuracy", "value"), ("stages",), ("config",)])
def test_the_schema_names_the_field(tmp_path: Path, path: tuple[Any, ...]) -> None:
    directory = write_run(tmp_path / "r")
    plain = results()
    inner: Any = plain
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = "wrong"
    (directory / "results.json").write_text(json.dumps(plain))
    with pytest.raises(RunError, match=str(path[-1])):
        read_results(directory)


def test_the_schema_is_a_schema() -> None:
    import importlib.resources

    text = importlib.resources.files("heredity.report").joinpath("results.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_a_browser_shows_it(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    path = write_report(write_run(tmp_path / "r"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}", "--disable-quic"]
    shown = subprocess.run(
        [browser, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "1 of 2" in re.sub("<[^>]*>", "", shown.stdout)
