"""Distillation: one seed is one run, also after a stop or with streamed images; what learns from what; the results."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from relgraph.methods import SEED, Batch
from relgraph.names import open_student
from relgraph.training import epochs
from relgraph.training.building import open_data, open_teacher
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import build, train
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.evaluation import embed, knn_accuracy, linear_probe
from relgraph.training.feed import Online
from relgraph.training.recipe import resolve
from relgraph.training.runs import RunDirectory
from relgraph.training.tasks import Classes
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, Runs, call_before, equal, outcome, part, result_of, states

STEPS = 5  # batches of an epoch in the tests' recipe
INDEX = torch.tensor([5, 1, 30, 20])


# One seed, one run


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_stopped(make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    """Memories, maps, and a stage that is over; with other random numbers drawn in between."""
    for variant in ("memory-maps", "seed", "early"):
        path = tmp_path / variant
        with pytest.MonkeyPatch.context() as patch:
            call_before(patch, epochs, "step", STEPS + 3)
            with pytest.raises(KeyboardInterrupt):
                train(make(variant), path)
        assert len(RunDirectory(path).read_metrics()) == 1 and not (path / "result.json").exists()
        torch.manual_seed(12345)
        train(RunDirectory.open(path).recipe(), path, resume=True)
        assert outcome(path) == outcome(finished(variant))


@pytest.mark.slow
def test_one_epoch_in_memory_and_streamed(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(epochs=1), tmp_path / "whole")
    for workers in (0, 2):
        train(make(epochs=1, images="stream", workers=workers), tmp_path / str(workers))
        assert outcome(tmp_path / str(workers)) == outcome(tmp_path / "whole")
    train(make(seed=1, epochs=1), tmp_path / "other")
    name = "student.safetensors"
    assert (tmp_path / "other" / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()


# A job


def test_each_parameter_has_one_optimiser_where_something_reads_a_teacher(make: RecipeMaker) -> None:
    settings = {"lr": 0.3, "teacher_lr": 0.02, "momentum": 0.7, "weight_decay": 0.1}
    for options, reads in (
        ({"method": "none"}, False),
        ({"method": "none", "alpha": 1.0}, True),
        ({"graph": "knn", "k": 3, "refine": "conv"}, True),
        ({"method": "crd+0.5*ega", "refine": "conv"}, True),
        ({"method": "sskd"}, True),
    ):
        job = build(make(**settings, **options))
        rates = {"student_optimiser": 0.3} | ({"teacher_optimiser": 0.02} if reads else {})
        assert list(job.parts) == ["objective", *rates]
        ids = [id(p) for each in job.optimisers.values() for group in each.param_groups for p in group["params"]]
        trained = {id(p) for p in job.objective.parameters()}
        assert len(ids) == len(trained) and {*ids} == trained
        student, teacher = job.objective.student_parameters(), job.objective.teacher_parameters()
        assert ids == [id(p) for p in [*student, *teacher]]
        for name, rate in rates.items():
            (group,) = job.optimisers[name].param_groups
            assert (group["lr"], group["momentum"], group["weight_decay"]) == (rate, 0.7, 0.1)
        assert (job.objective.teacher_head is not None) == isinstance(job.feed, Online) == reads


def test_the_stored_student_says_what_it_learned_by_and_reads(make: RecipeMaker) -> None:
    for name, options in (
        ("sp+0.9*kd (knn)", {"method": "sp+0.9*kd", "graph": "knn", "k": 3}),
        ("kd", {"method": "kd"}),
        ("none", {"method": "none"}),
        ("ega (dense)", {}),
    ):
        job = build(make(**options))
        assert job.description()["objective"] == name
    images, info = job.data.train.pixels[:2], job.description()
    mean, std = (torch.tensor(info[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(job.task.student_input(images), (images / 255 - mean) / std)
    assert info["classes"] == ["ant", "bee", "cat"] and info["in_channels"] == 3 and info["image_size"] == 8
    assert (info["backbone"], info["dim"], info["mean"]) == ("resnet8", 16, list(job.data.mean))


def test_the_student_s_images_may_be_normalised_as_the_teacher_s(make: RecipeMaker) -> None:
    """As EGA's official code does, also for a student alone; the stored student says so."""
    options: dict[str, Any] = {"dataset": "digits", "labels_per_class": 0, "normalise": "teacher"}
    options |= {"teacher_mean": (0.25,), "teacher_std": (0.5,)}  # the embedded teacher's own are those of digits
    teacher, job = open_teacher(make(**options)), build(make(**options))
    images = job.data.train.pixels[:2]
    torch.testing.assert_close(job.task.student_input(images), (images / 255 - teacher.mean[0]) / teacher.std[0])
    assert job.description()["mean"] == list(teacher.mean) and job.description()["std"] == list(teacher.std)
    alone = build(make(**options, method="none"))
    assert alone.data.mean == teacher.mean != open_data(make(**options)).mean
    told = r"^normalise 'teacher' needs images with .* got 3 and 1 of embedded:digits"
    assert_refused_like((lambda: build(make(normalise="teacher")), told))


