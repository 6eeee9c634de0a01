"""Images in files, written with PIL, against the same images decoded here, and against those in memory."""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data import images as module
from relgraph.data.images import ImageFiles, ImageSet, image_files
from tests.checks import assert_refused, assert_refused_like
from tests.pictures import write_image

COUNT = 23
NAMES = [f"{('Ünïcode', 'with space')[i % 2]}/{i:02}.png" for i in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 7 x 5 noise images; read it, do not change it."""
    root = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(NAMES):
        write_image(root / name, (7, 5), seed)
    return root


def whole(images: Tensor | ImageFiles) -> ImageSet:
    return ImageSet(images, torch.arange(len(images)) % 2, ("a", "b"), "train", torch.arange(len(images)) + 100)


@pytest.fixture
def streamed(folder: Path) -> ImageSet:
    return whole(image_files(folder, NAMES, None))


@pytest.fixture
def held(folder: Path) -> ImageSet:
    decoded = [np.asarray(Image.open(folder / name).convert("RGB")) for name in NAMES]
    return whole(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2))


def test_batches_are_the_images_in_order_at_any_number_of_workers(streamed: ImageSet, held: ImageSet) -> None:
    indices = list(torch.split(torch.randperm(COUNT), 4))
    for images, workers in ((held, 0), (held, 2), (streamed, 0), (streamed, 2)):
        found = list(images.batches(indices, workers))
        for batch, index in zip(found, indices, strict=True):
            assert batch.dtype == torch.uint8 and torch.equal(batch, held.pixels[index])
        assert list(images.batches([], workers)) == []


def test_files_have_the_shape_of_their_images(streamed: ImageSet, held: ImageSet) -> None:
    assert streamed.images.shape == held.images.shape == (COUNT, 3, 5, 7)
    assert len(streamed) == len(streamed.images) == COUNT
    assert isinstance(streamed.images, ImageFiles)
    assert torch.equal(streamed.images.decode(np.array([3, 3, 0])), held.pixels[[3, 3, 0]])
    assert torch.equal(streamed.images.load("all"), held.pixels)


def test_select_takes_images_labels_and_numbers_together(streamed: ImageSet, held: ImageSet) -> None:
    hidden = torch.full((COUNT,), -1)
    mask = torch.arange(COUNT) % 3 == 1
    for images in (streamed.relabel(hidden), held.relabel(hidden)):
        for which in (mask, mask.nonzero().flatten()):
            part = images.select(which)
            assert torch.equal(part.index, torch.arange(100, 100 + COUNT)[mask])
            assert part.labels.tolist() == [-1] * len(part)
            assert torch.equal(part.true_labels, held.labels[mask])
            (batch,) = part.batches([torch.arange(len(part))])
            assert torch.equal(batch, held.pixels[mask])
        assert len(images.select(torch.arange(0))) == 0


def test_select_and_labels_open_no_file(tmp_path: Path) -> None:
    images = whole(image_files(tmp_path, ["gone/1.png", "gone/2.png"], 8))
    assert images.select(torch.tensor([1])).images.shape == (1, 3, 8, 8)
    assert images.to("cpu").true_labels.tolist() == [0, 1]
    batches = images.select(torch.tensor([1])).batches([torch.tensor([0])])
    assert_refused_like((lambda: next(batches), r"gone/2\.png: not a readable image"))


def test_relabelling_twice_keeps_the_first_truth(held: ImageSet) -> None:
    assert torch.equal(held.true_labels, held.labels)
    noisy = held.relabel(1 - held.labels).relabel(torch.full_like(held.labels, -1))
    assert torch.equal(noisy.true_labels, held.labels)
    assert set(noisy.labels.tolist()) == {-1}


def test_to_moves_labels_and_what_lies_in_memory(streamed: ImageSet, held: ImageSet) -> None:
    moved = held.relabel(held.labels).to("meta")
    assert moved.pixels.is_meta and moved.labels.is_meta and moved.true_labels.is_meta
    assert not moved.index.is_meta  # positions, for the files that a run writes
    moved = streamed.to("meta")
    assert moved.images is streamed.images and moved.labels.is_meta
    told = "expected the train images in memory, found files that are streamed"
    assert_refused((lambda: streamed.pixels, told))


def test_a_sample_is_evenly_spaced(streamed: ImageSet, held: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (streamed, held):
        assert torch.equal(images.sample(4), held.pixels[[0, 5, 11, 17]])
        assert torch.equal(images.sample(COUNT + 1), held.pixels)
        assert images.select(torch.arange(0)).sample(4).shape == (0, 3, 5, 7)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 2 * 3 * 5 * 7 + 1)
    assert torch.equal(streamed.sample(4), held.pixels[[0, 11]])
    assert torch.equal(held.sample(4), held.pixels[[0, 5, 11, 17]])


def test_checksums_in_memory_are_those_of_the_bytes(held: ImageSet) -> None:
    found = held.checksums()
    assert found.dtype == torch.int64
    assert found.tolist() == [zlib.crc32(image.contiguous().numpy().tobytes()) for image in held.pixels]
    assert torch.equal(held.select(torch.tensor([4, 2])).checksums(), found[[4, 2]])
    assert held.select(torch.arange(0)).checksums().shape == (0,)
    mirrored = whole(held.pixels.flip(3))
    assert not (mirrored.checksums() == found).any()


def test_checksums_of_files_know_name_size_and_image_size(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name, content in (("a.png", b"123"), ("b.png", b"456"), ("c.png", b"7890")):
            (tmp_path / place / name).write_bytes(content)  # no images: nothing is read
    names = ["a.png", "b.png", "c.png"]
    found = image_files(tmp_path / "here", names, 8).checksums()
    assert found.dtype == torch.int64 and len(set(found.tolist())) == 3
    assert torch.equal(image_files(tmp_path / "there", names, 8).checksums(), found), "the place does not count"
    assert not (image_files(tmp_path / "here", names, 9).checksums() == found).any()
    (tmp_path / "here/b.png").write_bytes(b"longer")
    assert (image_files(tmp_path / "here", names, 8).checksums() == found).tolist() == [True, False, True]
    (tmp_path / "here/b.png").unlink()
    told = r"b\.png: expected an image, found none \(No such file"
    assert_refused_like((image_files(tmp_path / "here", names, 8).checksums, told))


def test_an_image_of_another_size_is_one_sentence_from_a_worker_too(tmp_path: Path) -> None:
    for name, size in (("0.png", (7, 5)), ("1.png", (5, 7)), ("2.png", (7, 5))):
        Image.new("RGB", size).save(tmp_path / name)
    images = whole(image_files(tmp_path, ["0.png", "1.png", "2.png"], None))
    told = (
        f"{tmp_path}/1.png: expected 7 x 5 pixels like the first image, found 5 x 7: give --image-size to resize them"
    )
    for workers in (0, 2):
        batches = images.batches([torch.tensor([0, 2]), torch.tensor([2, 1]), torch.tensor([0])], workers)
        assert next(batches).shape == (2, 3, 5, 7)
        assert_refused((partial(next, batches), told))


def test_some_of_many_images_are_drawn_evenly_over_their_classes() -> None:
    labels = torch.tensor([0] * 40 + [1] * 3 + [-1] * 10 + [2] * 30)
    images = ImageSet(torch.zeros(83, 1, 1, 1), labels, ("a", "b", "c"), "train", torch.arange(83))
    found = images.evenly(30)
    assert [int((found.labels == label).sum()) for label in (-1, 0, 1, 2)] == [9, 9, 3, 9]
    assert torch.equal(found.index, images.evenly(30).index) and bool((found.index.diff() > 0).all())
    assert {*images.evenly(29).index.tolist()} < {*found.index.tolist()}  # one more image, the others are the same
    assert found.index[found.labels == 0].tolist() != [*range(9)]
    assert images.evenly(83) is images and len(images.evenly(1)) == 1
