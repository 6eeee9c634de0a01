"""A run against an index: the split by teacher or student, a store, a table; and every index that does not fit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from relgraph import api, load_student, load_teacher
from relgraph.analysis.galleries import evaluate_gallery
from relgraph.analysis.retrieval import overlap, retrieval
from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.views import Normalise
from relgraph.files import read_json
from relgraph.training.distillation import train
from relgraph.training.feed import input_of
from relgraph.training.indexing import fit_index
from relgraph.training.recipe import Recipe
from relgraph.training.stores import store_embeddings
from tests.analysis.conftest import Runs
from tests.checks import assert_refused, assert_refused_like, case
from tests.pictures import write_folder

QUICK: dict[str, Any] = {
    "student": "resnet8", "epochs": 1, "device": "cpu", "precision": "32-true", "threads": 1, "gamma": 0.0,
    "batch_size": 180, "val_fraction": 0.1,
}  # fmt: skip
Parts = dict[str, tuple[Tensor, Tensor, Tensor]]
SIDES = ("student_teacher", "teacher_teacher", "student_student")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in the teacher's space, on half of the classes."""
    found = tmp_path_factory.mktemp("space") / "run"
    train(Recipe(**QUICK, target_space="teacher", holdout_classes="0.2,0.3", method="ega"), found)
    return found