def test_the_whole_student_is_compiled_and_its_weights_keep_their_names(make: RecipeMaker) -> None:
    """What it computes is measured by a benchmark: compiling takes half a minute and a C++ compiler."""
    plain, compiled = build(make()).objective, build(make(compile=True)).objective
    assert list(plain.state_dict()) == list(compiled.state_dict())
    assert compiled.student._compiled_call_impl is not None and plain.student._compiled_call_impl is None


# Steps


def test_patches_go_through_both_networks_and_stay_in_memory(make: RecipeMaker) -> None:
    job = build(make(method="seed", augment="moco", method_args=("queue=40", "patches=2"), batch_size=7))
    seed = part(job.objective, "seed")
    assert isinstance(seed, SEED) and seed.patch_memory is not None
    first, images, meter = seed.patch_memory.keys[:5].clone(), job.data.train.pixels[INDEX], Meter()
    batch = Batch(INDEX, job.data.train.labels[INDEX])
    inputs = job.feed(images, batch, torch.Generator().manual_seed(0))
    assert inputs.extra is not None and inputs.extra.shape == (8, 3, 3, 3)
    assert inputs.teacher is not None and inputs.teacher.extra is not None
    step(job, images, INDEX, torch.Generator().manual_seed(0), meter)
    row = meter.read(0)
    assert row["loss"] == pytest.approx(row["seed"] + row["seed_patches"]) and row["seed_patches"] > 0
    torch.testing.assert_close(seed.patch_memory.keys[:4], normalize(inputs.teacher.extra.embedding[:4]))
    assert torch.equal(seed.patch_memory.keys[4], first[4]) and int(seed.patch_memory.next) == 4


def test_a_method_that_comes_first_trains_alone_and_then_no_more(make: RecipeMaker, finished: Runs) -> None:
    """Its column stays, and its later cells are empty."""
    first, *later = RunDirectory(finished("early")).read_metrics()
    assert first["cross_entropy"] == 0 < first["sp"] == first["loss"]
    assert len(later) == 2 and all("sp" not in row and 0 < row["cross_entropy"] == row["loss"] for row in later)
    assert [row["lr"] for row in later] == pytest.approx([first["lr"], first["lr"] / 10]), "the steps come after it"
    with RunDirectory(finished("early")).metrics_file.open(newline="") as stream:
        cells = [row["sp"] for row in csv.DictReader(stream)]
    assert float(cells[0]) > 0 and cells[1:] == ["", ""]
    job = build(make(method="sp", init_epochs=1))
    student = job.objective.student
    before, stem = states(student, "head."), "backbone.stem.0.weight"
    start = student.state_dict()[stem].clone()
    train_epoch(job, 0)
    assert equal(states(student, "head."), before) and not torch.equal(student.state_dict()[stem], start)
    train_epoch(job, 1)
    assert not equal(states(student, "head."), before)


