"""Files of edges: the same edges from each kind of file, and a sentence for what is none."""

from functools import partial
from pathlib import Path

import pytest
import torch

from relgraph.data.edge_files import read_edges, write_edges
from tests.checks import Intruder, assert_refused_like, case


def csv(tmp_path: Path, text: str) -> Path:
    (file := tmp_path / "edges.csv").write_text(text, encoding="utf-8")
    return file


def test_each_kind_of_file_holds_the_same_edges(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    index, weight = torch.tensor([[1, 2, 0], [0, 0, 2]]), torch.tensor([0.5, -1.0, 2.0])
    write_edges(tmp_path / "both.pt", index, weight)
    torch.save(index, tmp_path / "bare.pt")
    columns = {"source": [1, 2, 0], "target": [0, 0, 2]}
    parquet.write_table(pyarrow.table(columns | {"kind": ["a", "b", "c"]}), tmp_path / "edges.parquet")
    text = "\ufefftarget, source,weight,kind\n0,1,0.5,a\n\n0,2,-1,b\n2,0,2e0,c\n"
    files = [(tmp_path / "both.pt", True), (csv(tmp_path, text), True), (tmp_path / "bare.pt", False),
             (tmp_path / "edges.parquet", False)]  # fmt: skip
    for file, weighted in files:
        with case(file.name):
            found = read_edges(file)
            assert [found.sources, found.targets] == index.tolist()
            assert (found.weights is None) != weighted
            assert found.weights is None or torch.equal(found.weights, weight)
    found = read_edges(csv(tmp_path, "source,target\na/1.png,2\n2,a/1.png\n"))
    assert found == (["a/1.png", "2"], ["2", "a/1.png"], None), "one name is enough to make all of them names"


def test_what_is_no_edge_is_told(tmp_path: Path) -> None:
    tables = {
        "": "as many cells as the header",
        "source,target\n": "at least one edge, found none",
        "from,to\n1,2\n": "the columns source, target and, if given, weight, found from, to",
        "source,target\n1\n": "as many cells as the header",
        "source,target\n1,\n": "without empty cells",
        "source,target,weight\n1,2,x\n": "a number as the weight of each edge",
        "source,target,weight\n1,2,0.5\n2,1,nan\n": "finite weights, found nan of edge 1",
        "source,target,graph_source\nt1,t0,own\n": "as `relgraph export` writes them",
    }
    for text, told in tables.items():
        assert_refused_like((partial(read_edges, csv(tmp_path, text)), told))
    wrong = {
        "float": torch.ones(2, 3), "three": torch.ones(3, 2).long(), "list": {"edge_index": [1]},
        "short": {"edge_index": torch.ones(2, 3).long(), "edge_weight": torch.ones(2)},
        "code": Intruder(tmp_path / "x"),
        "infinite": {"edge_index": torch.ones(2, 1).long(), "edge_weight": torch.tensor([torch.inf])},
    }  # fmt: skip
    index = ["a tensor .2, E. of integers"] * 3
    sentences = [*index, "a tensor of 3 numbers", "tensors that torch saved", "found inf of edge"]
    for (name, content), sentence in zip(wrong.items(), sentences, strict=True):
        torch.save(content, file := tmp_path / f"{name}.pt")
        assert_refused_like((partial(read_edges, file), sentence))
    assert not (tmp_path / "x").exists()
    (tmp_path / "edges.txt").touch()
    assert_refused_like(
        (partial(read_edges, tmp_path / "edges.txt"), r"in a file .csv, .parquet, .pt, got"),
        (partial(read_edges, tmp_path / "none.csv"), "none.csv"),
        (partial(read_edges, tmp_path / "none.pt"), "none.pt"),
    )
