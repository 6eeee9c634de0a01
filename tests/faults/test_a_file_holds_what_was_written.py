"""Each file of a run, damaged in each way: the right figures, or one line that names the file, never others."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.analysis.report import write_report
from relgraph.analysis.run_loading import evaluate_run
from relgraph.errors import RelgraphError
from relgraph.files import read_json, read_table, read_yaml
from relgraph.networks.files import check_network
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import train
from relgraph.training.runs import RunDirectory
from tests.checks import case

Command = Callable[[Path], Any]
READERS: dict[str, Command] = {
    "recipe.yaml": lambda file: read_yaml(file, sealed=True),
    "inputs.json": read_json,
    "environment.json": read_json,
    "result.json": read_json,
    "metrics.csv": read_table,
    "diagnostics.csv": read_table,
    "student.safetensors": check_network,
    "best.ckpt": load_checkpoint,
    "last.ckpt": load_checkpoint,
}


def resume(path: Path) -> Any:
    train(RunDirectory.open(path).recipe(), path, resume=True)
    student = (path / "student.safetensors").read_bytes()
    return {**read_json(path / "result.json"), "images_per_s": 0}, student


def report(path: Path) -> Any:
    write_report([path], path.parent / "page.html", k=2)
    return (path.parent / "page.html").read_text(encoding="utf-8")


COMMANDS: dict[str, Command] = {  # analyze and export open a run as evaluate does
    "resume": resume,
    "evaluate": lambda path: {**evaluate_run(path, k=3), "run": ""},
    "report": report,
}


def flip(data: bytes, place: int) -> bytes:
    """Return the bytes with one bit flipped."""
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


def damaged(data: bytes) -> dict[str, bytes | None]:
    return {
        "empty": b"",
        "half": data[: len(data) // 2],
        "one bit": flip(data, len(data) * 2 // 3),
        "garbage": random.Random(0).randbytes(len(data)),
        "missing": None,
    }


def test_damage_is_noticed_wherever_it_is(finished: Path, tmp_path: Path) -> None:
    for name, read in READERS.items():
        data, file = (finished / name).read_bytes(), tmp_path / name
        intact = read(finished / name)
        flips = [(str(place), flip(data, place)) for place in random.Random(name).sample(range(len(data)), 25)]
        rest = {fault: damaged(data)[fault] for fault in ("empty", "half", "garbage")}
        for fault, content in (*flips, *rest.items()):
            file.write_bytes(content or b"")
            with case(name, fault):
                try:
                    found = read(file)
                except RelgraphError as error:
                    assert name in str(error) and "\n" not in str(error) and "weights_only" not in str(error)
                    continue
                # What no reader reads, such as the bytes between an archive's parts.
                assert fault not in rest
                torch.testing.assert_close(found, intact, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def right(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("right") / "run")
    return {name: command(copy) for name, command in COMMANDS.items()}


def check_file(name: str, fault: str, content: bytes | None, run: Path, right: dict[str, Any], command: str) -> None:
    """Check that a command on a run with this damaged file gives what is right, or one line that names it."""
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    try:
        found = COMMANDS[command](run)
    except RelgraphError as error:
        assert name in str(error) and "\n" not in str(error) and "weights_only" not in str(error), error
    else:
        assert found == right[command] or (command == "report" and fault == "missing")


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_each_command_without_each_file(name: str, finished: Path, tmp_path: Path, right: dict[str, Any]) -> None:
    """Damaged, which the readers above notice, and missing."""
    data = (finished / name).read_bytes()
    for fault in ("one bit", "missing"):
        content = damaged(data)[fault]
        for command in COMMANDS:
            path = shutil.copytree(finished, tmp_path / f"{fault} {command}" / "run")
            with case(name, fault, command):
                check_file(name, fault, content, path, right, command)


@pytest.mark.slow
def test_a_student_and_a_best_checkpoint_are_written_again(run: Path, right: dict[str, Any]) -> None:
    for name in ("student.safetensors", "best.ckpt"):
        for content in (None, b"\0" * 1000):
            (run / name).unlink()
            if content is not None:
                (run / name).write_bytes(content)
            with case(name, content):
                if name == "best.ckpt" and load_checkpoint(run / "last.ckpt")["progress"]["best_epoch"] == 1:
                    with pytest.raises(RelgraphError, match="are in no other file"):
                        resume(run)
                    return
                assert resume(run) == right["resume"]
                READERS[name](run / name)


def test_a_run_whose_last_checkpoint_is_lost_goes_on_from_the_best_or_not_at_all(run: Path) -> None:
    student, last = (run / "student.safetensors").read_bytes(), run / "last.ckpt"
    whole = resume(run)
    for content in (None, flip(last.read_bytes(), 20_000)):
        last.unlink() if content is None else last.write_bytes(content)
        assert resume(run) == whole
    (run / "best.ckpt").unlink()
    last.unlink()
    with pytest.raises(RelgraphError, match=r"there is no checkpoint .*last\.ckpt: put back a copy, or begin another"):
        resume(run)
    assert (run / "student.safetensors").read_bytes() == student


def test_a_recipe_is_whole_or_refused(run: Path) -> None:
    file = run / "recipe.yaml"
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    for name, content in {
        "cut": "".join(lines[:41]),
        "empty": "",
        "edited": text.replace("epochs: 2", "epochs: 9"),
        "another seed": text.replace("seed: 0", "seed: 1"),
        "no comment": "".join(lines[:-1]),
    }.items():
        file.write_text(content)
        with case(name), pytest.raises(RelgraphError, match=r"recipe\.yaml is damaged or was changed"):
            RunDirectory.open(run).recipe()
