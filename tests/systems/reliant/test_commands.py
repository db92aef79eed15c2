"""`heredity reliant distil` on a user's own graph: student, family tree, card; and what happens when something is wrong."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import heredity, said

from heredity.core.errors import DataError, ModelError
from heredity.core.lineage import save_model
from heredity.data.graphs import load_graph
from heredity.nn.graph import Net, Structure, make_net
from heredity.systems.reliant.card import to_html
from heredity.systems.reliant.commands import answers_of, distil_graph
from heredity.systems.reliant.proxy import Debiasing
from heredity.systems.reliant.teachers import find_teacher, load_student, read_answers


def write_graph(folder: Path, nodes: int = 120, **changes: list[object]) -> Path:
    """nodes.csv and edges.csv of people whose loan depends on income and on their district."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    district = [draw.randrange(2) for _ in range(nodes)]
    income = [draw.gauss(0.6 * d, 1.0) for d in district]
    columns: dict[str, list[object]] = {
        "id": list(range(nodes)),
        "income": [round(value, 3) for value in income],
        "age": [draw.randrange(18, 80) for _ in range(nodes)],
        "district": list(district),
        "paid": [int(value + draw.gauss(0, 0.5) > 0.3) for value in income],
    }
    columns |= changes
    with (folder / "nodes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    with (folder / "edges.csv").open("w", newline="") as file:
        pairs = [(draw.randrange(nodes), draw.randrange(nodes)) for _ in range(4 * nodes)]
        csv.writer(file).writerows([("source", "target"), *pairs])
    return folder


WORDS = ("--label", "paid", "--sensitive", "district", "--epochs", "20", "--hidden", "16")


@pytest.mark.parametrize("framework", ["kd", "cpf", "akd"])
def test_a_student_of_every_framework_comes_back_from_its_file(tmp_path: Path, framework: str) -> None:
    graph = load_graph("biased-sbm?nodes=120,degree=6,train=0.3", seed=0)
    made = distil_graph(graph, "gcn", "gcn", framework, epochs=4, hidden=8).student
    save_model(tmp_path / "s.safetensors", made)
    again = load_student(tmp_path / "s.safetensors")
    assert torch.equal(answers_of(again, graph), answers_of(made, graph))


def test_a_folder_becomes_a_student_with_a_family_tree_and_a_card(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "loans")
    done = heredity("reliant", "distil", "--graph", folder, *WORDS, "--out", tmp_path / "s.safetensors")
    assert done.returncode == 0, done.stderr
    assert "statistical parity difference" in done.stdout
    tree = heredity("pedigree", tmp_path / "s.safetensors").stdout
    assert "debiased with RELIANT" in tree
    assert "from teacher" in tree
    card = json.loads((tmp_path / "s.card.json").read_text())
    assert set(card["models"]) == {"teacher", "no teacher", "plain student", "this student"}
    assert card["sensitive"] == "district"
    assert card["content"]
    page = (tmp_path / "s.card.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    student = load_student(tmp_path / "s.safetensors")
    graph = load_graph(f"graph:{folder}", seed=0, label="paid", sensitive="district")
    with torch.no_grad():
        told = student(graph.features, Structure(graph.nodes, graph.edges)).argmax(dim=1)[graph.test]
    right = float((told == graph.labels[graph.test]).double().mean())
    assert right == pytest.approx(card["models"]["this student"]["accuracy"])


def without(folder: Path, column: str) -> Path:
    rows = list(csv.reader((folder / "nodes.csv").open()))
    at = rows[0].index(column)
    with (folder / "nodes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row[:at] + row[at + 1 :] for row in rows])
    return folder


def test_wrong_tables_are_refused_by_column_and_row_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out/s.safetensors"
    first = [draw % 2 for draw in range(120)]
    wrong = {
        "missing": without(write_graph(tmp_path / "missing"), "district"),
        "unlabelled": without(write_graph(tmp_path / "unlabelled"), "paid"),
        "constant": write_graph(tmp_path / "constant", district=[1] * 120),
        "gaps": write_graph(tmp_path / "gaps", district=["", *first[1:]]),
        "continuous": write_graph(tmp_path / "continuous", district=[index + 0.5 for index in range(120)]),
        "nan": write_graph(tmp_path / "nan", income=["nan", *[0.5] * 119]),
    }
    for name, folder in wrong.items():
        done = heredity("reliant", "distil", "--graph", folder, *WORDS, "--out", out)
        message = said(done)
        column = {"unlabelled": "paid", "nan": "income"}.get(name, "district")
        assert column in message, (name, message)
    assert not out.parent.exists()


def test_teachers_from_elsewhere(tmp_path: Path) -> None:
    graph = load_graph("biased-sbm?nodes=120,degree=6,train=0.3", seed=0)
    logits = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "a.npz", logits.numpy())
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("no", "yes"), *logits.softmax(dim=1).tolist()])
    from_npz, from_csv = read_answers(tmp_path / "a.npz"), read_answers(tmp_path / "a.csv")
    assert torch.allclose(from_npz, logits)
    assert torch.allclose(from_csv, logits.log_softmax(dim=1), atol=1e-5)
    made = distil_graph(graph, f"answers:{tmp_path}/a.npz", epochs=4, hidden=8)
    assert made.card.models["teacher"]["agreement"] == 1.0
    module = make_net(Net("pyg:GCN", hidden=8), graph.features.shape[1], 2).module
    theirs = distil_graph(graph, module, "gcn", "akd", Debiasing("penalty"), epochs=4, hidden=8)  # pyright: ignore[reportArgumentType]
    assert theirs.card.framework == "akd"


