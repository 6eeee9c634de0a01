"""Looks at the graphs of a training: the pair that the loss reads, and nothing of the training moves by them."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.graph.diagnostics import MEASURES, diagnose
from relgraph.graph.kernels import cosine, euclidean, pearson
from relgraph.graph.pair import graph_pair
from relgraph.methods import CRD, EGA, KD, METHODS, Batch, Method, Output, build_method
from relgraph.training import looking, loop
from relgraph.training.diagnostics import Looks
from relgraph.training.loop import train
from relgraph.training.meter import Meter
from relgraph.training.objective import Losses
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.setup import build

RecipeMaker = Callable[..., Recipe]
Runs = Callable[[str], Path]
N = 10
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, -1, 2])
KERNELS = {"ega": pearson, "rkd": euclidean, "nce": cosine}


def outputs(width: int = 5) -> tuple[Output, Output]:
    student, teacher = (torch.randn(N, size) for size in (4, 6))
    return Output(torch.randn(N, width), feature=student), Output(torch.randn(N, width), feature=teacher)


def losses(student: Output, teacher: Output | None) -> Losses:
    return Losses({}, student, teacher, torch.zeros(()), {})


def looked(method: Method, student: Output, teacher: Output) -> Looks:
    looks = Looks(every=1, k=3)
    with looks.at(method, LABELS):
        method(student, teacher, Batch(torch.arange(N), LABELS))
    looks.add(losses(student, teacher), method, LABELS)
    return looks


@pytest.mark.parametrize("name", KERNELS)
def test_it_looks_at_the_pair_that_the_loss_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, (student, teacher) = METHODS[name](), outputs()
    read: list[Any] = []
    original = Method.show

    def show(self: Method, pair: Any, kernel: Any) -> Any:
        read.append(pair)
        return original(self, pair, kernel)

    monkeypatch.setattr(Method, "show", show)
    looks = looked(method, student, teacher)
    assert len(looks.found) == 1
    expected = diagnose(read[0], KERNELS[name], 3, LABELS)
    assert looks.found[0].keys() == expected.keys()
    assert all(torch.equal(looks.found[0][key], expected[key]) for key in expected)
    assert method.watcher is None, "nobody looks outside of the block"


def test_a_sum_is_looked_at_once() -> None:
    run = {"graph": "dense", "dim": 5, "node_weight": 1.0, "edge_weight": 1.0}
    method = build_method("rkd+ega", run)
    assert method is not None
    assert len(looked(method, *outputs()).found) == 1


def test_a_method_without_graphs_is_looked_at_by_what_it_reads() -> None:
    student, teacher = outputs()
    looks = Looks(every=1, k=3)
    for method, width in ((KD(), "logits"), (CRD(4, 6, N, LABELS, negatives=4), "feature")):
        with looks.at(method, LABELS):
            pass
        looks.add(losses(student, teacher), method, LABELS)
        assert width in method.reads and set(looks.found[-1]) == set(MEASURES) - {"match"}, "features have other widths"
    assert looks.steps == [0, 1]


@pytest.mark.parametrize("name", ["seed", "moco", "infonce", "ntxent"])
def test_a_contrastive_method_is_looked_at_behind_its_head(name: str) -> None:
    method = build_method(name, {"student_width": 4, "teacher_width": 6})
    student, teacher = outputs()
    assert method is not None and student.feature is not None and teacher.feature is not None
    looks, head = looked(method, student, teacher), method.get_submodule("head")
    pair = graph_pair(head(student.feature).detach(), teacher.feature, kernel=cosine)
    expected = diagnose(pair, cosine, 3, LABELS)
    assert set(looks.found[0]) == set(MEASURES)
    assert all(torch.equal(looks.found[0][key], expected[key]) for key in expected)


def test_every_so_many_steps_and_none_without_a_teacher() -> None:
    method, (student, teacher) = KD(), outputs()
    looks, none, alone = Looks(every=3), Looks(every=0), Looks(every=1)
    for _ in range(7):
        for each in (looks, none):
            with each.at(method, LABELS):
                pass
            each.add(losses(student, teacher), method, LABELS)
        with alone.at(None, LABELS):
            pass
        alone.add(losses(student, None), None, LABELS)
    assert [row["step"] for row in looks.read()] == [0, 3, 6]
    assert none.read() == alone.read() == [] and none.means() == alone.means() == {}


def test_means_are_those_of_all_nodes() -> None:
    looks = Looks(every=1)
    looks.steps = [0, 1]
    looks.found = [
        {"overlap": torch.tensor([1.0, 4.0]), "homophily_student": torch.tensor([0.0, 0.0])},
        {"overlap": torch.tensor([5.0, 8.0]), "homophily_student": torch.tensor([1.0, 2.0])},
    ]
    assert looks.means() == {"overlap": 0.5, "homophily_student": 0.5}
    assert looks.read() == [{"step": 0, "overlap": 0.25}, {"step": 1, "overlap": 0.625, "homophily_student": 0.5}]


def test_looking_moves_nothing(make: RecipeMaker) -> None:
    weights = []
    for every in (0, 1):
        setup = build(make(diagnose_every=every, graph="knn", k=3))
        row = loop.train_epoch(setup, 0)
        assert ("overlap" in row) == (every == 1)
        weights.append({name: tensor.clone() for name, tensor in setup.distiller.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("options", [{"form": "factored"}, {"form": "blocked"}, {"form": "blocked", "graph": "knn"}])
def test_a_pair_without_a_matrix_is_looked_at(options: dict[str, Any], make: RecipeMaker) -> None:
    graph = {name: value for name, value in options.items() if name == "graph"}
    found = loop.train_epoch(build(make(diagnose_every=2, lr=0.002, **options)), 0)
    expected = loop.train_epoch(build(make(diagnose_every=2, lr=0.002, form="matrix", **graph)), 0)
    assert found.keys() == expected.keys()
    # Of a sparse pair all pairs of the nodes are looked at, in place of its edges.
    names = {"loss", "node", "edge", "match", "homophily_student"} | (set() if graph else {"overlap", "edge_rank"})
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)


def test_of_many_nodes_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "SAMPLE", 5)
    student, teacher = torch.randn(N, 4), torch.randn(N, 4)
    looks = Looks(every=1)
    with looks.at(method := EGA(form="factored"), LABELS):
        method(student, teacher)
    few = Looks(every=1)
    with few.at(method := EGA(), LABELS[:5]):
        method(student[:5], teacher[:5])
    assert looks.read() == few.read()


def test_a_step_without_looks_is_a_step(make: RecipeMaker) -> None:
    setup, index = build(make()), torch.arange(12)
    loop.step(setup, next(setup.batches([index])), index, torch.Generator(), Meter())


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


def test_a_stopped_run_keeps_its_looks(finished: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make()
    original, calls = loop.train_epoch, 0

    def stop(*given: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")
    train(replace(recipe), tmp_path / "run", resume=True)
    file = "diagnostics.csv"
    assert (tmp_path / "run" / file).read_text() == (finished("dense") / file).read_text()
