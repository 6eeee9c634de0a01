import csv
import json
import os
from pathlib import Path

import click
from click.testing import CliRunner

import relgraph
from relgraph.networks.files import save_tensors
from tests.cli.conftest import Failing, Program, ended
from tests.deploy.students import segmenter_of


def test_a_table_csv_and_json_say_the_same(program: Program, run: Path, flat: Path) -> None:
    expected = relgraph.predict(run, flat, device="cpu").rows
    assert len(expected) == 16
    header, _, *lines = program("predict", run, flat, "--device", "cpu").stdout.splitlines()
    assert header.split() == ["file", "class", "probability", "%"]
    told = [line.split() for line in lines]
    assert told == [[row.file, row.classes[0], f"{100 * row.probabilities[0]:.2f}"] for row in expected]
    found = json.loads(program("predict", run, flat, "--format", "json", "--device", "cpu").stdout)
    assert found == [row.cells() for row in expected]
    assert program("predict", run, flat, "-o", "o.csv", "--top", 2).stdout == "o.csv: 16 images\n"
    text = Path("o.csv").read_text()
    assert program("predict", run, flat, "--format", "csv", "--top", 2).stdout == text
    assert [row["file"] for row in csv.DictReader(text.splitlines())] == [row.file for row in expected]


def test_names_come_from_standard_input(command: click.Group, run: Path, flat: Path) -> None:
    files = sorted(flat.rglob("*.png"))[:3]
    text = b"\r\n".join(map(os.fsencode, files)) + b"\n\n"
    result = CliRunner().invoke(command, ["predict", str(run), "-", "--format", "json"], input=text)
    assert [row["file"] for row in json.loads(result.stdout)] == list(map(str, files))


def test_files_that_cannot_be_read_do_not_fail_the_others(command: click.Group, run: Path, flat: Path) -> None:
    bad = flat / "bad.png"
    bad.touch()
    result = ended(command, 0, "predict", run, flat, "none.png", "--format", "csv")
    assert len(result.stdout.splitlines()) == 17
    first, second, count = result.stderr.splitlines()
    assert first == "none.png: no such file" and second.startswith(f"{bad}: not a readable image (")
    assert count == "skipped 2 of 18 that cannot be read"
    result = ended(command, 1, "predict", run, bad, "-o", "o.csv")
    *_, last = result.stderr.splitlines()
    assert last == "Error: expected images that can be read, found none" and not Path("o.csv").exists()


def test_refusals(failure: Failing, misuse: Failing, run: Path, contrasted: tuple[Path, str], flat: Path) -> None:
    told = failure("predict", contrasted[0], flat)
    command = f"relgraph embed --teacher checkpoint:{contrasted[0]} --teacher-args output=embedding"
    assert told.endswith(f": {command} gives vectors")
    assert "Missing argument 'IMAGES...'" in misuse("predict", run)
    assert "0 is not in the range" in misuse("predict", run, flat, "--top", 0)
    assert failure("predict", run, flat, "-o", "o.txt").startswith("expected an output FILE.csv or FILE.json")


def test_maps_of_the_classes_of_pixels_are_written_and_told(program: Program, flat: Path) -> None:
    student = segmenter_of("resnet8")
    save_tensors(Path("student.safetensors"), student.tensors(), student.info)
    told = program("predict", "student.safetensors", flat, "--masks", "masks", "--overlay", "--device", "cpu").stdout
    header, _, *lines = told.splitlines()
    assert header.split() == ["file", "mask", "class", "share", "%"] and len(lines) == 16
    assert all(Path(line.split()[1]).is_file() for line in lines) and len([*Path("masks").rglob("*.overlay.jpg")]) == 16