def test_labels_play_no_part_in_what_needs_none(make: RecipeMaker) -> None:
    """The student is the same to the last bit without labels; the teacher's head learns from them for itself."""
    options: dict[str, Any] = {"method": "seed", "method_args": ("queue=40",), "batch_size": 7}
    some, others = (build(make(**options, **given)) for given in ({}, {"labels_per_class": 0, "label_noise": 1.0}))
    head, stem = states(some.objective, "student.head."), states(some.objective, "student.backbone.stem.")
    rows = [train_epoch(job, 0)[0] for job in (some, others)]
    assert equal(*(states(job.objective, "student.", "method.") for job in (some, others)))
    heads = [states(job.objective, "teacher_head.classify.weight") for job in (some, others)]
    assert not equal(*heads), "else the labels were the same"
    assert equal(states(some.objective, "student.head."), head)
    assert not equal(states(some.objective, "student.backbone.stem."), stem)
    for row in rows:
        assert row["cross_entropy"] == 0 < row["seed"] == row["loss"] and "train_top1" not in row
    assert rows[0]["seed"] == rows[1]["seed"] and rows[0]["teacher_head"] != rows[1]["teacher_head"]


def test_a_head_that_no_class_teaches_stays_as_it_is(make: RecipeMaker) -> None:
    """Its cross-entropy is 0 on images without labels: weight decay alone would shrink it, step by step."""
    job = build(make(dataset="unlabelled", method="ega", gamma=0))
    before = states(job.objective, "teacher_head.")
    assert list(job.objective.teacher_parameters()) == [] and "teacher_optimiser" not in job.optimisers
    assert train_epoch(job, 0)[0]["edge"] > 0 and equal(states(job.objective, "teacher_head."), before)


# Results


