"""The language half as a whole: every stage in little, through the corridor."""

import json
from pathlib import Path

import pytest

from heredity.core.errors import ConfigError
from heredity.core.execute import Order, claims_of, keep_stages, run_once
from heredity.core.run import Machine
from heredity.core.settings import override
from heredity.data.text import load_text, make_source
from heredity.nn.text import labels_of, make_text_encoder, train_reader
from heredity.nn.text_resolver import resolve_text_encoder
from heredity.systems.ssl_wm import SYSTEM
from heredity.systems.ssl_wm.config import PRESETS
from heredity.systems.ssl_wm.language import language_needs, text_tasks
from heredity.systems.ssl_wm.language_config import LANGUAGE

SMALL = {
    "language.encoder.width": 16,
    "language.encoder.feed_forward": 32,
    "language.encoder.depth": 1,
    "language.pretraining.plan.steps": 4,
    "language.embedding.plan.steps": 4,
    "language.thief.rows": 80,
    "language.verification.sentences": 12,
    "language.verification.keys": 1,
    "language.verification.few": 8,
    "verification.picks": 500,
    **{f"language.thief.{name}.plan.epochs": 1.0 for name in ("full", "hard", "scratch")},
}
CPU = Machine(accelerator="cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    make_source("grammar", folder / "text", rows=120)
    tasks = tuple(f"csv:{folder / 'text' / name}.csv" for name in ("topic", "sentiment"))
    few = {"language.corpus": "pydoc", "language.tasks": tasks, "language.encoder.length": 20}
    run_once(Order(SYSTEM, "language", override(PRESETS["language"], SMALL | few), machine=CPU), folder / "run")
    return folder / "run"


def test_a_run_measures_what_the_claim_asks_for(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert [claim["id"] for claim in results["claims"]] == ["verifies-language"]
    metrics = results["metrics"]
    worst = max(metrics[f"language/{task}/full/log10_p"]["value"] for task in ("topic", "sentiment"))
    assert metrics["verified/language/full/worst_log10_p"]["value"] == worst
    assert metrics["language/false_positives/rate_at_0.05"]["value"] <= 1
    assert [table["title"] for table in results["tables"]][:2] == ["language/topic", "language/sentiment"]
    assert {claim.id for claim in claims_of(SYSTEM, "quick")} & {"verifies-language"} == set()


def test_a_stolen_child_is_a_file_that_reads_text_and_knows_its_mark(finished: Path) -> None:
    child = resolve_text_encoder(f"run:{finished}/language/topic/stolen-full")
    assert labels_of(child, ["the violin and the cello"]).shape == (1,)
    marked = resolve_text_encoder(f"run:{finished}/language/marked")
    assert "ownership mark" in marked.heredity_lineage.marks[0]  # pyright: ignore


def test_without_the_mark_the_clean_stages_are_kept(finished: Path, tmp_path: Path) -> None:
    config = override(PRESETS["language"], SMALL | dict(SYSTEM.ablations["no-mark"].changes))
    without = Order(SYSTEM, "language", config, machine=CPU, ablation="no-mark")
    keep_stages(finished, without, tmp_path / "without")
    assert (tmp_path / "without/stages/language--clean/model.safetensors").exists()
    assert not (tmp_path / "without/stages/language--marked").exists()
    for name, ablation in SYSTEM.ablations.items():
        if not ablation.presets or "language" in ablation.presets:
            assert override(PRESETS["language"], ablation.changes) != PRESETS["language"], name


def test_tasks_come_from_the_corpus_or_from_other_sources(tmp_path: Path) -> None:
    make_source("grammar", tmp_path / "own", rows=40)
    source = load_text(f"csv:{tmp_path / 'own' / 'topic.csv'}")
    encoder = make_text_encoder(LANGUAGE.encoder, train_reader(source.corpus, LANGUAGE.encoder))
    make_source("sst-2", tmp_path / "sst", rows=40)
    found = text_tasks(override(LANGUAGE, {"tasks": ("topic", f"sst-2:{tmp_path / 'sst'}")}), source, encoder, 0)
    assert [(task.task.name, task.task.classes) for task in found] == [("topic", 4), ("sst-2", 2)]
    assert len(found[1].held_out) == len(found[1].task.test[1])
    with pytest.raises(ConfigError, match="did you mean 'topic'"):
        text_tasks(override(LANGUAGE, {"tasks": ("topics",)}), source, encoder, 0)
    with pytest.raises(ConfigError, match="one name"):
        text_tasks(override(LANGUAGE, {"tasks": ("topic", "topic")}), source, encoder, 0)


def test_needs_name_what_is_missing() -> None:
    found = language_needs(override(LANGUAGE, {"corpus": "pydoc", "tasks": ("sst-2:nowhere",)}))
    assert found.sources["sst-2:nowhere"].startswith("MISSING")
    assert found.steps["language pre-training"] == 1000
