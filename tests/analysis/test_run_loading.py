"""A finished run against scikit-learn and against its own result.json."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from relgraph.analysis.export import Side, read_pair, to_networkx, write_graph
from relgraph.analysis.run_loading import TrainedRun, evaluate_run, run_pair
from relgraph.analysis.split_graph import difference_pair, split_pair
from relgraph.files import read_yaml, write_yaml
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER
from relgraph.methods import Output
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from tests.analysis.conftest import Runs, assert_same_pair
from tests.checks import assert_refused_like, plain, refusal
from tests.pictures import write_folder

Reports = Callable[[str], dict[str, Any]]


def result(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "result.json").read_text(encoding="utf-8"))
    return content


def score(model: Any, train: Output, labels: np.ndarray, test: Output, truth: np.ndarray) -> float:
    """Return the accuracy of a model of scikit-learn that learned from the features of what has a label."""
    assert train.feature is not None and test.feature is not None
    model.fit(train.feature.numpy()[labels >= 0], labels[labels >= 0])
    return 100 * float(model.score(test.feature.numpy(), truth))


@pytest.fixture(scope="module")
def reports(runs: Runs) -> Reports:
    """Return a function from a variant's name to the figures of its run, computed once."""
    return cache(lambda variant: evaluate_run(runs(variant)))


def test_figures_are_those_of_scikit_learn(opened: TrainedRun) -> None:
    report = evaluate_run(opened.run.path, k=7)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    votes, few_votes = (KNeighborsClassifier(k, metric="cosine", algorithm="brute") for k in (7, 3))
    train, test = opened.data.train, opened.data.test
    few, truth = train.labels.numpy(), test.labels.numpy()
    # The test split is every fifth image of a class; the others are numbered without the gaps.
    target = load_digits().target
    held = np.zeros(len(target), bool)
    for label in range(10):
        held[np.flatnonzero(target == label)[4::5]] = True
    every = target[~held][train.index.numpy()]
    assert (few >= 0).sum() == 30 and (every[few >= 0] == few[few >= 0]).all()
    assert report["images"] == {"train": len(train), "labelled": 30, "test": len(test)} and report["neighbours"] == 7
    outputs = zip(opened.outputs(train), opened.outputs(test), strict=True)
    for name, (of_train, of_test) in zip(("student", "teacher"), outputs, strict=True):
        assert of_train is not None and of_test is not None and of_test.logits is not None
        scores = of_test.logits.numpy()
        expected = {
            "top1": 100 * top_k_accuracy_score(truth, scores, k=1),
            "top5": 100 * top_k_accuracy_score(truth, scores, k=5),
            "knn": score(votes, of_train, every, of_test, truth),
            "linear": score(probe, of_train, every, of_test, truth),
            "knn_few": score(few_votes, of_train, few, of_test, truth),  # as many votes as a class has labels
            "linear_few": score(probe, of_train, few, of_test, truth),
        }
        # One image of 355 may lie so near to the border between two that rounding decides.
        assert report[name] == pytest.approx(expected, abs=100 / len(test) + 1e-9), name
    assert list(report) == ["run", "images", "neighbours", "neighbours_few", "student", "teacher"]


@pytest.mark.slow
def test_the_head_is_as_good_as_the_run_said(runs: Runs, reports: Reports) -> None:
    for variant in ("all", "none", "memory"):
        student, best = reports(variant)["student"], result(runs(variant))["test"]["best"]
        assert {"top1": student["top1"], "top5": student["top5"]} == pytest.approx(best)
    report = reports("all")
    assert list(report["student"]) == list(report["teacher"]) == ["top1", "top5", "knn", "linear"]
    assert report["images"]["labelled"] == report["images"]["train"]


def test_a_run_without_a_teacher(runs: Runs, reports: Reports) -> None:
    opened, report = TrainedRun(runs("none")), reports("none")
    assert "teacher" not in report and "linear_few" in report["student"]
    assert (opened.teacher, opened.head, opened.outputs(opened.data.val)[1]) == (None, None, None)
    told = r"was trained without a teacher: .*\(--side student\)$"
    assert_refused_like((lambda: run_pair(opened), told), (lambda: run_pair(opened, side="teacher"), told))
    student = run_pair(opened, side="student", k=3)["student"]
    assert student.x.shape == (355, 32) and "prediction" in student


