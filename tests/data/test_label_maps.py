"""Label maps beside their images: what is chosen, hidden, moved and put together stays with its image."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data.datasets import DataSet, load, together
from relgraph.data.decoding import fitted
from relgraph.data.fingerprint import check_unchanged, fingerprint
from relgraph.data.label_maps import IGNORED, LabelMaps
from relgraph.data.pixel_sources import ASSETS
from relgraph.names import dataset
from tests.checks import assert_refused, refusal
from tests.pictures import write_folder, write_image


def nuclei(**options: Any) -> DataSet:
    usual: dict[str, Any] = {"image_size": None, "val_fraction": 0.1, "labels_per_class": None, "seed": 0}
    return load(dataset("nuclei"), root=Path("unused"), **{**usual, **options})


@pytest.fixture(scope="module")
def data() -> DataSet:
    return nuclei(labelled_images=12)


def tile(split: str, number: int) -> tuple[Tensor, Tensor]:
    """One image of nuclei and its label, cut out of the pictures by hand."""
    left, top = number % 25 * 64, number // 25 * 64
    parts = (f"nuclei-{split}.webp", f"nuclei-{split}-labels.png")
    image, label = (Image.open(ASSETS / name).convert("L").crop((left, top, left + 64, top + 64)) for name in parts)
    return tuple(torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).view(64, 64) for part in (image, label))  # type: ignore[return-value]


def test_nuclei_are_tiles_with_their_labels(data: DataSet) -> None:
    assert data.of_pixels and data.train.classes == ("background", "nucleus", "rim")
    assert [len(data.train), len(data.val), len(data.test)] == [360, 40, 125]
    assert sorted(torch.cat([data.train.index, data.val.index]).tolist()) == list(range(400))
    for images, split in ((data.train, "train"), (data.val, "train"), (data.test, "test")):
        assert images.maps is not None
        for number in (0, 17, len(images) - 1):
            image, label = tile(split, int(images.index[number]))
            assert torch.equal(images.pixels[number, 0], image) and torch.equal(images.maps.own(number), label)
            shown = images.maps.rows(torch.tensor([number]))[0]
            assert torch.equal(shown, label if images.labels[number] == 0 else torch.full_like(label, IGNORED))


def test_few_images_keep_their_label_and_the_others_only_for_evaluation(data: DataSet) -> None:
    train = data.train
    assert train.maps is not None and set(train.labels.tolist()) == {-1, 0} and bool((train.true_labels == -1).all())
    hidden = train.labels < 0
    assert int((~hidden).sum()) == 12
    rows = train.maps.rows(torch.arange(360))
    assert torch.equal((rows == IGNORED).all(-1).all(-1), hidden)
    assert torch.equal(nuclei(labelled_images=12).train.labels, train.labels)
    assert not torch.equal(nuclei(labelled_images=12, seed=1).train.labels, train.labels)
    told = "labelled_images must be from 1 to the 360 that have a label, got"
    assert_refused(*((partial(nuclei, labelled_images=count), f"{told} {count}") for count in (0, 361)))


def test_what_is_chosen_moved_or_joined_keeps_its_map(data: DataSet) -> None:
    whole = together([data.train, data.val, data.test])
    which = torch.tensor([3, 400, 359, 524, 3])
    assert whole.maps is not None
    for images in (whole.select(which), whole.select(which).to("cpu"), whole.select(which).evenly(5)):
        assert images.maps is not None
        assert torch.equal(images.maps.rows(torch.arange(5)), whole.maps.rows(which))
        assert all(torch.equal(images.maps.own(i), whole.maps.own(int(n))) for i, n in enumerate(which))
    moved = whole.select(which).maps.to("cpu:0")  # type: ignore[union-attr]
    kept = int((whole.labels[which] == 0).sum())  # of those that are hidden no map is moved, but one stands for all
    assert moved.maps.shape == (kept + 1, 64, 64) and len(moved) == 5
    assert moved.own(1).equal(whole.maps.own(400)) and torch.equal(moved.rows(torch.arange(5)), whole.maps.rows(which))
    more = data.test.maps.with_unlabelled(2)[torch.tensor([124, 126])]  # type: ignore[union-attr]
    assert more.rows(torch.arange(2))[1].unique().tolist() == more.own(1).unique().tolist() == [IGNORED]


def test_another_size_is_covered_and_its_centre_cropped_as_that_of_files_is(data: DataSet) -> None:
    small = nuclei(image_size=(16, 32))
    assert small.test.images.shape == (125, 1, 16, 32) and data.test.maps is not None and small.test.maps is not None
    own = data.test.maps.own(7)
    for whole, found, how in (
        (data.test.pixels[7, 0], small.test.pixels[7, 0], Image.Resampling.BICUBIC),
        (own, small.test.maps.rows(torch.tensor([7]))[0], Image.Resampling.NEAREST),
    ):
        picture = fitted(Image.fromarray(whole.numpy()), (16, 32), how)
        off = found.int() - torch.from_numpy(np.asarray(picture).astype(np.int32))
        assert off.abs().max() <= (1 if how is Image.Resampling.BICUBIC else 0)  # both round to 8 bits
    # A label of its own size is not resized, and shows what the image shows.
    assert torch.equal(small.test.maps.own(7), own[16:48])
    assert torch.equal(nuclei(image_size=32).test.maps.own(7), own)  # type: ignore[union-attr]


def test_a_fingerprint_is_of_the_labels_too(data: DataSet) -> None:
    known = fingerprint(data.train)
    assert check_unchanged(nuclei().train, known, "the run") is None  # which labels training may use plays no part
    maps = data.train.maps
    assert maps is not None
    other = LabelMaps.of(torch.cat([maps.maps[1:], maps.maps[:1]]))[data.train.index]
    found = refusal(partial(check_unchanged, replace(data.train, maps=other), known, "the run"))
    assert found.startswith("the train images are not those of the run: expected the same names, sizes and labels")


def test_options_of_classes_and_of_pixels_exclude_each_other(tmp_path: Path) -> None:
    told = "nuclei has labels of pixels: expected labelled_images, got"
    photos = dataset(f"folder:{write_folder(tmp_path / 'photos', {'train': 1, 'test': 1})}")
    of_classes = partial(load, photos, root=tmp_path, image_size=None, val_fraction=0, labels_per_class=None)
    assert_refused(
        (partial(nuclei, labels_per_class=3), f"{told} labels_per_class"),
        (partial(nuclei, label_fraction=0.5, label_noise=0.1), f"{told} label_fraction and label_noise"),
        (partial(nuclei, ignore=(2,)),
         "nuclei has no files with labels of pixels: expected no numbers to ignore in them"),
        (partial(of_classes, seed=0, labelled_images=3),
         f"{photos.name} has no labels of pixels: expected labels_per_class or label_fraction, got labelled_images 3"),
    )  # fmt: skip


def test_images_without_labels_join_nuclei(tmp_path: Path) -> None:
    write_image(tmp_path / "pool/a.png", (64, 64))
    train = nuclei(unlabelled=tmp_path / "pool").train
    assert (
        train.maps is not None and train.labels.tolist() == [0] * 360 + [-1] and train.images.shape[1:] == (1, 64, 64)
    )
    assert bool((train.maps.rows(torch.tensor([360])) == IGNORED).all())