def test_teachers_that_do_not_fit(tmp_path: Path) -> None:
    graph = load_graph("biased-sbm?nodes=120,degree=6,train=0.3", seed=0)
    wrong = make_net(Net("gcn", hidden=8), 5, 2)
    with pytest.raises(ModelError, match="cannot answer for biased-sbm"):
        distil_graph(graph, wrong, epochs=2)
    with pytest.raises(ModelError, match="knows 3 classes"):
        distil_graph(graph, make_net(Net("gcn", hidden=8), graph.features.shape[1], 3), epochs=2)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,x\n")
    with pytest.raises(DataError, match="line 3"):
        read_answers(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n1,inf\n")
    with pytest.raises(DataError, match="row 1, column 1"):
        read_answers(tmp_path / "b.csv")
    np.savez(tmp_path / "p.npz", np.array([{"evil": 1}], dtype=object))
    with pytest.raises(DataError, match="npz of plain numbers"):
        read_answers(tmp_path / "p.npz")
    with pytest.raises(ModelError, match="cannot import"):
        find_teacher("no_such_module:build", graph)
    np.savez(tmp_path / "a.npz", np.zeros((120, 2)))
    with pytest.raises(ModelError, match="needs the teacher's embedding"):
        distil_graph(graph, f"answers:{tmp_path}/a.npz", framework="akd", epochs=2)


def test_a_student_that_decides_nothing_is_called_so() -> None:
    graph = load_graph("biased-sbm?nodes=200,degree=6,train=0.3", seed=0)
    made = distil_graph(graph, "gcn", debiasing=Debiasing(alpha=1e6), epochs=30, hidden=8)
    told = made.card.models["this student"]
    assert not told["one_class"] or any("no fairness" in warning for warning in made.card.warnings)
    assert any("group 'group'" in warning or "'group' is itself" in warning for warning in made.card.warnings)


def test_the_card_escapes_what_comes_from_outside() -> None:
    graph = load_graph("biased-sbm?nodes=120,degree=6,train=0.3", seed=0)
    made = distil_graph(graph, "gcn", epochs=2, hidden=8)
    evil = "<script>alert(1)</script>"
    page = to_html(type(made.card)(**{**vars(made.card), "label": evil, "notes": (evil,), "teacher": evil}))
    assert evil not in page
    assert "&lt;script&gt;" in page