def test_the_teachers_head_is_that_of_the_best_epoch(runs: Runs) -> None:
    for variant in ("few", "memory"):
        opened = TrainedRun(runs(variant))
        assert opened.head is not None and opened.teacher is not None
        stored = load_checkpoint(runs(variant) / "best.ckpt")["objective"]
        for name, tensor in opened.head.state_dict().items():
            assert torch.equal(tensor, stored[f"teacher_head.{name}"]), (variant, name)
        output = opened.outputs(opened.data.val)[1]
        assert output is not None and output.feature is not None and output.logits is not None
        embedding, logits = opened.head(output.feature)
        torch.testing.assert_close((output.embedding, output.logits), (embedding, logits))
        assert not output.embedding.requires_grad


def test_predictions_of_a_pair(opened: TrainedRun) -> None:
    for split in ("train", "val", "test"):
        pair = run_pair(opened.run.path, split=split, k=4)
        images, labels = opened.images(split), opened.images(split).true_labels
        assert (labels >= 0).all() and pair.split == split and pair.classes == [str(i) for i in range(10)]
        for name, output in zip(("student", "teacher"), opened.outputs(images), strict=True):
            assert output is not None and output.logits is not None
            store = pair[name]
            torch.testing.assert_close(store.x, output.embedding)
            assert torch.equal(store.image_id, images.index) and torch.equal(store.y, labels)
            assert torch.equal(store.prediction, output.logits.argmax(1))
            assert torch.equal(store.correct, store.prediction == labels)
            assert ("labelled" in store) == (split == "train")
            assert split != "train" or torch.equal(store.labelled, images.labels >= 0)
    share = 100 * pair["student"].correct.double().mean().item()
    assert share == pytest.approx(result(opened.run.path)["test"]["best"]["top1"])


