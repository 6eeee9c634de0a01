"""Whole runs over processes: files written once, figures of all, and resumed on another number of processes."""

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from relgraph.processes import ProcessGroup
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import build, train
from relgraph.training.epochs import Progress, train_epoch
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from tests.checks import refusal
from tests.processes import run_on
from tests.training.conftest import VARIANTS, RecipeMaker, call_before

# Twelve images a batch: six on each of two processes, four on each of three.
CHOSEN: dict[str, dict[str, Any]] = {
    **{name: VARIANTS[name] for name in ("dense", "memory-maps", "sskd")},
    "seed": {**VARIANTS["seed"], "batch_size": 12},
    "sequential": {"teacher_head": "sequential", "head_epochs": 2, "labels_per_class": 12, "views": "independent"},
    "fitted": {"teacher_head": "fitted", "labels_per_class": 4, "method": "kd"},
    "accumulated": {"accumulate": 2},
    "neighbourhoods": {"scope": "dataset", "k": 3, "alpha": 0.5, "teacher_head": "sequential", "labels_per_class": 12},
    "space": {"target_space": "teacher", "dim": None, "gamma": 0.0, "holdout_classes": "test=ant,bee"},
    "settings": {
        "clip_norm": 0.5, "ema": 0.5, "nesterov": True, "decay_norm_and_bias": False, "weight_decay": 0.1,
        "schedule": "cosine", "schedule_by": "step", "warmup_epochs": 1, "patience": 1,
    },
}  # fmt: skip
# What a step in float32 gives alike; accuracies of a few images jump.
TERMS = {
    "loss", "cross_entropy", "kd_of_logits", "node", "edge", "teacher_head", "teacher_refined", "crd_student_anchors",
    "crd_teacher_anchors", "sp", "kd", "seed", "infonce", "transformed", "self_supervision", "degenerate",
}  # fmt: skip


def launched(processes: ProcessGroup) -> None:
    """Set what torchrun sets."""
    count = str(processes.count)
    os.environ |= {"RANK": str(processes.rank), "LOCAL_RANK": str(processes.rank), "WORLD_SIZE": count}
    os.environ |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


class Work(NamedTuple):
    """What two processes do in one start."""

    trained: dict[str, Recipe]
    resumed: Recipe
    local: Recipe
    refused: list[Recipe]


class Done(NamedTuple):
    """What it came to in one of them."""

    results: dict[str, dict[str, Any]]
    learned: dict[str, Tensor]
    refusals: list[str]


def work_on(processes: ProcessGroup, work: Work, folder: Path) -> Done:
    launched(processes)
    # Only the first one's directory counts.
    results = {name: train(recipe, folder / name / str(processes.rank)) for name, recipe in work.trained.items()}
    train(work.resumed, folder / "resumed", resume=True)
    return Done(
        results, learned(work.local), [refusal(partial(train, recipe, folder / "refused")) for recipe in work.refused]
    )


def learned(recipe: Recipe) -> dict[str, Tensor]:
    """Return weights, statistics and memories after an epoch, as this process has them."""
    job = build(recipe)
    train_epoch(job, 0)
    assert job.ema is not None
    return job.objective.state_dict() | {f"average of {name}": x for name, x in job.ema.student.state_dict().items()}


def stop(processes: ProcessGroup, recipe: Recipe, path: Path) -> None:
    """Stop a run when its second epoch is trained, and not kept yet."""
    launched(processes)
    with pytest.MonkeyPatch.context() as patch:
        call_before(patch, Progress, "add", 2)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, path)


