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
    assert "'memory' is not 'training'" in misuse("bench", "memory")
    assert "1 is not in the range" in misuse("bench", "--batch-size", 1)
