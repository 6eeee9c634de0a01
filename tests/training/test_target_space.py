"""The teacher's own space: its untouched vectors are the nodes, the student has their width; and unseen classes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph import load_student
from relgraph.analysis.run_loading import TrainedRun, evaluate_run, run_pair
from relgraph.data.manifest import Contents
from relgraph.files import read_json
from relgraph.methods import Method, Output
from relgraph.networks.files import read_network
from relgraph.networks.heads import Head
from relgraph.outputs import Batch
from relgraph.own_code import Own
from relgraph.training import epochs
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import build_pretraining
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from relgraph.training.stores import store_embeddings
from relgraph.training.tasks import Classes, LabelledRetrieval, Neighbours, Retrieval
from tests.checks import assert_refused, assert_refused_like, case, refusal
from tests.pictures import write_folder, write_image
from tests.training.conftest import RecipeMaker, Runs, call_before, outcome, part, result_of

WIDTH = 64  # of the embedded teacher
SPACE: dict[str, Any] = {"target_space": "teacher", "dim": None}
NAMES = ("ant", "bee", "cat", "cow", "dog", "elk")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return options by which two classes of six are for validation, two for testing, with eight images each."""
    folder = write_folder(tmp_path_factory.mktemp("photos"), {"train": 8, "test": 1}, NAMES)
    return {"dataset": f"folder:{folder}", "batch_size": 8, "holdout_classes": "val=bee,cow+test=ant,cat"}


def losses_of(job: Distillation) -> tuple[Any, Output, Output]:
    """Return the losses of the first images, and what their student and teacher gave."""
    index = torch.arange(12)
    inputs = job.feed(next(job.data.train.batches([index])), Batch(index, job.data.train.labels[index]),
                      torch.Generator().manual_seed(0))  # fmt: skip
    job.objective.eval()
    losses = job.objective(inputs)
    assert inputs.teacher is not None and losses.teacher is not None
    return losses, inputs.teacher, losses.teacher


def test_the_teachers_own_vectors_are_the_nodes_and_nothing_trains_on_its_side(make: RecipeMaker) -> None:
    for method, options in (("ega", {}), ("sp", {}), ("pkt", {"graph": "knn", "k": 3}), ("infonce", {})):
        with case(method):
            job = build(make(method=method, gamma=0.0, **options, **SPACE))
            losses, given, compared = losses_of(job)
            assert torch.equal(compared.embedding, given.embedding) and compared.embedding.shape == (12, WIDTH)
            assert losses.student.embedding.shape == (12, WIDTH)
            assert not losses.teacher_terms and [*job.objective.teacher_parameters()] == []
            assert list(job.optimisers) == ["student_optimiser"]
            assert part(job.objective, method).space().part == "embedding"
            assert part(job.objective, method).space().teacher is None


def test_labels_train_the_classifiers_where_something_reads_them(make: RecipeMaker) -> None:
    for options, read in (
        ({}, True), ({"gamma": 0.0}, False), ({"gamma": 0.0, "alpha": 0.5}, True),
        ({"gamma": 0.0, "method": "ega+kd"}, True),
        ({"gamma": 0.0, "graph": "knn", "k": 3, "refine": "conv"}, True),
        ({"gamma": 0.0, "graph": "knn", "k": 3, "refine": "smooth"}, False),
    ):  # fmt: skip
        recipe = make(**options, **SPACE)
        with case(options):
            job = build(recipe)
            losses, given, compared = losses_of(job)
            assert recipe.reads_teacher_classifier == read == ("teacher_head" in losses.teacher_terms)
            trained = {name for name, p in job.objective.named_parameters() if p.requires_grad and "teacher" in name}
            classifier = {"teacher_head.classify.weight", "teacher_head.classify.bias"}
            assert trained & classifier == (classifier if read else set())
            assert torch.equal(compared.embedding, given.embedding), "no projection, whatever is trained beside it"