@pytest.fixture(scope="module")
def work(make: RecipeMaker) -> Work:
    small: dict[str, Any] = {"batch_norm": "sync", "lr": 0.002, "epochs": 2}
    trained = {name: make(**{**small, **options}) for name, options in CHOSEN.items()}
    for name in ("global", "local"):
        trained[name] = make(**{**small, "lr": 0.0, "epochs": 1, "relation": name})
    memories = {"method": "crd+moco", "method_args": ("negatives=8", "queue=30"), "gamma": 1.0}
    sequential = {"teacher_head": "sequential", "labels_per_class": 3}
    refused = {"batch_size": 7}, {"batch_size": 10, "accumulate": 2}, sequential
    return Work(
        trained,
        make(**small),
        make(relation="local", accumulate=2, epochs=1, clip_norm=0.5, ema=0.5, **memories),
        [make(**options) for options in refused],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spread")


@pytest.fixture(scope="module")
def done(work: Work, folder: Path) -> list[Done]:
    """Return what each of two processes came to; a run that three have begun is resumed."""
    run_on(3, stop, folder, work.resumed, folder / "resumed")
    assert len(RunDirectory.open(folder / "resumed").read_metrics()) == 1
    return run_on(2, work_on, folder, work, folder, seconds=240)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_two_processes_have_the_figures_of_one(
    name: str, work: Work, folder: Path, done: list[Done], tmp_path: Path
) -> None:
    expected = train(work.trained[name], tmp_path / "run")
    run, alone = RunDirectory.open(folder / name / "0"), RunDirectory.open(tmp_path / "run")
    assert not (folder / name / "1").exists()
    assert {file.name for file in run.path.iterdir()} == {file.name for file in alone.path.iterdir()}
    # Parts hold other images than on one process, and so have other statistics of batch norm.
    close = 0.05 if name == "accumulated" else 2e-3
    compare(run, alone, close)
    for found in done:
        assert found.results[name]["processes"] == 2 and found.results[name]["images"] == expected["images"]
    assert done[0].results[name]["test"] == done[1].results[name]["test"]
    if name == "settings":  # their norm is that of the whole batch's gradient, their average one of whole weights
        start = dict(build(work.trained[name]).student.named_parameters())
        averages = [load_checkpoint(found.last)["ema"] for found in (run, alone)]
        moved, apart = (
            sum(float((a[key] - b[key]).double().norm() ** 2) for key in start)
            for a, b in ((averages[1], start), averages)
        )
        assert apart < 1e-6 * moved
    if name == "dense":  # the run that was resumed on another number of processes
        resumed = RunDirectory.open(folder / "resumed")
        compare(resumed, alone, close)
        state, expected_state = (load_checkpoint(found.last)["objective"] for found in (resumed, alone))
        assert state.keys() == expected_state.keys()
        for key, value in expected_state.items():
            assert torch.allclose(state[key], value, rtol=0.02, atol=0.02), key


def compare(run: RunDirectory, alone: RunDirectory, close: float) -> None:
    for row, wanted in zip(run.read_metrics(), alone.read_metrics(), strict=True):
        assert row.keys() == wanted.keys()
        for term in TERMS & row.keys():
            assert row[term] == pytest.approx(wanted[term], rel=close, abs=close), term


@pytest.mark.slow
def test_weights_and_memories_are_alike_also_where_relations_are_local_and_batches_in_parts(done: list[Done]) -> None:
    one, other = (found.learned for found in done)
    assert one.keys() == other.keys() and any("log_z" in name for name in one)
    for name, value in one.items():
        assert torch.equal(other[name], value), name


@pytest.mark.slow
def test_a_local_relation_is_another_loss(done: list[Done], folder: Path) -> None:
    rows = {name: RunDirectory.open(folder / name / "0").read_metrics()[0] for name in ("global", "local")}
    assert rows["local"]["cross_entropy"] == pytest.approx(rows["global"]["cross_entropy"], rel=1e-5)
    assert rows["local"]["node"] < 0.9 * rows["global"]["node"], "a graph of six nodes instead of twelve"


@pytest.mark.slow
def test_batches_that_cannot_be_split_are_refused(done: list[Done], folder: Path) -> None:
    told = "{} is split evenly over 2 processes{}: choose another batch_size or number of processes, got {} images"
    labelled = "every batch of labelled images, for the teacher's head,"
    cases = ("every batch", "", 7), ("every batch", " x 2 parts", 10), (labelled, "", 9)
    for found in done:
        assert found.refusals == [told.format(*case) for case in cases]
    assert not (folder / "refused").exists()
