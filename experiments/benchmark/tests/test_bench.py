import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmark.loops import ORIGINAL, STORED, STUDENT_ALONE, LoopBuilder, Settings
from benchmark.training import measure_training, peak_memory
from relgraph.errors import RelgraphError
from relgraph.methods import METHODS
from relgraph.training.feed import Stored

SCRIPTS = Path(__file__).parents[2]
SMALL = Settings(
    student="resnet8", batch_size=4, teacher="timm:test_vit", steps=2, rounds=2, device="cpu", memory=False,
    image_size=8, classes=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return measure_training(SMALL)


def test_rows(report: dict[str, Any]) -> None:
    precisions = list(dict.fromkeys((report["machine"]["precision"], "32-true")))
    steps = [(row["name"], row["precision"]) for row in report["steps"]]
    names = [
        "cross-entropy alone",
        "cross-entropy alone, a bare loop",
        "EGA, stored embeddings",
        "EGA on 8 neighbours, stored",
        "KD, stored embeddings",
    ]
    expected = [(name, precision) for precision in precisions for name in names]
    assert steps == [*expected, ("EGA, online teacher", precisions[0])]
    loops = [row["name"] for row in report["loops"]]
    assert loops[0] == "the original's way" and loops[-1] == "cross-entropy alone"
    assert loops.count("EGA, online teacher") == len(precisions)
    assert report["memory"] == []


def test_numbers(report: dict[str, Any]) -> None:
    for row in report["steps"] + report["loops"]:
        assert len(row["seconds"]) == SMALL.rounds and min(row["seconds"]) > 0 and row["first_seconds"] > 0
        assert 0 < row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    alone, _, stored = report["steps"][:3]
    assert alone["ratio"] == {"median": 1, "min": 1, "max": 1}
    quotients = sorted(a / b for a, b in zip(stored["seconds"], alone["seconds"], strict=True))
    assert (stored["ratio"]["min"], stored["ratio"]["max"]) == pytest.approx((quotients[0], quotients[-1]))
    original, other = report["loops"][0], report["loops"][1]
    assert original["ratio"]["max"] == 1
    assert original["images_per_s"]["max"] == pytest.approx(SMALL.batch_size / min(original["seconds"]))
    faster = [a / b for a, b in zip(original["seconds"], other["seconds"], strict=True)]
    assert other["ratio"]["max"] == pytest.approx(max(faster))


def test_it_is_json_and_tells_its_settings(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report))
    assert again == report
    assert Settings(**again["settings"]) == SMALL
    assert again["machine"]["threads"] == torch.get_num_threads() and again["machine"]["type"] == "cpu"


def test_the_stored_way_reads_the_store(tmp_path: Path) -> None:
    builder = LoopBuilder(SMALL, tmp_path)
    run = builder.run(STORED)
    assert isinstance(run.feed, Stored)
    index = torch.tensor([5, 0])
    features = run.teacher_features(index)
    views = [builder.store.rows(torch.full((2,), view), index) for view in range(4)]
    assert all(any(torch.equal(row, view[i]) for view in views) for i, row in enumerate(features))


def test_the_steps_are_those_of_training(tmp_path: Path) -> None:
    """A loop's steps change the weights n times: with momentum, a second step differs from a first."""
    builder = LoopBuilder(SMALL, tmp_path)
    run = builder.run(STUDENT_ALONE)
    builder.run = lambda loop: run
    start = builder.steps(STUDENT_ALONE)
    before = {name: tensor.clone() for name, tensor in run.job.objective.student.state_dict().items()}
    assert sum(1 for _ in start(2)) == 1
    after = run.job.objective.student.state_dict()
    assert int(after["backbone.stem.1.num_batches_tracked"]) == 2
    assert not torch.equal(before["head.classify.weight"], after["head.classify.weight"])


def test_memory_of_this_process() -> None:
    for loop in (STUDENT_ALONE, ORIGINAL):
        peak = peak_memory(SMALL, loop)
        assert peak is None or peak > 50 * 2**20  # torch alone takes more


def test_what_cannot_be_measured() -> None:
    for change, words in (
        ({"student": "resnet9"}, "unknown student"),
        ({"teacher": "checkpoint:runs/x"}, "unknown source of untrained teachers"),
        ({"teacher": "timm:no_such_model_at_all"}, "unknown timm model"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ):
        with pytest.raises(RelgraphError, match=words):
            measure_training(replace(SMALL, **change))


def test_the_checks_for_a_gpu_hold_on_the_processor(tmp_path: Path) -> None:
    script, file = SCRIPTS / "gpu_check.py", tmp_path / "checks.json"
    command = runpy.run_path(str(script))["main"]
    run = CliRunner().invoke(command, ["--device", "cpu", "--no-bench", "--out", str(file)])
    assert run.exit_code == 0, run.output
    checks = json.loads(file.read_text(encoding="utf-8"))["checks"]
    # EGA is among the nine, two refuse the small networks (FSP, Holistic); two objectives of pre-training.
    count = 9 + len(METHODS) - 3 + 2
    assert len(checks) == count and all(check["passed"] for check in checks)
    assert run.stdout.count("\nok   ") == count


def test_a_check_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = json.loads((SCRIPTS.parent / "tests" / "golden.json").read_text(encoding="utf-8"))
    wrong["golden"]["ega_node"]["value"] *= 1.001
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps(wrong), encoding="utf-8")
    script = runpy.run_path(str(SCRIPTS / "gpu_check.py"))
    monkeypatch.setitem(script["golden"].__globals__, "GOLDEN", golden)
    for name, value in {"METHODS": (), "SMALL": replace(SMALL, batch_size=12)}.items():  # the fewer, the sooner
        monkeypatch.setitem(script["main"].callback.__globals__, name, value)
    run = CliRunner().invoke(script["main"], ["--device", "cpu", "--no-bench"])
    assert run.exit_code == 1
    assert run.stdout.count("FAIL official values") == 2 and "(ega_node)" in run.stdout
