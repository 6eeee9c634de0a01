"""Running sums against plain means, and the term that is to blame for a loss that is not a number."""

import math

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import Output
from relgraph.training.meter import Meter
from relgraph.training.objective import Losses


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
    good, labels = {"cross_entropy": 1.0, "node": 1.0, "edge": 1.0}, torch.tensor([0, 1, 2])
    for bad, names in ((math.nan, ["edge"]), (math.inf, ["node", "edge"]), (-math.inf, ["teacher_head"])):
        meter = Meter()
        meter.add(losses(**good, teacher={"teacher_head": 1.0}), labels)
        of_step = {name: bad if name in names else 1.0 for name in (*good, "teacher_head")}
        head = {"teacher_head": of_step.pop("teacher_head")}
        meter.add(losses(**of_step, teacher=head), labels)
        meter.add(losses(**dict.fromkeys(good, bad), teacher={"teacher_head": bad}), labels)
        told = rf"^the loss is not a number in epoch 5: {', '.join(names)} first; a smaller learning rate or weight may"
        with pytest.raises(RelgraphError, match=told):
            meter.read(4)


def test_a_reading_is_due_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("relgraph.training.meter.time.perf_counter", lambda: now)
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
