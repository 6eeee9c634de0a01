"""The refinement of a run comes out with it: in a new object its vectors are those of the module that was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relgraph
from relgraph.analysis.export import read_pair
from relgraph.analysis.run_loading import TrainedRun, run_pair
from relgraph.deploy.vector_table import write_vectors
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import graph_pair, topology_of
from relgraph.graph.topology import Nearest
from relgraph.networks.files import read_network
from relgraph.training.callbacks import Callback, EpochEnd
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from tests.checks import assert_refused_like, refusal

FIRST = 30
USUAL: dict[str, Any] = {"student": "resnet8", "dim": 24, "epochs": 1, "device": "cpu", "lr": 0.01, "batch_size": 256,
                         "diagnose_every": 0, "logger": ("none",)}  # fmt: skip
OWN = """
import torch


class Net(torch.nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)

    def forward(self, x, edge_index, edge_weight):
        return super().forward(x)
"""


class Kept(Callback):
    """The modules of the last epoch."""

    def after_epoch(self, end: EpochEnd) -> None:
        self.refinement = end.network.method.refined().refinement


def trained(path: Path, **options: Any) -> nn.Module:
    """Train a run and return its refinement, as it was trained."""
    kept = Kept()
    train(Recipe(**{**USUAL, **options}), path, callbacks=[kept])
    refinement: nn.Module = kept.refinement.eval()
    return refinement


def test_refined_vectors_are_those_of_the_module_that_was_trained(tmp_path: Path) -> None:
    path = tmp_path / "run"
    module: Any = trained(path, graph="knn", k=3, refine="conv")
    assert not torch.equal(module.student.own.weight, torch.eye(24))  # it has learned
    opened = TrainedRun(path)
    pair = run_pair(opened, first=FIRST, k=5)
    with torch.no_grad():
        expected = graph_pair(pair["student"].x, pair["teacher"].x, topology=Nearest(5), refinement=module)
    for side in ("student", "teacher"):
        torch.testing.assert_close(pair[side].refined, expected[side].refined)
        assert not torch.allclose(pair[side].refined, pair[side].x)
    relgraph.export(path, tmp_path / "pair.pt", first=FIRST, k=5)
    torch.testing.assert_close(read_pair(tmp_path / "pair.pt")["teacher"].refined, pair["teacher"].refined)
    # The graph of the frozen teacher's own vectors: what was refined is the projection, over these edges.
    own = run_pair(opened, side="teacher", first=FIRST, k=5)
    edges = topology_of(own)
    x = run_pair(opened, first=FIRST, k=5)["teacher"].x
    with torch.no_grad():
        torch.testing.assert_close(own["teacher"].refined, module.teacher(x, edges.pick(pearson(x)), edges))
    relgraph.export(path, f"{tmp_path / 'hub'}/")
    for place in (path, tmp_path / "hub"):
        student = relgraph.load_student(place)
        assert student.refinement is not None and student.refinement.k == 3
        with torch.no_grad():
            alone = graph_pair(pair["student"].x, pair["student"].x, topology=Nearest(3), refinement=module)
        torch.testing.assert_close(student.refinement(pair["student"].x), alone["student"].refined)
    recipe = Recipe(teacher=f"checkpoint:{path}", teacher_args=("output=embedding",), device="cpu")
    rows = table(write_vectors(recipe, tmp_path / "vectors.csv", split="test").path)
    assert student.refinement is not None
    torch.testing.assert_close(rows[:, 24:], student.refinement(rows[:, :24]))


def table(path: Path) -> Tensor:
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0][3::24] == ["v0", "r0"]
    return torch.tensor([[*map(float, line[3:])] for line in lines[1:]])


def test_features_are_refined_by_layers_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    spelling, path = f"{tmp_path / 'nets.py'}:Net", tmp_path / "run"
    module: Any = trained(path, method="pkt", refine=spelling)
    told = refusal(lambda: relgraph.load_student(path).refinement)
    assert "names code of its own" in told and spelling in told
    assert relgraph.load_student(path)(torch.zeros(1, 1, 8, 8))[0].shape == (1, 64)  # which needs none of it
    student = relgraph.load_student(path, refine=spelling)
    assert student.refinement is not None and student.refinement.part == "feature" and student.refinement.k == 8
    relgraph.export(path, tmp_path / "pair.pt", first=FIRST, refine=spelling)
    opened = TrainedRun(path, {"refine": spelling})
    outputs = opened.outputs(opened.images("test", FIRST))
    pair = read_pair(tmp_path / "pair.pt")
    for side, output in zip(("student", "teacher"), outputs, strict=True):
        assert output is not None and output.feature is not None
        with torch.no_grad():
            expected = nn.functional.linear(output.feature, *getattr(module, side).conv.parameters())
        torch.testing.assert_close(pair[side].refined, expected)


def test_what_has_no_refinement(tmp_path: Path) -> None:
    train(Recipe(**USUAL, method="pkt", nodes="map", refine="smooth"), tmp_path / "run")
    assert "refine" not in read_network(tmp_path / "run" / "student.safetensors")[1]
    assert relgraph.load_student(tmp_path / "run").refinement is None
    assert "refined" not in run_pair(TrainedRun(tmp_path / "run"), first=9, k=2)["student"]
    assert_refused_like(
        (lambda: Recipe(refine="GINConv"), "unknown refinement 'GINConv': did you mean 'GCNConv'"),
        (lambda: Recipe(refine="SAGEConv", method="kd"), "refine belongs to methods that relate the images of a batch"),
        (
            lambda: Recipe(refine="GCNConv", method="none"),
            "refine belongs to methods that relate the images of a batch",
        ),
    )
