"""Thumbnails: the pixels of each image under the name of its index."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relgraph.analysis.pictures import write_thumbnails
from relgraph.data.images import ImageSet, image_files
from relgraph.errors import RelgraphError


def image_set(images: torch.Tensor) -> ImageSet:
    count = len(images)
    return ImageSet(images, torch.zeros(count).long(), ("a",), "test", torch.arange(count) * 3 + 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_image(channels: int, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, channels, 9, 7), dtype=torch.uint8)
    paths = write_thumbnails(image_set(images), tmp_path / "some")
    assert paths == ["some/5.png", "some/8.png", "some/11.png", "some/14.png"]
    for path, image in zip(paths, images, strict=True):
        with Image.open(tmp_path / path) as picture:
            found = np.asarray(picture)
        assert np.array_equal(found, image[0] if channels == 1 else image.permute(1, 2, 0))
    assert len(list((tmp_path / "some").iterdir())) == 4


def test_large_images_become_small_and_keep_their_shape(tmp_path: Path) -> None:
    write_thumbnails(image_set(torch.zeros(1, 3, 100, 400, dtype=torch.uint8)), tmp_path / "some")
    with Image.open(tmp_path / "some" / "5.png") as picture:
        assert picture.size == (96, 24)


def test_streamed_images_are_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    names = [f"{i}.png" for i in range(300)]
    (tmp_path / "source").mkdir()
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(tmp_path / "source" / name)
    files = image_files(tmp_path / "source", names, None)
    images = ImageSet(files, torch.zeros(300).long(), ("a",), "test", torch.arange(300))
    paths = write_thumbnails(images, tmp_path / "some")
    for path, image in list(zip(paths, pixels, strict=True))[::50]:
        with Image.open(tmp_path / path) as picture:
            assert np.array_equal(np.asarray(picture), image)


def test_what_else_is_there_stays_and_old_thumbnails_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name in ("other.txt", "5.png"):
        (tmp_path / "some" / name).write_text("old")
    write_thumbnails(image_set(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)), tmp_path / "some")
    assert (tmp_path / "some" / "other.txt").read_text() == "old"
    assert (tmp_path / "some" / "5.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    images = image_set(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(RelgraphError, match=r"^cannot make the folder .*some: No such file or directory$"):
        write_thumbnails(images, tmp_path / "none" / "some")
