import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result

Program = Callable[..., Result]
Failing = Callable[..., str]
QUICK = ("train", "--method", "none", "--epochs", 1)


def recipe(path: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(path) / "recipe.yaml").read_text())
    return content


def test_a_run_directory_is_complete(run: Path) -> None:
    assert {file.name for file in run.iterdir()} == {
        "recipe.yaml", "environment.json", "metrics.csv", "tensorboard", "last.ckpt", "best.ckpt",
        "student.safetensors", "result.json", "learning_curve.png",
    }  # fmt: skip
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_user_reads(program: Program, tmp_path: Path) -> None:
    first, teacher, epoch, header, _, last, best, note, following = program(
        *QUICK, "--out", "a run"
    ).stdout.splitlines()
    assert first == "digits: resnet8 without a teacher, 1 epoch -> a run"
    assert teacher == "teacher: none"
    assert epoch.startswith("epoch   1/1  loss ")
    assert header.split("  ") == ["student on the test split", "top-1 %", "top-5 %"]
    test = json.loads((tmp_path / "a run" / "result.json").read_text())["test"]
    for line, row in ((last, test["last"]), (best, test["best"])):
        assert line.split()[-2:] == [f"{row['top1']:.2f}", f"{row['top5']:.2f}"]
    assert "validation split" in note
    assert following == "next: relgraph evaluate 'a run'"


def test_the_first_line_names_teacher_method_and_graph(program: Program) -> None:
    told = program("train", "--graph", "knn", "--k", 4, "--epochs", 1, "--out", "knn").stdout
    assert told.startswith("digits: resnet8 from embedded:digits, ega on the graph knn, 1 epoch -> knn\n")


def test_selecting_on_the_test_split_is_said(program: Program) -> None:
    assert "on the test split itself" in program(*QUICK, "--select", "test").stdout


def test_free_names(program: Program) -> None:
    for name in ("digits-resnet8-none-seed3", "digits-resnet8-none-seed3-2"):
        assert f"-> runs/{name}\n" in program(*QUICK, "--seed", 3).stdout
        assert recipe(Path("runs", name))["seed"] == 3


def test_a_recipe_repeats_the_run(program: Program, run: Path) -> None:
    program("train", "--config", run / "recipe.yaml", "--out", "again")
    assert Path("again/recipe.yaml").read_text() == (run / "recipe.yaml").read_text()
    assert None in recipe("again").values()
    assert Path("again/student.safetensors").read_bytes() == (run / "student.safetensors").read_bytes()


def test_options_over_the_file_over_the_preset(program: Program, tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("epochs: 9\nlr: 1e-1\nmethod: none\nstudent: resnet8\nmilestones: [1, 2]\n")
    program("train", "--preset", "ega", "--config", "few.yaml", "--epochs", 1, "--out", "run")
    found = recipe("run")
    assert (found["epochs"], found["lr"], found["student"], found["milestones"]) == (1, 0.1, "resnet8", [1, 2])
    assert (found["views"], found["labels_per_class"], found["schedule"]) == ("independent", 0, "step")


def test_the_preset_of_the_original(program: Program) -> None:
    program("train", "--preset", "ega", "--student", "resnet8", "--epochs", 1, "--out", "run")
    found = recipe("run")
    assert (found["node_weight"], found["edge_weight"], found["batch_size"], found["lr"]) == (0.8, 0.24, 64, 0.05)
    assert (found["milestones"], found["schedule"]) == (None, "step")


def test_the_original_s_flags(program: Program) -> None:
    program(
        "train", "--distill", "kd", "--model_s", "resnet8", "-r", 0.5, "-a", 0.1, "-b", 2, "--epochs", 1, "--out", "r"
    )
    found = recipe("r")
    assert (found["method"], found["student"]) == ("kd", "resnet8")
    assert (found["gamma"], found["alpha"], found["beta"]) == (0.5, 0.1, 2.0)


def test_clip_mode(program: Program, failure: Failing, misuse: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "empty")
    assert "the weights of open_clip:ViT-B-32/openai could not be loaded" in failure("train", "--clip_mode", "ViT-B/32")
    assert "unknown CLIP network 'ViT-B/23': did you mean 'ViT-B/32'?" in failure("train", "--clip_mode", "ViT-B/23")
    assert "not both" in misuse("train", "--clip_mode", "RN50", "--teacher", "embedded:digits")


def test_weights_that_cannot_be_fetched(failure: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "empty")
    told = failure("train", "--teacher", "timm:resnet18")
    assert "https://huggingface.co/timm/resnet18" in told and "--teacher-weights FILE" in told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--student", "resnet9"], "unknown student 'resnet9': did you mean 'resnet8'?"),
        (["--teacher", "embeded:digits"], "unknown teacher source 'embeded': did you mean 'embedded'?"),
        (["--teacher", "timm:resnet188"], "unknown timm model 'resnet188': did you mean resnet18"),
        (["--method", "none", "--dataset", "cifar"], "unknown data set 'cifar': did you mean 'cifar10'?"),
        (["--method", "eg"], "unknown method 'eg': did you mean 'ega'?"),
        (["--preset", "eag"], "unknown preset 'eag': did you mean 'ega'?"),
        (["--graph", "knn", "--k", 64], "k must be between 1 and batch_size - 1 = 63, got 64"),
        (["--graph", "knn", "--k", 0], "k must be between 1 and batch_size - 1 = 63, got 0"),
        (["--graph", "dense", "--k", 8], "k and neighbours belong to the graph 'knn'"),
        (["--batch-size", 1], "batch_size must be at least 2, got 1"),
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--lr", "nan"], "lr must be at least 0, got nan"),
        (["--labels-per-class", 1000], "fewer than the 1000 labels per class asked for"),
        (["--teacher-args", "wide", "--teacher", "timm:resnet18"], "teacher arguments must be name=value, got 'wide'"),
        (["--teacher-args", "num_classes=3"], "arguments are for timm teachers"),
        (["--teacher-mean", "0.5,0.5"], "must have 1 values, got 2"),
        (["--teacher", "timm:resnet18", "--teacher-weights", "no.safetensors"], "there is no weights file no"),
        (["--teacher", "checkpoint:no.safetensors"], "no.safetensors"),
    ],
)  # fmt: skip
def test_errors(failure: Failing, args: list[object], told: str) -> None:
    assert told in failure("train", *args)
    assert not Path("runs").exists()


