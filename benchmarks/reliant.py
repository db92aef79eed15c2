"""RELIANT beside the published formulation: one epoch (student step and proxy step) of CPF on a graph of Credit's size.

    python benchmarks/reliant.py                    # 30,000 nodes, 1.4 million undirected edges
    python benchmarks/reliant.py --nodes 3000 --degree 20

The peer is written from the description of the published code: attention per edge with a softmax over in-neighbours, group
means over Python sets of node numbers that are rebuilt at every call, fairness figures by Python sums once an epoch, and
autograd's anomaly detection, which is left on. `edge list` is the same without the Python sets and the anomaly detection: the
formulation alone. Each side's loss is checked against the other's first; then they take turns, and peak memory is that of a
process of each side's own.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heredity.data.graphs import load_graph
from heredity.metrics.fairness import soft_step
from heredity.nn.graph import Net
from heredity.systems.reliant.cpf import LabelPropagation, cpf, frobenius
from heredity.systems.reliant.frameworks import Task, make_task
from heredity.systems.reliant.proxy import Debiased, Debiasing, first_proxies

STEPS = 9
HOW = Debiasing(reading="code", alpha=1.0)


def a_task(nodes: int, degree: float) -> Task:
    """A biased graph with answers of a made-up teacher."""
    graph = load_graph(f"biased-sbm?nodes={nodes},degree={degree}", seed=0)
    torch.manual_seed(0)
    return make_task(graph, 2 * torch.randn(nodes, 2) + graph.features[:, :2])


def a_game(task: Task) -> Debiased:
    """Our student with its proxies."""
    torch.manual_seed(1)
    framework = cpf(Net("mlp", layers=2, dropout=0.8), steps=STEPS, dropout=0.8)
    columns = first_proxies(HOW, task, torch.Generator().manual_seed(0))
    return Debiased(framework.student(task.features.shape[1] + 2, task), columns, framework, task, HOW)


class Ours:
    """Two sparse products a propagation, group means as one matrix."""

    def __init__(self, task: Task) -> None:
        self.game = a_game(task)
        self.student = torch.optim.Adam(self.game.student.parameters(), lr=0.01)
        self.proxies = torch.optim.Adam(self.game.proxies.parameters(), lr=0.01)

    def epoch(self) -> float:
        """Both steps; returns the student's loss."""
        loss = torch.stack(list(self.game("student").values())).sum()
        loss.backward()
        self.student.step()
        self.student.zero_grad()
        self.game.student.requires_grad_(False)
        torch.stack(list(self.game("proxies").values())).sum().backward()
        self.proxies.step()
        self.game.zero_grad()
        self.game.student.requires_grad_(True)
        return float(loss.detach())


