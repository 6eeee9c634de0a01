"""An epoch of a job: batches, views and rates of a plain loop, and running sums against plain means."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.data.batches import epoch_batches
from relgraph.data.views import FixedViews
from relgraph.outputs import Output
from relgraph.seeding import generator
from relgraph.training import epochs
from relgraph.training.epochs import Job, Meter, train_epoch
from relgraph.training.head import HeadTraining
from relgraph.training.objective import Losses
from relgraph.training.tasks import Classes
from tests.checks import assert_refused_like
from tests.training.conftest import call_before
from tests.training.counting import STEPS, counting


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_epoch_is_a_plain_loop(by_epoch: bool) -> None:
    """Batches, views and rates as they should be; it remembers behind the gradient and before the step."""
    job, weight = counting(by_epoch=by_epoch), 0.0
    for epoch in range(2):
        job.objective.asked.clear()
        row, measured = train_epoch(job, epoch)
        views, losses, expected, rate = generator("views", 0, epoch), [], [], 0.0
        batches = epoch_batches(torch.zeros(13), batch_size=4, labelled_share=1, seed=0, epoch=epoch)
        for number, index in enumerate(batches):
            pixels = job.data.train.pixels[index]
            mean = (job.feed.plan.draw(pixels, views).apply(pixels) / 255).mean().item()
            rate = 0.25 * (1 + math.cos(math.pi * (epoch + (0 if by_epoch else number / STEPS)) / 4))
            losses.append(weight * mean)
            expected += ["method" if epoch == 0 else "both", f"remember {weight:.6f} {mean:.6f}"]
            weight -= rate * mean
        found = [words.split() for words in job.objective.asked]
        assert [words[0] for words in found] == [words.split()[0] for words in expected]
        for words, wanted in zip(found[1::2], expected[1::2], strict=True):
            assert [float(x) for x in words[1:]] == pytest.approx([float(x) for x in wanted.split()[1:]], abs=2e-6)
        assert job.objective.weight.item() == pytest.approx(weight, rel=1e-5)
        assert list(row) == ["epoch", "lr", "loss", "product", "degenerate", "batch_overlap", "images_per_s"]
        assert row["epoch"] == epoch + 1 and row["lr"] == pytest.approx(rate) and row["batch_overlap"] == 50
        assert row["loss"] == row["product"] == pytest.approx(sum(losses) / STEPS, rel=1e-5)
        steps = [
            {"epoch": epoch + 1, "step": STEPS * epoch + step, "batch_overlap": 25.0 * (1 + step)} for step in (0, 2)
        ]
        assert measured == steps and job.asked == ["average"] * (epoch + 1)


def test_the_task_chooses_the_batches_and_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the progress bar is due before a label was seen."""
    monkeypatch.setattr(Meter, "due", lambda self: True)
    drawn: list[dict[str, Any]] = []
    call_before(monkeypatch, epochs, "epoch_batches", 1, lambda labels, **options: drawn.append(options))
    assert "train_top1" not in train_epoch(counting(), 0)[0]
    call_before(monkeypatch, epochs, "epoch_batches", 1, lambda labels, **options: drawn.append(options))
    job = counting(task=Classes)
    job.data.train.labels[1:] = -1
    row, _ = train_epoch(job, 0)
    assert [options["by_label"] for options in drawn] == [False, True]
    assert all(options["labelled_share"] == 1 and options["seed"] == 0 for options in drawn)
    assert row["train_top1"] in (0, 100)


def test_no_two_purposes_share_a_stream() -> None:
    """Epochs of a training, those of a teacher's head, and the views of a store, of any two seeds."""
    plan, pixels = counting().feed.plan, torch.zeros(64, 1, 6, 6, dtype=torch.uint8)
    shifts = []
    for seed in (0, 1):
        for stream in (Job.stream, HeadTraining.stream):
            shifts += [plan.draw(pixels, generator(f"{stream}views", seed, epoch)).flip for epoch in range(3)]
        shifts += list(FixedViews(64, 4, padding=1, flip=True, seed=seed).flip[1:])
    assert len({tuple(shift.tolist()) for shift in shifts}) == len(shifts) == 18


