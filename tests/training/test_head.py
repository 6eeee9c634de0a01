"""The sequential head: a job of few epochs, a plain classifier, then fixed; a stop loses one epoch of it at most."""

import os
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from relgraph.data.batches import epoch_batches
from relgraph.methods import Batch
from relgraph.seeding import generator
from relgraph.training import epochs
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.epochs import Meter, step
from relgraph.training.head import head_recipe, head_schedule, train_head
from relgraph.training.runs import RunDirectory
from relgraph.training.schedule import student_schedule
from relgraph.training.stopping import Stopped
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, call_before, outcome, states

SEQUENTIAL: dict[str, Any] = {"teacher_head": "sequential", "head_epochs": 4, "epochs": 2}


def head_of(job: Distillation) -> Any:
    assert job.objective.teacher_head is not None
    return job.objective.teacher_head


def test_it_is_trained_as_a_plain_classifier_on_the_labelled_images(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(**SEQUENTIAL)
    job = build(recipe)
    head, labels = head_of(job), job.data.train.labels
    own = deepcopy(head).requires_grad_()
    optimiser = SGD(own.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    train_head(job, head, recipe, RunDirectory.create(tmp_path / "run", recipe))
    for epoch in range(4):
        optimiser.param_groups[0]["lr"] = recipe.teacher_lr * 0.1 ** sum(epoch >= step for step in (2, 3, 4))
        views = generator("teacher's head: views", recipe.seed, epoch)
        for index in epoch_batches(
            labels, batch_size=12, labelled_share=1.0, seed=recipe.seed, epoch=epoch, purpose="teacher's head: batches"
        ):
            assert (labels[index] >= 0).all()
            teacher = job.feed(job.data.train.pixels[index], Batch(index, labels[index]), views).teacher
            assert teacher is not None
            optimiser.zero_grad()
            torch.autograd.backward(cross_entropy(own(teacher.embedding)[1], labels[index]))
            optimiser.step()
    torch.testing.assert_close(states(head), states(own))
    assert not any(p.requires_grad for p in head.parameters())


def test_it_has_the_kind_of_the_student_s_optimiser_and_no_clipping(make: RecipeMaker, tmp_path: Path) -> None:
    heads = {}
    for name, options in (("adamw", {}), ("clipped", {"clip_norm": 1e-6, "warmup_epochs": 1, "ema": 0.5})):
        given: dict[str, Any] = {**SEQUENTIAL, "optimiser": "adamw", "weight_decay": 0.3, "decay_norm_and_bias": False}
        recipe = make(**{**given, "schedule": "constant", **options})
        job = build(recipe)
        heads[name] = head_of(job)
        own = deepcopy(heads[name])
        train_head(job, heads[name], recipe, run := RunDirectory.create(tmp_path / name, recipe))
        groups = load_checkpoint(run.of_head().last)["optimiser"]["param_groups"]
        assert [(group["weight_decay"], group["betas"], group["lr"]) for group in groups] == [
            (0.0, (0.9, 0.999), 0.01), (0.3, (0.9, 0.999), 0.01)
        ]  # fmt: skip
        assert not torch.equal(own.project.weight, heads[name].project.weight)
    torch.testing.assert_close(states(heads["clipped"]), states(heads["adamw"]), rtol=0, atol=0)


def test_a_run_with_a_head(make: RecipeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint is one as others are, its figures are told once, and it stays fixed while the student learns."""
    path = tmp_path / "run"
    train(make(**SEQUENTIAL), path)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher's head: ")]
    rows = RunDirectory(path).of_head().read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and len(RunDirectory(path).read_metrics()) == 2
    assert all(row["teacher_head"] == row["loss"] > 0 and 0 <= row["train_top1"] <= 100 for row in rows)
    figures = f"loss {rows[-1]['loss']:.4f}, train {rows[-1]['train_top1']:.2f} %"
    assert told == [f"teacher's head: 4 epochs, {figures}, now fixed"]
    state = load_checkpoint(path / "head.ckpt")
    assert state.keys() == {"objective", "optimiser", "progress", "random"}
    first = state["objective"]
    for file in ("best.ckpt", "last.ckpt"):
        kept: dict[str, Tensor] = {
            name.removeprefix("teacher_"): tensor
            for name, tensor in load_checkpoint(path / file)["objective"].items() if name.startswith("teacher_head.")
        }  # fmt: skip
        assert kept.keys() == first.keys() and all(torch.equal(kept[name], first[name]) for name in kept)


@pytest.mark.slow
def test_a_run_that_sigterm_stops_amid_its_head_ends_bit_for_bit(make: RecipeMaker, tmp_path: Path) -> None:
    recipe, run = make(**SEQUENTIAL, labels_per_class=4, batch_size=4), RunDirectory(tmp_path / "run")
    train(recipe, tmp_path / "whole")
    assert load_checkpoint(tmp_path / "whole" / "head.ckpt")["progress"]["steps"] == [3, 3, 3, 3]
    # In the second epoch, and in the last step of the head, which is whole: the student's first step hears it.
    for number, resume, file in ((5, False, "head.ckpt"), (7, True, "last.ckpt")):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
            call_before(patch, epochs, "step", number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            train(recipe, run.path, resume=resume)
        assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert load_checkpoint(run.path / file)["progress"]["within"] is not None
        assert run.last.exists() == resume
    torch.manual_seed(12345)
    train(recipe, run.path, resume=True)
    assert outcome(run.path) == outcome(tmp_path / "whole")


def test_who_learns_in_a_step(make: RecipeMaker) -> None:
    for strategy, moves in (("joint", True), ("sequential", False)):
        job = build(make(teacher_head=strategy, graph="knn", k=3, refine="conv"))
        before, index = states(job.objective), torch.arange(12)
        for _ in range(2):  # the refinement starts as the identity, where a first step may leave a part of it
            step(job, job.data.train.pixels[index], index, torch.Generator(), Meter())
        moved = {name for name, tensor in job.objective.state_dict().items() if not torch.equal(before[name], tensor)}
        # In both, the teacher's side of the refinement learns too.
        expected = {"student", "method", "teacher_head"} if moves else {"student", "method"}
        assert {name.split(".")[0] for name in moved} == expected


def test_its_recipe(make: RecipeMaker) -> None:
    """240 epochs at 0.01 with the student's steps, as EGA's own script for it has them."""
    official = student_schedule(head_recipe(make(epochs=240, teacher_head="sequential", milestones=(150, 180, 210))))
    assert [official.rate(epoch) for epoch in (0, 149, 150, 180, 210)] == pytest.approx([0.01, 0.01, 1e-3, 1e-4, 1e-5])
    assert head_recipe(make(epochs=240, init_epochs=30, teacher_head="sequential", head_epochs=8)).initial_epochs == 0
    settings: dict[str, Any] = {"schedule": "cosine", "schedule_by": "step", "min_lr": 0.05, "lr": 0.1}
    given = make(epochs=240, teacher_head="sequential", head_epochs=2, warmup_epochs=2, patience=9, **settings)
    fallen = student_schedule(head_recipe(given))
    assert [fallen.rate(epoch) for epoch in (0, 1, 1.5, 2)] == pytest.approx([0.01, 5e-3, 0.01 * 0.1464466, 0])
    recipe = head_recipe(make(epochs=240, teacher_head="sequential", head_epochs=8, milestones=(150, 180, 210)))
    short = student_schedule(recipe)
    assert short.epochs == recipe.epochs == 8
    assert [e for e in range(1, 8) if short.rate(e) < short.rate(e - 1)] == [5, 6, 7]
    own = head_schedule(make(epochs=240, teacher_head="sequential", head_epochs=8, milestones=(60, 61, 150)))
    assert [own.rate(epoch) for epoch in (0, 1, 2, 4, 5)] == pytest.approx([0.01, 0.01, 1e-4, 1e-4, 1e-5])


def test_without_a_teacher_there_is_no_head(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(method="none", teacher_head="sequential", epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "head.ckpt").exists()


def test_what_is_refused(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(**SEQUENTIAL)
    job, run = build(recipe), RunDirectory.create(tmp_path / "other", recipe)
    torch.save({"objective": {"a": torch.zeros(1)}, "optimiser": {}}, run.of_head().last)
    assert_refused_like(
        (lambda: make(head_epochs=3), r"^head_epochs belongs to teacher_head 'sequential', got 'joint' and 3$"),
        (lambda: train(make(**{**SEQUENTIAL, "teacher_lr": 1e38}), tmp_path / "diverged"),
         r"^the loss is not a number in epoch 2: teacher_head first; a smaller"),
        (lambda: train_head(job, head_of(job), recipe, run), r"head\.ckpt does not belong to this run's recipe"),
    )  # fmt: skip
