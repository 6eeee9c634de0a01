"""Data or a teacher that changed between a run's stop and what reads it: one line; what was only moved goes on."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relgraph.analysis.run_loading import evaluate_run, run_pair
from relgraph.errors import RelgraphError
from relgraph.files import read_json, write_json
from relgraph.names import build_backbone
from relgraph.networks.files import save_network
from relgraph.training.distillation import train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from tests.checks import case
from tests.faults.conftest import QUICK


def add(folder: Path) -> None:
    shutil.copy(folder / "ant" / "00.bmp", folder / "ant" / "000.bmp")


def remove(folder: Path) -> None:
    (folder / "ant" / "00.bmp").unlink()


def rename(folder: Path) -> None:
    (folder / "bee" / "00.bmp").rename(folder / "bee" / "99.bmp")


def exchange(folder: Path) -> None:
    """Exchange two images that are stored without compression, and so of equal size."""
    first, second = (folder / "cat" / f"{i:02}.bmp" for i in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def touch(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        os.utime(file, (1, 1))


def as_bitmaps(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()


def begun(images: Path, tmp_path: Path, mode: str, **options: object) -> tuple[Path, Path]:
    """Return a copy of the images and a run on it that was stopped after its first epoch."""
    data = shutil.copytree(images, tmp_path / "images")
    as_bitmaps(data)
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("relgraph.training.trainer._check_weights", lambda job, epoch: stop_at(epoch))
        train(Recipe(**{"dataset": f"folder:{data}", "images": mode, **QUICK, **options}), run)
    return data, run


def stop_at(epoch: int) -> None:
    if epoch == 1:
        raise KeyboardInterrupt


def resumed(run: Path) -> object:
    return train(RunDirectory.open(run).recipe(), run, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_other_images_are_refused_and_touched_moved_or_copied_ones_are_not(
    mode: str, images: Path, tmp_path: Path
) -> None:
    data, run = begun(images, tmp_path, mode)
    for change, split, told in (
        (add, "train", "images are not those of"),
        (remove, "test", "the test images are not those of"),
        (rename, "train", "images are not those of"),
        (exchange, "train", "images are not those of"),
        (exchange, "test", "the test images are not those of"),
    ):
        kept = shutil.copytree(data, tmp_path / "kept")
        change(data / split)
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        with case(change, split), pytest.raises(RelgraphError, match=told):
            resumed(run)
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
        shutil.rmtree(data)
        kept.rename(data)
    touch(data)
    data.rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", data)
    resumed(run)
    assert len(RunDirectory(run).read_metrics()) == 2


def test_what_reads_a_run_asks_for_the_split_that_it_reads(run: Path) -> None:
    inputs = read_json(run / "inputs.json")
    changed = {**inputs, "data": {**inputs["data"], "test": {**inputs["data"]["test"], "images": 14}}}
    write_json(run / "inputs.json", changed)
    run_pair(run, split="train", k=2)
    for call in (lambda: run_pair(run, split="test", k=2), lambda: evaluate_run(run)):
        with pytest.raises(RelgraphError, match=r"the test images are not those of .*: expected 14 images, found 15"):
            call()


def test_another_teacher_is_refused(images: Path, tmp_path: Path) -> None:
    info = {"backbone": "resnet8", "in_channels": 3, "image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}

    def write(seed: int) -> None:
        torch.manual_seed(seed)
        network = torch.nn.ModuleDict({"backbone": build_backbone("resnet8", 3)})
        save_network(tmp_path / "teacher.safetensors", network, info)

    write(0)
    _, run = begun(images, tmp_path, "memory", teacher=f"checkpoint:{tmp_path / 'teacher.safetensors'}")
    write(1)
    told = "the weights of the teacher .*: expected those with which .*run was begun, found others"
    with pytest.raises(RelgraphError, match=told):
        resumed(run)
    write(0)
    resumed(run)
    write(1)
    with pytest.raises(RelgraphError, match=told):
        evaluate_run(run)


def test_a_pre_training_with_another_image_is_refused(images: Path, tmp_path: Path) -> None:
    data = shutil.copytree(images / "train", tmp_path / "images")
    options = {"dataset": f"folder:{data}", "network": "resnet8", "epochs": 1, "batch_size": 9, "device": "cpu"}
    recipe = resolve_pretraining(options)
    pretrain(recipe, tmp_path / "run")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data / "ant" / "z.png")
    with pytest.raises(RelgraphError, match=r"the train images are not those of .*: expected 27 images, found 28"):
        pretrain(recipe, tmp_path / "run", resume=True)