def test_a_pair_of_nodes_in_a_file(opened: TrainedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sides: tuple[Side, ...] = ("pair", "difference")
    held = [run_pair(opened, side=side, k=3) for side in sides]
    monkeypatch.setattr("relgraph.analysis.run_loading.MEMORY_LIMIT", 0)
    monkeypatch.setattr("relgraph.analysis.run_loading.IMAGES_AT_ONCE", 100)  # in four parts
    monkeypatch.setattr("relgraph.graph.search.LARGEST", 0)
    for side, expected in zip(sides, held, strict=True):
        found = run_pair(opened, side=side, k=3)
        assert found["student"].x.untyped_storage().filename is not None
        write_graph(found, tmp_path / "pair.pt")
        for other in (found, read_pair(tmp_path / "pair.pt")):
            assert_same_pair(other, expected, tolerance=1e-5)
            assert other.to_dict()["_global_store"] == expected.to_dict()["_global_store"]


def test_edges_of_a_pair_are_those_of_its_embeddings(opened: TrainedRun) -> None:
    found = run_pair(opened, first=40, k=5)
    student, teacher = found["student"].x, found["teacher"].x
    assert len(student) == len(teacher) == 40
    expected = split_pair(student, teacher, k=5)
    for kind in (TEACHER, STUDENT, MATCHES):
        assert torch.equal(found[kind].edge_index, expected[kind].edge_index)
        assert torch.equal(found[kind].edge_weight, expected[kind].edge_weight)
    found = run_pair(opened, side="difference", source="projection", first=40, k=5)
    expected = difference_pair(student, teacher, k=5)
    assert all(torch.equal(found[kind].edge_index, expected[kind].edge_index) for kind in (TEACHER, STUDENT))
    assert "prediction" in found["student"]


def test_edges_are_chosen_by_the_side_that_is_asked_for(opened: TrainedRun) -> None:
    def edges(**options: Any) -> torch.Tensor:
        found: torch.Tensor = run_pair(opened, first=50, k=3, source="projection", **options)[STUDENT].edge_index
        return found

    teacher, student = edges(neighbours="teacher"), edges(neighbours="student")
    assert not torch.equal(teacher, student)
    assert torch.equal(edges(), teacher) and torch.equal(edges(side="teacher"), teacher)
    assert torch.equal(edges(side="student"), student)
    assert torch.equal(edges(side="student", neighbours="teacher"), teacher)


def test_first_images(opened: TrainedRun) -> None:
    assert run_pair(opened, split="val", first=10_000, k=2)["student"].x.shape[0] == 143
    assert run_pair(opened, first=2, graph="dense")["student"].x.shape[0] == 2

    def told(**options: Any) -> str:
        return refusal(lambda: run_pair(opened, **options))

    assert told(split="tests").startswith("unknown split 'tests': did you mean 'test'?")
    assert [told(first=wrong) for wrong in (1, 0, -3)] == [f"a graph needs two images, got {n}" for n in (1, 0, -3)]
    assert "k must be" in told(first=8, k=8)
    union = told(side="difference", neighbours="union")
    assert union.startswith("in the difference each network chooses its own edges: ") and union.endswith("'union'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "insects", {"train": 12, "val": 4, "test": 4}, ("ant", "bee"))


QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 16, "epochs": 1, "batch_size": 8, "device": "cpu", "precision": "32-true",
}  # fmt: skip


@pytest.mark.slow
def test_a_run_on_streamed_images_is_judged_as_one_in_memory(folder: Path, tmp_path: Path) -> None:
    reports, pairs = [], []
    for images in ("memory", "stream"):
        path, options = tmp_path / images, {**QUICK, "labels_per_class": 4, "label_noise": 0.5}
        train(Recipe(dataset=f"folder:{folder}", images=images, workers=2, **options), path)
        reports.append(evaluate_run(path, k=3) | {"run": None})
        pairs.append(run_pair(path, split="train", k=3))
    assert reports[0] == reports[1]
    assert torch.equal(pairs[0]["teacher"].x, pairs[1]["teacher"].x)
    assert torch.equal(pairs[1]["teacher"].y, torch.arange(2).repeat_interleave(12)), "true labels, without the noise"


def test_labels_that_are_few_or_wrong(folder: Path, tmp_path: Path) -> None:
    """What noise made one class has no columns of few, and to read the labels opens no image."""
    options = {**QUICK, "method": "none", "labels_per_class": 1, "label_noise": 0.5}
    train(Recipe(dataset=f"folder:{folder}", images="stream", workers=0, **options), tmp_path / "run")
    report = evaluate_run(tmp_path / "run", k=3)
    assert report["images"]["labelled"] == 2
    assert list(report["student"]) == ["top1", "top5", "knn", "linear"]
    opened = TrainedRun(tmp_path / "run")
    for file in folder.rglob("*.png"):
        file.unlink()
    assert opened.data.train.true_labels.tolist() == [0] * 12 + [1] * 12
    assert int((opened.data.train.labels >= 0).sum()) == 2


@pytest.fixture
def copy(runs: Runs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs("few"), tmp_path / "run"))


def test_classes_that_are_not_the_students(copy: Path, folder: Path) -> None:
    options = read_yaml(copy / "recipe.yaml", sealed=True)
    write_yaml(copy / "recipe.yaml", plain({**options, "dataset": f"folder:{folder}", "labels_per_class": 0}))
    told = r"are no longer those of the student in [^\n]*: expected 10, got 2"
    assert_refused_like((lambda: evaluate_run(copy), told), (lambda: run_pair(copy), told))


def test_no_run_and_files_that_are_gone(copy: Path, tmp_path: Path) -> None:
    content = load_checkpoint(copy / "best.ckpt")
    content["objective"]["teacher_head.project.weight"] = torch.zeros(32, 5)
    torch.save(content, copy / "best.ckpt")
    other = r"best\.ckpt is of another architecture: project\.weight is \(32, "
    assert_refused_like((lambda: TrainedRun(tmp_path), "is not a run"), (lambda: TrainedRun(copy), other))
    (copy / "best.ckpt").unlink()
    assert_refused_like((lambda: TrainedRun(copy), r"^there is no checkpoint .*best\.ckpt$"))
    (copy / "student.safetensors").unlink()
    assert_refused_like((lambda: evaluate_run(copy), r"^cannot read the network file .*student\.safetensors"))


