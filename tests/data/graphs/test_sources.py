"""Every layout: written and read back, real files where there are any, and damaged ones refused by name."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.core.errors import ConfigError, DataError
from heredity.core.lineage import load_tensors, save_tensors
from heredity.data.graphs import (
    BiasedSbm,
    biased_sbm,
    check_source,
    from_pyg,
    load_graph,
    make_source,
    save_graph,
    similar_pairs,
    to_pyg,
)
from heredity.data.graphs.sources import SOURCES
from heredity.data.graphs.write_graphs import LAYOUTS

FOLDERS = [name.partition(":")[0] for name in SOURCES if name.endswith(":DIR")]


def made(layout: str, directory: Path, rows: int = 240) -> str:
    """Write a layout and return the source that reads it."""
    return make_source(layout, directory, rows=rows).rpartition(" ")[2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_is_written_is_read_back(tmp_path: Path, layout: str) -> None:
    source = made(layout, tmp_path / "made")
    graph = load_graph(source, seed=0)
    drawn = biased_sbm(BiasedSbm(nodes=240), seed=0)
    assert torch.equal(graph.edges, drawn.edges)
    assert torch.equal(graph.sensitive, drawn.sensitive)
    known = graph.labels >= 0
    assert torch.equal(graph.labels[known], drawn.labels[known])
    assert known.all() or layout == "pokec"
    assert graph.standardised
    if layout in ("graph", "bail", "dblp", "pyg", "biased-sbm"):
        assert torch.equal(graph.test, drawn.test)
        place = graph.feature_names.index("proxy_0") if layout != "dblp" else drawn.feature_names.index("proxy_0")
        expected = drawn.features[:, drawn.feature_names.index("proxy_0")]
        assert torch.allclose(graph.features[:, place], expected, atol=1e-5)
    assert "240 nodes" in check_source(source)


def test_a_stored_graph_comes_back_bit_for_bit(tmp_path: Path) -> None:
    graph = load_graph("biased-sbm?nodes=100", seed=1)
    save_graph(tmp_path / "g.safetensors", graph)
    again = load_graph(f"pyg:{tmp_path / 'g.safetensors'}", seed=0)
    assert torch.equal(graph.features, again.features)
    assert torch.equal(graph.edges, again.edges)
    assert again.feature_names == graph.feature_names
    assert again.standardised


def test_pyg_data_goes_there_and_back() -> None:
    pytest.importorskip("torch_geometric")
    graph = load_graph("biased-sbm?nodes=100", seed=1)
    again = from_pyg(to_pyg(graph), seed=0, raw=True)
    assert torch.equal(graph.features, again.features)
    assert torch.equal(graph.validation, again.validation)
    data = to_pyg(graph)
    del data.sensitive
    with pytest.raises(DataError, match="'sensitive' is missing"):
        from_pyg(data, seed=0)


def test_npz_with_pygs_names_is_read(tmp_path: Path) -> None:
    graph = load_graph("biased-sbm?nodes=100", seed=0)
    x, edges, y, s = (value.numpy() for value in (graph.features, graph.edges, graph.labels, graph.sensitive))
    np.savez(tmp_path / "g.npz", x=x, edge_index=edges, y=y, s=s)
    again = load_graph(f"pyg:{tmp_path / 'g.npz'}", seed=0)
    assert torch.equal(again.edges, graph.edges)
    assert "split drawn with seed 0" in " ".join(again.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.index_fill(0, torch.tensor([7]), torch.nan)}, "row 7, column 'group' is not finite"),
        ({"edge_index": lambda e: e.index_fill(1, torch.tensor([3]), 100)}, r"edge 3 is \[100, 100\], nodes are 0..99"),
        ({"edge_index": lambda e: e.T.contiguous()}, "'edge_index' has shape"),
        ({"y": lambda y: y[:-1]}, "'y' has 99 rows, 'x' 100"),
        ({"y": lambda y: y + 0.5}, "'y' holds fractions"),
        ({"y": lambda y: y * 0}, "'y' must be classes"),
        ({"sensitive": lambda s: s * 0}, "'sensitive' must be groups"),
        ({"sensitive": lambda s: s * 2}, "'sensitive' must be groups"),
        ({"test": lambda rows: rows + 90}, "is not among 0..99"),
        ({"test": lambda rows: rows.index_fill(0, torch.tensor([0]), int(rows[1]))}, "listed twice"),
        ({"x": lambda x: x[:, :3].contiguous()}, "21 feature names for 3 columns"),
    ],
)
def test_a_stored_graph_that_does_not_fit_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "g.safetensors"
    save_graph(path, load_graph("biased-sbm?nodes=100", seed=1))
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors | {name: alter(tensors[name]) for name, alter in change.items()}, metadata)
    with pytest.raises(DataError, match=message):
        load_graph(f"pyg:{path}", seed=0)


@given(st.binary(max_size=120), st.sampled_from(["npz", "safetensors"]))
@settings(max_examples=40, deadline=None)
def test_any_bytes_as_a_stored_graph_are_a_clear_error(content: bytes, ending: str) -> None:
    Path(f"g.{ending}").write_bytes(content)
    with pytest.raises(DataError):
        load_graph(f"pyg:g.{ending}", seed=0)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.pt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match="pickle"):
        load_graph(f"pyg:{tmp_path / 'g.pt'}", seed=0)
    harmful = np.empty(1, dtype=object)
    np.savez(tmp_path / "g.npz", x=harmful)
    with pytest.raises(DataError):
        load_graph(f"pyg:{tmp_path / 'g.npz'}", seed=0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("biased-sbn", "did you mean 'biased-sbm'"),
        ("bail", "write bail:DIR"),
        ("biased-sbm:x", "write biased-sbm"),
        ("bail:/nowhere/at/all", "no file or folder"),
        ("biased-sbm?node=5", "did you mean 'nodes'"),
        ("biased-sbm?nodes=many", "nodes must be int"),
        ("biased-sbm?nodes=3", "nodes must lie in"),
        ("biased-sbm?base_rate=0.9,label_gap=0.3", "between 0 and 1"),
    ],
)
def test_a_wrong_source_names_the_remedy(source: str, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        load_graph(source, seed=0)


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_empty_folder_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"no file|holds 0"):
        load_graph(f"{kind}:{tmp_path}", seed=0)


def rewrite(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


NODES = """id,age,income,label,sensitive
a,31,1.5,0,f
b,22,2.5,1,m
c,45,0.5,1,f
"""


def folder(root: Path, nodes: str, edges: str = "source,target\na,b\nb,c\n") -> str:
    root.mkdir(exist_ok=True)
    (root / "nodes.csv").write_text(nodes)
    (root / "edges.csv").write_text(edges)
    return f"graph:{root}"


@pytest.mark.parametrize(
    ("nodes", "edges", "options", "message"),
    [
        (NODES, "", "?sensitive=gender", r"nodes.csv has no sensitive column 'gender'"),
        (NODES, "", "?label=paid", r"nodes.csv has no label column 'paid'"),
        (NODES.replace(",m", ",f"), "", "", r"column 'sensitive': the sensitive attribute is constant \('f'"),
        (NODES.replace(",m", ","), "", "", r"column 'sensitive', line 3: the sensitive attribute has no value"),
        (NODES, "", "?sensitive=income", r"column 'income': .* 3 different values, as a continuous"),
        (NODES.replace("22", "nan"), "", "", r"nodes.csv, line 3: column 'age' has no value \('nan'\)"),
        (NODES.replace("22", "inf"), "", "", r"nodes.csv, line 3: column 'age' is 'inf', not a finite number"),
        (NODES.replace("22", "old"), "", "", r"nodes.csv, line 3: column 'age' is 'old'.*drop=age"),
        (NODES.replace("22,", ""), "", "", r"nodes.csv, line 3: 4 cells under 5 columns"),
        (NODES.replace("b,", "a,"), "", "", r"node 'a' is listed twice"),
        (NODES.replace("age", "income"), "", "", r"names 'income' twice"),
        (NODES.replace("1,m", "0,m").replace("1,f", "0,f"), "", "", r"column 'label': 1 different labels"),
        (NODES, "source,target\na,b\nb,z\n", "", r"edges.csv, line 3: column 'target' names node 'z'"),
        (NODES, "from,to\na,b\n", "", r"edges.csv has no edge column 'source'"),
        (NODES, "", "?drop=wage", r"no feature column 'wage' to drop"),
        (NODES, "", "?label=sensitive", r"both label and sensitive"),
        (NODES, "", "", r"class 0 has 1 nodes, too few"),
    ],
)
def test_bad_columns_are_named(tmp_path: Path, nodes: str, edges: str, options: str, message: str) -> None:
    source = folder(tmp_path / "g", nodes, edges or "source,target\na,b\nb,c\n")
    with pytest.raises(DataError, match=message):
        load_graph(source + options, seed=0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["edges.csv", "g", "nodes.csv"]


def test_a_continuous_column_can_be_cut_in_two(tmp_path: Path) -> None:
    rows = "".join(f"n{node},{node % 5},{node % 2},{node + 0.5}\n" for node in range(60))
    source = folder(tmp_path / "g", "id,x,label,age\n" + rows, "source,target\nn0,n1\nn1,n0\nn2,n2\nn1,n0\n")
    with pytest.raises(DataError, match=r"column 'age': .* 60 different values, as a continuous .*sensitive_above"):
        load_graph(source, seed=0, sensitive="age")
    graph = load_graph(f"{source}?sensitive_above=20", seed=0, sensitive="age", raw=True)
    assert sorted(set(graph.features[:, 0].tolist())) == [0, 1, 2, 3, 4]
    assert not graph.standardised
    assert int(graph.sensitive.sum()) == 40
    assert graph.edges.tolist() == [[0, 1], [1, 0]]
    assert "1 self-loops left out, 1 repeated edges merged" in graph.notes
    assert "58 isolated nodes kept" in graph.notes


def test_a_group_absent_from_the_test_part_is_refused(tmp_path: Path) -> None:
    rows = ""
    for node in range(60):
        part = "train" if node < 20 else "validation" if node < 40 else "test"
        rows += f"n{node},{node % 7},{node % 2},{0 if node >= 40 else node // 2 % 2},{part}\n"
    source = folder(tmp_path / "g", "id,x,label,sensitive,split\n" + rows, "source,target\nn0,n1\n")
    with pytest.raises(DataError, match=r"the test nodes lack a group of 'sensitive' \(group 0: 20, group 1: 0\)"):
        load_graph(source, seed=0)


def test_no_member_of_a_class_in_the_test_part_is_noted(tmp_path: Path) -> None:
    rows = ""
    for node in range(120):
        group = node // 2 % 2
        label = node % 2 if node < 80 or group == 0 else 0
        part = "train" if node < 40 else "validation" if node < 80 else "test"
        rows += f"n{node},{node % 7},{label},{group},{part}\n"
    source = folder(tmp_path / "g", "id,x,label,sensitive,split\n" + rows, "source,target\nn0,n1\n")
    notes = " ".join(load_graph(source, seed=0).notes)
    assert "no test node of class 1 in group 1" in notes
    assert "20 test nodes in group 1: too few for a verdict" in notes


def test_bails_leak_is_found_and_left_out(tmp_path: Path) -> None:
    source = made("bail", tmp_path / "made")
    honest, official = load_graph(source, seed=0), load_graph(f"{source}?official", seed=0)
    assert "TIME" not in honest.feature_names
    assert "columns left out: TIME, FILE" in honest.notes
    assert any(note.startswith("LEAK: 'TIME' alone predicts 'RECID'") for note in official.notes)
    assert any("'WHITE' is the sensitive attribute itself" in note for note in official.notes)
    dropped = load_graph(f"{source}?drop=WHITE", seed=0)
    assert not any("attribute itself" in note for note in dropped.notes)


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "message"),
    [
        ("bail_edges.txt", 2, " ", " 9999", r"line 2: an edge to node"),
        ("bail_edges.txt", 3, ".0", ".5", r"line 3: node .* is not a whole number"),
        ("bail_edges.txt", 3, " ", " x", r"bail_edges.txt is not 2 numbers a line"),
        ("bail.csv", 4, ",", ",,", r"bail.csv, line 4"),
        ("split/test.txt", 1, "", "999", r"test.txt: node 999\d* is not among"),
        ("split/test.txt", 2, "", "-", r"test.txt: node -\d+ is not among"),
    ],
)
def test_damaged_published_files_are_named(
    tmp_path: Path, file: str, line: int, old: str, new: str, message: str
) -> None:
    source = made("bail", tmp_path / "made")
    rewrite(tmp_path / "made" / file, line, old, new)
    with pytest.raises(DataError, match=message):
        load_graph(source, seed=0)


def test_a_split_that_overlaps_is_refused(tmp_path: Path) -> None:
    source = made("bail", tmp_path / "made")
    split = tmp_path / "made" / "split"
    (split / "val.txt").write_text((split / "train.txt").read_text())
    with pytest.raises(DataError, match="listed twice"):
        load_graph(source, seed=0)
    assert "split drawn with seed 4" in " ".join(load_graph(f"{source}?split=drawn", seed=4).notes)


def test_dblp_without_features_says_what_else_there_is(tmp_path: Path) -> None:
    source = made("dblp", tmp_path / "made")
    assert load_graph(f"{source}?components=4", seed=0).features.shape[1] == 4
    every = load_graph(f"{source}?label_positive=all,sensitive_positive=all", seed=0)
    assert (every.classes, every.groups) == (5, 3)
    (tmp_path / "made" / "X.npz").unlink()
    with pytest.raises(DataError, match="features=structure"):
        load_graph(source, seed=0)
    assert load_graph(f"{source}?features=structure", seed=0).feature_names[0] == "log_degree"


def test_edges_can_be_rebuilt_without_what_they_must_not_know(tmp_path: Path) -> None:
    source = made("credit", tmp_path / "made")
    graph = load_graph(f"{source}?edges=nearest,neighbours=4,edges_without=Age", seed=0)
    assert 240 * 2 <= graph.edges.shape[1] // 2 <= 240 * 4
    assert "edges rebuilt: 4 nearest rows, without Age" in graph.notes
    assert not any("bias by construction" in note for note in graph.notes)
    assert any("bias by construction" in note for note in load_graph(source, seed=0).notes)
    similar = {}
    for without in ("label_0", "proxy_0"):
        similar[without] = load_graph(f"{source}?edges=similarity,edges_without={without}", seed=0).edges
    assert similar["label_0"].shape != similar["proxy_0"].shape
    with pytest.raises(DataError, match="no feature column 'age' to drop"):
        load_graph(f"{source}?edges=nearest,edges_without=age", seed=0)
    with pytest.raises(DataError, match="needs a threshold"):
        load_graph(f"{made('graph', tmp_path / 'own')}?edges=similarity", seed=0)


@pytest.mark.parametrize("block", [1, 7, 500])
def test_row_blocks_give_the_pairs_of_the_whole_matrix(block: int) -> None:
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    rows[10] = rows[20]
    near = 1 / (1 + torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist"))
    largest = near.topk(2, dim=1).values[:, 1:]
    expected = torch.nonzero((near > 0.8 * largest) & ~torch.eye(60, dtype=torch.bool)).T
    assert torch.equal(similar_pairs(rows, 0.8, block=block), expected)


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made("graphml", tmp_path / "made")
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(DataError, match=r"networkx is not installed .*heredity\[graph\]"):
        load_graph(source, seed=0)


def test_names_from_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    source = made("graph", tmp_path / "made")
    rewrite(tmp_path / "made" / "nodes.csv", 1, "noise_0", "noise\x1b[2J")
    assert "\x1b" not in check_source(source)


def test_graphml_with_a_document_type_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><graphml>&b;</graphml>'
    (tmp_path / "bomb.graphml").write_text(bomb)
    with pytest.raises(DataError, match="document type"):
        load_graph(f"graphml:{tmp_path / 'bomb.graphml'}", seed=0)
    (tmp_path / "bomb.graphml").write_text("<graphml><graph>")
    with pytest.raises(DataError, match="is not GraphML"):
        load_graph(f"graphml:{tmp_path / 'bomb.graphml'}", seed=0)


CELL = st.sampled_from(["0", "1", "-1", "2.5", "1e400", "", "nan", "x", '"', "é", "1,2", " 3", "\x00"])


@given(st.lists(st.lists(CELL, min_size=4, max_size=6), min_size=1, max_size=8), st.text(max_size=30))
@settings(max_examples=80, deadline=None)
def test_any_text_gives_a_graph_or_a_clear_error(rows: list[list[str]], edges: str) -> None:
    root = Path("fuzzed")
    text = "id,x,label,sensitive\n" + "\n".join(",".join(row) for row in rows)
    source = folder(root, text, "source,target\n0,1\n")
    (root / "edges.csv").write_text("source,target\n" + edges, encoding="utf-8")
    try:
        graph = load_graph(source, seed=0)
    except DataError:
        return
    assert bool(torch.isfinite(graph.features).all())


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_edges_give_a_graph_or_a_clear_error(content: bytes) -> None:
    from heredity.data.graphs.tables import read_pairs

    Path("edges.txt").write_bytes(content)
    try:
        pairs = read_pairs(Path("edges.txt"), 10)
    except DataError:
        return
    assert bool(((pairs >= 0) & (pairs < 10)).all())


@pytest.mark.parametrize(
    ("source", "nodes", "edges", "dimensions", "test"),
    [
        ("german", 1000, 21742, 27, 250),
        ("credit", 30000, 137377, 13, 7500),
    ],
)
def test_real_tables_have_their_published_size(
    real_data: Path, source: str, nodes: int, edges: int, dimensions: int, test: int
) -> None:
    graph = load_graph(f"{source}:{real_data / 'fairness-graphs' / source}", seed=0)
    assert (graph.nodes, graph.edges.shape[1] // 2) == (nodes, edges)
    assert (graph.features.shape[1], len(graph.test)) == (dimensions, test)


def test_real_bail_leaks_and_has_its_base_rates(real_data: Path) -> None:
    graph = load_graph(f"bail:{real_data / 'fairness-graphs' / 'bail'}?official", seed=0)
    assert (graph.nodes, graph.edges.shape[1] // 2, len(graph.test)) == (18876, 311870, 9438)
    rates = [round(float(graph.labels[graph.sensitive == group].double().mean()), 3) for group in (0, 1)]
    assert rates == [0.414, 0.339]
    assert any(note.startswith("LEAK: 'TIME'") for note in graph.notes)


def test_real_dblp_and_pokec(real_data: Path) -> None:
    dblp = load_graph(f"dblp:{real_data / 'fairness-graphs' / 'dblp'}?features=structure", seed=0)
    assert (dblp.nodes, dblp.edges.shape[1] // 2, len(dblp.train)) == (39424, 52460, 19712)
    row, column = dblp.edges
    assert float((dblp.sensitive[row] == dblp.sensitive[column]).float().mean()) == pytest.approx(0.920, abs=5e-4)
    pokec = load_graph(f"pokec:{real_data / 'fairness-graphs' / 'pokec_z'}", seed=0)
    assert (pokec.nodes, pokec.features.shape[1]) == (3218, 276)
    assert pokec.nodes - len(torch.unique(pokec.edges[0])) == 3218 - 1257


def test_real_german_edges_follow_from_the_published_rule(real_data: Path) -> None:
    place = f"german:{real_data / 'fairness-graphs' / 'german'}"
    published, rebuilt = load_graph(place, seed=0), load_graph(f"{place}?edges=similarity", seed=0)
    assert torch.equal(published.edges, rebuilt.edges)