def test_ega_needs_no_labels(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(dataset="unlabelled", gamma=0.0, epochs=1, labels_per_class=0, **SPACE), tmp_path / "run")
    student = load_student(tmp_path / "run")
    assert student.classes == () and student.part == "embedding"
    opened = TrainedRun(tmp_path / "run")
    images = opened.images("train", 12)
    vectors, teacher = opened.vectors(images)
    assert teacher is not None and vectors.shape == teacher.shape == (12, WIDTH)
    prepared = torch.stack([student.preprocess(image) for image in images.pixels])
    torch.testing.assert_close(student(prepared)[0], vectors)
    assert next(opened.teacher_side.children(), None) is None
    assert torch.equal(run_pair(opened, split="train", first=12, k=3)["teacher"].x, teacher)


def test_the_best_epoch_is_that_which_finds_most_of_what_the_teacher_finds(make: RecipeMaker, tmp_path: Path) -> None:
    """It reads no label; where labels teach the student its classifier is judged, as anywhere."""
    own = make(method="csd", gamma=0.0, epochs=4, lr=0.5, patience=2, diagnose_every=0, **SPACE)
    assert build(replace(own, gamma=1.0, patience=None)).score == "top1"
    assert build(replace(own, target_space="projection", dim=8, method="sp", patience=None)).score == "knn"
    result = train(own, tmp_path / "run")
    values = [row["val_overlap@8"] for row in RunDirectory(tmp_path / "run").read_metrics()]
    assert len({*values}) > 1 and result["best_epoch"] == 1 + values.index(max(values))
    assert result["val_overlap@8_of_best"] == max(values) and "val_knn_of_best" not in result
    assert result["note"].startswith("best epoch picked by the share of the teacher's 8 nearest neighbours")


def test_a_run_in_the_teachers_space_is_found_again_in_its_file(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(epochs=1, method="rkd", method_args=("angle_weight=0",), **SPACE), tmp_path / "run")
    _, info = read_network(tmp_path / "run" / "student.safetensors")
    assert (info["dim"], info["vectors"], info["in_teacher_space"]) == (WIDTH, "embedding", False), "a relation alone"
    report = evaluate_run(tmp_path / "run")
    assert {"top1", "knn"} <= set(report["student"]) and {"top1", "knn"} <= set(report["teacher"])
    train(make(epochs=1, gamma=0.0, **SPACE), tmp_path / "unread")
    report = evaluate_run(tmp_path / "unread")
    assert not {"top1"} & {*report["student"], *report["teacher"]}, "no loss trained these classifiers"


class Peek(Method):
    """Read what it likes."""

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, torch.Tensor]:
        return {"peek": (student.embedding - teacher.embedding).square().mean()}


def test_a_method_of_ones_own_and_nodes_that_are_chosen(make: RecipeMaker) -> None:
    losses, given, _ = losses_of(build(replace(make(gamma=0.0, **SPACE), method=Own.of(Peek, "method"))))
    expected = (losses.student.embedding - given.embedding).square().mean()
    torch.testing.assert_close(losses.terms["peek"], expected)
    job = build(make(method="ega+sp", method_args=("sp.nodes=map",), **SPACE))
    assert part(job.objective, "sp").nodes == "map"


def test_what_makes_no_sense_is_refused_in_one_line(make: RecipeMaker, tmp_path: Path) -> None:
    owner = "target_space 'teacher' belongs to methods that compare embeddings, got method "
    assert_refused(
        (lambda: make(method="kd", **SPACE), f"{owner}kd"),
        (lambda: make(method="none", **SPACE), f"{owner}none"),
        (lambda: make(method="sp", nodes="feature", **SPACE), f"{owner}sp with nodes 'feature'"),
        (
            lambda: make(method="kd", target_space="teacher", dim=None, head="linear"),
            "target_space 'teacher' needs the projection that maps the student into the teacher's width: expected head "
            "'projection', got 'linear'",
        ),
        (
            lambda: make(gamma=0.0, teacher_head="sequential", **SPACE),
            "teacher_head 'sequential' trains a classifier that nothing reads with target_space 'teacher' here: "
            "expected 'joint'",
        ),
        (
            lambda: build(make(target_space="teacher", dim=16)),
            f"target_space 'teacher' has embeddings of the teacher's width, {WIDTH}: leave dim out, got 16",
        ),
        (
            lambda: build(make(method="crd", **SPACE)),
            "crd has layers of its own on the teacher's vectors, which target_space 'teacher' compares as they are: "
            "use 'projection'",
        ),
    )
    assert build(make(target_space="teacher", dim=WIDTH)).student.head.dim == WIDTH
    assert build(make(dim=None)).student.head.dim == 256


