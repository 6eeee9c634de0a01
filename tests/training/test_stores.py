import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.data.embeddings import StoreWriter, shard_file
from relgraph.data.images import ImageSet
from relgraph.data.manifest import Manifest
from relgraph.training.building import open_data, open_teacher
from relgraph.training.embedding import store_embeddings
from relgraph.training.recipe import Recipe
from relgraph.training.stores import Wanted, find_store

RecipeMaker = Callable[..., Recipe]


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
    assert store is None
    assert "\n" not in told
    return told


def test_a_store_that_fits(make: RecipeMaker, folder: Path) -> None:
    for options in ({}, {"seed": 3, "val_fraction": 0.4}, {"labels_per_class": 0}, {"precision": "bf16-mixed"}):
        store, reasons = find_store(wanted(make(embeddings=str(folder), **options)))
        assert store is not None and reasons == []
        assert store.path == folder / "three"


def test_the_folder_may_be_the_store(make: RecipeMaker, made: Path) -> None:
    store, _ = find_store(wanted(make(embeddings=str(made))))
    assert store is not None and store.path == made


def test_the_same_data_and_weights_by_other_names(make: RecipeMaker, images: Path, folder: Path) -> None:
    store, _ = find_store(wanted(make(dataset=f"folder:{images}/../{images.name}", embeddings=str(folder))))
    assert store is not None


def test_more_views_come_first_and_then_the_names(make: RecipeMaker, folder: Path) -> None:
    for name, views in (("one", 1), ("four", 4), ("also_four", 4)):
        store_embeddings(make(), folder / name, views=views)
    store, _ = find_store(wanted(make(embeddings=str(folder))))
    assert store is not None and store.path.name == "also_four"


