from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.data.datasets import DataSet, load
from relgraph.data.embeddings import EmbeddingStore, StoreWriter
from relgraph.data.manifest import Contents
from relgraph.data.views import PadCropFlip
from relgraph.names import dataset
from relgraph.seeding import generator
from relgraph.training import stores as embedding
from relgraph.training.building import open_data, open_teacher
from relgraph.training.feed import input_of
from relgraph.training.recipe import Recipe
from relgraph.training.stores import store_embeddings
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, call_before, interrupt


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
    assert (done.images, done.contents) == (36, store.contents)


def test_the_store_says_what_is_in_it(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make()
    teacher = open_teacher(recipe)
    contents = store_embeddings(recipe, tmp_path / "store", views=1, dtype="float16").contents
    assert (contents.images, contents.image_shape, contents.streamed) == (36, (3, 8, 8), False)
    assert (contents.teacher, contents.fingerprint) == ("embedded:digits", teacher.fingerprint())
    assert (contents.input_size, contents.mean, contents.std) == (teacher.input_size, teacher.mean, teacher.std)
    assert (contents.width, contents.dtype, contents.precision) == (teacher.width, "float16", "32-true")
    assert (contents.views, contents.crop_padding, contents.flip, contents.view_seed) == (1, 1, True, 0)
    assert torch.equal(EmbeddingStore(tmp_path / "store").record.checksums, whole(recipe).train.checksums())


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
            call_before(patch, owner, "write", number, interrupt)
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


def test_streamed_images_give_the_same_embeddings(make: RecipeMaker, tmp_path: Path) -> None:
    shards = {}
    for images in ("memory", "stream"):
        recipe = make(images=images, workers=0)
        assert store_embeddings(recipe, tmp_path / images, views=2).contents.streamed == (images == "stream")
        shards[images] = np.load(tmp_path / images / "shard-00000.npy")["row"].tobytes()
    assert shards["memory"] == shards["stream"]


def test_bf16_is_computed_and_float32_is_stored(make: RecipeMaker, tmp_path: Path) -> None:
    contents = store_embeddings(make(precision="bf16-mixed"), tmp_path / "bf16", views=1).contents
    store_embeddings(make(), tmp_path / "float32", views=1)
    half, full = (np.load(tmp_path / name / "shard-00000.npy")["row"] for name in ("bf16", "float32"))
    assert (contents.precision, half.dtype) == ("bf16-mixed", np.float32)
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-4 < error < 0.05
