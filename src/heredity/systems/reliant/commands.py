"""What a team does with RELIANT on a graph of its own: `heredity reliant distil`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from heredity.core.errors import ConfigError, HeredityError
from heredity.core.files import ensure_writable, write_json, write_text
from heredity.core.lineage import save_model
from heredity.core.progress import Reporter
from heredity.core.run import Run
from heredity.data.graphs import Graph, load_graph
from heredity.nn.graph import Net, Structure, adopt
from heredity.systems.reliant.akd import akd
from heredity.systems.reliant.card import FairnessCard, fairness_card, to_html
from heredity.systems.reliant.config import passes
from heredity.systems.reliant.cpf import cpf
from heredity.systems.reliant.distil import distil as distil_stage
from heredity.systems.reliant.distil import train_teacher
from heredity.systems.reliant.examine import examine
from heredity.systems.reliant.frameworks import Framework, kd, make_task, scratch
from heredity.systems.reliant.proxy import Debiasing
from heredity.systems.reliant.teachers import find_teacher, knowledge_of

PLAIN = Debiasing(reading="plain", alpha=0.0)
MARK = "debiased with RELIANT"


@dataclass(frozen=True)
class Distilled:
    """A student as it is deployed, and what it inherited."""

    student: nn.Module
    card: FairnessCard


def distil(
    graph: str,
    sensitive: str | None = None,
    label: str | None = None,
    teacher: str = "gcn",
    student: str = "mlp",
    framework: Literal["kd", "glnn", "cpf", "akd"] = "kd",
    alpha: float = 0.5,
    objective: Literal["sp", "eo"] = "sp",
    reading: str = "code",
    hidden: int = 64,
    epochs: int = 150,
    seed: int = 0,
    out: Path = Path("student.safetensors"),
) -> str:
    """Distil a teacher into a student without its bias; writes the student, its family tree and a fairness card.

    Args:
        graph: A folder with nodes.csv and edges.csv, or any graph source (see heredity data): bail:DIR, graphml:FILE, ...
        sensitive: Column of the sensitive attribute. It is used in training only.
        label: Column of the label.
        teacher: gcn, sage, gat, sgc, appnp, mlp or pyg:CLASS to train one here; file:PATH that heredity wrote; answers:FILE
            (csv or npz, a row of logits a node) of a teacher you cannot see; module:function that returns a torch-geometric
            module.
        student: mlp, gcn, sage, sgc, appnp, gat or pyg:CLASS.
        framework: kd (logits), glnn (logits into an mlp), cpf or akd (GraphAKD; needs the teacher's embedding).
        alpha: Weight of fairness against likeness to the teacher; 0.3 is little, 10 much.
        objective: What shall be equal: positive decisions (sp), or positive decisions among the truly positive (eo).
        reading: How the proxies meet the losses: code, absorb, or penalty for none; see the docs.
        hidden: Width of hidden layers.
        epochs: Passes over the graph.
        seed: Seed of splits and weights.
        out: File for the student; the card lies beside it as .card.json and .card.html.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} does not end in .safetensors", remedy="--out student.safetensors")
    loaded = load_graph(_source(graph), seed=seed, sensitive=sensitive, label=label)
    debiasing = Debiasing(reading=reading, alpha=alpha, objective=objective)
    made = distil_graph(
        loaded, teacher, student, framework, debiasing, hidden=hidden, epochs=epochs, seed=seed, reporter=Reporter()
    )
    ensure_writable(out)
    lineage = save_model(out, made.student)
    beside = out.with_suffix("")
    write_json(beside.with_suffix(".card.json"), asdict(made.card) | {"content": lineage.content})
    write_text(beside.with_suffix(".card.html"), to_html(made.card))
    return f"{made.card}\nstudent {out} (content {lineage.content[:16]})\ncard    {beside.with_suffix('.card.html')}"


def distil_graph(
    graph: Graph,
    teacher: str | nn.Module = "gcn",
    student: str = "mlp",
    framework: str | Framework = "kd",
    debiasing: Debiasing | None = None,
    *,
    hidden: int = 64,
    epochs: int = 150,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Distilled:
    """A debiased student of a teacher on a graph, beside the plain one and one without a teacher.

    `teacher` is a name as for the command, or a module `(x, edge_index) -> logits`; `framework` a name, or your own.
    Raises DataError, ModelError or ConfigError before anything is trained where something does not fit.
    """
    how = debiasing if debiasing is not None else Debiasing()
    net = Net("mlp" if framework == "glnn" else student, hidden=hidden)
    plan = passes(epochs)
    with Run.temporary(seed=seed, reporter=reporter) as run:
        if isinstance(teacher, str):
            parent = find_teacher(teacher, graph) or train_teacher(
                graph, Net(teacher, hidden=hidden, layers=3), plan, run=run, name="teacher"
            )
        else:
            parent = adopt(teacher)
        knowledge = knowledge_of(parent, graph)
        task = make_task(graph, knowledge.logits, knowledge.embedding)
        wrapped = _framework(framework, net) if isinstance(framework, str) else framework
        shared = {"run": run, "parents": [parent]}
        plain = distil_stage(graph, task, wrapped, PLAIN, plan, name="plain", **shared)
        debiased = distil_stage(graph, task, wrapped, how, plan, name="student", marks=(MARK,), **shared)
        alone = distil_stage(graph, task, scratch(net), PLAIN, plan, name="scratch", run=run)
    found = {
        name: examine(logits, graph, knowledge.logits, resamples=1000, seed=seed)
        for name, logits in {
            "teacher": knowledge.logits,
            "no teacher": answers_of(alone, graph),
            "plain student": answers_of(plain, graph),
            "this student": answers_of(debiased, graph),
        }.items()
    }
    name = teacher if isinstance(teacher, str) else type(teacher).__name__
    return Distilled(debiased, fairness_card(graph, name, net.kind, wrapped.name, how, seed, found))


def answers_of(model: nn.Module, graph: Graph) -> Tensor:
    """Logits of every node, from features and edges alone."""
    with torch.no_grad():
        return model.eval()(graph.features, Structure(graph.nodes, graph.edges))


def _framework(name: str, net: Net) -> Framework:
    known: Mapping[str, Framework] = {"kd": kd(net), "glnn": kd(net), "cpf": cpf(net), "akd": akd(net)}
    if name not in known:
        raise ConfigError(f"unknown framework {name!r}", remedy=f"one of {', '.join(known)}")
    return replace(known[name], name=name)


def _source(graph: str) -> str:
    """A path without a kind, by what lies there."""
    if Path(graph).is_dir():
        return f"graph:{graph}"
    kinds = {".graphml": "graphml", ".npz": "pyg", ".safetensors": "pyg"}
    suffix = Path(graph).suffix
    if ":" not in graph and suffix in kinds:
        return f"{kinds[suffix]}:{graph}"
    if ":" not in graph and not graph.startswith("biased-sbm"):
        raise HeredityError(
            f"no folder {graph}", remedy="give a folder with nodes.csv and edges.csv, or a graph source"
        )
    return graph


COMMANDS = {"distil": distil}
