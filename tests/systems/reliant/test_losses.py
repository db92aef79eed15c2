"""Every loss against a slow one that was written from the equations: loops, numpy, scipy, scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, rel_entr, softmax
from sklearn.metrics import log_loss
from torch import Tensor

from heredity.core.errors import ModelError
from heredity.data.graphs import Graph, load_graph
from heredity.nn.graph import Net
from heredity.systems.reliant.adversary import covariance, fairgnn
from heredity.systems.reliant.akd import Critics, akd, critics_loss, student_loss
from heredity.systems.reliant.cpf import LabelPropagation, cpf, frobenius
from heredity.systems.reliant.frameworks import Task, divergence, kd, make_task
from heredity.systems.reliant.proxy import Debiased, Debiasing, first_proxies

GRAPH = load_graph("biased-sbm?nodes=60,degree=5,train=0.3", seed=3)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_task(graph: Graph = GRAPH) -> Task:
    return make_task(graph, numbers(graph.nodes, graph.classes, seed=5), numbers(graph.nodes, 6, seed=6))


def test_divergence_is_scipys() -> None:
    student, teacher = numbers(20, 3), numbers(20, 3, seed=1)
    expected = rel_entr(softmax(teacher.double(), axis=1), softmax(student.double(), axis=1)).sum(axis=1).mean()
    assert float(divergence(student, teacher.log_softmax(1))) == pytest.approx(expected, abs=1e-6)


def test_frobenius_is_numpys() -> None:
    a, b = numbers(20, 2).softmax(1), numbers(20, 2, seed=1).softmax(1)
    assert float(frobenius(a, b)) == pytest.approx(np.linalg.norm((a - b).numpy()), abs=1e-6)


def test_label_propagation_is_that_of_the_edge_by_edge_definition() -> None:
    task = a_task()
    student = cpf(Net("mlp", hidden=4), steps=3).student(GRAPH.features.shape[1], task).eval()
    assert isinstance(student, LabelPropagation)
    with torch.no_grad():
        student.balance.copy_(numbers(GRAPH.nodes, 1, seed=2))
        own = student.net(task.features, task.structure).double().numpy()
        score = (task.features @ student.attention.T).double().numpy()[:, 0]
        found = student(task.features, task.structure).numpy()
    share = 1 / (1 + np.exp(-student.balance.detach().double().numpy()))
    train = set(GRAPH.train.tolist())
    neighbours = {v: [v] for v in range(GRAPH.nodes)}
    for u, v in GRAPH.edges.T.tolist():
        neighbours[v].append(u)
    h = np.full((GRAPH.nodes, 2), 0.5)
    for v in train:
        h[v] = np.eye(2)[GRAPH.labels[v]]
    for _ in range(3):
        after = h.copy()
        for v in set(range(GRAPH.nodes)) - train:
            weights = softmax([score[u] for u in neighbours[v]])
            gathered = sum(w * h[u] for w, u in zip(weights, neighbours[v], strict=True))
            after[v] = np.maximum(share[v] * gathered + (1 - share[v]) * own[v], 0)
        h = after
    assert np.abs(found - h).max() < 1e-6


def test_extreme_scores_do_not_divide_by_zero() -> None:
    task = a_task()
    student = cpf(Net("mlp", hidden=4)).student(GRAPH.features.shape[1], task)
    assert isinstance(student, LabelPropagation)
    with torch.no_grad():
        student.attention.mul_(1e4)
    logits = student.eval()(task.features, task.structure)
    assert torch.isfinite(logits).all()


def bce(scores: Tensor, teacher: bool) -> float:
    wanted = np.full(len(scores), int(teacher))
    probability = 1 / (1 + np.exp(-scores.detach().double().numpy()))
    return float(log_loss(wanted, probability, labels=[0, 1]))


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    probability = softmax(logits.detach().double().numpy(), axis=1)
    return float(-np.log(probability[np.arange(len(labels)), labels.numpy()]).mean())


class Slow:
    """GraphAKD's critics with loops."""

    def __init__(self, critics: Critics, task: Task) -> None:
        self.c, self.task = critics, task

    def logits(self, z: Tensor) -> tuple[Tensor, Tensor]:
        w1, b1, w2 = self.c.inner.weight, self.c.inner.bias, self.c.outer.weight
        rows = torch.stack([w2 @ torch.clamp(row + w1 @ row + b1, min=0) for row in z])
        return rows[:, :2], rows[:, 2]

    def edges(self, h: Tensor) -> Tensor:
        unit = torch.stack([row / row.norm() for row in h])
        both_ways = self.task.structure.edges.T.tolist()
        return torch.stack([self.c.edge_scale * (unit[u] * self.c.edge * unit[v]).sum() for u, v in both_ways])

    def graph(self, h: Tensor, of: Tensor) -> Tensor:
        q = 1 / (1 + torch.exp(-of.mean(dim=0)))
        return torch.stack([self.c.graph_scale * (row / row.norm() * self.c.graph) @ q for row in h])


