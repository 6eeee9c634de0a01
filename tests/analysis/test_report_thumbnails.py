import base64
import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from relgraph.analysis.pictures import SPRITE_TILE, data_uri, matrix_picture, sprite, thumbnails
from relgraph.data.images import ImageSet


def opened(address: str) -> "Image.Image":
    head, data = address.split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{picture.format.lower()};base64" if picture.format else False
    return picture.convert("RGB")


def images(count: int, channels: int, height: int, width: int) -> ImageSet:
    pixels = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.long), ("a",), "test", torch.arange(count))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_of_the_sprite_is_its_image(channels: int) -> None:
    given = images(11, channels, 6, 6)
    found, places = sprite(given)
    whole, tile = np.asarray(opened(found["data"])), found["tile"]
    assert tile == 6 and len({tuple(place) for place in places}) == 11
    for (column, row), image in zip(places, given.pixels, strict=True):
        assert column < found["columns"]
        part = whole[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        assert (part == image.expand(3, -1, -1).permute(1, 2, 0).numpy()).all()


def test_large_images_are_made_small_in_their_shape() -> None:
    (small,) = thumbnails(images(1, 3, 40, 80), 32)
    assert small.size == (32, 16)
    found, _ = sprite(images(2, 3, 40, 80))
    assert found["tile"] == SPRITE_TILE


def test_a_matrix_is_blue_white_and_red() -> None:
    matrix = torch.tensor([[-1.0, 0.0], [0.5, 2.0]])
    found = np.asarray(opened(matrix_picture(matrix, 1.0)), dtype=float)
    expected = colormaps["RdBu_r"]((matrix.clamp(-1, 1).numpy() + 1) / 2)[..., :3] * 255
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, expected, atol=4)  # a step of the palette


def test_what_would_be_large_is_a_jpeg() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8))
    assert data_uri(noise).startswith("data:image/jpeg")
    assert data_uri(noise.crop((0, 0, 50, 50))).startswith("data:image/png")
