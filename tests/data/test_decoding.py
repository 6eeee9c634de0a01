"""Single images in files, written with PIL; orientation, transparency and limits are in `tests/faults`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relgraph.data.decoding import read_image
from tests.checks import assert_refused_like


def test_image_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 20, 3), dtype=np.uint8)
    pixels[:, 6:14] = 200  # the central square is bright, what is cropped is black
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = np.asarray(read_image(tmp_path / "wide.png", 4))
    assert image.shape == (4, 4, 3)
    assert image[:, 1:3].min() > 195
    same = np.asarray(read_image(tmp_path / "wide.png", 8))
    assert np.array_equal(same, pixels[:, 6:14]), "an image of the asked size is left alone"


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "1", "LA", "RGBA", "P"):
        Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png", None)
        assert image.mode == "RGB" and np.asarray(image).min() == 255


def test_a_transparent_palette_is_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([255] * 768)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert np.asarray(read_image(tmp_path / "a.png", None)).min() == 255
    assert not recwarn.list


def test_what_is_no_image_of_bytes_is_refused(tmp_path: Path) -> None:
    file, noise = tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(np.full((4, 4), 3000, dtype=np.uint16)).save(file)
    told = r"a\.png: expected 8 bits per channel, found PIL's mode I;16"  # rather than clipped
    assert_refused_like((lambda: read_image(file, None), told))
    Image.fromarray(noise).save(file)
    cut_off = file.read_bytes()[:2000]
    for content in (b"", b"not an image", b"\x89PNG\r\n\x1a\n broken", cut_off):
        file.write_bytes(content)
        assert_refused_like((lambda: read_image(file, None), r"a\.png: not a readable image"))