@pytest.fixture(scope="module")
def run(path: Path) -> TrainedRun:
    return TrainedRun(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of all training images of digits, made without knowing of held-out classes."""
    found = tmp_path_factory.mktemp("stores") / "store"
    store_embeddings(Recipe(**QUICK), found, views=2, index="none")
    return found


def vectors_of(run: TrainedRun, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors of both networks by the student's file and the teacher itself, and the digits."""
    images, student, teacher = run.images(split), load_student(run.run.path), load_teacher("embedded:digits")
    prepare = Normalise(student.preprocess.mean, student.preprocess.std)
    with torch.no_grad():
        found = student(prepare(images.pixels))[0], teacher(input_of(teacher)(images.pixels))
    return *found, torch.tensor([int(images.classes[label]) for label in images.labels])


@pytest.fixture(scope="module")
def parts(run: TrainedRun) -> Parts:
    """Return the vectors of each split, and of all training images in the order of a store."""
    splits = {name: vectors_of(run, name) for name in ("train", "val", "test")}
    order = torch.cat([run.data.train.index, run.data.val.index, run.data.test.index]).argsort()
    student, teacher, digits = (torch.cat(part)[order] for part in zip(*splits.values(), strict=True))
    return {**splits, "all": (student, teacher, digits)}


def expected_of(
    queries: tuple[Tensor, Tensor, Tensor], gallery: tuple[Tensor, Tensor, Tensor], own: Tensor, k: int = 10
) -> dict[str, dict[str, float]]:
    """Return the rows of a report for queries and a gallery, each by student and teacher, with digits."""
    (s, t, asked), (g, h, held) = queries, gallery
    rows = {}
    for name, one, other in (("student_teacher", s, h), ("teacher_teacher", t, h), ("student_student", s, g)):
        shared = {f"overlap@{k}": overlap(one, t, other, h, own=own, k=k)}
        rows[name] = retrieval(one, other, asked, held, own) | shared
    return rows


@pytest.mark.slow
def test_a_split_is_its_own_gallery(run: TrainedRun, parts: Parts) -> None:
    for split in ("test", "val"):
        both = parts[split]
        expected = expected_of(both, both, torch.arange(len(both[0])), k=7)
        report = evaluate_gallery(run, "teacher", split, k=7)
        assert {name: report[name] for name in SIDES} == {name: pytest.approx(expected[name]) for name in SIDES}
        assert report["teacher_teacher"]["overlap@7"] == 100
        counts = (report["queries"], report["images"], report["labels"], report["k"], report["split"])
        assert counts == (len(both[0]), len(both[0]), True, 7, split)
        own = evaluate_gallery(run, "own", split, k=7)
        assert {name for name in SIDES if name in own} == {"teacher_teacher", "student_student"}
        assert own["student_student"] == report["student_student"]


@pytest.mark.slow
def test_a_store_of_all_training_images(run: TrainedRun, store: Path, parts: Parts) -> None:
    """Images of training classes are in it, which are no answer to any query; an image is never its own."""
    for split in ("test", "val", "train"):
        expected = expected_of(parts[split], parts["all"], run.images(split).index)
        report = evaluate_gallery(run, str(store), split)
        assert report["images"] == 1442
        for name in SIDES:
            assert report[name] == pytest.approx(expected[name], abs=0.3), name  # a store may round otherwise


def test_an_index_transforms_gallery_and_queries_alike(
    run: TrainedRun, store: Path, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    centred = shutil.copytree(store, tmp_path / "centred")
    assert fit_index(centred, "pca:20") == "pca:20"
    fitted = PCA(20).fit(normalize(EmbeddingStore(centred).view(0)[:].double()).numpy())

    def moved(student: Tensor, teacher: Tensor, digits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s, t = (torch.from_numpy(fitted.transform(normalize(x.double()).numpy())) for x in (student, teacher))
        return s, t, digits

    expected = expected_of(moved(*parts["test"]), moved(*parts["all"]), run.images("test").index)
    report = evaluate_gallery(run, str(centred))
    assert report["transform"] == "pca:20" and evaluate_gallery(run, str(store))["transform"] == "none"
    for name in SIDES:
        assert report[name] == pytest.approx(expected[name], abs=0.3), name
    np.save(tmp_path / "table.npy", EmbeddingStore(store).view(0)[:].numpy())
    by = {"name": str(centred), "fingerprint": EmbeddingStore(centred).contents.sha256}
    monkeypatch.setitem(run.inputs, "stored embeddings", by)
    found = {gallery: evaluate_gallery(run, gallery)["transform"] for gallery in ("own", str(tmp_path / "table.npy"))}
    assert [*found.values()] == ["pca:20", "none"]  # relgraph query has none for a table
    capsys.readouterr()
    for other in ({"name": str(tmp_path / "gone")}, {"fingerprint": "another"}):
        monkeypatch.setitem(run.inputs, "stored embeddings", {**by, **other})
        assert evaluate_gallery(run, "own")["transform"] == "none"
        assert "the stored embeddings by which" in capsys.readouterr().err


def test_an_aligned_student_asks_the_teachers_own_index(runs: Runs, tmp_path: Path, store: Path) -> None:
    path = shutil.copytree(runs("few"), tmp_path / "run")
    api.align(path)
    run = TrainedRun(path)
    images = run.images("test")
    student, teacher = run.vectors(images)
    assert teacher is not None and student.shape == teacher.shape and run.plain.index is not None
    with torch.no_grad():
        s, t = run.plain.index(student), run.plain.index(teacher)
    labels, own = images.labels, torch.arange(len(images))
    report = evaluate_gallery(run, "teacher")
    assert report["transform"] == "centre" and evaluate_gallery(run, str(store))["transform"] == "none"
    for name, (queries, held) in {
        "student_teacher": (s, t),
        "teacher_teacher": (t, t),
        "student_student": (s, s),
    }.items():
        expected = retrieval(queries, held, labels, labels, own)
        assert {key: report[name][key] for key in expected} == pytest.approx(expected, abs=0.3)


def test_a_table_by_order_and_by_names(run: TrainedRun, store: Path, tmp_path: Path) -> None:
    expected = evaluate_gallery(run, str(store))
    api.embed(out=tmp_path / "named.npy", split="train")
    shutil.copy(tmp_path / "named.npy", tmp_path / "plain.npy")
    rows = np.load(tmp_path / "named.npy")
    order = np.random.default_rng(0).permutation(len(rows))
    np.save(tmp_path / "mixed.npy", rows[order])
    (tmp_path / "mixed.names.txt").write_text("\n".join(map(str, order)))
    for name in ("named", "plain", "mixed"):
        with case(name):
            report = evaluate_gallery(run, str(tmp_path / f"{name}.npy"))
            assert "student_student" not in report, "whose images are not at hand"
            for side in ("student_teacher", "teacher_teacher"):
                assert report[side] == pytest.approx(expected[side], abs=0.3)
    np.save(tmp_path / "part.npy", rows[:100])
    report = evaluate_gallery(run, str(tmp_path / "part.npy"))
    assert not report["labels"] and list(report["student_teacher"]) == ["overlap@10"]
    assert report["teacher_teacher"] == {"overlap@10": 100}


def test_a_projection_that_was_learned_is_part_of_the_index(runs: Runs, tmp_path: Path, store: Path) -> None:
    """The default: the teacher's vectors are compared behind the head that the run trained."""
    run = TrainedRun(runs("few"))
    images = run.images("test")
    student, teacher = run.outputs(images)
    assert teacher is not None and teacher.embedding.shape[1] == 32
    labels, own = images.labels, torch.arange(len(images))
    report = evaluate_gallery(run, "teacher")
    expected = retrieval(student.embedding, teacher.embedding, labels, labels, own)
    assert {name: report["student_teacher"][name] for name in expected} == pytest.approx(expected)
    stored = evaluate_gallery(run, str(store))
    assert stored["images"] == 1442 and stored["queries"] == 355
    assert stored["student_teacher"]["recall@1"] > 15, "test images are not in the store, which has ten classes"


def test_a_run_without_a_teacher_has_its_own_index_alone(runs: Runs, store: Path) -> None:
    run = TrainedRun(runs("none"))
    report = evaluate_gallery(run, "own")
    assert {name for name in SIDES if name in report} == {"student_student"}
    assert "overlap@10" not in report["student_student"]
    told = f"{run.run.path} was trained without a teacher: expected --gallery own"
    assert_refused((lambda: evaluate_gallery(run, "teacher"), told))
    assert_refused_like((lambda: evaluate_gallery(run, str(store)), r"is by the network embedded:digits, and .* none"))


def test_an_index_of_other_images_has_no_labels_and_overlap_alone(run: TrainedRun, tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", {"train": 8, "test": 2})
    options = {**QUICK, "dataset": f"folder:{tmp_path / 'photos'}", "image_size": 8, "batch_size": 8}
    store_embeddings(Recipe(**options, teacher="embedded:digits"), tmp_path / "store", views=1)
    report = evaluate_gallery(run, str(tmp_path / "store"), k=3)
    assert (report["labels"], report["images"]) == (False, 16)
    assert list(report["student_teacher"]) == ["overlap@3"] and "student_student" not in report
    np.save(tmp_path / "few.npy", np.eye(6, 64, dtype=np.float32))  # of which there are fewer than are told elsewhere
    assert evaluate_gallery(run, str(tmp_path / "few.npy"))["k"] == 6


def test_indexes_that_do_not_fit_are_refused_in_one_line(run: TrainedRun, store: Path, tmp_path: Path) -> None:
    student = f"checkpoint:{run.run.path}"
    store_embeddings(Recipe(**QUICK, teacher=student), tmp_path / "other", views=1)
    again: dict[str, Any] = {"teacher_args": ("output=embedding",)}
    store_embeddings(Recipe(**QUICK, teacher=student, **again), tmp_path / "own", views=1)
    np.save(tmp_path / "narrow.npy", np.ones((5, 3), np.float32))
    shutil.copytree(store, tmp_path / "changed")
    manifest = tmp_path / "changed" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 2'))
    width = "the student's vectors have the width "
    assert_refused_like(
        (lambda: evaluate_gallery(run, str(tmp_path / "other")), r"other is an index of another teacher, checkpoint:"),
        (lambda: evaluate_gallery(run, str(tmp_path / "own")), r"is .* in it, .* in .*run$"),
        (lambda: evaluate_gallery(run, str(tmp_path / "changed")), r"of this version: expected 3, found 2"),
        (
            lambda: evaluate_gallery(run, str(tmp_path / "narrow.npy")),
            rf"^{width}64, those of the gallery .* 3: relgraph",
        ),
        (lambda: evaluate_gallery(run, "nowhere"), r"^a gallery is teacher, own, or the path of a store or a table"),
        (lambda: evaluate_gallery(run, str(tmp_path)), r"^expected a store of relgraph embed, a folder with manifest"),
        (lambda: evaluate_gallery(run, "teacher", k=10_000), r"^k must be between 1 and .*, 432, got 10000$"),
        (lambda: evaluate_gallery(run, "teacher", "tests"), r"^unknown split 'tests'"),
        (lambda: evaluate_gallery(run, str(store), "all"), r"^unknown split 'all'"),
    )


def test_a_store_of_the_same_name_with_other_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {"train": 8, "test": 1}, ("ant", "bee", "cat"))
    options = {**QUICK, "dataset": f"folder:{folder}", "image_size": 8, "batch_size": 8, "teacher": "embedded:digits"}
    held: dict[str, Any] = {"target_space": "teacher", "holdout_classes": "val=ant+test=bee", "method": "sp"}
    path = tmp_path / "run"
    train(Recipe(**options, **held), path)
    image = sorted((folder / "train" / "bee").iterdir())[3]
    before = image.read_bytes()
    image.write_bytes(sorted((folder / "train" / "cat").iterdir())[0].read_bytes())
    store_embeddings(Recipe(**options), tmp_path / "store", views=1)
    image.write_bytes(before)
    told = r"store does not fit: image 11 of the training split is another one there"
    assert_refused_like((lambda: evaluate_gallery(TrainedRun(path), str(tmp_path / "store")), told))
    image.unlink()
    assert_refused_like((lambda: evaluate_gallery(TrainedRun(path), "teacher"), r"^the test images are not those of "))


def test_the_function_and_the_split_that_belongs_to_a_gallery(path: Path, run: TrainedRun) -> None:
    found = api.evaluate(path, gallery="teacher", split="val")
    assert found == {"run": str(path), "retrieval": evaluate_gallery(run, "teacher", "val")}
    assert api.Run(path).evaluate(4, gallery="own")["retrieval"]["k"] == 4
    assert_refused(
        (lambda: api.evaluate(path, split="val"), "a split is that of a gallery or of zero-shot classes: expected tes…")
    )
    assert read_json(path / "inputs.json")["held_out"]
