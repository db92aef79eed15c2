"""Teachers from elsewhere: a file, somebody's module, or only the answers of a model that nobody may see."""

import csv
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heredity.core.errors import DataError, ModelError
from heredity.core.lineage import Lineage, architecture_of, record
from heredity.data.graphs import Graph
from heredity.nn.graph import Structure, adopt, load_graph_model
from heredity.systems.reliant.cpf import build_propagation

_MAX_FILE = 4 * 2**30


class Answers(nn.Module):
    """A teacher of which nothing is known but its logits for the nodes of one graph."""

    def __init__(self, logits: Float[Tensor, "n c"]) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: Float[Tensor, "n d"], structure: Structure) -> Float[Tensor, "n c"]:
        """The same answers, whatever is asked."""
        return self.logits  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a student may see of a teacher: logits, and an embedding where the teacher shows one."""

    logits: Float[Tensor, "n c"]
    embedding: Float[Tensor, "n h"] | None


def find_teacher(spec: str, graph: Graph) -> nn.Module | None:
    """file:PATH, answers:FILE or module:function as a teacher; None for a kind of network that is to be trained here."""
    kind, colon, rest = spec.partition(":")
    if not colon or kind == "pyg":
        return None
    if kind == "file":
        model = load_student(Path(rest))
        noted = architecture_of(model) or {}
        width = noted.get("features", noted.get("student", {}).get("features"))
        if "constants" not in noted and width != graph.features.shape[1]:
            raise ModelError(
                f"{rest} takes {width} features, {graph.name} has {graph.features.shape[1]}",
                remedy="give the graph it was trained on, with the same columns dropped",
            )
        return model
    if kind == "answers":
        answers = Answers(read_answers(Path(rest)))
        return record(answers, Lineage(Path(rest).name, "answers of a teacher that was not seen"))
    return adopt(_called(spec, kind, rest).eval())


def load_student(path: Path) -> nn.Module:
    """A network or a deployed student of any framework here, from a file that heredity wrote, with its lineage."""
    return load_graph_model(path, {"label-propagation": build_propagation})


def knowledge_of(teacher: nn.Module, graph: Graph) -> Knowledge:
    """The teacher's logits for every node, and its embedding where it has one. Raises ModelError where it cannot answer."""
    structure = Structure(graph.nodes, graph.edges)
    with torch.no_grad():
        try:
            if hasattr(teacher, "both"):
                embedding, logits = teacher.eval().both(graph.features, structure)  # pyright: ignore[reportCallIssue]
                return Knowledge(_table(logits), embedding if embedding.ndim == 2 else None)
            return Knowledge(_table(teacher.eval()(graph.features, structure)), None)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ModelError(
                f"the teacher cannot answer for {graph.name}: {str(error).splitlines()[0]}",
                remedy=f"it is called as module(x, edge_index) with x of {tuple(graph.features.shape)}",
            ) from error


def _table(logits: Any) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the teacher answered with {shape}", remedy="it must return logits, one row a node")
    return logits.detach().float()


def read_answers(path: Path) -> Float[Tensor, "n c"]:
    """Logits from a csv (a header, then one row of numbers a node) or from the first array of an npz.

    Raises DataError naming the file, row and column. Rows that sum to one are taken for probabilities, whose logarithm is
    as good as logits.
    """
    if not path.is_file() or path.stat().st_size > _MAX_FILE:
        raise DataError(f"no file {path} of at most 4 GB", remedy="give a csv or npz with a row of logits a node")
    values = _of_npz(path) if path.suffix == ".npz" else _of_csv(path)
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(f"{path} holds an array of shape {values.shape}", remedy="one row a node, one column a class")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(f"{path}: row {row}, column {column} is not finite", remedy="repair the teacher's answers")
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        values = np.log(np.maximum(values, 1e-12))
    return torch.from_numpy(values).float()


def _of_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return np.asarray(stored[stored.files[0]], dtype=np.float64)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} is not an npz of plain numbers: {error}", remedy="np.savez(FILE, logits)") from error


def _of_csv(path: Path) -> np.ndarray:
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            width = len(next(reader, []))
            for line in reader:
                rows.append([float(cell) for cell in line])
                if len(line) != width:
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(line)} cells, not {width}", remedy="mend it"
                    )
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: line {len(rows) + 2} is not a row of numbers: {error}", remedy="mend it") from error
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _called(spec: str, module: str, name: str) -> nn.Module:
    if not name.isidentifier():
        raise ModelError(f"{spec!r} names no teacher", remedy="gcn, file:PATH, answers:FILE or module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made: Any = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise ModelError(f"cannot import {spec}: {error}", remedy="run where the module lies") from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec} returned no torch module", remedy="return a module called as module(x, edge_index)")
    return made
