"""Pictures: the pixels of each image in files beside a graph, in the sprite of the page, and of a matrix."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from relgraph.analysis.pictures import SPRITE_TILE, data_uri, matrix_picture, sprite, thumbnails, write_thumbnails
from relgraph.data.images import ImageFiles, ImageSet, image_files
from tests.checks import assert_refused_like
from tests.pictures import write_image


def image_set(images: torch.Tensor | ImageFiles) -> ImageSet:
    count = len(images)
    return ImageSet(images, torch.zeros(count).long(), ("a",), "test", torch.arange(count) * 3 + 5)


def noise(count: int, channels: int, height: int, width: int) -> ImageSet:
    return image_set(torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8))


def opened(address: str) -> "Image.Image":
    head, data = address.split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format and head == f"data:image/{picture.format.lower()};base64"
    return picture.convert("RGB")


@pytest.mark.parametrize("channels", [1, 3])
def test_files_and_tiles_hold_the_pixels_of_each_image(channels: int, tmp_path: Path) -> None:
    given = noise(11, channels, 6, 5)
    paths = write_thumbnails(given, tmp_path / "some")
    assert paths == [f"some/{number}.png" for number in given.index.tolist()]
    assert len(list((tmp_path / "some").iterdir())) == 11
    found, places = sprite(given)
    whole, tile = np.asarray(opened(found["data"])), found["tile"]
    assert tile == 6 and len({tuple(place) for place in places}) == 11
    for path, (column, row), image in zip(paths, places, given.pixels, strict=True):
        with Image.open(tmp_path / path) as picture:
            pixels = np.asarray(picture)
        assert np.array_equal(pixels, image[0] if channels == 1 else image.permute(1, 2, 0))
        part = whole[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        assert column < found["columns"]
        assert (part[:, :5] == image.expand(3, -1, -1).permute(1, 2, 0).numpy()).all() and not part[:, 5].any()


def test_large_images_become_small_and_keep_their_shape(tmp_path: Path) -> None:
    large = noise(2, 3, 100, 400)
    path, _ = write_thumbnails(large, tmp_path / "some")
    with Image.open(tmp_path / path) as picture:
        assert picture.size == (96, 24)
    assert [small.size for small in thumbnails(large, 32)] == [(32, 8)] * 2
    assert sprite(large)[0]["tile"] == SPRITE_TILE
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8))
    assert data_uri(whole).startswith("data:image/jpeg")
    assert data_uri(whole.crop((0, 0, 50, 50))).startswith("data:image/png")


def test_streamed_images_are_read(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(30)]
    pixels = np.stack([write_image(tmp_path / "source" / name, (4, 4), seed) for seed, name in enumerate(names)])
    images = image_set(image_files(tmp_path / "source", names, None))
    written = [Image.open(tmp_path / path) for path in write_thumbnails(images, tmp_path / "some")]
    for found in (written, thumbnails(images, 8)):
        assert np.array_equal(np.stack([np.asarray(one) for one in found]), pixels)


def test_what_else_is_there_stays_and_old_thumbnails_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name in ("other.txt", "5.png"):
        (tmp_path / "some" / name).write_text("old")
    write_thumbnails(noise(1, 1, 2, 2), tmp_path / "some")
    assert (tmp_path / "some" / "other.txt").read_text() == "old"
    assert (tmp_path / "some" / "5.png").read_bytes().startswith(b"\x89PNG")
    told = r"^cannot make the folder .*some: No such file or directory$"
    assert_refused_like((lambda: write_thumbnails(noise(1, 1, 2, 2), tmp_path / "none" / "some"), told))


def test_a_matrix_has_the_colours_of_its_range() -> None:
    matrix = torch.tensor([[-1.0, 0.0], [0.5, 2.0]])
    found = np.asarray(opened(matrix_picture(matrix, -1.0, 1.0)), dtype=float)
    expected = colormaps["RdBu_r"]((matrix.clamp(-1, 1).numpy() + 1) / 2)[..., :3] * 255
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, expected, atol=4)  # a step of the palette
