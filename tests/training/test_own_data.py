"""Runs on data of one's own: a folder of classes, a table, a pool of images without labels, from train to export."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.analysis.run_loading import TrainedRun, evaluate_run, run_pair
from relgraph.files import read_json
from relgraph.training.building import open_data
from relgraph.training.distillation import train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.recipe import Recipe
from relgraph.training.stores import default_path, store_embeddings
from tests.checks import assert_refused_like
from tests.pictures import write_folder, write_image

QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 8, "epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "32-true",
    "teacher": "embedded:digits", "threads": 1, "workers": 0, "image_size": 8, "val_fraction": 0.2,
}  # fmt: skip


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "flat", {".": 10})


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for number in range(9):
        write_image(tmp_path / f"pool/{number}.png", seed=100 + number)
    return tmp_path / "pool"


def recipe(flat: Path, **options: Any) -> Recipe:
    return Recipe(**{"dataset": f"classes:{flat}", **QUICK, **options})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_a_run_finds_its_split_and_its_pool_again(flat: Path, pool: Path, tmp_path: Path, mode: str) -> None:
    run = tmp_path / "run"
    options: dict[str, Any] = {"images": mode, "unlabelled": str(pool), "test_fraction": 0.4, "split_seed": 3}
    done = train(recipe(flat, **options), run)
    assert done["images"] == {"train": 19, "labelled": 10, "val": 2, "test": 8}
    assert evaluate_run(run)["images"] == {"train": 19, "labelled": 10, "test": 8}
    data = open_data(recipe(flat, **options, seed=7))
    assert torch.equal(TrainedRun(run).images("test").checksums(), data.test.checksums())
    assert len(run_pair(run, split="test", k=2)["student"].x) == 8
    assert read_json(run / "inputs.json")["data"]["train"]["images"] == 19
    train(recipe(flat, **options), run, resume=True)
    other = recipe(flat, **{**options, "split_seed": 4})
    (flat / "cat/0.png").unlink()
    assert_refused_like(
        (lambda: train(other, run, resume=True), "split_seed was 3, is now 4$"),
        (lambda: train(recipe(flat, **options), run, resume=True), "images are not those of"),
    )


def test_a_changed_pool_is_seen(flat: Path, pool: Path, tmp_path: Path) -> None:
    asked = recipe(flat, unlabelled=str(pool), images="stream")
    train(asked, tmp_path / "run")
    write_image(pool / "3.png", seed=7)
    told = "the train images are not those of .*run: expected (files of the same content|the same names, sizes)"
    assert_refused_like((lambda: train(asked, tmp_path / "run", resume=True), told))


@pytest.mark.slow
def test_stored_embeddings_are_those_of_the_drawn_split_and_the_pool(flat: Path, pool: Path, tmp_path: Path) -> None:
    options = {"unlabelled": str(pool), "views": "independent", "embeddings": str(tmp_path / "store")}
    asked = recipe(flat, **options)
    path = default_path(asked, 1)
    assert store_embeddings(asked, path, views=1).contents.images == 16 + 9
    for others in ({"split_seed": 1}, {"test_fraction": 0.1}):
        other = recipe(flat, **{**options, **others, "teacher_mode": "stored"})
        assert default_path(other, 1) != path
        told = "no stored embeddings fit: .*(is another one there|the training set has more)"
        assert_refused_like((partial(train, other, tmp_path / "no"), told))
    assert default_path(recipe(flat), 1).name != path.name
    train(recipe(flat, **options, teacher_mode="stored", seed=5), tmp_path / "run")


def test_a_pre_training_reads_the_same_data(flat: Path, pool: Path, tmp_path: Path) -> None:
    lines = [f"{file.relative_to(flat)},{file.parent.name}" for file in sorted(flat.rglob("*.png"))]
    (flat / "table.csv").write_text("\n".join(["path,label", *lines]))
    names = ("epochs", "batch_size", "device", "image_size", "val_fraction", "workers", "threads")
    given = {name: QUICK[name] for name in names} | {"unlabelled": str(pool), "network": "resnet8"}
    pretrain(resolve_pretraining({**given, "dataset": f"csv:{flat / 'table.csv'}"}), tmp_path / "run")
    found = read_json(tmp_path / "run/inputs.json")["data"]
    assert [found[split]["images"] for split in ("train", "val", "test")] == [12 + 9, 4, 4]
