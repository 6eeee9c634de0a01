"""`relgraph pretrain`: what it tells, what it leaves, how it stops and goes on."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from relgraph.training.runs import RunDirectory
from tests.cli.conftest import Failing, Program, check_told, ended, recipe, stopped_in_step_4

QUICK = ("pretrain", "--network", "resnet8", "--epochs", 1, "--device", "cpu")
SMALL = (*QUICK, "--dim", 4, "--batch-size", 8, "--precision", "32-true")


@pytest.fixture(scope="module")
def digits(program: Program, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of one epoch on digits in a folder with a space, and what it told. Tests must leave it as it is."""
    path = tmp_path_factory.mktemp("runs") / "a run"
    return path, program(*QUICK, "--out", path).stdout.splitlines()


def test_what_a_user_reads(digits: tuple[Path, list[str]]) -> None:
    path, (first, note, epoch, header, _, figures, untrained, following) = digits
    assert first == f"digits: resnet8 by simclr, 1 epoch -> {path}"
    assert note == "1299 images without their labels, views: digits"
    result = json.loads((path / "result.json").read_text())
    (row,) = RunDirectory(path).read_metrics()
    assert epoch.startswith(f"epoch   1/1  loss {row['loss']:.4f}  val k-NN {row['val_knn']:.2f} %  ")
    assert header.split("  ") == ["features on the test split", "k-NN %", "linear probe %"]
    assert figures.split() == ["resnet8", f"{result['test']['knn']:.2f}", f"{result['test']['linear']:.2f}"]
    before = result["test_untrained"]
    assert untrained.split() == ["resnet8,", "untrained", f"{before['knn']:.2f}", f"{before['linear']:.2f}"]
    assert following == f"next: relgraph train --teacher checkpoint:'{path}' ..."


def test_a_run_directory_is_complete(digits: tuple[Path, list[str]]) -> None:
    path, _ = digits
    files = ".lock inputs.json recipe.yaml environment.json metrics.csv tensorboard last.ckpt network.safetensors"
    assert {file.name for file in path.iterdir()} == {*files.split(), "result.json", "learning_curve.png"}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["seed"] == 0 and {"versions", "commit", "hardware"} <= environment.keys()
    found = recipe(path)
    assert (found["optimiser"], found["dim"], found["hidden"], found["warmup_epochs"]) == ("adamw", 64, 128, 0)


@pytest.mark.slow
def test_what_it_tells_to_do_next_can_be_done(digits: tuple[Path, list[str]], program: Program) -> None:
    _, told = digits
    command = shlex.split(told[-1].removeprefix("next: relgraph ").removesuffix(" ..."))
    quick = ("--student", "resnet8", "--epochs", 1, "--batch-size", 30, "--labelled-share", 1)
    assert "resnet8 from checkpoint:" in program(*command, *quick, "--out", "student").stdout


def test_help(program: Program) -> None:
    told = " ".join(program("pretrain", "--help-all").stdout.split())
    default = "[default: simclr 0.5, moco 0.2, sskd-head 1.0] [simclr on digits: 0.2]"
    example, warmup = "Examples: relgraph pretrain the teacher", "10, or a tenth of the epochs if that is fewer"
    assert all(words in told for words in (example, "--objective [simclr|moco|sskd-head]", default, warmup))


def test_a_folder_without_labels(program: Program, flat: Path) -> None:
    *_, epoch, following = program(*SMALL, "--dataset", f"folder:{flat}").stdout.splitlines()
    assert "k-NN" not in epoch
    assert following == "next: relgraph train --teacher checkpoint:runs/flat-resnet8-simclr-seed0 ..."
    path = Path("runs/flat-resnet8-simclr-seed0")
    assert json.loads((path / "result.json").read_text())["test"] == {}
    assert (path / "learning_curve.png").exists() and (path / "network.safetensors").exists()


def test_options_over_the_file_over_what_was_published(program: Program, failure: Failing, flat: Path) -> None:
    Path("few.yaml").write_text(f"dataset: folder:{flat}\nepochs: 9\nlr: 1e-2\nschedule: constant\n")
    program(*SMALL, "--config", "few.yaml", "--out", "run")
    found = recipe("run")
    assert (found["epochs"], found["lr"], found["schedule"], found["temperature"]) == (1, 0.01, "constant", 0.5)
    Path("few.yaml").write_text("student: resnet8\n")
    assert failure("pretrain", "--config", "few.yaml").startswith("unknown option 'student'")


def test_errors(failure: Failing, misuse: Failing) -> None:
    check_told(failure, ("pretrain",), {
        "--dataset folder:nowhere": "nowhere: no such folder",
        "--objective sskd-head": "sskd-head trains a head of a teacher: give --teacher",
        "--objective sskd-head --teacher checkpoint:no": "cannot read the network file no",
        "--config no.yaml": "cannot read no.yaml",
        "--resume nothing": "nothing is not a run",
    })  # fmt: skip
    assert "'simsiam' is not one of" in misuse("pretrain", "--objective", "simsiam")
    told = "--resume keeps the recipe of the run: give no other option with it"
    given = ("--epochs 3", "--seed 0", "--out other", "--config f.yaml")
    check_told(misuse, ("pretrain", "--resume", "run"), dict.fromkeys(given, told))


def test_each_command_resumes_its_own_runs(failure: Failing, digits: tuple[Path, list[str]], alone: Path) -> None:
    path, _ = digits
    assert failure("pretrain", "--resume", alone) == (
        f"{alone} is a run of relgraph train: continue it with relgraph train --resume {alone}"
    )
    assert failure("train", "--resume", path).startswith(f"{path} is a pre-training (simclr): expected a run of")
    assert failure("evaluate", path).startswith(f"{path} is a pre-training (simclr): expected a run of")
    assert failure(*QUICK, "--out", path).startswith(f"{path} exists already: continue it with --resume {path}")


def test_an_interrupted_run_is_resumed(command: click.Group, program: Program, flat: Path) -> None:
    options = (*SMALL, "--objective", "moco", "--queue", 5, "--dataset", f"folder:{flat}", "--epochs", 3)
    told = stopped_in_step_4(command, *options, "--out", "a run")  # of two in an epoch
    assert told == "\nstopped; finished epochs are kept, continue with: relgraph pretrain --resume 'a run'\n"
    again = program("pretrain", "--resume", "a run").stdout
    assert "epoch   1/3" not in again and "epoch   3/3" in again
    copy = Path(shutil.copytree("a run", "copy"))
    assert "epoch" not in program("pretrain", "--resume", copy).stdout.split("->")[1]


def test_an_interrupt_before_there_is_a_run(command: click.Group, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from relgraph.training import pretraining

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "build_pretraining", stop)
    told = ended(command, 130, *SMALL, "--dataset", f"folder:{flat}", "--out", "run").stderr
    assert told == "\nstopped before the training began\n" and not Path("run").exists()
