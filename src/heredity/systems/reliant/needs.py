"""What a run of RELIANT will take, told before it begins."""

from dataclasses import replace

from heredity.core.errors import HeredityError
from heredity.core.system import Needs
from heredity.data.graphs import Graph, check_source, load_graph
from heredity.nn.graph import make_net
from heredity.systems.reliant.config import Reliant


def needs(config: Reliant) -> Needs:
    """The source with what is found or missing, parameters of teachers and students, passes over the graph, and memory."""
    try:
        found, graph = check_source(config.data).splitlines()[0], load_graph(config.data, seed=0)
    except HeredityError as error:
        found, graph = f"MISSING: {error}", None
    return Needs({config.data: found}, _parameters(config, graph), _steps(config), _memory(config, graph))


def _parameters(config: Reliant, graph: Graph | None) -> dict[str, int]:
    width, classes = (graph.features.shape[1], graph.classes) if graph is not None else (20, 2)
    nets = {f"teacher {kind}": (replace(config.teacher, kind=kind), width) for kind in config.teachers}
    nets |= {
        f"student {kind}": (replace(config.student, kind=kind), width + config.debiasing.columns)
        for kind in config.students
    }
    return {
        name: sum(parameter.numel() for parameter in make_net(net, columns, classes).parameters())
        for name, (net, columns) in nets.items()
    }


def _steps(config: Reliant) -> dict[str, int]:
    """Passes over the graph, students taken together."""
    cells = len(config.teachers) * len(config.students)
    steps = {f"teaching {kind}": config.teaching.steps for kind in config.teachers}
    steps |= {
        f"{name}, {2 * cells} students": 2 * cells * getattr(config, name).plan.steps for name in config.frameworks
    }
    readings = len({config.debiasing.reading, *config.front.readings})
    students = readings * len(config.front.alphas) + len(config.front.adversary)
    steps[f"fronts, {students} students"] = students * getattr(config, config.front.framework).plan.steps
    return steps


def _memory(config: Reliant, graph: Graph | None) -> float:
    """Two forward passes with their activations for the widest network, CSR and edge list, features twice; in MB."""
    if graph is None:
        return 0.0
    nodes, entries = graph.nodes, graph.edges.shape[1]
    widest = max(config.teacher.hidden * config.teacher.layers, config.student.hidden * config.student.layers)
    numbers = nodes * (2 * graph.features.shape[1] + 8 * widest) + 10 * entries
    return 4 * numbers / 2**20 + 350
