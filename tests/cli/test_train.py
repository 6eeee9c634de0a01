import json
import math
import shutil
from pathlib import Path

import click
import pytest
import torch

from relgraph.analysis import plots
from relgraph.methods import METHODS
from relgraph.training.runs import RunDirectory
from tests.cli.conftest import Failing, Program, check_told, recipe, stopped_in_step_4

# The 30 labelled images of the digits' preset, in one batch: an epoch is one step.
STEP = ("train", "--labelled-share", 1, "--batch-size", 30, "--epochs", 1)
QUICK = (*STEP, "--method", "none")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no learning curve, which takes longer than a step does."""
    monkeypatch.setattr(plots, "learning_curve", lambda path: path)


def test_a_run_directory_is_complete(run: Path) -> None:
    files = ".lock inputs.json recipe.yaml environment.json metrics.csv diagnostics.csv tensorboard last.ckpt best.ckpt"
    files += " result.json student.safetensors learning_curve.png"
    assert {file.name for file in run.iterdir()} == {*files.split()}


def test_what_a_user_reads(program: Program, tmp_path: Path) -> None:
    told = program(*QUICK, "--out", "a run").stdout
    first, teacher, epoch, header, _, last, best, note, following = told.splitlines()
    assert first == "digits: resnet8 without a teacher, 1 epoch -> a run"
    assert teacher == "teacher: none"
    assert epoch.startswith("epoch   1/1  loss ")
    assert header.split("  ") == ["student on the test split", "top-1 %", "top-5 %"]
    test = json.loads((tmp_path / "a run" / "result.json").read_text())["test"]
    for line, row in ((last, test["last"]), (best, test["best"])):
        assert line.split()[-2:] == [f"{row['top1']:.2f}", f"{row['top5']:.2f}"]
    assert "validation split" in note
    assert following == "next: relgraph evaluate 'a run'"


@pytest.fixture(scope="module")
def ss_head(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that trained the self-supervision head of the embedded teacher for two steps."""
    path = tmp_path_factory.mktemp("runs") / "head"
    options = ("--teacher", "embedded:digits", "--batch-size", 600, "--epochs", 1, "--out", path)
    first, note, _, following = program("pretrain", "--objective", "sskd-head", *options).stdout.splitlines()
    assert first == f"digits: a head for embedded:digits by sskd-head, 1 epoch -> {path}" and note.endswith(
        "views: crop"
    )
    assert following == f"next: relgraph train --method sskd --teacher embedded:digits --ss-head {path} ..."
    return path


def test_a_step_of_all_methods_in_one_sum(program: Program, ss_head: Path) -> None:
    """Each is built for the networks of the run, and its terms are finite."""
    known = [name for name in METHODS if name != "holistic"]  # which networks that classify images have not
    program(*STEP, "--method", "+".join(known), "--init-epochs", 0, "--ss-head", ss_head, "--out", "run")
    (row,) = RunDirectory(Path("run")).read_metrics()
    names = list(row)
    own = [name for name in names[: names.index("train_top1")] if name.startswith(("cross_entropy", *METHODS))]
    for method in known:
        found = [name for name in own if name == method or name.startswith(f"{method}_")]
        assert found and all(math.isfinite(row[name]) and row[name] > 0 for name in found), method
    assert row["loss"] == pytest.approx(sum(row[name] for name in own), rel=1e-5)
    assert any(name.endswith("paraphraser") for name in row), "the teacher's side learns"


@pytest.mark.slow
def test_from_images_without_labels_to_a_classifier(
    program: Program, failure: Failing, photos: Path, flat: Path
) -> None:
    """A folder of images alone teaches a student, which then learns from a few labels."""
    common = ("train", "--student", "resnet8", "--batch-size", 4, "--epochs", 2)
    folder, teacher = ("--dataset", f"folder:{flat}"), ("--teacher", "embedded:digits")
    told = program(*common, *folder, *teacher, "--method", "seed", "--out", "seed").stdout.splitlines()
    assert told[0] == f"folder:{flat}: resnet8 from embedded:digits, method seed, 2 epochs -> seed"
    assert told[1].startswith("teacher: online, in every step (the teacher reads the student's own views, those of m")
    assert all(line.startswith("epoch ") and "train " not in line and "k-NN" not in line for line in told[2:4])
    assert told[4:] == [
        "there are no labelled images to pick the best epoch by: it is the last", "next: relgraph report seed",
    ]  # fmt: skip
    assert failure("evaluate", "seed").endswith("flat has no labels, by which networks could be judged")
    assert failure(*common, *folder, *teacher).startswith(f"folder:{flat} has no labels, and method ega learns")
    labelled = ("--dataset", f"folder:{photos}", "--val-fraction", 0.25)
    told = program(*common, *labelled, "--method", "none", "--init-from", "seed", "--out", "tuned").stdout.splitlines()
    assert told[4].split("  ")[0] == "student on the test split"
    assert recipe("tuned")["init_from"] == "seed"


