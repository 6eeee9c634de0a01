"""Callbacks and loggers of one's own: what they are told, when, and what happens if they fail."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import relgraph
from relgraph.errors import RelgraphError
from relgraph.methods.base import Method, Terms
from relgraph.options import option
from relgraph.outputs import Batch, Output
from relgraph.training.callbacks import Callback, EpochEnd, StepEnd
from tests.checks import assert_refused_like

Options = dict[str, Any]


@pytest.fixture(scope="module")
def quick(images: Path) -> Options:
    """Return the options of a run of two epochs of five steps."""
    own = {"dataset": f"folder:{images}", "teacher": "embedded:digits", "labels_per_class": 2, "precision": "32-true"}
    return {"student": "resnet8", "epochs": 2, "batch_size": 12, "dim": 8, "device": "cpu", **own}


@pytest.fixture(scope="module")
def whole(quick: Options, tmp_path_factory: pytest.TempPathFactory) -> relgraph.Run:
    """Return a finished run without callbacks; read it, do not change it."""
    return relgraph.train(**quick, out=tmp_path_factory.mktemp("runs") / "whole")


class Told(Callback):
    def __init__(self) -> None:
        self.steps: list[StepEnd] = []
        self.moments: list[str] = []

    def after_step(self, end: StepEnd) -> None:
        self.steps.append(end)

    def after_epoch(self, end: EpochEnd) -> None:
        written = (end.run / "last.ckpt").is_file() and len((end.run / "metrics.csv").read_text().splitlines())
        self.moments.append(f"epoch {end.epoch} of {end.epochs}, {written} lines, loss {end.metrics['loss']:.4f}")
        assert isinstance(end.network.student.backbone, torch.nn.Module)

    def at_end(self, result: Mapping[str, Any]) -> None:
        self.moments.append(f"end of {result['epochs']}")


class Ending(Callback):
    def after_epoch(self, end: EpochEnd) -> None:
        raise ZeroDivisionError


class Foreign:
    """A logger with Lightning's interface, without Lightning."""

    def __init__(self, save_dir: Path, name: str, fail: str = "") -> None:
        self.calls: list[Any] = [save_dir, name]
        self.fail = fail
        made.append(self)

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.calls.append(params["student"])

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if self.fail:
            raise RuntimeError(self.fail)
        self.calls.append((step, sorted(metrics)[:1], metrics["loss"]))

    def finalize(self, status: str) -> None:
        self.calls.append(status)


class Nothing:
    """No logger."""


made: list[Foreign] = []


def failing(save_dir: Path, name: str) -> Foreign:
    return Foreign(save_dir, name, "the server is gone")


