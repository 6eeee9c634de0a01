import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Program = Callable[..., Result]
Failing = Callable[..., str]

TINY = ("--student", "resnet8", "--batch-size", 4, "--teacher", "timm:test_vit", "--steps", 1, "--rounds", 1)


def test_tables_and_json_tell_the_same(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    shown = program("bench", "--quick", *TINY, "--device", "cpu", "--json", file)
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


def test_misuse(misuse: Failing, failure: Failing) -> None:
    assert "No such command 'memory'" in misuse("bench", "memory")
    assert "1 is not in the range" in misuse("bench", "--batch-size", 1)


def test_training_is_what_bench_measures_if_it_is_not_told_what(misuse: Failing, program: Program) -> None:
    assert "1 is not in the range" in misuse("bench", "training", "--batch-size", 1)
    shown = program("bench", "--help").stdout
    assert "--teacher" in shown and "\n  scaling " in shown
    assert "options stand behind scaling, got --quick before it" in misuse("bench", "--quick", "scaling")


def test_scaling_in_tables_json_and_a_picture(program: Program, tmp_path: Path) -> None:
    file, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    small = ("--dim", 8, "--sizes", "16,32", "--forms", "matrix,factored", "--rounds", 1, "--device", "cpu")
    shown = program("bench", "scaling", "--quick", *small, "--json", file, "--plot", plot).stdout
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


def test_a_form_that_ends_is_named(program: Program) -> None:
    small = ("--dim", 8, "--sizes", "16,32", "--forms", "blocked", "--rounds", 1, "--max-seconds", 1e-9)
    assert (
        "blocked ends before N = 32: a step would take some 0 s"
        in program("bench", "scaling", "--quick", *small).stdout
    )


def test_misuse_of_scaling(misuse: Failing, failure: Failing) -> None:
    assert "'16,many' is not a list of whole numbers" in misuse("bench", "scaling", "--sizes", "16,many")
    assert "unknown form 'dense'" in failure("bench", "scaling", "--forms", "dense")
