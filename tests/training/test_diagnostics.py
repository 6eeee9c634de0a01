"""Diagnostics of a training: of the pair that the loss reads, and nothing of the training moves by them."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.analysis.diagnostics import MEASURES, diagnose
from relgraph.graph.kernels import cosine, euclidean, pearson
from relgraph.graph.pair import graph_pair
from relgraph.methods import CRD, EGA, KD, METHODS, RKD, Batch, Method, Output, RunFacts
from relgraph.methods.base import as_output
from relgraph.methods.relational import Relational
from relgraph.names import build_method
from relgraph.training import diagnostics, trainer
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.distillation import build, train
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.runs import Run
from relgraph.training.spread import Spread
from tests.training.conftest import RecipeMaker, Runs, call_before, interrupt

N = 10
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, -1, 2])
FACTS = RunFacts(dim=5, student_width=4, teacher_width=6)
KERNELS = {"ega": pearson, "rkd": euclidean, "nce": cosine}


def outputs(width: int = 5) -> tuple[Output, Output]:
    student, teacher = (torch.randn(N, size) for size in (4, 6))
    return Output(torch.randn(N, width), feature=student), Output(torch.randn(N, width), feature=teacher)


def measured(method: Method, student: Output, teacher: Output, labels: Tensor = LABELS) -> Diagnostics:
    """Return the diagnostics of one step, of which the pairs are those that the loss read."""
    found, spread = Diagnostics(every=1, k=3), Spread(method)
    _, pairs = spread.compare(student, teacher, Batch(torch.arange(len(labels)), labels))
    assert found.next_step() is found
    found.add(spread, pairs, student, teacher, labels)
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_measured_is_the_pair_that_the_loss_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, (student, teacher) = METHODS[name](), outputs()
    assert isinstance(method, Relational)
    read: list[Any] = []
    original = type(method).compare_pair

    def compare_pair(self: Any, pair: Any, *given: Any) -> Any:
        read.append(pair)
        return original(self, pair, *given)

    monkeypatch.setattr(type(method), "compare_pair", compare_pair)
    asked: list[Any] = []

    def spy(pair: Any, *given: Any) -> dict[str, Tensor]:
        asked.append(pair)
        return diagnose(pair, *given)

    monkeypatch.setattr(diagnostics, "diagnose", spy)
    found = measured(method, student, teacher).found
    assert len(found) == len(read) == len(asked) == 1 and asked[0] is read[0]
    expected = diagnose(read[0], KERNELS[name], 3, LABELS)
    assert found[0].keys() == expected.keys()
    assert all(torch.equal(found[0][key], expected[key]) for key in expected)


def test_a_sum_is_measured_once() -> None:
    """By the pair of its first method."""
    shared = {"graph": "dense", "node_weight": 1.0, "edge_weight": 1.0}
    method, given = build_method("rkd+ega", FACTS, shared), outputs()
    assert method is not None
    found, expected = measured(method, *given).found, measured(RKD(), *given).found
    assert len(found) == len(expected) == 1 and found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][key], expected[0][key]) for key in expected[0])


def test_a_method_without_graphs_is_measured_by_what_it_reads() -> None:
    student, teacher = outputs()
    some = Diagnostics(every=1, k=3)
    for method, part in ((KD(), "logits"), (CRD(4, 6, N, LABELS, negatives=4), "feature")):
        assert some.next_step() is some
        some.add(Spread(method), [], student, teacher, LABELS)
        assert part in method.reads
        assert set(some.found[-1]) == set(MEASURES) - {"match"}, "features have other widths"
    assert some.steps == [0, 1]


@pytest.mark.parametrize("name", ["seed", "moco", "infonce", "ntxent"])
def test_a_contrastive_method_is_measured_behind_its_head(name: str) -> None:
    method = build_method(name, FACTS)
    student, teacher = outputs()
    assert method is not None and student.feature is not None and teacher.feature is not None
    found, head = measured(method, student, teacher).found, method.parts[name].get_submodule("projector")
    pair = graph_pair(head(student.feature).detach(), teacher.feature, kernel=cosine)
    expected = diagnose(pair, cosine, 3, LABELS)
    assert set(found[0]) == set(MEASURES)
    assert all(torch.equal(found[0][key], expected[key]) for key in expected)


def test_every_so_many_steps_and_none_without_a_teacher(make: RecipeMaker) -> None:
    spread, (student, teacher) = Spread(KD()), outputs()
    some, none = Diagnostics(every=3), Diagnostics(every=0)
    for _ in range(7):
        for each in (some, none):
            due = each.next_step()
            assert due is None or due is each
            if due is not None:
                due.add(spread, [], student, teacher, LABELS)
    assert [row["step"] for row in some.read()] == [0, 3, 6]
    assert none.read() == [] and none.means() == {}
    row, rows = train_epoch(build(make(method="none", diagnose_every=1)), 0)
    assert rows == [] and not {*MEASURES} & row.keys()


def test_a_step_of_the_labels_alone_is_measured_too(make: RecipeMaker) -> None:
    """The method has had its stage; its graphs go on to be told of."""
    job = build(make(method="sp", init_epochs=1, diagnose_every=2))
    rows = [train_epoch(job, epoch)[0] for epoch in range(2)]
    assert "sp" in rows[0] and "sp" not in rows[1]
    assert {*MEASURES} & rows[0].keys() == {*MEASURES} & rows[1].keys() >= {"overlap", "edge_rank"}


def test_means_are_those_of_all_nodes() -> None:
    some = Diagnostics(every=1)
    some.steps = [0, 1]
    some.found = [
        {"overlap": torch.tensor([1.0, 4.0]), "homophily_student": torch.tensor([0.0, 0.0])},
        {"overlap": torch.tensor([5.0, 8.0]), "homophily_student": torch.tensor([1.0, 2.0])},
    ]
    assert some.means() == {"overlap": 0.5, "homophily_student": 0.5}
    assert some.read() == [{"step": 0, "overlap": 0.25}, {"step": 1, "overlap": 0.625, "homophily_student": 0.5}]


def test_measuring_moves_nothing(make: RecipeMaker) -> None:
    weights = []
    for every in (0, 1):
        job = build(make(diagnose_every=every, graph="knn", k=3))
        row, _ = train_epoch(job, 0)
        assert ("overlap" in row) == (every == 1)
        weights.append({name: tensor.clone() for name, tensor in job.objective.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("options", [{"form": "factored"}, {"form": "blocked"}, {"form": "blocked", "graph": "knn"}])
def test_a_pair_without_a_matrix_is_measured(options: dict[str, Any], make: RecipeMaker) -> None:
    graph = {name: value for name, value in options.items() if name == "graph"}
    found, _ = train_epoch(build(make(diagnose_every=2, lr=0.002, **options)), 0)
    expected, _ = train_epoch(build(make(diagnose_every=2, lr=0.002, form="matrix", **graph)), 0)
    assert found.keys() == expected.keys()
    # Of a sparse pair all pairs of the nodes are measured, in place of its edges.
    names = {"loss", "node", "edge", "match", "homophily_student"} | (set() if graph else {"overlap", "edge_rank"})
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)


def test_of_many_nodes_some_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SAMPLE", 5)
    monkeypatch.setattr(diagnostics, "LARGEST_MATRIX", N * N - 1)
    student, teacher = (as_output(torch.randn(N, 4)) for _ in range(2))
    few = measured(EGA(), as_output(student.embedding[:5]), as_output(teacher.embedding[:5]), LABELS[:5])
    assert measured(EGA(form="factored"), student, teacher).read() == few.read()
    monkeypatch.setattr(diagnostics, "LARGEST_MATRIX", N * N)
    whole = measured(EGA(), student, teacher).read()
    assert measured(EGA(form="factored"), student, teacher).read() == whole != few.read()


def test_a_step_without_diagnostics_is_a_step(make: RecipeMaker) -> None:
    job, index = build(make()), torch.arange(12)
    step(job, job.data.train.pixels[index], index, torch.Generator(), Meter())


def test_the_files_of_a_run(finished: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    run = Run(finished("dense"))
    with run.diagnostics_file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "0"), ("2", "0"), ("3", "0")], "5 steps an epoch"
    assert [float(row["overlap"]) for row in rows] == [row["overlap"] for row in run.read_metrics()]
    assert set(MEASURES) <= set(run.read_metrics()[0])
    train(make(epochs=1, diagnose_every=2), tmp_path / "run")
    assert [row["step"] for row in Run(tmp_path / "run").read_metrics(Run(tmp_path / "run").diagnostics_file)] == [
        0,
        2,
        4,
    ]
    assert not Run(finished("none")).diagnostics_file.exists()
    assert any((finished("dense") / "tensorboard" / "steps").iterdir())


def test_a_stopped_run_keeps_its_diagnostics(finished: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make()
    with pytest.MonkeyPatch.context() as patch:
        call_before(patch, trainer, "train_epoch", 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")
    train(replace(recipe), tmp_path / "run", resume=True)
    file = "diagnostics.csv"
    assert (tmp_path / "run" / file).read_text() == (finished("dense") / file).read_text()