def test_no_cuda(failure: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert failure("train", "--device", "cuda").endswith("torch finds no CUDA device here: use --device cpu")


def test_a_loss_that_is_not_a_number(failure: Failing) -> None:
    assert "not a number in epoch 1" in failure(*QUICK, "--lr", 1e30)


def test_a_run_that_exists(failure: Failing, run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    assert failure(*QUICK, "--out", run).startswith(f"{run} exists already: continue it with --resume {run}")
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_a_folder_of_images(program: Program, photos: Path) -> None:
    program(*QUICK, "--dataset", f"folder:{photos}", "--val-fraction", 0.25, "--out", "run")
    assert json.loads(Path("run/result.json").read_text())["images"] == {
        "train": 6, "labelled": 6, "val": 2, "test": 2,
    }  # fmt: skip


def empty_class(photos: Path) -> Path:
    for file in (photos / "train" / "cat").iterdir():
        file.unlink()
    return photos / "train" / "cat"


def no_test_split(photos: Path) -> Path:
    shutil.rmtree(photos / "test")
    return photos


def another_class(photos: Path) -> Path:
    (photos / "test" / "cat").rename(photos / "test" / "cow")
    return photos


def corrupt_image(photos: Path) -> Path:
    file = photos / "train" / "dog" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    return file


def not_an_image(photos: Path) -> Path:
    file = photos / "test" / "dog" / "notes.jpg"
    file.write_text("notes")
    return file


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (empty_class, "no images in this class folder"),
        (no_test_split, "expected a folder val/ or test/ beside train/, found neither"),
        (another_class, "the classes of the test images differ from train/: missing cat; not in train/ cow"),
        (corrupt_image, "not a readable image"),
        (not_an_image, "not a readable image"),
    ],
)
def test_folders_that_cannot_be_used(failure: Failing, photos: Path, spoil: Callable[[Path], Path], told: str) -> None:
    culprit = spoil(photos)
    line = failure(*QUICK, "--dataset", f"folder:{photos}")
    assert line.startswith(f"{culprit}: ")
    assert told in line


def test_no_folder(failure: Failing) -> None:
    assert failure(*QUICK, "--dataset", "folder:nowhere") == "nowhere: no such folder"


def test_k_is_limited_by_the_images(failure: Failing, photos: Path) -> None:
    told = failure("train", "--dataset", f"folder:{photos}", "--teacher", "embedded:digits", "--graph", "knn", "--k", 7)
    assert "got 7" in told


def test_resume_takes_no_other_option(misuse: Failing, run: Path) -> None:
    for extra in (["--epochs", 3], ["--out", "run"], ["--preset", "ega"], ["--clip_mode", "RN50"], ["-a", 0]):
        assert misuse("train", "--resume", run, *extra).startswith("--resume keeps the recipe of the run")


def test_resume_a_finished_run(program: Program, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    before = json.loads((run / "result.json").read_text())
    assert "epoch   1/1" not in program("train", "--resume", copy).stdout
    assert json.loads((copy / "result.json").read_text()) == before


def test_resume_what_is_not_a_run(failure: Failing) -> None:
    assert failure("train", "--resume", "nothing").startswith("nothing is not a run")


def test_resume_a_truncated_checkpoint(failure: Failing, run: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(run, tmp_path / "copy")) / "last.ckpt"
    file.write_bytes(file.read_bytes()[:5000])
    assert failure("train", "--resume", file.parent).startswith(f"cannot read the checkpoint {file}, is it truncated?")


def test_resume_a_checkpoint_of_another_architecture(failure: Failing, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "recipe.yaml").write_text(yaml.safe_dump({**recipe(run), "student": "resnet14"}))
    assert failure("train", "--resume", copy).startswith(f"{copy / 'last.ckpt'} does not belong to this run's recipe")


def test_an_interrupted_run_is_resumed(program: Program, environment: dict[str, str], tmp_path: Path) -> None:
    options = ["train", "--method", "none", "--epochs", "4", "--batch-size", "16", "--out", "a run"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "relgraph", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # A shell that started the tests in the background has them, and what they start, ignore the signal.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith("epoch   1/4") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "\nstopped; finished epochs are kept, continue with: relgraph train --resume 'a run'\n"
    told = program("train", "--resume", "a run").stdout
    assert "epoch   1/4" not in told
    assert "epoch   4/4" in told
    program(*options[:-1], "whole")
    assert Path("a run/student.safetensors").read_bytes() == Path("whole/student.safetensors").read_bytes()
