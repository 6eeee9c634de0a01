import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.data.embeddings import StoreWriter, read_record, shard_file
from relgraph.data.manifest import Contents
from relgraph.training.building import open_data, open_teacher
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store, store_embeddings
from tests.training.conftest import RecipeMaker


@pytest.fixture(scope="session")
def made(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of three views; read it, do not change it."""
    path = tmp_path_factory.mktemp("stores") / "three"
    store_embeddings(make(), path, views=3)
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a folder with a copy of that store in it that a test may spoil."""
    shutil.copytree(made, tmp_path / "embeddings" / "three")
    return tmp_path / "embeddings"


def wanted(recipe: Recipe) -> Wanted:
    return Wanted(recipe, open_data(recipe), open_teacher(recipe), torch.device("cpu"))


def reason(one: Wanted) -> str:
    """Return why the only store does not fit."""
    store, (told,) = find_store(one)
    assert store is None and "\n" not in told
    return told


def fitting(recipe: Recipe) -> str:
    """Return the name of the store that fits."""
    store, reasons = find_store(wanted(recipe))
    assert store is not None and reasons == []
    return store.path.name


def test_a_store_that_fits(make: RecipeMaker, made: Path, images: Path, folder: Path) -> None:
    """The folder may be the store; data and teacher may have other names, also in the manifest."""
    for options in ({}, {"seed": 3, "val_fraction": 0.4}, {"labels_per_class": 0}, {"precision": "bf16-mixed"},
                    {"embeddings": str(made)}, {"dataset": f"folder:{images}/../{images.name}"}):  # fmt: skip
        assert fitting(make(**{"embeddings": str(folder), **options})) == "three"
    shutil.rmtree(folder / "three")
    store_embeddings(make(dataset=f"folder:{images}/../{images.name}"), folder / "three", views=3)
    assert fitting(make(embeddings=str(folder))) == "three"


def test_more_views_come_first_and_then_the_names(make: RecipeMaker, folder: Path) -> None:
    for name, views in (("one", 1), ("four", 4), ("also_four", 4)):
        store_embeddings(make(), folder / name, views=views)
    assert fitting(make(embeddings=str(folder))) == "also_four"


def test_no_store_and_stores_of_others_are_passed_over_without_a_word(make: RecipeMaker, tmp_path: Path) -> None:
    assert find_store(wanted(make(embeddings=str(tmp_path / "none")))) == (None, [])
    store_embeddings(make(dataset="digits", labels_per_class=0), tmp_path / "digits", views=2)
    assert find_store(wanted(make(embeddings=str(tmp_path)))) == (None, [])
    told = reason(wanted(make(embeddings=str(tmp_path / "digits"))))
    assert "the shape of an image: (1, 8, 8) in the store, (3, 8, 8) in this run" in told


OTHERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"teacher_std": (0.5,)}, "the teacher's std: (0.3759199662473502,) in the store, (0.5,) in this run"),
    ({"teacher_mean": (0.5,)}, "the teacher's mean: (0.30507715210795633,) in the store, (0.5,) in this run"),
    ({"teacher_size": 16}, "the teacher's input size: 8 in the store, 16 in this run"),
    ({"image_size": 6}, "the shape of an image: (3, 8, 8) in the store, (3, 6, 6) in this run"),
    ({"images": "stream", "workers": 0}, "whether images are streamed: False in the store, True in this run"),
)


def test_other_options(make: RecipeMaker, made: Path) -> None:
    for options, told in OTHERS:
        found = reason(wanted(make(embeddings=str(made), **options)))
        assert found == f"{made} does not fit: {told}"


def test_one_view_cannot_be_shared(make: RecipeMaker, tmp_path: Path) -> None:
    store_embeddings(make(), tmp_path / "one", views=1)
    assert reason(wanted(make(embeddings=str(tmp_path)))) == (
        f"{tmp_path}/one has one view an image, which as the shared one would leave the student without augmentation: "
        "use --views independent, or relgraph embed --views N"
    )
    assert fitting(make(embeddings=str(tmp_path), views="independent")) == "one"


def test_another_teacher_of_the_same_name(make: RecipeMaker, made: Path) -> None:
    one = wanted(make(embeddings=str(made)))
    other = replace(one, recipe=replace(one.recipe, teacher_args=("pad_type=same",)))
    assert "arguments: () in the store, ('pad_type=same',) in this run" in reason(other)
    stored = one.teacher.fingerprint()[:12]
    with torch.no_grad():
        next(one.teacher.parameters()).view(-1)[0] += 1e-3
    assert f"the SHA-256 of the teacher's weights: {stored}... in the store, " in reason(one)