def losses(
    logits: Tensor | None = None, degenerate: int = 0, teacher: dict[str, float] | None = None, **terms: float
) -> Losses:
    logits = torch.eye(3) if logits is None else logits
    student, teachers = (
        {name: torch.tensor(value, requires_grad=True) for name, value in given.items()}
        for given in (terms, teacher or {})
    )
    return Losses(student, Output(logits, logits), None, torch.tensor(degenerate), teachers)


def test_means_of_an_epoch() -> None:
    meter = Meter()
    head = {"teacher_head": 8.0, "teacher_refined": 1.0}
    meter.add(losses(cross_entropy=1.0, node=2.0, teacher=head), torch.tensor([0, 1, 0]))
    head = {"teacher_head": 4.0, "teacher_refined": 2.0}
    meter.add(losses(cross_entropy=2.0, node=4.0, teacher=head, degenerate=2), torch.tensor([0, -1, -1]))
    row = meter.read(0)
    assert row["cross_entropy"] == 1.5 and row["node"] == 3.0
    assert row["teacher_head"] == 6.0 and row["teacher_refined"] == 1.5
    assert row["loss"] == 4.5, "what the teacher's side learns from is not the student's loss"
    assert row["train_top1"] == 75.0, "3 of 4 labelled images"
    assert row["degenerate"] == 2
    assert all(isinstance(value, float) for value in row.values())


def test_reading_in_between_changes_nothing() -> None:
    """A term of the student is part of its loss whatever its name."""
    meter = Meter()
    meter.add(losses(cross_entropy=1.0, teacher_anchors=2.0, teacher={"teacher_head": 8.0}), torch.tensor([0, 1, 2]))
    assert meter.read(0)["loss"] == 3.0
    meter.add(losses(cross_entropy=3.0, teacher_anchors=3.0, teacher={"teacher_head": 8.0}), torch.tensor([1, 1, 1]))
    assert meter.read(0) == {
        "loss": 4.5, "cross_entropy": 2.0, "teacher_anchors": 2.5, "teacher_head": 8.0,
        "train_top1": pytest.approx(400 / 6), "degenerate": 0,
    }  # fmt: skip
    assert meter.sums is not None and not meter.sums.requires_grad


def test_the_first_bad_terms_are_named_and_not_those_that_they_spoil() -> None:
    """Of both sides, and all that fail together."""
    names_of_terms, labels = ("cross_entropy", "node", "edge", "teacher_head"), torch.tensor([0, 1, 2])

    def of(bad: float, *names: str) -> Losses:
        """Return losses of 1, but for those of these names."""
        given: dict[str, Any] = {name: bad if name in names else 1.0 for name in names_of_terms}
        return losses(teacher={"teacher_head": given.pop("teacher_head")}, **given)

    nan, infinite = "is not a number", "overflowed, it is infinite"
    cases = (math.nan, ["edge"], nan), (math.inf, ["node", "edge"], infinite), (-math.inf, ["teacher_head"], infinite)
    for bad, names, what in cases:
        meter = Meter()
        for given in (of(1.0), of(bad, *names), of(bad, *names_of_terms)):
            meter.add(given, labels)
        told = rf"^the loss {what} in epoch 5: {', '.join(names)} first; a smaller learning rate or weight may"
        assert_refused_like((partial(meter.read, 4), told))


def test_a_reading_is_due_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("relgraph.training.epochs.time.perf_counter", lambda: now)
    meter = Meter()
    meter.add(losses(cross_entropy=1.0), torch.tensor([0, 1, 2]))
    assert not meter.due()
    now = 101.0
    assert meter.due()
    meter.read(0)
    assert not meter.due()


def test_without_labels_there_is_no_accuracy() -> None:
    meter = Meter()
    meter.add(losses(cross_entropy=0.0, seed=1.0), torch.full((3,), -1))
    assert meter.read(0) == {"loss": 1.0, "cross_entropy": 0.0, "seed": 1.0, "degenerate": 0}
    bare = Losses({"nt_xent": torch.tensor(2.0)}, Output(torch.eye(3)), None, torch.tensor(0), {})
    meter = Meter()
    meter.add(bare, torch.tensor([0, 1, 2]))
    assert meter.read(0)["loss"] == 2.0, "of a network without a classifier"