def test_the_test_split_is_read_at_the_end(make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, splits = Classes.evaluate, list[str]()

    def record(self: Classes, network: Any, images: Any, **options: Any) -> dict[str, float]:
        splits.append(images.split)
        return original(self, network, images, **options)

    monkeypatch.setattr(Classes, "evaluate", record)
    for select, expected in (("val", ["val", "val", "test", "test"]), ("test", ["test"] * 4)):
        splits.clear()
        train(make(epochs=2, select=select), tmp_path / select)
        assert splits == expected


def test_what_the_result_says(finished: Runs) -> None:
    for variant, method, weights, graph in (
        ("dense", "ega", {"ega": 1.0}, "dense"),
        ("knn-conv", "ega", {"ega": 1.0}, "knn"),
        ("none", "none", {}, None),
        ("memory-maps", "crd+0.5*sp+0.9*kd", {"crd": 0.8, "sp": 0.5, "kd": 0.9}, "dense"),
        ("seed", "seed", {"seed": 1.0}, None),
        ("select-test", "ega", {"ega": 1.0}, "dense"),
    ):
        path = finished(variant)
        result, select = result_of(path), "test" if variant == "select-test" else "val"
        assert (result["method"], result["weights"], result["graph"]) == (method, weights, graph)
        score = f"{select}_{'knn' if variant == 'seed' else 'top1'}"
        values = [row[score] for row in RunDirectory(path).read_metrics()]
        assert result["selected_on"] == select and result[f"{score}_of_best"] == max(values)
        assert result["best_epoch"] == 1 + values.index(max(values)), "the first of the best"
        how = {"seed": "by the k-NN accuracy of the features on a validation split held out", "select-test": "on the "
               "test split itself"}.get(variant, "on a validation split held out")  # fmt: skip
        assert result["note"].startswith(f"best epoch picked {how}")
        assert (f"{'val' if select == 'test' else 'test'}_top1_of_best") not in result
        if select == "test":
            assert result["test_top1_of_best"] == result["test"]["best"]["top1"]


def test_without_a_best_epoch_the_result_is_that_of_the_last(make: RecipeMaker, tmp_path: Path) -> None:
    """Validation images are measured where there are some; the test split once, at the end."""
    train(make(select="last", epochs=2), tmp_path / "run")
    result, rows = result_of(tmp_path / "run"), RunDirectory(tmp_path / "run").read_metrics()
    assert all("val_top1" in row and "test_top1" not in row for row in rows)
    assert list(result["test"]) == ["last"] and result["selected_on"] == "last" and "best_epoch" not in result
    assert result["note"] == "the last epoch: none was picked; the test split was only read at the end"
    kept, best = open_student(tmp_path / "run")[0], load_checkpoint(tmp_path / "run" / "best.ckpt")["objective"]
    last = load_checkpoint(tmp_path / "run" / "last.ckpt")["objective"]
    assert equal(best, last) and equal(states(kept), {n: last[f"student.{n}"] for n in kept.state_dict()})


def test_all_images_train_without_validation_images(tmp_path: Path) -> None:
    """Those of an epoch that fill no batch as well."""
    recipe = resolve({"student": "resnet8", "method": "none", "select": "last", "val_fraction": 0.0, "epochs": 1,
                      "drop_last": False, "batch_size": 500, "labels_per_class": 0, "device": "cpu"})  # fmt: skip
    result = train(recipe, tmp_path / "run")
    assert result["images"] == {"train": 1442, "labelled": 1442, "val": 0, "test": 355}
    assert result["test"]["last"].keys() == {"top1", "top5"}
    assert not any(name.startswith("val_") for row in RunDirectory(tmp_path / "run").read_metrics() for name in row)


def test_a_student_without_labels_is_judged_by_its_neighbours(make: RecipeMaker, finished: Runs) -> None:
    """Also by a linear probe in the end; both learn from all training images and their true labels."""
    path = finished("seed")
    result = result_of(path)
    for row in RunDirectory(path).read_metrics():
        assert 0 <= row["val_knn"] <= 100 and not {"val_top1", "train_top1", "val_linear"} & row.keys()
    job = build(make("seed"))
    data, student, device = job.data, job.objective.student.eval(), torch.device("cpu")
    every = data.train.true_labels
    assert (data.train.labels < 0).any() and not (every < 0).any()
    for which in ("best", "last"):
        weights = load_checkpoint(path / f"{which}.ckpt")["objective"]
        student.load_state_dict({k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")})
        of_train, of_test, of_val = (
            embed(student.backbone, split, job.task.student_input, 64, device)
            for split in (data.train, data.test, data.val)
        )
        assert result["test"][which] == {
            "knn": knn_accuracy(of_train, every, of_test, data.test.labels, k=20),
            "linear": pytest.approx(linear_probe(of_train, every, of_test, data.test.labels), abs=100 / 18 + 1e-9),
        }
        if which == "best":
            assert result["val_knn_of_best"] == knn_accuracy(of_train, every, of_val, data.val.labels, k=20)


def test_images_without_labels(make: RecipeMaker, finished: Runs) -> None:
    """The last epoch is the best, and nothing is said that nobody could know; what was learned is fine-tuned."""
    path = finished("unlabelled")
    result = result_of(path)
    assert result["test"] == {"last": {}, "best": {}} and result["best_epoch"] == result["epochs"] == 2
    assert result["note"] == "there are no labelled images to pick the best epoch by: it is the last"
    assert not any(name.endswith("_of_best") for name in result)
    assert result["images"] == {"train": 36, "labelled": 0, "val": 0, "test": 0}
    rows = RunDirectory(path).read_metrics()
    assert [row["teacher_head"] for row in rows] == [0, 0] and all(row["infonce"] > 0 for row in rows)
    assert not any(name.startswith(("val_", "test_")) or name == "train_top1" for row in rows for name in row)
    student, info = open_student(path)
    last = load_checkpoint(path / "last.ckpt")["objective"]
    assert all(torch.equal(last[f"student.{name}"], tensor) for name, tensor in student.state_dict().items())
    assert info["classes"] == [] and info["objective"] == "infonce"
    job = build(make(method="none", init_from=str(path)))
    own = job.objective.student.backbone
    assert equal(states(own), states(student.backbone))
    row, _ = train_epoch(job, 0)
    assert row["cross_entropy"] == row["loss"] > 0 and "train_top1" in row
    assert not equal(states(own), states(student.backbone))