class Published(nn.Module):
    """The student with attention per edge, on the weights of ours."""

    def __init__(self, ours: LabelPropagation, task: Task) -> None:
        super().__init__()
        self.own, self.known = ours, task.is_train[:, None]
        each = torch.arange(len(task.labels))
        self.target, self.source = torch.cat([task.structure.edges, torch.stack([each, each])], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """What is propagated in the end."""
        own = self.own
        score = F.linear(F.dropout(x, own.dropout, self.training), own.attention)[:, 0]
        one_hot: Tensor = own.one_hot  # pyright: ignore[reportAssignmentType]
        h, predicted = torch.where(self.known, one_hot, 0.5), own.net(x, None)
        for _ in range(own.steps):
            edge = score[self.source]
            largest = torch.full_like(score, -torch.inf).scatter_reduce(0, self.target, edge, "amax")
            weight = (edge - largest[self.target]).exp()
            total = torch.zeros_like(score).index_add(0, self.target, weight)
            weight = F.dropout(weight / total[self.target], own.attention_dropout, self.training)
            gathered = torch.zeros_like(h).index_add(0, self.target, weight[:, None] * h[self.source])
            h = F.relu(own.balance.sigmoid() * gathered + (-own.balance).sigmoid() * predicted)
            h = torch.where(self.known, one_hot, h)
        return h


class Peer:
    """The published epoch. `python_sets` False leaves out its Python overhead and the anomaly detection."""

    def __init__(self, task: Task, *, python_sets: bool) -> None:
        game = a_game(task)
        assert isinstance(game.student, LabelPropagation)
        self.task, self.python_sets, self.proxies = task, python_sets, game.proxies
        self.net = Published(game.student, task)
        self.student = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.proxy = torch.optim.Adam(self.proxies.parameters(), lr=0.01)
        self.groups = [torch.nonzero(~task.is_train & (task.sensitive == s)).flatten() for s in (0, 1)]
        self.kept: list[Tensor] = []
        self.weight = HOW.alpha * game.framework.strength * game.framework.scale(task)

    def bias(self, p: Tensor) -> Tensor:
        """J from the group means."""
        groups = self.groups
        if self.python_sets:
            rows = set(self.task.unlabelled.tolist())
            members = [
                {node for node, s in enumerate(self.task.sensitive.tolist()) if s == wanted} for wanted in (0, 1)
            ]
            groups = [torch.tensor(sorted(rows & own)) for own in members]
        means = [soft_step(p[own], "official").mean(dim=0) for own in groups]
        return (means[0] - means[1]).square().sum()

    def epoch(self) -> float:
        """Both steps; returns the student's loss."""
        task = self.task
        with torch.autograd.set_detect_anomaly(self.python_sets):
            logits = self.net(self.proxies(task.features, "mean"))
            p = logits.softmax(dim=1)
            distilled = frobenius(p[task.unlabelled], task.log_probabilities[task.unlabelled].exp())
            loss = distilled + self.weight * self.bias(p)
            self.student.zero_grad()
            loss.backward()
            self.student.step()
            again = -self.weight * self.bias(self.net(self.proxies(task.features, "node")).softmax(dim=1))
            self.proxy.zero_grad()
            again.backward()
            self.proxy.step()
        if self.python_sets:
            self.kept.append(logits.detach())
            told, groups = p.argmax(dim=1).numpy(), task.sensitive.numpy()
            for wanted in (0, 1):
                _ = sum(told[groups == wanted]) / sum(groups == wanted)
        return float(loss.detach())


SIDES: dict[str, Callable[[Task], Ours | Peer]] = {
    "published": lambda task: Peer(task, python_sets=True),
    "edge list": lambda task: Peer(task, python_sets=False),
    "ours": Ours,
}


def check(task: Task) -> None:
    """Without dropout all sides compute the same loss."""
    found = {}
    for name, make in SIDES.items():
        side = make(task)
        (side.game if isinstance(side, Ours) else side.net).eval()
        found[name] = side.epoch()
    assert max(found.values()) - min(found.values()) < 1e-4 * max(found.values()), found


def peak(side: str, task: Task) -> float:
    """Highest memory of three epochs beyond what was there before, in MB."""
    runner = SIDES[side](task)
    # What building the graph took is no part of it: Linux forgets the peak when asked so.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    for _ in range(3):
        runner.epoch()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> float:
    """A size of this process, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Check, then time in turns, then measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=30_000)
    parser.add_argument("--degree", type=float, default=95.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=list(SIDES), help="print the peak memory of one side and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak, a_task(options.nodes, options.degree)))
        return
    check(a_task(2000, 10.0))
    task = a_task(options.nodes, options.degree)
    print(
        f"{options.nodes:,} nodes, {task.structure.edges.shape[1] // 2:,} undirected edges, {STEPS} propagations, one thread"
    )
    runners = {name: make(task) for name, make in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(options.rounds + 1):
        for name, runner in runners.items():
            began = time.process_time()
            runner.epoch()
            if turn:
                times[name].append(time.process_time() - began)
    memory = {}
    for name in runners:
        words = ["--nodes", str(options.nodes), "--degree", str(options.degree), "--peak", name]
        said = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        memory[name] = float(said.stdout)
    ours = statistics.median(times["ours"])
    for name in runners:
        median = statistics.median(times[name])
        print(f"{name:<12} {median:8.3f} CPU s an epoch  {median / ours:6.1f}x  {memory[name]:8.0f} MB beyond the data")


if __name__ == "__main__":
    main()
