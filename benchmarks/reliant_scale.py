"""Distillation on a graph of a million nodes and ten million edges: seconds and peak memory of one epoch of each part.

    python benchmarks/reliant_scale.py
    python benchmarks/reliant_scale.py --nodes 100000 --fan-out 10 5

A two-layer GraphSAGE teacher is trained on sampled neighbourhoods, answers for all nodes layer by layer through one sparse
matrix, and is distilled into an MLP on shuffled node batches with the bias objective on moving group means. Nothing is ever
as large as nodes x nodes. Figures are of one epoch: they say what it costs, not how good the models get.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from heredity.core.randomness import generator_of, seed_of
from heredity.data.graphs import BiasedSbm, Graph, Neighbourhood, NeighbourSampler, biased_sbm, stratified_batches
from heredity.metrics.fairness import MovingGroupMeans, statistical_parity_difference


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a part took, and the highest memory of the process so far."""
    began = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:<62} {time.perf_counter() - began:8.1f} s   peak so far {peak:5.2f} GB", flush=True)


class Sage(nn.Module):
    """Two mean-aggregating layers."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(inputs, hidden), SAGEConv(hidden, classes)

    def forward(self, x: Tensor, near: Neighbourhood) -> Tensor:
        """Logits of the seeds of a neighbourhood of two hops; each layer computes only what the next one needs."""
        inner = F.relu(self.first((x, x[: near.known[1]]), near.edges))
        return self.second((inner, inner[: near.seeds]), near.edges[:, : near.hops[0]])

    @torch.no_grad()
    def everywhere(self, x: Tensor, mean: Tensor) -> Tensor:
        """Logits of all nodes of the whole graph, one layer after the other; `mean` is its row-normalised CSR matrix."""
        for layer, last in ((self.first, False), (self.second, True)):
            x = layer.lin_l(mean @ x) + layer.lin_r(x)
            x = x if last else F.relu(x)
        return x


def train_teacher(graph: Graph, teacher: Sage, fan_outs: tuple[int, ...], size: int) -> None:
    """One epoch over the training nodes, on sampled neighbourhoods."""
    sampler = NeighbourSampler(graph.edges, graph.nodes)
    optimiser = torch.optim.Adam(teacher.parameters(), lr=0.01)
    random = generator_of("teacher")
    for rows in graph.train[torch.randperm(len(graph.train), generator=random)].split(size):
        near = sampler.sample(rows, fan_outs, random)
        loss = F.cross_entropy(teacher(graph.features[near.nodes], near), graph.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def mean_matrix(graph: Graph) -> Tensor:
    """The adjacency with rows that sum to 1, in CSR form; the edges are its column numbers as they are."""
    degree = torch.bincount(graph.edges[0], minlength=graph.nodes)
    start = torch.cat([torch.zeros(1, dtype=torch.long), degree.cumsum(0)])
    values = (1.0 / degree.clamp(min=1)).repeat_interleave(degree)
    return torch.sparse_csr_tensor(start, graph.edges[1], values, size=(graph.nodes, graph.nodes))


def distil(graph: Graph, known: Tensor, student: nn.Module, size: int, alpha: float) -> None:
    """One epoch over all nodes: KL to the stored answers of the teacher, and the bias objective."""
    optimiser = torch.optim.Adam(student.parameters(), lr=0.01)
    bias = MovingGroupMeans(decay=0.9)
    everything = torch.arange(graph.nodes)
    for rows in stratified_batches(everything, graph.sensitive, size, generator=generator_of("student")):
        log_p = student(graph.features[rows]).log_softmax(dim=1)
        loss = F.kl_div(log_p, known[rows], log_target=True, reduction="batchmean")
        loss = loss + alpha * bias(log_p.exp(), graph.sensitive[rows], groups=graph.groups)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    """Generate, train, answer, distil; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--degree", type=float, default=20.0)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--fan-out", type=int, nargs="+", default=[15, 10])
    parser.add_argument("--teacher-batch", type=int, default=1024)
    parser.add_argument("--student-batch", type=int, default=4096)
    parser.add_argument("--alpha", type=float, default=1.0)
    options = parser.parse_args()
    torch.manual_seed(seed_of("reliant-scale") % 2**32)
    warnings.filterwarnings("ignore", message="Sparse")
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{torch.get_num_threads()} threads; torch and torch-geometric alone take {imported:.2f} GB")
    with timed(f"drawing {options.nodes:,} nodes"):
        graph = biased_sbm(BiasedSbm(nodes=options.nodes, degree=options.degree), seed=0)
    print(f"  {graph.edges.shape[1] // 2:,} undirected edges, {graph.features.shape[1]} features")
    inputs = graph.features.shape[1]
    teacher = Sage(inputs, options.hidden, graph.classes)
    fan_outs = tuple(options.fan_out)
    with timed(f"GraphSAGE teacher, one epoch of {len(graph.train):,} nodes, fan-out {fan_outs}"):
        train_teacher(graph, teacher, fan_outs, options.teacher_batch)
    with timed("answers of the teacher for all nodes"):
        known = teacher.everywhere(graph.features, mean_matrix(graph)).log_softmax(dim=1)
    gaps = {}
    for name, alpha in (("plain", 0.0), (f"alpha {options.alpha:g}", options.alpha)):
        student = nn.Sequential(nn.Linear(inputs, options.hidden), nn.ReLU(), nn.Linear(options.hidden, graph.classes))
        with timed(f"MLP student, {name}, one epoch of all nodes"):
            distil(graph, known, student, options.student_batch, alpha)
        with torch.no_grad():
            gaps[name] = student(graph.features[graph.test]).argmax(dim=1)
    for name, predicted in {"teacher": known[graph.test].argmax(dim=1), **gaps}.items():
        accuracy = float((predicted == graph.labels[graph.test]).double().mean())
        gap = statistical_parity_difference(predicted, graph.sensitive[graph.test])
        print(f"  {name:<10} accuracy {accuracy:.4f}, statistical parity difference {gap:+.4f} on test nodes")


if __name__ == "__main__":
    main()
