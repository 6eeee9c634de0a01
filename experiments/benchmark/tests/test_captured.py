"""The whole step on the CPU: the trainer's own weights and sums, from the same draws."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import gpu_speed
import relgraph
from benchmark.captured import WholeStep, rates_on_device
from benchmark.loops import KD, KNN, ONLINE, STORED, STUDENT_ALONE, BenchmarkLoop, LoopBuilder, Settings
from benchmark.timing import Start
from relgraph.errors import RelgraphError
from relgraph.training.distillation import build
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.recipe import resolve

SMALL = Settings(
    student="resnet8", batch_size=4, teacher="timm:test_vit", steps=3, device="cpu", image_size=8, classes=5
)
LOOPS = (STUDENT_ALONE, STORED, KNN, KD)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopBuilder]:
    yield LoopBuilder(SMALL, tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: str(loop.name))
def test_the_whole_step_is_the_trainers(builder: LoopBuilder, loop: BenchmarkLoop, shared: bool) -> None:
    """Bit for bit; with rates on the device, by torch's fused SGD, to rounding."""
    jobs = [builder.run(replace(loop, precision="32-true")).job for _ in range(3)]
    for job in jobs:
        if hasattr(job.feed, "shared"):
            job.feed = replace(job.feed, shared=shared)
        job.module.train()
    trained, whole, fused = jobs[0], WholeStep(jobs[1]), WholeStep(jobs[2])
    for optimiser in jobs[2].optimisers.values():
        rates_on_device(optimiser)
    images, meter = trained.data.train, Meter()
    views = [torch.Generator().manual_seed(3) for _ in jobs]
    for number in range(3):
        index = torch.arange(4) + 4 * number
        for group in next(iter(trained.optimisers.values())).param_groups:
            group["lr"] = 0.1 / (number + 1)
        step(trained, images.pixels[index], index, views[0], meter)
        for each, generator in zip((whole, fused), views[1:], strict=True):
            each.rate(0.1 / (number + 1))
            each(index, generator)
    expected = trained.objective.state_dict()
    for name, tensor in jobs[1].objective.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
        torch.testing.assert_close(jobs[2].objective.state_dict()[name], expected[name], rtol=1e-4, atol=1e-5)
    assert whole.meter.read(0) == meter.read(0)
    whole.restart()
    whole(torch.arange(4), views[1])
    assert whole.meter.steps == 1 and whole.meter.read(0)["loss"] > 0


def test_what_cannot_be_captured(builder: LoopBuilder) -> None:
    for loop in (ONLINE, BenchmarkLoop("crd", "crd", teacher="stored")):
        with pytest.raises(RelgraphError, match="a captured step needs SGD, a teacher that is stored"):
            WholeStep(builder.run(replace(loop, precision="32-true")).job)
    staged = builder.run(replace(STORED, precision="32-true")).job
    staged.recipe = replace(staged.recipe, init_epochs=1)
    with pytest.raises(RelgraphError, match="clipping or init_epochs"):
        WholeStep(staged)
    with pytest.raises(RelgraphError, match="on a GPU alone"):
        WholeStep(builder.run(replace(STUDENT_ALONE, precision="32-true")).job).capture()


def test_an_epoch_of_whole_steps_is_the_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relgraph.embed(views=2)
    options = {"student": "resnet8", "label_fraction": 0.1, "schedule": "cosine", "schedule_by": "step", "epochs": 1}
    jobs = [build(resolve({**options, **gpu_speed.TRAINED["EGA"]})) for _ in range(2)]
    row, _ = train_epoch(jobs[0], 0)
    assert gpu_speed.train(jobs[1], 1)["loss"] == [row["loss"]]
    expected = jobs[0].objective.state_dict()
    for name, tensor in jobs[1].objective.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    monkeypatch.setattr(gpu_speed, "MOST", 1)
    monkeypatch.setattr(gpu_speed, "TRAINED", {"KD": gpu_speed.TRAINED["KD"]})
    ((_, found),) = gpu_speed.trainings(options, lambda: 1e9, {"failed": []})
    assert found["epochs"] == 1 and found["test_top1"] > 0


def test_the_command_without_a_gpu(tmp_path: Path) -> None:
    small = ("--device", "cpu", "--students", "resnet8", "--batch-size", "4", "--steps", "5", "--rounds", "1")
    shown = CliRunner().invoke(gpu_speed.main, [*small, "--out", str(tmp_path / "speed.json")])
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert len(report["equal"]) == shown.stdout.count("ok  ") == len(LOOPS) and max(report["equal"].values()) == 0
    assert [row["step"] for row in report["speeds"]] == ["trainer"] * 4 + ["captured"] * 4
    if not torch.cuda.is_available():
        assert "no CUDA device" in CliRunner().invoke(gpu_speed.main, []).output


def test_what_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = gpu_speed._captured

    def failing(builder: LoopBuilder, loop: BenchmarkLoop) -> Start:
        if loop.name == STUDENT_ALONE.name:
            raise RuntimeError("cannot be captured")
        return captured(builder, loop)

    monkeypatch.setattr(gpu_speed, "_captured", failing)
    monkeypatch.setattr(gpu_speed, "difference", lambda builder, loop: float("nan") if loop is KD else 0.0)
    monkeypatch.setattr(gpu_speed, "LOOPS", (STUDENT_ALONE, KD))
    small = ("--device", "cpu", "--students", "resnet8", "--batch-size", "4", "--steps", "5", "--rounds", "1")
    shown = CliRunner().invoke(gpu_speed.main, [*small, "--out", str(tmp_path / "speed.json")])
    assert shown.exit_code == 1, shown.output
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert report["failed"] == [
        f"resnet8, {KD.name}: weights after five steps differ by nan",
        f"resnet8, captured, {STUDENT_ALONE.name}: cannot be captured",
    ]
    assert [row["ratio"] is None for row in report["speeds"]] == [False, False, True]
    over = CliRunner().invoke(gpu_speed.main, [*small, "--minutes", "0"])
    assert (over.exit_code, over.output) == (0, "resnet8: left out, the time is over\n")