def test_no_store(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(embeddings=str(tmp_path / "none"))
    assert find_store(wanted(recipe)) == (None, [])


def test_stores_of_others_are_passed_over_without_a_word(make: RecipeMaker, tmp_path: Path) -> None:
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
    told = reason(wanted(make(embeddings=str(tmp_path))))
    assert told == (
        f"{tmp_path}/one has one view an image, which as the shared one would leave the student without augmentation: "
        "use --views independent, or relgraph embed --views N"
    )
    store, _ = find_store(wanted(make(embeddings=str(tmp_path), views="independent")))
    assert store is not None


def test_another_teacher_of_the_same_name(make: RecipeMaker, folder: Path) -> None:
    one = wanted(make(embeddings=str(folder)))
    stored = one.teacher.fingerprint()[:12]
    with torch.no_grad():
        next(one.teacher.parameters()).view(-1)[0] += 1e-3
    assert f"the SHA-256 of the teacher's weights: {stored}... in the store, " in reason(one)


def test_other_arguments_of_the_teacher(make: RecipeMaker, folder: Path) -> None:
    one = wanted(make(embeddings=str(folder)))
    other = replace(one, recipe=replace(one.recipe, teacher_args=("pad_type=same",)))
    assert "arguments: () in the store, ('pad_type=same',) in this run" in reason(other)


def changed(one: Wanted, change: Callable[[ImageSet], ImageSet]) -> Wanted:
    return replace(one, data=replace(one.data, train=change(one.data.train)))


def test_a_changed_image(make: RecipeMaker, folder: Path) -> None:
    def spoil(train: ImageSet) -> ImageSet:
        pixels = train.pixels.clone()
        pixels[20, 0, 3, 3] ^= 1
        return replace(train, images=pixels).select(torch.arange(12, 30))

    told = reason(changed(wanted(make(embeddings=str(folder))), spoil))
    assert "image 20 of the training split is another one there; if the images have changed, delete the store" in told


def test_images_in_another_order(make: RecipeMaker, folder: Path) -> None:
    def swap(train: ImageSet) -> ImageSet:
        order = torch.arange(len(train))
        order[[4, 9]] = order[[9, 4]]
        return replace(train, images=train.pixels[order])

    assert "image 4 of the training split is another one there" in reason(
        changed(wanted(make(embeddings=str(folder))), swap)
    )


def test_more_images(make: RecipeMaker, folder: Path) -> None:
    one = changed(wanted(make(embeddings=str(folder))), lambda train: replace(train, index=train.index + 5))
    assert reason(one).endswith("it has 36 images, the training set has more")


def test_other_augmentation(make: RecipeMaker, folder: Path) -> None:
    one = wanted(make(embeddings=str(folder)))
    padded = replace(one, data=replace(one.data, crop_padding=2))
    assert reason(padded).endswith("the black pixels around an image: 1 in the store, 2 in this run")
    still = replace(one, data=replace(one.data, flip=False))
    assert reason(still).endswith("whether crops are mirrored: True in the store, False in this run")


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Write another shard 0, as a program with a fault would have: its SHA-256 is in the manifest."""
    manifest = Manifest.read(path)
    manifest.shards[0] = None
    manifest.write(path)
    store = np.load(shard_file(path, 0))
    checksums = torch.from_numpy(np.load(path / "images.npy"))
    StoreWriter(path, manifest.contents, checksums).write(0, torch.from_numpy(change(store)))


def test_values_that_are_not_the_teacher_s(make: RecipeMaker, folder: Path) -> None:
    one, right = wanted(make(embeddings=str(folder))), np.load(shard_file(folder / "three", 0))
    for wrong in (
        np.roll(right, 1, axis=0),  # each image has its neighbour's embedding
        np.roll(right, 1, axis=1),  # each view has another's
        right * 1.1,  # where a crop that is off by one pixel is found by a large network
        np.zeros_like(right),
    ):
        rewrite(folder / "three", lambda rows, wrong=wrong: wrong)  # type: ignore[misc]
        told = reason(one)
        assert "does not fit: computed anew, view " in told
        assert told.endswith("% from what is stored, expected at most 5 %")


def test_the_last_digits_of_another_machine(make: RecipeMaker, folder: Path) -> None:
    rewrite(folder / "three", lambda rows: rows * (1 + 0.01 * np.random.default_rng(0).standard_normal(rows.shape)))
    store, _ = find_store(wanted(make(embeddings=str(folder))))
    assert store is not None


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
    manifest = Manifest.read(folder / "unfinished")
    manifest.shards[0] = None
    manifest.write(folder / "unfinished")
    (folder / "no_json" / "manifest.json").write_text("{")
    old = folder / "old" / "manifest.json"
    old.write_text(old.read_text().replace('"version": 2', '"version": 1'))  # its views were drawn differently
    (folder / "file.txt").write_text("no store")
    store, reasons = find_store(wanted(recipe))
    assert store is None
    beginnings = (
        "no_json/manifest.json cannot be read as JSON: ",
        "old/manifest.json is not the manifest of a store of embeddings of this version: expected 2, found 1; ",
        "cut/shard-00000.npy is damaged (",
        "unfinished is not finished, 0 of 1 shards are written: ",
    )
    for told, beginning in zip(reasons, beginnings, strict=True):
        assert told.startswith(f"{folder}/{beginning}")


def test_a_store_of_streamed_images(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(embeddings=str(tmp_path), images="stream", workers=0)
    store_embeddings(recipe, tmp_path / "streamed", views=2)
    store, _ = find_store(wanted(recipe))
    assert store is not None and store.contents.streamed


def test_checks_do_not_depend_on_the_manifest_s_names(make: RecipeMaker, folder: Path) -> None:
    """A manifest that claims another teacher's name and the right weights is believed; names can be anything."""
    manifest = Manifest.read(folder / "three")
    renamed = replace(manifest.contents, teacher="checkpoint:elsewhere")
    Manifest(renamed, manifest.shards).write(folder / "three")
    store, _ = find_store(wanted(make(embeddings=str(folder))))
    assert store is not None