def test_a_student_without_labels_has_no_accuracy_of_its_classifier(runs: Runs, reports: Reports) -> None:
    """No loss trained it; the teacher's head learned from the labels."""
    report, best = reports("seed"), result(runs("seed"))["test"]["best"]
    assert list(report["student"]) == ["knn", "linear", "knn_few", "linear_few"]
    assert list(report["teacher"]) == ["top1", "top5", *report["student"]]
    assert list(best) == ["knn", "linear"]
    # One image of 355 may lie so near to the border between two that rounding decides.
    assert {name: report["student"][name] for name in best} == pytest.approx(best, abs=100 / 355 + 1e-9)
    pair = run_pair(runs("seed"), first=40)
    assert not {"prediction", "correct"} & {*pair["student"].keys()}
    assert {"prediction", "correct"} <= {*pair["teacher"].keys()}


@pytest.fixture(scope="module")
def own(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a few steps whose teacher is an earlier student with its own head; the embedding is wider."""
    path, teacher = tmp_path_factory.mktemp("own") / "run", f"checkpoint:{runs('all')}"
    train(
        Recipe(
            student="resnet8", teacher=teacher, teacher_head="own", method="kd", dim=40, epochs=1,
            labels_per_class=3, labelled_share=1.0, batch_size=30, device="cpu",
        ),
        path,
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_a_teacher_with_a_head_of_its_own_is_as_good_as_it_was(own: Path, reports: Reports) -> None:
    report, before = evaluate_run(own), reports("all")
    assert {name: report["teacher"][name] for name in before["student"]} == before["student"]
    opened = TrainedRun(own)
    assert opened.head is not None and opened.head.project.out_features == 32
    assert opened.student.head.project.out_features == 40
    told = (
        r"^the cross graph of a pair needs vectors of one width, got 40 of the student and 32 of the teacher's own "
        r"head in .*: train with --dim 32$"
    )
    assert_refused_like((lambda: run_pair(opened), told))


def trained_on_photos(path: Path, **options: Any) -> Path:
    """Return a run of one step by a contrastive method on a few images without labels."""
    write_folder(path / "photos", {"all": 12}, ["noise"])
    recipe = QUICK | {"dataset": f"folder:{path / 'photos'}", "method": "infonce", "batch_size": 12}
    train(Recipe(**recipe | options), path / "run")
    return path / "run"


def test_a_contrastive_run_that_compared_projections_is_read_as_such(tmp_path: Path) -> None:
    """Also where the nodes were chosen as an option of the method: its head then stands behind the projection."""
    for name, value in (("nodes", "embedding"), ("method_args", ("nodes=embedding",))):
        opened = TrainedRun(trained_on_photos(tmp_path / name, **{name: value}))
        assert opened.contrast_head is None
        student, teacher = opened.outputs(opened.data.train)
        assert teacher is not None and student.embedding.shape == teacher.embedding.shape == (12, 16)


def test_a_run_on_images_without_labels(tmp_path: Path) -> None:
    path = trained_on_photos(tmp_path)
    assert_refused_like(
        (lambda: evaluate_run(path), r"^folder:.*photos has no labels, by which networks could be judged$"),
        (lambda: run_pair(path), r"^the split 'test' of folder:.* has no images: expected another --split$"),
    )
    pair = run_pair(path, split="train", k=3)
    assert pair.classes == [] and pair["student"].y.tolist() == [-1] * 12
    assert not {"prediction", "correct"} & {*pair["student"].keys(), *pair["teacher"].keys()}
    assert all("label" not in node and "correct" not in node for _, node in to_networkx(pair).nodes(data=True))


def test_nodes_of_a_run_without_labels_are_what_its_loss_compared(runs: Runs) -> None:
    opened = TrainedRun(runs("seed"))
    student, teacher = opened.outputs(opened.data.test.select(torch.arange(20)))
    weights = load_checkpoint(opened.run.best)["objective"]
    assert teacher is not None and student.feature is not None and teacher.feature is not None
    layers = [[weights[f"method.parts.seed.projector.{i}.{name}"] for name in ("weight", "bias")] for i in (0, 2)]
    (w, b), (v, c) = layers
    torch.testing.assert_close(student.embedding, torch.relu(student.feature @ w.T + b) @ v.T + c)
    assert torch.equal(teacher.embedding, teacher.feature)
    assert TrainedRun(runs("few")).contrast_head is None
