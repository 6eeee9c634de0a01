import json
from pathlib import Path

from tests.cli.conftest import Failing, Program


def test_table_and_json_tell_the_same_of_the_best_epoch_s_student(program: Program, run: Path) -> None:
    report = json.loads(program("evaluate", run, "--json").stdout)
    header, _, *rows, note = program("evaluate", run).stdout.splitlines()
    assert header.split("  ")[0] == "network"
    columns = ("top1", "top5", "knn", "linear", "knn_few", "linear_few")
    for row, name in zip(rows, ("student", "teacher"), strict=True):
        assert row.split() == [name, *(f"{report[name][column]:.2f}" for column in columns)]
    images = report["images"]
    assert f"{images['test']} test images; {images['train']} training images, {images['labelled']} of them" in note


def test_without_a_teacher_and_with_one_neighbour(program: Program, misuse: Failing, alone: Path) -> None:
    report = json.loads(program("evaluate", alone, "--json", "--k", 1).stdout)
    assert report["neighbours"] == 1 and "teacher" not in report
    assert "\nteacher" not in program("evaluate", alone).stdout
    assert "0 is not in the range" in misuse("evaluate", alone, "--k", 0)


def test_a_student_without_labels(program: Program, contrasted: tuple[Path, str]) -> None:
    """No loss trained its classifier: there is no accuracy of it, but a dash in the table."""
    path, _ = contrasted
    header, _, student, teacher, _ = program("evaluate", path).stdout.splitlines()
    assert "top-1 %  top-5 %  k-NN %  linear probe %" in header
    assert student.split()[:3] == ["student", "-", "-"] and "-" not in teacher.split()


def test_what_is_not_a_run(failure: Failing, tmp_path: Path) -> None:
    assert failure("evaluate", "nothing").startswith("nothing is not a run: expected a directory with recipe.yaml")
    assert failure("evaluate", tmp_path).startswith(f"{tmp_path} is not a run")
