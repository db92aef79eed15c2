"""What a reader wants to see of a run."""

from collections.abc import Mapping
from typing import Any

from heredity.core.run import Run
from heredity.data.graphs import Graph
from heredity.systems.reliant.config import Reliant


def results(cells: Mapping[str, Any], fronts: Any, alone: Any, graph: Graph, config: Reliant, run: Run) -> None:
    pass