def test_a_student_without_labels_is_told_by_its_neighbours(contrasted: tuple[Path, str]) -> None:
    path, text = contrasted
    told, (row,) = text.splitlines(), RunDirectory(path).read_metrics()
    assert row["cross_entropy"] == 0 < row["val_knn"] and row["teacher_head"] > 0 and "val_top1" not in row
    assert row["loss"] == pytest.approx(row["seed"]), "a contrast alone"
    assert "  val k-NN " in told[2] and "train" not in told[2]
    assert told[3].split("  ") == ["student on the test split", "k-NN %", "linear probe %"]
    test = json.loads((path / "result.json").read_text())["test"]
    for line, row in zip(told[5:7], (test["last"], test["best"]), strict=True):
        assert line.split()[-2:] == [f"{row['knn']:.2f}", f"{row['linear']:.2f}"]
    assert told[7].startswith("best epoch picked by the k-NN accuracy of the features on a validation split")


def test_a_memory_goes_on_after_a_stop(command: click.Group, program: Program) -> None:
    """Two steps an epoch; the stop comes between those of the second."""
    options = (*STEP[:-3], 15, "--epochs", 3, "--method", "crd+rkd", "--method-args", "negatives=64")
    told = stopped_in_step_4(command, *options, "--out", "a run")
    assert told == "\nstopped; finished epochs are kept, continue with: relgraph train --resume 'a run'\n"
    torch.manual_seed(12345)
    told = program("train", "--resume", "a run").stdout
    assert "epoch   1/3" not in told and "epoch   3/3" in told
    program(*options, "--out", "whole")
    assert Path("a run/student.safetensors").read_bytes() == Path("whole/student.safetensors").read_bytes()


def test_free_names(program: Program) -> None:
    for name in ("digits-resnet8-none-seed3", "digits-resnet8-none-seed3-2"):
        told = program(*QUICK, "--seed", 3, "--select", "test").stdout
        assert f"-> runs/{name}\n" in told and "on the test split itself" in told
        assert recipe(Path("runs", name))["seed"] == 3


def test_a_recipe_repeats_the_run(program: Program, run: Path) -> None:
    told = program("train", "--config", run / "recipe.yaml", "--out", "again").stdout
    assert told.startswith("digits: resnet8 from embedded:digits, ega on the graph knn, 1 epoch -> again\n")
    assert Path("again/recipe.yaml").read_text() == (run / "recipe.yaml").read_text()
    assert Path("again/student.safetensors").read_bytes() == (run / "student.safetensors").read_bytes()


def test_options_over_the_file_over_the_preset(program: Program, tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("epochs: 9\nlr: 1e-1\nmethod: none\nstudent: resnet8\nmilestones: [1, 2]\n")
    program("train", "--preset", "ega", "--config", "few.yaml", "--epochs", 1, "--batch-size", 721, "--out", "run")
    found = recipe("run")
    assert (found["epochs"], found["lr"], found["student"], found["milestones"]) == (1, 0.1, "resnet8", [1, 2])
    assert (found["views"], found["labels_per_class"], found["schedule"]) == ("independent", 0, "step")


def test_weights_that_cannot_be_fetched(failure: Failing, misuse: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "empty")
    assert "the weights of open_clip:ViT-B-32/openai could not be loaded" in failure("train", "--clip_mode", "ViT-B/32")
    assert "not both" in misuse("train", "--clip_mode", "RN50", "--teacher", "embedded:digits")
    told = failure("train", "--teacher", "timm:resnet18")
    assert "https://huggingface.co/timm/resnet18" in told and "--teacher-weights FILE" in told


def test_errors(failure: Failing) -> None:
    check_told(failure, ("train",), {
        "--preset eag": "unknown preset 'eag': did you mean 'ega'?",
        "--method rkd --method-args angel_weight=2": "'angel_weight': did you mean 'angle_weight'?",
        "--teacher-args num_classes=3": "a checkpoint takes the argument output=feature or output=projection",
        "--teacher timm:resnet18 --teacher-weights no.safetensors": "there is no weights file no",
        "--clip_mode ViT-B/23": "unknown CLIP network 'ViT-B/23': did you mean 'ViT-B/32'?",
        "--resume nothing": "nothing is not a run",
    })  # fmt: skip


def test_a_run_that_exists(failure: Failing, run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    check_told(failure, (*QUICK, "--out", run), {"": f"{run} exists already: continue it with --resume {run}"})
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_resume_takes_no_other_option(misuse: Failing, run: Path) -> None:
    given = ("--epochs 3", "--out run", "--preset ega", "--clip_mode RN50", "-a 0")
    check_told(misuse, ("train", "--resume", run), dict.fromkeys(given, "--resume keeps the recipe of the run"))


def test_resume_a_finished_run(program: Program, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    before = json.loads((run / "result.json").read_text())
    assert "epoch   1/1" not in program("train", "--resume", copy).stdout
    assert json.loads((copy / "result.json").read_text()) == before
