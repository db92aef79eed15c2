import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from heredity.metrics.segmentation import intersection_over_union, mean_iou


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_it_is_the_jaccard_index_of_scikit_learn(seed: int, classes: int) -> None:
    random = torch.Generator().manual_seed(seed)
    truth, predicted = (torch.randint(classes, (2, 5, 5), generator=random) for _ in range(2))
    present = np.union1d(truth.numpy(), predicted.numpy())
    expected = jaccard_score(truth.flatten(), predicted.flatten(), labels=present, average="macro")
    assert mean_iou(predicted, truth, classes=classes) == pytest.approx(float(expected))


def test_ignored_pixels_and_absent_classes_count_for_nothing() -> None:
    truth, predicted = torch.tensor([0, 0, 255, 1]), torch.tensor([0, 1, 1, 1])
    found = intersection_over_union(predicted, truth, classes=3)
    assert found[:2].tolist() == [0.5, 0.5]
    assert math.isnan(float(found[2]))
    assert mean_iou(predicted, truth, classes=3) == 0.5
