"""Diagnostics of a training: of the pair that the loss reads, and nothing of the training moves by them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.analysis.diagnostics import diagnose
from relgraph.graph.kernels import cosine, euclidean, pearson
from relgraph.graph.pair import graph_pair
from relgraph.methods import CRD, EGA, KD, METHODS, RKD, Batch, Method, Output, RunFacts
from relgraph.methods.base import as_output
from relgraph.methods.relational import Relational
from relgraph.names import build_method
from relgraph.training import diagnostics
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.distillation import build, train
from relgraph.training.epochs import train_epoch
from relgraph.training.runs import RunDirectory
from relgraph.training.spread import Spread
from tests.checks import MEASURES, OF_BATCHES
from tests.training.conftest import RecipeMaker, Runs, call_before, equal, states
from tests.training.test_feed import Reading

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


def assert_same(found: list[dict[str, Tensor]], expected: dict[str, Tensor]) -> None:
    """Check that one step was measured, and found these figures."""
    assert len(found) == 1 and found[0].keys() == expected.keys()
    assert all(torch.equal(found[0][key], expected[key]) for key in expected)


def test_what_is_measured_is_the_pair_that_the_loss_reads() -> None:
    """Of a sum once, by the pair of its first method."""
    for name, kernel in KERNELS.items():
        method, (student, teacher) = METHODS[name](), outputs()
        assert isinstance(method, Relational)
        read: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            call_before(patch, type(method), "compare_pair", 1, lambda self, pair, *given: read.append(pair))  # noqa: B023
            call_before(patch, diagnostics, "diagnose", 1, lambda pair, *given: read.append(pair))  # noqa: B023
            found = measured(method, student, teacher).found
        assert len(read) == 2 and read[0] is read[1]
        assert_same(found, diagnose(read[0], kernel, 3, LABELS))
    shared = {"graph": "dense", "node_weight": 1.0, "edge_weight": 1.0}
    both, given = build_method("rkd+ega", FACTS, shared), outputs()
    assert both is not None
    assert_same(measured(both, *given).found, measured(RKD(), *given).found[0])


def test_a_method_without_graphs_is_measured_by_what_it_reads() -> None:
    student, teacher = outputs()
    some = Diagnostics(every=1, k=3)
    crd = CRD(4, 6, N, LABELS, negatives=4)
    for method, part in ((KD(), "logits"), (crd, "feature"), (Reading(), "embedding")):
        assert some.next_step() is some
        some.add(Spread(method), [], student, teacher, LABELS)
        assert part in method.reads
        unlike = set() if part == "embedding" else {"match"}  # features have other widths
        assert set(some.found[-1]) == set(MEASURES) - unlike
    assert some.steps == [0, 1, 2]


def test_a_contrastive_method_is_measured_behind_its_head() -> None:
    student, teacher = outputs()
    assert student.feature is not None and teacher.feature is not None
    for name in ("seed", "moco", "infonce", "ntxent"):
        method = build_method(name, FACTS)
        assert method is not None
        head = method.parts[name].get_submodule("projector")
        pair = graph_pair(head(student.feature).detach(), teacher.feature, kernel=cosine)
        expected = diagnose(pair, cosine, 3, LABELS)
        assert set(expected) == set(MEASURES)
        assert_same(measured(method, student, teacher).found, expected)


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
    assert rows == [] and not {*OF_BATCHES} & row.keys()


def test_a_step_of_the_labels_alone_is_measured_too(make: RecipeMaker) -> None:
    """The method has had its stage; its graphs go on to be told of."""
    job = build(make(method="sp", init_epochs=1, diagnose_every=2))
    rows = [train_epoch(job, epoch)[0] for epoch in range(2)]
    assert "sp" in rows[0] and "sp" not in rows[1]
    assert {*OF_BATCHES} & rows[0].keys() == {*OF_BATCHES} & rows[1].keys() >= {"batch_overlap", "batch_edge_rank"}


def test_means_are_those_of_all_nodes() -> None:
    some = Diagnostics(every=1)
    some.steps = [0, 1]
    some.found = [
        {"overlap": torch.tensor([1.0, 4.0]), "homophily_student": torch.tensor([0.0, 0.0])},
        {"overlap": torch.tensor([5.0, 8.0]), "homophily_student": torch.tensor([1.0, 2.0])},
    ]
    of_labels = {"batch_homophily_student": 50.0, "batch_homophily_edges": 2.0}
    assert some.means() == {"batch_overlap": 50.0, **of_labels}
    assert some.read() == [{"step": 0, "batch_overlap": 25.0}, {"step": 1, "batch_overlap": 62.5, **of_labels}]


def test_measuring_moves_nothing(make: RecipeMaker) -> None:
    weights = []
    for every in (0, 1):
        job = build(make(diagnose_every=every, graph="knn", k=3))
        row, _ = train_epoch(job, 0)
        assert ("batch_overlap" in row) == (every == 1)
        weights.append(states(job.objective))
    assert equal(*weights)


@pytest.mark.slow
def test_a_pair_without_a_matrix_is_measured(make: RecipeMaker) -> None:
    def row(**options: Any) -> dict[str, float]:
        return train_epoch(build(make(diagnose_every=2, lr=0.002, **options)), 0)[0]

    for form, graph in (("factored", "dense"), ("blocked", "dense"), ("blocked", "knn")):
        found, expected = row(form=form, graph=graph), row(form="matrix", graph=graph)
        assert found.keys() == expected.keys()
        # Of a sparse pair all pairs of the nodes are measured, in place of its edges.
        names = {"loss", "node", "edge", "batch_match", "batch_homophily_student"}
        names |= {"batch_overlap", "batch_edge_rank"} if graph == "dense" else set()
        assert {name: found[name] for name in names} == pytest.approx({k: expected[k] for k in names}, rel=1e-3)


def test_of_many_nodes_some_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SAMPLE", 5)
    monkeypatch.setattr(diagnostics, "LARGEST_MATRIX", N * N - 1)
    student, teacher = (as_output(torch.randn(N, 4)) for _ in range(2))
    few = measured(EGA(), as_output(student.embedding[:5]), as_output(teacher.embedding[:5]), LABELS[:5])
    assert measured(EGA(form="factored"), student, teacher).read() == few.read()
    monkeypatch.setattr(diagnostics, "LARGEST_MATRIX", N * N)
    whole = measured(EGA(), student, teacher).read()
    assert measured(EGA(form="factored"), student, teacher).read() == whole != few.read()


def test_the_files_of_a_run(finished: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    run, path = RunDirectory(finished("dense")), tmp_path / "run"
    rows = run.read_metrics(run.diagnostics_file)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 0), (2, 5), (3, 10)], "5 steps an epoch"
    assert [row["batch_overlap"] for row in rows] == [row["batch_overlap"] for row in run.read_metrics()]
    assert set(OF_BATCHES) <= set(run.read_metrics()[0])
    train(make(epochs=1, diagnose_every=2), path)
    assert [row["step"] for row in RunDirectory(path).read_metrics(RunDirectory(path).diagnostics_file)] == [0, 2, 4]
    assert not RunDirectory(finished("none")).diagnostics_file.exists()
    assert any((finished("dense") / "tensorboard" / "steps").iterdir())
