"""`python experiments/bench.py`: its tables, its files, and misuse in one line."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from bench import bench

TINY = ("--student", "resnet8", "--batch-size", 4, "--teacher", "timm:test_vit", "--steps", 1, "--rounds", 1)


def run(code: int, *arguments: object) -> Result:
    result = CliRunner().invoke(bench, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def program(*arguments: object) -> Result:
    result = run(0, *arguments)
    assert result.stderr == ""
    return result


def misuse(*arguments: object) -> str:
    return run(2, *arguments).stderr.splitlines()[-1]


def failure(*arguments: object) -> str:
    return run(1, *arguments).stderr


def test_tables_and_json_tell_the_same(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    shown = program("--quick", *TINY, "--device", "cpu", "--json", file)
    report = json.loads(file.read_text(encoding="utf-8"))
    lines = shown.stdout.splitlines()
    for row in report["steps"]:
        cells = f"{1e3 * row['seconds'][0]:.2f}", f"{row['ratio']['median']:.2f}"
        assert any(line.startswith(row["name"]) and row["precision"] in line and all(cell in line for cell in cells)
                   for line in lines), row  # fmt: skip
    for row in report["loops"]:
        speed = f" {row['images_per_s']['median']:.1f} "
        assert any(line.startswith(row["name"]) and row["precision"] in line and speed in line for line in lines), row
    assert report["memory"] == [] and "peak memory" not in shown.stdout.lower()
    assert report["settings"]["rounds"] == 1 and "medians of 1 round" in lines[-1]
    assert f"torch {report['machine']['torch']}" in shown.stdout


def test_training_is_what_bench_measures_if_it_is_not_told_what() -> None:
    assert "No such command 'memory'" in misuse("memory")
    assert "1 is not in the range" in misuse("--batch-size", 1)
    assert "1 is not in the range" in misuse("training", "--batch-size", 1)
    shown = program("--help").stdout
    assert "--teacher" in shown and "\n  scaling " in shown
    assert "options stand behind scaling, got --quick before it" in misuse("--quick", "scaling")


def test_scaling_in_tables_json_and_a_picture(tmp_path: Path) -> None:
    file, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    small = ("--dim", 8, "--sizes", "16,32", "--forms", "matrix,factored", "--rounds", 1, "--device", "cpu")
    shown = program("scaling", "--quick", *small, "--json", file, "--plot", plot).stdout
    report = json.loads(file.read_text(encoding="utf-8"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in shown.splitlines()]
    for n in (16, 32):
        figures = [f"{1e3 * row['time']['median']:.1f}" for row in report["rows"] if row["n"] == n]
        assert len(figures) == 2 and [str(n), *figures] in lines
    powers = [f"{report['exponents'][form]['time']:.2f}" if report["exponents"][form]["time"] is not None else "-"
              for form in ("matrix", "factored")]  # fmt: skip
    assert ["power", "of", "N", *powers] in lines
    assert [
        "64",
        *(f"{report['communication'][-1][kind] / 2**20:.2f}" for kind in ("gathered", "summed", "gradients")),
    ] in lines
    assert "memory" not in shown.split("What one process receives")[0] and "medians of 1 round" in shown


def test_scaling_names_a_form_that_ends_and_misuse() -> None:
    small = ("--dim", 8, "--sizes", "16,32", "--forms", "blocked", "--rounds", 1, "--max-seconds", 1e-9)
    shown = program("scaling", "--quick", *small).stdout
    assert "blocked ends before N = 32: a step would take some 0 s" in shown
    assert "'16,many' is not a list of whole numbers" in misuse("scaling", "--sizes", "16,many")
    assert "unknown form 'dense'" in failure("scaling", "--forms", "dense")


def test_the_trainer_against_a_bare_loop(tmp_path: Path) -> None:
    file = tmp_path / "students.json"
    small = ("--students", "resnet8, vgg8", "--batch-size", 4, "--steps", 1, "--rounds", 2, "--device", "cpu")
    shown = program("students", *small, "--json", file).stdout
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [row["student"] for row in report["rows"]] == ["resnet8", "vgg8"] and "student" not in report["settings"]
    for row in report["rows"]:
        quotients = sorted(a / b for a, b in zip(row["trainer"], row["bare"], strict=True))
        assert (row["ratio"]["min"], row["ratio"]["max"]) == (quotients[0], quotients[1]) and quotients[0] > 0
        assert f"{quotients[0]:.2f} .. {quotients[1]:.2f}" in shown
    assert "unknown student" in failure("students", "--students", "resnet9")


def test_precisions_of_small_networks(tmp_path: Path) -> None:
    file = tmp_path / "precision.json"
    small = ("--students", "mobilenetv2,resnet8", "--batch-size", 2, "--image-size", 32, "--steps", 1, "--rounds", 2)
    shown = program("precision", *small, "--json", file).stdout
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [row["student"] for row in report["rows"]] == ["mobilenetv2", "resnet8"]
    for row in report["rows"]:
        quotients = sorted(a / b for a, b in zip(row["bfloat16"], row["relgraph"], strict=True))
        assert f"{quotients[0]:.2f} .. {quotients[1]:.2f}" in shown
        assert f"{1e3 * sum(row['float32']) / 2:.2f}" in shown
    assert "unknown student" in failure("precision", "--students", "resnet9")
