from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from heredity.core.errors import ConfigError
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.defences.decree import Decree
from heredity.defences.neural_cleanse import NeuralCleanse
from heredity.defences.reverse import Search
from heredity.defences.strip import Strip
from heredity.systems.ssl_wm.detection import Detection, Suspect, detected, detection, examine
from heredity.systems.ssl_wm.mark.keys import KeyParameters, generate_key
from heredity.transfer.task import Task

DIGITS = load_images("digits")
WHOLE = Detection()
TINY = Detection(
    models=2,
    rate=0.34,
    scanned=8,
    fitted=120,
    pretraining=replace(WHOLE.pretraining, plan=Plan(steps=2, batch=32)),
    embedding=replace(WHOLE.embedding, plan=Plan(steps=2, batch=8, mode="eval")),
    decree=Decree(Search(steps=3, batch=8)),
    neural_cleanse=NeuralCleanse(Search(steps=3, batch=4)),
    strip=Strip(overlays=4, rejection=0.05),
    mahalanobis=replace(WHOLE.mahalanobis, rejection=0.05),
    nearest=replace(WHOLE.nearest, rejection=0.05),
)
KEY = KeyParameters(sub_keys=2, patch=5, margin=1, reference_size=16)


def test_the_recipe_runs_and_goes_on_where_it_stopped(tmp_path: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, test = DIGITS.train, DIGITS.test
    rows = slice(0, 250)
    task = Task(
        "digits",
        10,
        (train.images[rows], train.labels[rows]),
        (train.images[:10], train.labels[:10]),
        (test.images[rows], test.labels[rows]),
    )
    with Run.temporary(seed=3) as run:
        outcome = detection(task, train.images[:64], KEY, TINY, run)
        again = Run(run.directory, fabric=run.fabric, seed=3)
        same = detection(task, train.images[:64], KEY, TINY, again)
    torch.set_num_threads(threads)
    assert outcome.metrics == same.metrics
    assert len(outcome.tables[0].rows) == 6
    assert all(len(row) == len(outcome.tables[0].columns) for row in outcome.tables[0].rows)
    assert outcome.metrics["detection/models"].value == 4
    assert {
        f"detection/{name}/auc"
        for name in ("decree", "neural_cleanse", "smallest_patch", "strip", "mahalanobis", "nearest")
    } <= set(outcome.metrics)


def test_filters_need_images_that_they_were_not_fitted_on() -> None:
    few = (DIGITS.test.images[:120], DIGITS.test.labels[:120])
    suspect = Suspect("a", False, torch.nn.Identity(), torch.nn.Identity(), generate_key("me", KEY))
    with Run.temporary() as run, pytest.raises(ConfigError, match="lower fitted"):
        examine(suspect, Task("digits", 10, few, few, few), TINY, run)


def rows_of(marked: float, stamped: float) -> list[dict[str, Any]]:
    """Ten clean and ten marked models whose scores are shifted by so much."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(20):
        guilty = number >= 10
        scan = {"score": float(random.uniform() + guilty * marked), "paper_flags": guilty, "smallest": 9.0 - 5 * guilty}
        images = {
            "clean": random.uniform(size=200).tolist(),
            "stamped": (random.uniform(size=200) + guilty * stamped).tolist(),
            "rejected_clean": 0.01,
            "rejected_stamped": 0.9 if guilty else 0.02,
        }
        filters = dict.fromkeys(("strip", "mahalanobis", "nearest"), images)
        rows.append(
            {"marked": guilty, "accuracy": 0.9, "one_label": 1.0, "decree": scan, "neural_cleanse": scan, **filters}
        )
    return rows


def test_what_is_far_from_clean_is_found_and_what_is_not_is_not() -> None:
    found = detected(rows_of(5.0, 5.0), Detection()).metrics
    assert found["detection/decree/auc"].value == 1.0
    assert found["detection/decree/detected"].value == 1.0
    assert found["detection/smallest_patch/auc"].value == 1.0
    assert found["detection/strip/auc"].value == 1.0
    assert found["detection/strip/false_acceptance_at_0.01"].value == 0.0
    assert found["detection/strip/control_auc"].value == pytest.approx(0.5, abs=0.05)
    hidden = detected(rows_of(0.0, 0.0), Detection()).metrics
    assert 0.2 < hidden["detection/neural_cleanse/auc"].value < 0.8
    assert hidden["detection/neural_cleanse/detected"].value <= 0.4
    assert hidden["detection/strip/auc"].value == pytest.approx(0.5, abs=0.05)
    assert hidden["detection/strip/false_acceptance_at_0.05"].value == pytest.approx(0.95, abs=0.03)
    low, high = hidden["detection/neural_cleanse/auc"].interval or (0.0, 0.0)
    assert low < 0.5 < high


def test_the_worst_of_the_authors_detectors_counts() -> None:
    found = detected(rows_of(0.0, 5.0), Detection()).metrics
    assert found["detection/authors/worst_auc"].value == found["detection/strip/auc"].value == 1.0
    assert found["detection/authors/worst_detected"].value == 0.9
