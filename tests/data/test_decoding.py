"""Single images in files, written with PIL; orientation, transparency and limits are in `tests/faults`."""

from pathlib import Path

import numpy as np
from PIL import Image

from relgraph.data.decoding import ORIENTATION, covering, read_image, read_numbers, size_as_seen, uncovered
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


def test_a_size_of_two_numbers_is_covered_and_the_middle_stays(tmp_path: Path) -> None:
    """A long size of a long image as well, which is not cut to 16 times its shorter side first."""
    ramp = np.broadcast_to((np.arange(240) // 12 * 12).astype(np.uint8)[None, :, None], (20, 240, 3))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    for height, width in ((10, 120), (5, 100), (30, 60), (20, 200), (2, 24)):
        found = np.asarray(read_image(tmp_path / "a.png", (height, width)))
        assert found.shape == (height, width, 3)
        scale = max(height / 20, width / 240)
        part = np.asarray(uncovered(Image.fromarray(ramp), (height, width)))
        assert part.shape[:2] == (min(20, round(height / scale)), min(240, round(width / scale)))
        ends = np.array([[part[0, 0, 0], part[0, -1, 0]]])
        assert np.abs(found[:, [0, -1], 0] - ends.astype(int)).max() <= 12, "both show the same part"


def test_a_side_that_ends_in_a_half_is_rounded_as_in_an_exported_program() -> None:
    """665 * 224 / 320 is 465.5 exactly, and less by numbers of a computer."""
    assert covering(Image.new("L", (665, 320)), 224).size == (466, 224)
    assert covering(Image.new("L", (320, 665)), 224).size == (224, 466)


def test_sizes_are_known_without_decoding(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for suffix in ("jpg", "png", "webp", "tif"):
            Image.new("RGB", (6, 4)).save(tmp_path / f"a.{suffix}", exif=exif)
            seen = read_image(tmp_path / f"a.{suffix}", None).size
            assert size_as_seen(tmp_path / f"a.{suffix}") == seen == ((6, 4) if orientation < 5 else (4, 6))


def test_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 1], [1, 0, 1]], dtype=np.uint8)
    palette = Image.fromarray(numbers)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    for image in (Image.fromarray(numbers), palette, Image.fromarray(numbers.astype(bool))):
        image.save(tmp_path / "a.png")
        assert np.array_equal(np.asarray(read_numbers(tmp_path / "a.png")), numbers)


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "1", "LA", "RGBA", "P"):
        Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png", None)
        assert image.mode == "RGB" and np.asarray(image).min() == 255


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
