"""A Tiny-ImageNet of three classes in the published layout, and every way in which it can be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relgraph.data.images import ImageFiles
from relgraph.data.published import OriginalSplits
from relgraph.data.tiny_imagenet import check_tiny_imagenet, read_tiny_imagenet
from relgraph.errors import RelgraphError

WNIDS = ("n02", "n01", "n03")
VAL = {"val_0.JPEG": "n03", "val_10.JPEG": "n01", "val_2.JPEG": "n02"}


def write_image(file: Path, mode: str = "RGB", size: int = 64) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(file))).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, format="JPEG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, three training images each, of which the second is grey, and a validation image each."""
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        for i in range(3):
            write_image(root / f"train/{wnid}/images/{wnid}_{i}.JPEG", "L" if i == 1 else "RGB")
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    for name in VAL:
        write_image(root / "val/images" / name)
    lines = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in VAL.items()]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02\nn01\nn03\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tcrane, wading bird\nn02\tcat, true cat\nn03\tcrane\n")
    return root


def read(folder: Path, size: int | None = None, mode: str = "auto") -> OriginalSplits:
    return read_tiny_imagenet(folder, size, mode)


def pixels(file: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


def test_images_and_labels_are_those_of_the_files(folder: Path) -> None:
    source = read(folder)
    assert source.train.classes == ("crane (n01)", "cat", "crane (n03)")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    files = [folder / f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in sorted(WNIDS) for i in range(3)]
    assert torch.equal(source.train.pixels, torch.stack([pixels(file) for file in files]))
    assert source.train.index.tolist() == list(range(9)) and source.val is None
    grey = source.train.pixels[1]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_the_published_validation_images_are_the_test_images(folder: Path) -> None:
    test = read(folder).test
    assert test.split == "test" and test.labels.tolist() == [2, 0, 1]
    assert torch.equal(test.pixels, torch.stack([pixels(folder / "val/images" / name) for name in VAL]))


def test_streamed_images_are_the_same(folder: Path) -> None:
    held, streamed = read(folder, mode="memory"), read(folder, mode="stream")
    assert isinstance(streamed.train.images, ImageFiles)
    (batch,) = streamed.train.batches([torch.arange(9)])
    assert torch.equal(batch, held.train.pixels)


def test_image_size(folder: Path) -> None:
    source = read(folder, size=32)
    assert source.train.pixels.shape == (9, 3, 32, 32)
    assert (source.crop_padding, read(folder).crop_padding, source.flip) == (4, 8, True)


def test_too_many_pixels_for_the_memory_are_refused_or_streamed(folder: Path) -> None:
    with pytest.raises(RelgraphError, match=r"need .* GiB of memory, expected at most 8"):
        read(folder, size=20_000, mode="memory")
    assert isinstance(read(folder, size=20_000).train.images, ImageFiles)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def move(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / to)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("wnids.txt"), r"wnids\.txt: expected a list of Tiny-ImageNet \(No such file"),
        (remove("words.txt"), r"words\.txt: expected a list of Tiny-ImageNet"),
        (remove("val/val_annotations.txt"), r"val_annotations\.txt: expected a list of Tiny-ImageNet"),
        (write("wnids.txt", ""), r"wnids\.txt: expected every class once, found none"),
        (write("wnids.txt", "n01\nn02\nn01\n"), r"wnids\.txt: expected every class once, found n01"),
        (write("wnids.txt", "n01\nn02\n"), "a folder for each class of wnids.txt, but n03 is not in wnids.txt"),
        (write("wnids.txt", "n01\nn02\nn03\nn04\n"), r"words\.txt: expected a name for n04, found none"),
        (write("words.txt", "n01\tcrane\nn02\tcat"), r"words\.txt: expected a name for n03, found none"),
        (move("train/n01", "away"), "a folder for each class of wnids.txt, but n01 is missing"),
        (move("train", "away"), "a folder for each class of wnids.txt, but n01 is missing"),
        (remove("train/n02/images/n02_1.JPEG"), "as many images in every class, found 3 in n01 and 2 in n02"),
        (remove("val/images/val_10.JPEG"), r"line 2: .*val_10\.JPEG is missing or named twice"),
        (move("val/images", "away"), r"line 1: .*val_0\.JPEG is missing or named twice"),
        (write("val/val_annotations.txt", "val_0.JPEG\tn03\n" * 2), r"line 2: .*val_0\.JPEG is missing or named twice"),
        (
            write("val/val_annotations.txt", "val_0.JPEG\tn03\n"),
            r"expected every image of .*, val_10\.JPEG has no class",
        ),
        (write("val/val_annotations.txt", "val_0.JPEG\tn0"), r"line 1: expected an image and a class, found 'val_0"),
        (write("val/val_annotations.txt", "val_0.JPEG"), r"line 1: expected an image and a class, found 'val_0.JPEG'"),
    ],
)
def test_lists_and_files_must_agree(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    for use in (check_tiny_imagenet, read):
        with pytest.raises(RelgraphError, match=message) as caught:
            use(folder)
        assert "\n" not in str(caught.value)


def test_a_list_that_is_no_text(folder: Path) -> None:
    (folder / "words.txt").write_bytes(b"n01\t\xff\xfe")
    with pytest.raises(RelgraphError, match=r"words\.txt: expected a list of Tiny-ImageNet \(not text\)"):
        read(folder)


def test_a_truncated_image_is_named(folder: Path) -> None:
    file = folder / "train/n02/images/n02_1.JPEG"
    file.write_bytes(file.read_bytes()[:600])
    check_tiny_imagenet(folder)
    with pytest.raises(RelgraphError, match=r"n02_1\.JPEG: not a readable image"):
        read(folder)


def test_an_image_of_another_size_is_named(folder: Path) -> None:
    write_image(folder / "val/images/val_2.JPEG", size=32)
    with pytest.raises(RelgraphError, match=r"val_2\.JPEG: expected 64 x 64 pixels .*, found 32 x 32"):
        read(folder)
