import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.core.errors import DataError
from heredity.core.randomness import generator_of
from heredity.data.graphs.checks import stump_accuracy, tell_tales
from heredity.data.graphs.graph import standardise, undirected
from heredity.data.graphs.roles import classes_of, groups_of
from heredity.data.graphs.splits import drawn_split


@given(st.lists(st.integers(-1, 2), min_size=60, max_size=200), st.integers(0, 5), st.sampled_from([0, 4]))
@settings(max_examples=25, deadline=None)
def test_a_drawn_split_is_stratified_and_leaves_nobody_out(labels: list[int], seed: int, cap: int) -> None:
    truth = torch.tensor([*labels, *([0, 1, 2] * 4)])
    split = drawn_split(truth, train=0.5, validation=0.25, seed=seed, name="x", cap=cap)
    parts = torch.cat([split.train, split.validation, split.test])
    assert len(torch.unique(parts)) == len(parts)
    assert bool((truth[parts] >= 0).all())
    for label in range(3):
        count = int((truth == label).sum())
        inside = [int((truth[part] == label).sum()) for part in (split.train, split.validation, split.test)]
        whole = round(0.5 * count)
        assert inside[0] == (min(whole, cap) if cap else whole)
        assert inside[1] == round(0.75 * count) - whole
        assert inside[2] == count - round(0.75 * count)
    assert f"seed {seed}" in split.how
    again = drawn_split(truth, train=0.5, validation=0.25, seed=seed, name="x", cap=cap)
    assert torch.equal(again.test, split.test)
    other = drawn_split(truth, train=0.5, validation=0.25, seed=seed + 1, name="x", cap=cap)
    assert not torch.equal(other.test, split.test)


def test_shares_that_leave_no_test_part_are_refused() -> None:
    with pytest.raises(DataError, match="leave no test part"):
        drawn_split(torch.arange(60) % 2, train=0.8, validation=0.2, seed=0, name="x")


@given(st.integers(0, 10**6), st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_the_best_threshold_is_that_of_trying_all(seed: int, classes: int) -> None:
    random = generator_of("stump", seed)
    features = torch.randint(6, (30, 3), generator=random).float()
    labels = torch.randint(-1, classes, (30,), generator=random)
    labels[:classes] = torch.arange(classes)
    known = labels >= 0
    for column, found in enumerate(stump_accuracy(features, labels).tolist()):
        values, truth = features[known, column], labels[known]
        best = 0
        for threshold in range(-1, 7):
            sides = [truth[values <= threshold], truth[values > threshold]]
            best = max(best, sum(int(torch.bincount(side, minlength=1).max()) for side in sides))
        assert found == pytest.approx(best / int(known.sum()))


def test_a_rare_class_is_no_leak() -> None:
    labels = torch.zeros(1000, dtype=torch.long)
    labels[:5] = 1
    group = torch.arange(1000) % 2
    noise = torch.randn(1000, 1, generator=generator_of("noise"))
    assert tell_tales(noise, ["noise"], labels, group, "y") == []
    leak = torch.stack([labels.float(), 1 - group.float()], dim=1)
    notes = tell_tales(leak, ["copy", "inverse"], labels, group, "y")
    assert notes[0].startswith("LEAK: 'copy'")
    assert "'inverse' is the sensitive attribute itself" in notes[1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60))
@settings(max_examples=40, deadline=None)
def test_edges_are_those_of_a_set_of_pairs(pairs: list[tuple[int, int]]) -> None:
    listed = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    edges, loops, repeated = undirected(listed, 10)
    expected = sorted({pair for a, b in pairs if a != b for pair in ((a, b), (b, a))})
    assert list(map(tuple, edges.T.tolist())) == expected
    directed = [pair for pair in pairs if pair[0] != pair[1]]
    assert (loops, repeated) == (len(pairs) - len(directed), len(directed) - len(set(directed)))


def test_standardising_uses_the_training_nodes_only_and_survives_constants() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]], dtype=torch.float64)
    found = standardise(x, torch.tensor([0, 1]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[-1.0, 0.0], [1.0, 0.0], [98.0, 2.0]]


def test_values_become_numbers_the_same_way_however_they_are_written() -> None:
    groups, notes = groups_of(["1.0", "1", "0e0", "01"], where="f, column 's'", lines=range(4))
    assert groups.tolist() == [1, 1, 0, 1]
    assert notes == []
    groups, notes = groups_of(["m", "f", "x", "f"], where="f, column 's'", lines=range(4))
    assert groups.tolist() == [1, 0, 2, 0]
    assert notes == ["coded f -> 0, m -> 1, x -> 2"]
    with pytest.raises(DataError, match=r"one group only \('w' is no value or the only one; values: f, m\)"):
        groups_of(["f", "m"], where="f, column 's'", lines=range(2), positive="w")
    assert classes_of(["-1", "1", "-1"], where="f")[0].tolist() == [0, 1, 0]
    assert classes_of(["-1", "1", "0", ""], where="f")[0].tolist() == [-1, 1, 0, -1]
    assert classes_of(["-1", "3", "0", "1"], where="f", capped=True)[0].tolist() == [-1, 1, 0, 1]
    with pytest.raises(DataError, match="as a continuous column"):
        classes_of(["0.5", "1.5", "2.5"], where="f")
