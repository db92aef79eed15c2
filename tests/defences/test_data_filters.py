"""Filters of training samples: closed forms, and the poisoned tenth of a set that a hand-planted net was trained on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.planted import CLASSES, TARGET, TwoLayers, images, stamped
from sklearn.decomposition import PCA
from torch import Tensor, nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.defences import activation_clustering, roni, spectral_signatures
from heredity.defences.contract import DataVerdict, calibrate
from heredity.metrics.detection import auroc


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clustering(model: nn.Module, data: Tensor, labels: Tensor) -> DataVerdict:
    return activation_clustering.scan(model, data, labels, generator=generator())


def spectral(model: nn.Module, data: Tensor, labels: Tensor) -> DataVerdict:
    return spectral_signatures.scan(model, data, labels, spectral_signatures.SpectralSignatures(poisoned=0.2))


FILTERS = [clustering, spectral]
Filter = Callable[[nn.Module, Tensor, Tensor], DataVerdict]


def training_set(seed: int, *, poisoned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """40 images of each class, and where wanted nine stamped ones of others that are called the target."""
    data, labels = images(seed, 40 * CLASSES), torch.arange(40 * CLASSES) % CLASSES
    guilty = torch.zeros(len(data), dtype=torch.bool)
    if poisoned:
        rows = torch.nonzero(labels != TARGET).flatten()[::31][:9]
        data[rows], labels[rows], guilty[rows] = stamped(data[rows]), TARGET, True
    return data, labels, guilty


@pytest.mark.parametrize("scan", FILTERS)
def test_poisoned_samples_stand_out_and_are_dropped(scan: Filter) -> None:
    data, labels, guilty = training_set(0, poisoned=True)
    found = scan(TwoLayers(0, planted=True), data, labels)
    inside = labels == TARGET
    assert auroc(found.scores[inside & guilty].tolist(), found.scores[inside & ~guilty].tolist()) > 0.95
    assert not found.kept[guilty].any()


def test_clustering_suspects_the_target_most() -> None:
    data, labels, guilty = training_set(0, poisoned=True)
    found = clustering(TwoLayers(0, planted=True), data, labels)
    assert TARGET in found.suspects
    assert max(range(CLASSES), key=found.class_scores.__getitem__) == TARGET
    assert torch.equal(~found.kept[labels == TARGET], guilty[labels == TARGET])


def test_clustering_calibrated_on_clean_sets_leaves_clean_sets_alone() -> None:
    def highest(seed: int, *, poisoned: bool) -> float:
        data, labels, _ = training_set(seed, poisoned=poisoned)
        return clustering(TwoLayers(seed, planted=poisoned), data, labels).measures["highest silhouette"]

    threshold = calibrate([highest(seed, poisoned=False) for seed in range(19)], 0.05, source="clean training samples")
    assert sum(threshold.flags(highest(seed, poisoned=False)) for seed in range(100, 105)) <= 1
    assert all(threshold.flags(highest(seed, poisoned=True)) for seed in range(200, 203))


def test_spectral_drops_by_its_nature_the_stated_share() -> None:
    data, labels, _ = training_set(0, poisoned=False)
    found = spectral(TwoLayers(0, planted=False), data, labels)
    assert found.threshold.false_positive_rate == pytest.approx(0.3)
    assert found.measures["dropped"] == pytest.approx(0.3)
    assert torch.equal(found.kept, found.scores <= 1)


def test_outlyingness_is_the_first_principal_component_of_scikit_learn() -> None:
    rows = torch.randn(40, 6, generator=generator(), dtype=torch.float64) * torch.arange(1, 7)
    along, share = spectral_signatures.outlyingness(rows)
    other = PCA(1).fit(rows.numpy())
    assert np.allclose(along.numpy(), other.transform(rows.numpy())[:, 0] ** 2)
    assert share == pytest.approx(float(other.explained_variance_ratio_[0]))
    assert spectral_signatures.outlyingness(torch.ones(5, 3)) == (pytest.approx(torch.zeros(5)), 0.0)


def test_a_class_in_two_groups_by_hand() -> None:
    draws = np.random.default_rng(0)
    rows = np.concatenate([draws.normal(0, 0.1, (40, 3)), draws.normal(5, 0.1, (10, 3))])
    how = activation_clustering.ActivationClustering()
    found = activation_clustering.split_class(rows, how, 0)
    assert found.smaller.tolist() == [False] * 40 + [True] * 10
    assert found.share == 0.2
    assert found.silhouette > 0.3
    assert ((found.margins > 0) == found.smaller).all()
    alike = activation_clustering.split_class(np.ones((30, 3)), how, 0)
    assert alike.silhouette == 0
    assert not alike.smaller.any()
    expected = PCA(2, random_state=0).fit_transform(rows[:20])
    assert np.allclose(activation_clustering.reduce(rows[:20], replace(how, dimensions=2), 0), expected)
    whole = activation_clustering.reduce(rows, replace(how, dimensions=2, reduction="principal"), 0)
    assert np.allclose(whole, PCA(2, random_state=0).fit_transform(rows))


@pytest.mark.parametrize("scan", FILTERS)
def test_same_seed_same_scores_whatever_the_order_and_the_model_is_left_alone(scan: Filter) -> None:
    model = TwoLayers(0, planted=True).train()
    data, labels, _ = training_set(0, poisoned=True)
    order = torch.randperm(len(data), generator=generator(1))
    first, again, mixed = scan(model, data, labels), scan(model, data, labels), scan(model, data[order], labels[order])
    assert torch.equal(first.scores, again.scores)
    assert torch.equal(first.scores[order], mixed.scores)
    assert torch.equal(first.kept[order], mixed.kept)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("scan", FILTERS)
def test_sets_that_cannot_be_judged_are_refused(scan: Filter) -> None:
    data, labels, _ = training_set(0, poisoned=False)
    with pytest.raises(ConfigError, match="has 1 samples, too few"):
        scan(TwoLayers(0, planted=False), data[:CLASSES], labels[:CLASSES])
    with pytest.raises(DataError, match="but the model has 8 classes"):
        scan(TwoLayers(0, planted=False), data, labels + 1)
    with pytest.raises(DataError, match="no clean images"):
        scan(TwoLayers(0, planted=False), data[:0], labels[:0])
    broken = TwoLayers(0, planted=False)
    with torch.no_grad():
        broken.hidden.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        scan(broken, data, labels)


def test_tiny_classes_where_they_are_wanted() -> None:
    data, labels, _ = training_set(0, poisoned=False)
    model, few = TwoLayers(0, planted=False), slice(0, 2 * CLASSES)
    how = activation_clustering.ActivationClustering(allow_tiny=True)
    assert activation_clustering.scan(model, data[few], labels[few], how, generator=generator()).kept.all()
    tiny = spectral_signatures.SpectralSignatures(allow_tiny=True)
    assert len(spectral_signatures.scan(model, data[few], labels[few], tiny).scores) == 2 * CLASSES
    with pytest.raises(ConfigError, match="between 0 and 2/3"):
        spectral_signatures.scan(model, data, labels, spectral_signatures.SpectralSignatures(poisoned=0.9))


def nearest_mean(data: Tensor, labels: Tensor, draws: torch.Generator) -> nn.Module:
    """A linear classifier by class means, which wrong labels spoil and a backdoor does not."""
    flat = data.flatten(1)
    means = torch.stack(
        [
            flat[labels == label].mean(dim=0) if bool((labels == label).any()) else flat.mean(dim=0)
            for label in range(CLASSES)
        ]
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(means / 255)  # pyright: ignore
        net[1].bias.copy_(-means.square().sum(dim=1) / 2)  # pyright: ignore
    return net


def test_roni_rejects_what_spoils_training_and_not_a_backdoor() -> None:
    clean = images(0, 40 * CLASSES), torch.arange(40 * CLASSES) % CLASSES
    data = torch.cat([images(0, 360)[320:], images(0, 360)[320:], stamped(images(0, 360)[320:])])
    right = torch.arange(320, 360) % CLASSES
    labels = torch.cat([right, (right + 1) % CLASSES, torch.full((40,), TARGET)])
    labels[40:80] = (right + 1) % CLASSES
    groups = [torch.arange(0, 40), torch.arange(40, 80), torch.arange(80, 88)]
    labels[80:88] = right[:8]
    how = roni.Roni(base=16, repeats=2, known=4, rate=0.2)
    found = roni.scan(nearest_mean, data, labels, groups, clean, how, generator=generator())
    assert found.kept[:40].all()
    assert not found.kept[40:80].any()
    assert found.kept[80:].all()
    assert found.threshold.false_positive_rate == pytest.approx(0.2)
    again = roni.scan(nearest_mean, data, labels, groups, clean, how, generator=generator())
    assert torch.equal(found.scores, again.scores)
    with pytest.raises(ConfigError, match="no group"):
        roni.scan(nearest_mean, data, labels, [], clean, how, generator=generator())
    with pytest.raises(DataError, match="too few"):
        roni.scan(nearest_mean, data, labels, groups, (clean[0][:40], clean[1][:40]), how, generator=generator())
