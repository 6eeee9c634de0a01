"""Stores of embeddings: what is written of a teacher, and which store fits a run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.data.datasets import DataSet, load
from relgraph.data.embeddings import EmbeddingStore, StoreWriter, read_record, shard_file
from relgraph.data.manifest import Contents
from relgraph.data.views import PadCropFlip
from relgraph.names import dataset
from relgraph.seeding import generator
from relgraph.training import stores as embedding
from relgraph.training.building import open_data, open_teacher
from relgraph.training.feed import input_of
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store, store_embeddings, whole_splits
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, call_before


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_values_are_those_of_the_teacher(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(val_fraction=0.3)
    done = store_embeddings(recipe, tmp_path / "store", views=2, seed=4)
    data, teacher = whole(recipe), open_teacher(recipe)
    crop = PadCropFlip(data.crop_padding, data.flip).draw(36, 8, 8, generator("stored views", 4, 1))
    store = EmbeddingStore(tmp_path / "store")
    for view, seen in ((0, data.train.pixels), (1, crop.apply(data.train.pixels))):
        found = store.rows(torch.full((36,), view), torch.arange(36))
        torch.testing.assert_close(found, teacher(input_of(teacher)(seen)))
    contents = store.contents
    assert (done.images, done.contents, contents.images, contents.streamed) == (36, contents, 36, False)
    assert (contents.teacher, contents.fingerprint) == ("embedded:digits", teacher.fingerprint())
    assert (contents.input_size, contents.mean, contents.std) == (teacher.input_size, teacher.mean, teacher.std)
    assert (contents.width, contents.dtype, contents.precision) == (teacher.width, "float32", "32-true")
    assert (contents.views, contents.crop_padding, contents.flip, contents.view_seed) == (2, 1, True, 4)
    assert contents.image_shape == (3, 8, 8)
    assert torch.equal(read_record(tmp_path / "store", contents).checksums, data.train.checksums())
    half = store_embeddings(make(), tmp_path / "half", views=1, dtype="float16").contents
    assert half.dtype == "float16"
    rows = EmbeddingStore(tmp_path / "half").rows(torch.zeros(36, dtype=torch.long), torch.arange(36))
    torch.testing.assert_close(rows, teacher(input_of(teacher)(data.train.pixels)), rtol=2e-3, atol=2e-3)


def whole(recipe: Recipe) -> DataSet:
    return load(dataset(recipe.dataset), root=Path(), image_size=None, val_fraction=0, labels_per_class=None, seed=0)


def test_it_serves_every_split_and_choice_of_labels(make: RecipeMaker, tmp_path: Path) -> None:
    recipes = [make(dataset="digits", seed=seed, labels_per_class=seed + 1) for seed in range(2)]
    for number, recipe in enumerate(recipes):
        assert store_embeddings(recipe, tmp_path / str(number), views=1).images == 1442
    assert files(tmp_path / "0") == files(tmp_path / "1")
    assert not torch.equal(*(open_data(recipe).train.index for recipe in recipes))


def test_an_interrupt_at_any_shard(make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten images each; the store that is finished then is left alone."""
    monkeypatch.setattr(embedding, "images_per_shard", lambda images, size: 10)
    first = store_embeddings(make(), tmp_path / "whole", views=2, batch_size=4)
    moments: tuple[tuple[Any, int, int], ...] = ((StoreWriter, 1, 0), (StoreWriter, 4, 3), (Contents, 1, 0))
    for owner, number, done in moments:  # before a shard, or before the manifest
        path = tmp_path / f"{owner.__name__}{number}"
        with monkeypatch.context() as patch:
            call_before(patch, owner, "write", number)
            with pytest.raises(KeyboardInterrupt):
                store_embeddings(make(), path, views=2, batch_size=4)
        assert len(list(path.glob("shard*"))) == done
        assert store_embeddings(make(), path, views=2, batch_size=4).images == 36 - 10 * done
        assert files(path) == files(tmp_path / "whole")
    monkeypatch.setattr(embedding, "Normalise", lambda *given, **options: None)  # nothing goes through the teacher
    before = {file: file.stat().st_mtime_ns for file in path.glob("shard*")}
    again = store_embeddings(make(), path, views=2)
    assert (again.images, again.contents) == (0, first.contents)
    assert before and {file: file.stat().st_mtime_ns for file in path.glob("shard*")} == before


def test_other_parameters_are_refused(make: RecipeMaker, tmp_path: Path) -> None:
    store_embeddings(make(), tmp_path / "store", views=2)
    old, new = tmp_path / "store", tmp_path / "new"
    assert_refused_like(
        (lambda: store_embeddings(make(), old, views=3), "views was 2, is now 3"),
        (lambda: store_embeddings(make(teacher_mean=(0.1,)), old, views=2), r"mean was \(0.3.*\), is now \(0.1,\)"),
        (lambda: store_embeddings(make(image_size=6), old, views=2),
         r"image_shape was \(3, 8, 8\), is now \(3, 6, 6\)"),
        (lambda: store_embeddings(make(), new, views=0),
         r"views and batch_size must be at least 1 .* got 0, 256 and 'float32'"),
        (lambda: store_embeddings(make(), new, views=1, dtype="int8"), "got 1, 256 and 'int8'"),
    )  # fmt: skip
    assert not new.exists()


def test_streamed_images_give_the_same_embeddings_in_a_store_that_they_fit(make: RecipeMaker, tmp_path: Path) -> None:
    shards = {}
    for images in ("memory", "stream"):
        recipe = make(images=images, workers=0, embeddings=str(tmp_path / images))
        assert store_embeddings(recipe, tmp_path / images, views=2).contents.streamed == (images == "stream")
        shards[images] = np.load(tmp_path / images / "shard-00000.npy")["row"].tobytes()
    assert shards["memory"] == shards["stream"] and fitting(recipe) == "stream"


# Which store fits a run


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ega+anchor", "method_args": ("ega.node_weight=0",)},
        {"method": "sp", "kernel": "cosine", "scale": "raw", "criterion": "huber", "form": "blocked"},
        {"method": "pairwise", "pool": 0.5},
        {"method": "sskd", "ss_head": "head.safetensors"},
    ],
)
def test_the_whole_splits_of_a_run_are_found_whatever_its_method(options: dict[str, Any]) -> None:
    found = whole_splits(Recipe(**options))  # a query whose run names options told its answers by position alone
    assert found.dataset == "digits" and found.val_fraction == 0
    asked: dict[str, Any] = {
        "dataset": "nuclei",
        "image_size": 24,
        "ignore": (7,),
        "teacher": "timm:resnet18",
        "teacher_size": 32,
    }
    found = whole_splits(Recipe(**options, **asked))
    assert {name: getattr(found, name) for name in asked} == asked


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


def test_bf16_is_computed_float32_stored_and_may_be_further_away(make: RecipeMaker, made: Path, tmp_path: Path) -> None:
    recipe = make(embeddings=str(tmp_path), precision="bf16-mixed")
    contents = store_embeddings(recipe, tmp_path / "bf16", views=3).contents
    half, full = (np.load(shard_file(path, 0))["row"] for path in (tmp_path / "bf16", made))
    assert (contents.precision, half.dtype) == ("bf16-mixed", np.float32)
    assert 1e-4 < np.linalg.norm(half - full) / np.linalg.norm(full) < 0.05
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