def test_callbacks_and_loggers_are_told_of_every_moment(
    quick: Options, whole: relgraph.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    made.clear()
    run = relgraph.train(**quick, out=tmp_path / "run", callbacks=[told], logger=(Foreign, failing))
    losses = [row["loss"] for row in run.metrics]
    assert told.moments == [f"epoch {e} of 2, {e + 1} lines, loss {losses[e - 1]:.4f}" for e in (1, 2)] + ["end of 2"]
    steps = len(told.steps) // 2
    assert [(end.epoch, end.step, end.steps) for end in told.steps] == [
        (epoch, step, steps) for epoch in (1, 2) for step in range(1, steps + 1)
    ]
    first = told.steps[0]
    assert first.student.embedding.shape == (12, 8) and first.batch.labels.shape == (12,)
    assert first.teacher is not None and first.teacher.embedding.shape == (12, 8)
    means = [
        sum(float(sum(end.terms.values())) for end in told.steps if end.epoch == epoch) / steps for epoch in (1, 2)
    ]
    assert means == pytest.approx(losses, rel=1e-5) and not first.terms["edge"].requires_grad
    own, broken = made
    assert own.calls[:3] == [tmp_path / "run", "run", "resnet8"] and own.calls[-1] == "success"
    assert own.calls[3:-1] == [
        (1, ["batch_degenerate_student"], losses[0]),
        (2, ["batch_degenerate_student"], losses[1]),
    ]
    assert broken.calls == [tmp_path / "run", "run", "resnet8"]
    assert capsys.readouterr().out.count("failed: the server is gone: the run goes on without it") == 1
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert [row["loss"] for row in whole.metrics] == losses, "nothing is changed"
    assert (whole.path / "tensorboard").is_dir()


def test_an_error_of_a_callback_ends_a_run_that_can_go_on(quick: Options, whole: relgraph.Run, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        relgraph.train(**quick, out=tmp_path / "run", callbacks=[Ending()])
    run = relgraph.Run(tmp_path / "run")
    assert len(run.metrics) == 1
    with pytest.raises(RelgraphError, match="is not finished"):
        _ = run.result
    told = Told()
    again = run.resume([told])
    assert [moment[:7] for moment in told.moments] == ["epoch 2", "end of "]
    assert [row["loss"] for row in again.metrics] == [row["loss"] for row in whole.metrics]
    states = (run.student().state_dict(), whole.student().state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))


def test_loggers_of_a_stopped_run_are_given_again(quick: Options, tmp_path: Path) -> None:
    loggers: dict[str, Any] = {"object": Foreign(tmp_path, "mine"), "spelled": Foreign}
    for name, logger in loggers.items():
        with pytest.raises(ZeroDivisionError):
            relgraph.train(**quick, out=tmp_path / name, logger=(logger, "tensorboard"), callbacks=[Ending()])
        with pytest.raises(RelgraphError, match=r"pass it again|names code of its own"):
            relgraph.train(resume=tmp_path / name)
        made.clear()
        relgraph.train(resume=tmp_path / name, logger=(logger, "tensorboard"))
        (told,) = made or [logger]
        assert told.calls[-1] == "success"


def test_what_is_no_callback_is_refused_before_the_training(quick: Options, tmp_path: Path) -> None:
    def train(callbacks: Any) -> Any:
        return lambda: relgraph.train(**quick, out=tmp_path / "run", callbacks=callbacks)

    assert_refused_like(
        (train(Told()), "callbacks must be a list of objects derived from relgraph.Callback, got Told"),
        (train([Told]), "a callback must be an object derived from relgraph.Callback, got the class Told"),
        (train([Told(), print]), "a callback must be an .*, got builtin_function_or_method"),
    )
    assert not (tmp_path / "run").exists()


def test_loggers_that_are_none(quick: Options, tmp_path: Path) -> None:
    def train(logger: Any) -> Any:
        return lambda: relgraph.train(**quick, out=tmp_path / "run", logger=logger)

    assert_refused_like(
        (train(("tensorbord",)), "unknown logger 'tensorbord': did you mean 'tensorboard'.*"),
        (
            train(("nothing_at_all.logs:Log",)),
            "nothing_at_all.logs:Log needs the module nothing_at_all.*|unknown source .*",
        ),
    )
    assert not (tmp_path / "run").exists()
    assert_refused_like((train((Nothing,)), "the logger .*Nothing has no log_metrics: expected Lightning's interface"))


def test_the_functions_refuse_what_does_not_fit(whole: relgraph.Run, tmp_path: Path) -> None:
    run = whole
    assert_refused_like(
        (lambda: relgraph.train(resume=run.path, epochs=3), "resume keeps the recipe of the run: .*, got epochs"),
        (lambda: relgraph.train(resume=run.path, milestones=[1]), "resume keeps .*, got milestones"),  # type: ignore[arg-type]
        (lambda: relgraph.train(resume=run.path, root="a.b:c"), "resume keeps .*, got root"),
        (lambda: relgraph.train(resume=run.path, student="a.b:c"), "student of .* is resnet8, no code of its own: .*"),
        (
            lambda: relgraph.train(resume=run.path, logger=("a.b:c",)),
            "logger of .* is tensorboard, no code of its own: .*",
        ),
        (lambda: relgraph.train(resume=run.path, preset="ega"), "resume keeps the recipe of the run: .*, got preset"),
        (
            lambda: relgraph.train(epoch=3),  # type: ignore[call-arg]
            "unknown option 'epoch': did you mean 'epochs'.*",
        ),
        (
            lambda: relgraph.pretrain(resume=run.path),
            ".* is a run of relgraph train: continue it with relgraph train .*",
        ),
        (lambda: relgraph.evaluate(run, student="vgg8"), "student of .* is resnet8, no code of its own: .*"),
        (lambda: relgraph.Run(tmp_path), ".* is not a run: .*"),
        (lambda: relgraph.export(run, "g.txt"), "unknown format to export .txt.*"),
    )
    assert relgraph.train(resume=run.path).result == run.result, "a finished run is finished"


def test_faults_of_ones_own_method_are_told_before_the_training(quick: Options, tmp_path: Path) -> None:
    class Own(Method):
        fault: Any = option(default=None)

        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
            return {"own": self.fault(student.embedding, teacher.embedding)}

    def train(method: Any) -> Any:
        return lambda: relgraph.train(**quick, out=tmp_path / "run", method=method)

    class Unmade(Own):
        def __post_init__(self) -> None:
            raise KeyError("x")

    assert_refused_like(
        (train(Own(lambda s, t: s @ t)), "cannot compare a batch: RuntimeError: mat1 and mat2 shapes"),
        (train(Own(lambda s, t: 1 / 0)), "cannot compare a batch: ZeroDivisionError"),
        (train(Own(lambda s, t: s.sum(1))), r"Own compares by terms that are scalars, got own: \(12,\)"),
        (train(Unmade), "unmade cannot be built: KeyError: 'x'"),
    )
    assert not (tmp_path / "run").exists()
