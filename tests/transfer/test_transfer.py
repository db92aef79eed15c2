import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import Lineage, lineage_of, record
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.images import load_images
from heredity.nn.encoders import EncoderShape, make_encoder
from heredity.nn.inference import accuracy, outputs, top1
from heredity.transfer.finetune import FineTuning, blocks_of, finetune
from heredity.transfer.probe import fit_head, probe
from heredity.transfer.prune import prune, sparsity
from heredity.transfer.task import Task

DIGITS = load_images("digits")
IMAGES, LABELS = DIGITS.train.images, DIGITS.train.labels
TASK = Task(
    "digits", 10, (IMAGES[:300], LABELS[:300]), (IMAGES[300:360], LABELS[300:360]), (IMAGES[360:600], LABELS[360:600])
)


def encoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make_encoder(EncoderShape(width=8), 16)
    return record(made.eval(), Lineage("parent", "nothing", marks=("a mark",)))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learns_on_standardised_features(classes: int) -> None:
    features = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3, 0.2, 1, 1]) + 2
    labels = (features[:, 0] * 2 + torch.randn(90, generator=torch.Generator().manual_seed(1))).long() % classes
    weight, bias = fit_head(features, labels, classes=classes)
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    trusted = LogisticRegression(C=1.0, max_iter=2000).fit(scaled.numpy(), labels.numpy())
    ours = torch.softmax(features @ weight.T + bias, dim=1)
    assert torch.allclose(ours, torch.tensor(trusted.predict_proba(scaled.numpy()), dtype=torch.float32), atol=1e-3)


def test_a_class_without_examples_is_never_predicted() -> None:
    weight, bias = fit_head(torch.randn(20, 4), torch.arange(20) % 2 * 2, classes=4)
    assert set((torch.randn(500, 4) @ weight.T + bias).argmax(dim=1).tolist()) <= {0, 2}


def test_one_class_cannot_be_probed() -> None:
    with pytest.raises(DataError, match="same class"):
        fit_head(torch.randn(20, 4), torch.zeros(20).long(), classes=4)


def test_a_probe_leaves_the_encoder_as_it_is() -> None:
    parent = encoder()
    with Run.temporary() as run:
        child = probe(parent, TASK, run=run, name="probe")
    assert all(
        torch.equal(a, b)
        for a, b in zip(child.encoder.state_dict().values(), parent.state_dict().values(), strict=True)
    )
    assert accuracy(child, *TASK.test) > 0.5
    assert lineage_of(child).parents[0].name == "parent"
    assert lineage_of(child).marks == ("a mark",)


PLAN = Plan(epochs=2, batch=50, optimiser="adam", learning_rate=1e-3)


@pytest.mark.parametrize("last", [0, 1])
def test_fine_tuning_changes_what_it_should(last: int) -> None:
    parent = encoder()
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    with Run.temporary() as run:
        child = finetune(parent, TASK, FineTuning(plan=PLAN, last=last), run=run, name="tuned")
    changed = {
        name.split(".")[1] + name.split(".")[2]
        for name, value in child.encoder.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert changed == ({"stages2"} if last else {"stem0", "stem1", "stages0", "stages1", "stages2"})
    assert all(parameter.requires_grad for parameter in child.parameters())
    assert accuracy(child, *TASK.test) > 0.3


def test_blocks_are_found_in_every_family() -> None:
    assert len(blocks_of(encoder())) == 3
    assert len(blocks_of(make_encoder(EncoderShape(kind="vit", depth=3), 16))) == 3
    assert len(blocks_of(make_encoder(EncoderShape(kind="resnet18"), 16))) == 4
    with pytest.raises(ModelError, match="no blocks"):
        blocks_of(nn.Identity())


@given(st.floats(0, 0.99), st.floats(0, 0.99))
@settings(max_examples=15, deadline=None)
def test_pruning_zeroes_the_smallest_of_all_weights(first: float, second: float) -> None:
    first, second = sorted((first, second))
    parent = encoder()
    once, twice = prune(parent, second), prune(prune(parent, first), second)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    weights = torch.cat([m.weight.flatten() for m in parent.modules() if isinstance(m, nn.Conv2d | nn.Linear)]).abs()
    kept = torch.cat([m.weight.flatten() for m in once.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert sparsity(once) == pytest.approx(round(second * len(weights)) / len(weights))
    if (kept == 0).any():
        assert weights[kept == 0].max() <= weights[kept != 0].min()


def test_pruning_keeps_lineage_and_refuses_nonsense() -> None:
    assert lineage_of(prune(encoder(), 0.5)).marks == ("a mark",)
    with pytest.raises(ConfigError):
        prune(encoder(), 1.0)
    with pytest.raises(ConfigError):
        prune(nn.Identity(), 0.5)


def test_inference_in_batches_equals_inference_at_once() -> None:
    model = encoder().train()
    assert torch.allclose(outputs(model, IMAGES[:10], batch=3), outputs(model, IMAGES[:10]), atol=1e-6)
    assert model.training
    assert top1(model, IMAGES[:4]).shape == (4,)


def test_a_unit_that_is_all_but_constant_gets_no_huge_weight() -> None:
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] > 0).long()
    features[:, 3] *= 1e-33
    weight, _ = fit_head(features, labels, classes=2)
    assert weight.abs().max() < 100