def test_an_own_head_of_the_teacher_has_no_projection(make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    train(make(epochs=1, method="none", head="linear", dim=None), tmp_path / "linear")
    own = {"teacher_head": "own", "method": "kd+ega", **SPACE}
    told = r"^the own head of checkpoint:.*none has a projection, and target_space 'teacher' none of the teacher's: "
    assert_refused_like((lambda: build(make(teacher=f"checkpoint:{finished('none')}", **own)), told))
    _, given, compared = losses_of(build(make(teacher=f"checkpoint:{tmp_path / 'linear'}", **own)))
    assert torch.equal(given.embedding, compared.embedding)


def test_a_stopped_run_ends_bit_for_bit_and_a_store_is_read(
    make: RecipeMaker, unseen: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make(method="sp", gamma=0.0, epochs=2, embeddings=str(tmp_path), views="independent", **SPACE, **unseen)
    store_embeddings(make(dataset=unseen["dataset"]), tmp_path / "store", views=1)
    train(recipe, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        call_before(patch, epochs, "step", 3)  # of two an epoch
        train(recipe, tmp_path / "parts")
    torch.manual_seed(12345)
    train(recipe, tmp_path / "parts", resume=True)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "parts")
    assert "stored" in RunDirectory.open(tmp_path / "whole").recipe().teacher_mode, "it holds all training images"


def test_unseen_classes_travel_with_the_run_and_judge_it(
    make: RecipeMaker, unseen: dict[str, Any], tmp_path: Path
) -> None:
    for gamma, kind in ((0.0, Retrieval), (1.0, LabelledRetrieval)):
        with case(gamma):
            path, recipe = tmp_path / str(gamma), make(gamma=gamma, epochs=2, **SPACE, **unseen)
            job = build(recipe)
            assert type(job.task) is kind and job.task.by_label == (gamma > 0)
            train(recipe, path)
            held = {"val": ["bee", "cow"], "test": ["ant", "cat"]}
            _, info = read_network(path / "student.safetensors")
            assert read_json(path / "inputs.json")["held_out"] == info["held_out"] == held
            assert info["classes"] == ["dog", "elk"]
            result = result_of(path)
            assert set(result["test"]["best"]) == {"recall@1", "recall@5", "recall@10", "mAP", "mAP@R"}
            rows = RunDirectory.open(path).read_metrics()
            assert result["val_mAP_of_best"] == max(row["val_mAP"] for row in rows) and ("train_top1" in rows[0]) == (
                gamma > 0
            )
            report = evaluate_run(path)
            assert report["student"] == pytest.approx(result["test"]["best"])
            assert set(report["teacher"]) == set(report["student"]) and report["held_out"] == held
            pair = run_pair(path, k=3)
            assert not {"prediction", "correct"} & {*pair["student"].keys(), *pair["teacher"].keys()}
            assert pair.classes == ["ant", "cat"]
    assert type(build(make()).task) is Classes and type(build(make(gamma=0.0)).task) is Neighbours


def test_no_validation_classes_and_options_that_belong_elsewhere(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(gamma=0.0, epochs=1, holdout_classes="test=bee", **SPACE), tmp_path / "run")
    note = "there are no images of two validation classes to pick the best epoch by: it is the last"
    assert result_of(tmp_path / "run")["note"] == note and result_of(tmp_path / "run")["test"]["best"] == {}
    report = evaluate_run(tmp_path / "run")
    assert report["student"] == report["teacher"] == {} and report["images"]["test"] == 12
    one = {"holdout_classes": "val=ant+test=bee"}  # each image of one class alone finds its class
    assert "val_mAP" not in build(make(gamma=0.0, **SPACE, **one)).evaluate(0)
    told = "picking the best epoch needs validation images: the share of validation classes in holdout_classes must be "
    assert_refused(
        (lambda: build(make(holdout_classes="test=bee")), told + "above 0, got 0 (--select last picks none)"),
        (lambda: make(test_fraction=0.3, **one), "test_fraction belongs to data without holdout_classes, got val=a…"),
        (lambda: make(val_fraction=0.3, **one), "val_fraction belongs to data without holdout_classes, whose valid…"),
        (
            lambda: make(holdout_classes="x"),
            "classes are held out as VAL,TEST, shares such as 0.16,0.2, or as val=NAM…",
        ),
    )
    assert "another recipe: holdout_classes was test=bee" in refusal(
        lambda: train(make(gamma=0.0, epochs=1, **SPACE, **one), tmp_path / "run", resume=True)
    )


def test_single_images_of_unseen_classes_judge_nothing(
    make: RecipeMaker, unseen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make(gamma=0.0, epochs=1, **SPACE, **unseen), tmp_path / "run")
    opened = TrainedRun(tmp_path / "run")
    monkeypatch.setattr(opened, "images", lambda split: opened.split(split).evenly(2))
    report = evaluate_run(opened)
    assert report["student"] == report["teacher"] == {} and report["images"]["test"] == 2


def test_vectors_of_a_teacher_without_a_network(make: RecipeMaker, unseen: dict[str, Any], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(48, 10)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    options = {"teacher": f"vectors:{tmp_path / 'v.npy'}", "gamma": 0.0, "epochs": 1, **SPACE}
    train(make(**options, **unseen), tmp_path / "run")
    opened = TrainedRun(tmp_path / "run")
    for name in ("train", "val", "test"):
        images = opened.images(name)
        student, teacher = opened.vectors(images)
        assert teacher is not None and student.shape == (16, 10)
        assert torch.equal(teacher, torch.from_numpy(rows)[images.index])
    assert set(evaluate_run(opened)["teacher"]) == {"recall@1", "recall@5", "recall@10", "mAP", "mAP@R"}
    np.save(tmp_path / "v.npy", rows[:36])
    train(make(**options), tmp_path / "seen")
    opened = TrainedRun(tmp_path / "seen")
    assert opened.vectors(opened.images("test"))[1] is opened.vectors(opened.images("val"))[1] is None
    np.save(tmp_path / "v.npy", rows[:36] + 1)
    opened = TrainedRun(tmp_path / "seen")
    assert_refused_like(
        (lambda: opened.vectors(opened.images("train")), r"^the weights of the teacher vectors:.* others$")
    )


def test_a_head_without_a_projection_leaves_vectors_alone() -> None:
    vectors = torch.randn(3, 5)
    assert Head(5, None, 2)(vectors)[0] is vectors
    assert json.dumps(Recipe().plain()["dim"]) == "null"


def test_a_store_of_a_data_set_without_a_test_split_holds_all_images(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(36):
        write_image(tmp_path / "classes" / NAMES[number % 6] / f"{number}.png", seed=number)
    options = {"dataset": f"classes:{tmp_path / 'classes'}", "batch_size": 8, "views": "independent"}
    held = {"holdout_classes": "0.3,0.3", **options}
    store_embeddings(make(**held), tmp_path / "store", views=1)
    assert Contents.read(tmp_path / "store").images == 36
    job = build(make(gamma=0.0, epochs=1, embeddings="store", teacher_mode="stored", **held, **SPACE))
    assert "stored embeddings" in job.note
    assert job.frozen["stored embeddings"]["name"] == str(tmp_path / "store"), "from any folder"
    told = r"^no stored embeddings fit: .*it has 36 images|another one there|is another one"
    without = make(gamma=0.0, embeddings=str(tmp_path / "store"), teacher_mode="stored", **options)
    assert_refused_like((lambda: build(without), told))


def test_a_pretraining_holds_classes_out_as_well() -> None:
    given = {"holdout_classes": "0.2,0.3", "epochs": 1, "network": "resnet8", "device": "cpu", "threads": 1}
    job = build_pretraining(resolve_pretraining(given))
    assert type(job.task) is Retrieval and len(job.data.train.classes) == 5
    network: Any = job.objective
    assert set(job.task.evaluate(network, job.data.val)) >= {"recall@1", "mAP"}
