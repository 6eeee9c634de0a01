"""Whole runs over processes: files written once, figures of all, and resumed on another number of processes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from relgraph.training.loop import train, train_epoch
from relgraph.training.meter import Meter
from relgraph.training.setup import build

from relgraph.data.batches import epoch_batches
from relgraph.errors import RelgraphError
from relgraph.processes import ProcessGroup
from relgraph.training import loop
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.epochs import Progress
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from tests.processes import run_on
from tests.training.conftest import VARIANTS, RecipeMaker

# Twelve images a batch: six on each of two processes, four on each of three.
CHOSEN = {
    **{name: VARIANTS[name] for name in ("dense", "knn-conv", "none", "memory-maps", "sskd", "unlabelled")},
    "seed": {**VARIANTS["seed"], "batch_size": 12},
    "sequential": {"teacher_head": "sequential", "head_epochs": 2, "labels_per_class": 12},
    "accumulated": {"accumulate": 2},
}
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


def train_all(processes: ProcessGroup, recipes: dict[str, Recipe], folder: Path) -> dict[str, Any]:
    launched(processes)
    # Only the first one's directory counts.
    return {name: train(recipe, folder / name / str(processes.rank)) for name, recipe in recipes.items()}


def stop_and_go_on(processes: ProcessGroup, recipe: Recipe, path: Path, go_on: bool) -> None:
    launched(processes)
    if not go_on:
        original = Progress.add

        def stop(self: Progress, *given: Any) -> bool:
            if len(self.rows) == 1:  # the second epoch is trained, and not kept yet
                raise KeyboardInterrupt
            return original(self, *given)

        Progress.add = stop  # type: ignore[assignment,method-assign]
        with pytest.raises(KeyboardInterrupt):
            train(recipe, path)
        return
    train(recipe, path, resume=True)


def refused(processes: ProcessGroup, recipes: list[Recipe], folder: Path) -> list[str]:
    launched(processes)
    found = []
    for recipe in recipes:
        with pytest.raises(RelgraphError) as error:
            train(recipe, folder / "refused")
        found.append(str(error.value))
    return found


@pytest.fixture(scope="module")
def recipes(make: RecipeMaker) -> dict[str, Recipe]:
    return {name: make(**{"batch_norm": "sync", "lr": 0.002, **options}) for name, options in CHOSEN.items()}


@pytest.fixture(scope="module")
def spread(recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("spread")
    return folder, run_on(2, train_all, folder, recipes, folder, seconds=240)


@pytest.mark.parametrize("name", CHOSEN)
def test_two_processes_have_the_figures_of_one(
    name: str, recipes: dict[str, Recipe], spread: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, results = spread
    expected = train(recipes[name], tmp_path / "run")
    run, alone = Run.open(folder / name / "0"), Run.open(tmp_path / "run")
    assert not (folder / name / "1").exists()
    assert {file.name for file in run.path.iterdir()} == {file.name for file in alone.path.iterdir()}
    # Parts hold other images than on one process, and so have other statistics of batch norm.
    close = 0.05 if name == "accumulated" else 2e-3
    for row, wanted in zip(run.read_metrics(), alone.read_metrics(), strict=True):
        assert row.keys() == wanted.keys()
        for term in TERMS & row.keys():
            assert row[term] == pytest.approx(wanted[term], rel=close, abs=close), term
    for result in results:
        assert result[name]["processes"] == 2 and result[name]["images"] == expected["images"]
    assert results[0][name]["test"] == results[1][name]["test"]


def test_a_run_goes_on_over_another_number_of_processes(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(batch_norm="sync", lr=0.002)
    train(recipe, tmp_path / "whole")
    run_on(3, stop_and_go_on, tmp_path, recipe, tmp_path / "run", False)
    assert len(Run.open(tmp_path / "run").read_metrics()) == 1
    run_on(2, stop_and_go_on, tmp_path, recipe, tmp_path / "run", True)
    whole, run = Run.open(tmp_path / "whole"), Run.open(tmp_path / "run")
    for row, expected in zip(run.read_metrics(), whole.read_metrics(), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    state, expected_state = (load_checkpoint(found.last)["distiller"] for found in (run, whole))
    assert state.keys() == expected_state.keys()
    for key, value in expected_state.items():
        assert torch.allclose(state[key], value, rtol=0.02, atol=0.02), key


def memories(processes: ProcessGroup, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the buffers of a method after an epoch, as this process has them."""
    launched(processes)
    setup = build(recipe)
    train_epoch(setup, 0)
    assert setup.objective.method is not None
    return dict(setup.objective.method.named_buffers())


def test_memories_are_alike_also_where_relations_are_local(make: RecipeMaker, tmp_path: Path) -> None:
    method = {"method": "crd+moco", "method_args": ("negatives=8", "queue=30"), "gamma": 1.0}
    one, other = run_on(2, memories, tmp_path, make(relation="local", epochs=1, **method), tmp_path)
    assert one.keys() == other.keys() and any("log_z" in name for name in one)
    for name, value in one.items():
        assert torch.equal(other[name], value), name


def test_an_epoch_that_has_seen_no_label_yet(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress line has no accuracy then."""
    monkeypatch.setattr(Meter, "due", lambda self: True)
    setup = build(make(labelled_share=0.1, labels_per_class=1))
    setup.data.train.labels.fill_(-1)
    original = epoch_batches

    def drawn(labels: torch.Tensor, **options: Any) -> Any:
        return original(torch.zeros_like(labels), **options)

    monkeypatch.setattr(loop, "epoch_batches", drawn)
    assert "train_top1" not in train_epoch(setup, 0)


def test_a_local_relation_is_another_loss(make: RecipeMaker, tmp_path: Path) -> None:
    recipes = {name: make(batch_norm="sync", lr=0.0, epochs=1, relation=name) for name in ("global", "local")}
    run_on(2, train_all, tmp_path, recipes, tmp_path)
    rows = {name: Run.open(tmp_path / name / "0").read_metrics()[0] for name in recipes}
    assert rows["local"]["cross_entropy"] == pytest.approx(rows["global"]["cross_entropy"], rel=1e-5)
    assert rows["local"]["node"] < 0.9 * rows["global"]["node"], "a graph of six nodes instead of twelve"


def test_batches_that_cannot_be_split_are_refused(make: RecipeMaker, tmp_path: Path) -> None:
    wrong = [
        make(batch_size=7),
        make(batch_size=10, accumulate=2),
        make(teacher_head="sequential", labels_per_class=3),
    ]
    for found in run_on(2, refused, tmp_path, wrong, tmp_path):
        choice = "choose another batch_size or number of processes"
        assert found == [
            f"every batch is split evenly over 2 processes: {choice}, got 7 images",
            f"every batch is split evenly over 2 processes x 2 parts: {choice}, got 10 images",
            "every batch of labelled images, for the teacher's head, is split evenly over 2 processes: "
            f"{choice}, got 9 images",
        ]
    assert not (tmp_path / "refused").exists()