@pytest.mark.parametrize("centred", [True, False])
def test_graphakd_is_that_of_its_equations(centred: bool) -> None:
    task, z, h = a_task(), numbers(GRAPH.nodes, 2, seed=7), numbers(GRAPH.nodes, 6, seed=8)
    critics = Critics(2, 6)
    with torch.no_grad():
        critics.edge.copy_(numbers(6, seed=9))
        critics.graph.copy_(numbers(6, seed=10))
    slow, zt, ht = Slow(critics, task), task.log_probabilities, task.embedding
    assert ht is not None
    labels, train = task.labels[task.train], task.train
    (teacher_class, teacher_score), (class_, score) = slow.logits(zt), slow.logits(z)
    critic = bce(teacher_score, True) + bce(score, False)
    critic = 0.5 * (critic + cross_entropy(teacher_class[train], labels) + cross_entropy(class_[train], labels))
    critic += bce(slow.edges(ht), True) + bce(slow.edges(h), False)
    critic += bce(slow.graph(ht, ht), True) + bce(slow.graph(h, ht), False)
    critic += bce(slow.graph(ht, h), False) + bce(slow.graph(h, h), True)
    assert float(critics_loss(critics, z, h, task)) == pytest.approx(critic, abs=2e-6)
    given = z.log_softmax(1) if centred else z
    student = cross_entropy(z[train], labels) + 0.5 * (bce(score, True) + cross_entropy(class_[train], labels))
    student += float((given - zt).abs().sum()) / len(z) + bce(slow.edges(h), True)
    student += bce(slow.graph(h, ht), True) + bce(slow.graph(ht, h), False) + bce(slow.graph(h, h), True)
    assert float(student_loss(critics, z, h, task, centred=centred)) == pytest.approx(student, abs=2e-6)


def test_the_fairness_term_is_that_of_its_equation() -> None:
    task = a_task()
    game = Debiased(*parts(task, Debiasing(phi="official")))
    logits = numbers(GRAPH.nodes, 2, seed=4)
    p = softmax(logits.double(), axis=1)
    series = zip((1, 3, 5, 7, 9), (1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256), strict=True)
    phi = np.asarray(0.5 + sum(a * eval_legendre(k, 2 * p - 1) for k, a in series))
    members = {s: [v for v in task.unlabelled.tolist() if GRAPH.sensitive[v] == s] for s in (0, 1)}
    expected = ((phi[members[0]].mean(axis=0) - phi[members[1]].mean(axis=0)) ** 2).sum()
    assert float(game.bias(logits, "unlabelled")) == pytest.approx(expected, abs=1e-6)


def test_equal_opportunity_reads_training_labels_only() -> None:
    task = a_task()
    game = Debiased(*parts(task, Debiasing(phi="identity", objective="eo")))
    logits = numbers(GRAPH.nodes, 2, seed=4)
    p = softmax(logits.double(), axis=1)
    rates = []
    for s in (0, 1):
        rows = [v for v in GRAPH.train.tolist() if GRAPH.sensitive[v] == s and GRAPH.labels[v] == 1]
        rates.append(p[rows].mean(axis=0))
    assert float(game.bias(logits, "unlabelled")) == pytest.approx(((rates[0] - rates[1]) ** 2).sum(), abs=1e-6)


def parts(task: Task, how: Debiasing) -> tuple:
    framework = kd(Net("mlp", hidden=4))
    columns = first_proxies(how, task, torch.Generator().manual_seed(0))
    return framework.student(task.features.shape[1] + columns.shape[1], task), columns, framework, task, how


def test_covariance_is_numpys() -> None:
    p, groups = numbers(40, 2).softmax(1), torch.nn.functional.one_hot(torch.arange(40) % 3, 3).float()
    whole = np.cov(np.hstack([p.double().numpy(), groups.double().numpy()]).T, bias=True)[:2, 2:]
    assert float(covariance(p, groups)) == pytest.approx(np.abs(whole).sum(), abs=1e-6)


def test_refusals() -> None:
    task = make_task(GRAPH, numbers(GRAPH.nodes, 2))
    with pytest.raises(ModelError, match="needs the teacher's embedding"):
        akd(Net("mlp", hidden=6)).rival(task)  # pyright: ignore[reportOptionalCall]
    wide = akd(Net("mlp", hidden=7))
    student = wide.student(GRAPH.features.shape[1], a_task())
    with pytest.raises(ModelError, match="width 7, the teacher's 6"):
        wide.loss(student, wide.rival(a_task()), GRAPH.features, a_task())  # pyright: ignore[reportOptionalCall]
    with pytest.raises(ModelError, match="rival of its own"):
        fairgnn(wide, 6, alpha=1.0)