def test_other_images_and_augmentation(make: RecipeMaker, made: Path) -> None:
    one = wanted(make(embeddings=str(made)))
    train, pixels, order = one.data.train, one.data.train.pixels.clone(), torch.arange(36)
    pixels[20, 0, 3, 3] ^= 1
    order[[4, 9]] = order[[9, 4]]
    another = "image {} of the training split is another one there; if the images have changed, delete the store"
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"train": replace(train, images=pixels).select(torch.arange(12, 30))}, another.format(20)),
        ({"train": replace(train, images=train.pixels[order])}, another.format(4)),
        ({"train": replace(train, index=train.index + 5)}, "it has 36 images, the training set has more"),
        ({"crop_padding": 2}, "the black pixels around an image: 1 in the store, 2 in this run"),
        ({"flip": False}, "whether crops are mirrored: True in the store, False in this run"),
    )
    for change, told in changes:
        assert told in reason(replace(one, data=replace(one.data, **change)))


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Write another shard 0, as a program with a fault would have: each row has its CRC-32."""
    rows = np.load(shard_file(path, 0))["row"]
    contents = Contents.read(path)
    StoreWriter(path, contents, read_record(path, contents)).write(0, torch.from_numpy(change(rows)))


def test_values_that_are_not_the_teacher_s(make: RecipeMaker, folder: Path) -> None:
    """The last digits of another machine are; each image's neighbour's, another view's or larger ones are not."""
    recipe, right = make(embeddings=str(folder)), np.load(shard_file(folder / "three", 0))["row"]
    # By 1.1 the embedding of a large network is away where a crop is off by one pixel.
    for wrong in (np.roll(right, 1, axis=0), np.roll(right, 1, axis=1), right * 1.1, np.zeros_like(right)):
        rewrite(folder / "three", lambda rows, wrong=wrong: wrong)  # type: ignore[misc]
        told = reason(wanted(recipe))
        assert "does not fit: computed anew, view " in told
        assert told.endswith("% from what is stored, expected at most 5 %")
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(right.shape)
    rewrite(folder / "three", lambda rows: right * noise)
    assert fitting(recipe) == "three"


def test_bf16_may_be_further_away(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(embeddings=str(tmp_path), precision="bf16-mixed")
    store_embeddings(recipe, tmp_path / "bf16", views=2)
    rewrite(tmp_path / "bf16", lambda rows: rows * 1.1)
    assert find_store(wanted(recipe))[0] is not None
    rewrite(tmp_path / "bf16", lambda rows: rows * 1.3)
    assert reason(wanted(recipe)).endswith("% from what is stored, expected at most 20 %")


def test_damaged_and_unfinished_stores_are_told(make: RecipeMaker, folder: Path) -> None:
    recipe = make(embeddings=str(folder))
    for name in ("cut", "unfinished", "no_json", "old"):
        shutil.copytree(folder / "three", folder / name)
    shutil.rmtree(folder / "three")
    shard_file(folder / "cut", 0).write_bytes(b"short")
    shard_file(folder / "unfinished", 0).unlink()
    (folder / "no_json" / "manifest.json").write_text("{")
    old = folder / "old" / "manifest.json"
    old.write_text(old.read_text().replace('"version": 3', '"version": 2'))  # it had one checksum a shard
    (folder / "file.txt").write_text("no store")
    store, reasons = find_store(wanted(recipe))
    assert store is None
    beginnings = (
        "no_json/manifest.json cannot be read as JSON (",
        "old/manifest.json is not the manifest of a store of embeddings of this version: expected 3, found 2; ",
        "cut/shard-00000.npy cannot be read (",
        "unfinished is not finished, shard-00000.npy is missing, 0 of 1 shards are written: ",
    )
    for told, beginning in zip(reasons, beginnings, strict=True):
        assert told.startswith(f"{folder}/{beginning}")


def test_a_store_of_streamed_images(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(embeddings=str(tmp_path), images="stream", workers=0)
    store_embeddings(recipe, tmp_path / "streamed", views=2)
    assert Contents.read(tmp_path / fitting(recipe)).streamed
