"""Images upright, on white, within limits; what is no image, or damaged, is counted and told in one line."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features

from relgraph.analysis.run_loading import evaluate_run
from relgraph.data.datasets import load
from relgraph.data.decoding import PIXEL_LIMIT, read_image
from relgraph.data.file_sources import Folder
from relgraph.data.folders import read_folder
from relgraph.data.images import ImageFiles
from relgraph.data.listing import LeftOut
from relgraph.files import read_json
from relgraph.training.building import open_data
from relgraph.training.distillation import train
from relgraph.training.runs import RunDirectory
from tests.checks import assert_refused_like, case
from tests.faults.conftest import Make, write_images

Pixels = NDArray[np.uint8]
# What a person does to see an image of each EXIF orientation upright.
TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
FORMATS: dict[str, dict[str, Any]] = {"jpg": {}, "png": {}, "webp": {"lossless": True}, "tif": {}, "avif": {}}


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def read(file: Path, size: int | None = None) -> Pixels:
    return np.asarray(read_image(file, size))


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_exif_orientation_is_obeyed_by_all_formats_alike(suffix: str, tmp_path: Path) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    image, plain = Image.fromarray(noise(16, 24)), tmp_path / f"plain.{suffix}"
    image.save(plain, **FORMATS[suffix])
    stored = read(plain)
    assert stored.shape == (16, 24, 3)
    for orientation, turned in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file, upright = tmp_path / f"{orientation}.{suffix}", tmp_path / "upright.png"
        image.save(file, exif=exif, **FORMATS[suffix])
        Image.fromarray(np.ascontiguousarray(turned(stored))).save(upright)
        with case(suffix, orientation):
            assert np.array_equal(read(file), read(upright))
            assert np.array_equal(read(file, 8), read(upright, 8))


def test_a_damaged_or_odd_orientation_turns_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pixels = noise(8, 8)
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"no exif", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        files = ImageFiles(tmp_path, np.array([b"a.png"]), (8, 8), None)
        assert np.array_equal(files.decode(np.array([0]))[0].permute(1, 2, 0).numpy(), pixels)
    assert not recwarn.list


def test_transparent_pixels_show_white_and_not_what_is_hidden_under_them(tmp_path: Path) -> None:
    pixels = noise(64, 64, 4)
    pixels[:, :, 3][:16], pixels[:, :, 3][16:32] = 0, 255
    share = pixels[..., 3:] / 255.0
    seen = pixels[..., :3] * share + 255 * (1 - share)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert np.abs(found - seen).max() <= 1
    assert (found[:16] == 255).all() and np.array_equal(found[16:32], pixels[16:32, :, :3])
    Image.fromarray(pixels[..., [0, 3]], "LA").save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png") - seen[..., :1]).max() <= 1


def test_transparent_palettes_and_colours_are_white(tmp_path: Path) -> None:
    index = np.arange(16, dtype=np.uint8).reshape(4, 4)
    palette = Image.fromarray(index, "P")
    palette.putpalette([40] * 768)
    grey, colour = Image.fromarray(index), Image.fromarray(np.repeat(index[..., None], 3, axis=2))
    for name, image, transparency, rest in (
        # PIL keeps the bytes where more than one is not 255, and warns, here an error, if their image becomes RGB.
        ("palette.png", palette, bytes([255] * 5 + [0] + [255] * 249 + [0]), 40),
        ("palette.gif", palette, 5, 40),
        ("grey.png", grey, 5, None),
        ("colour.png", colour, (5, 5, 5), None),
    ):
        image.save(tmp_path / name, transparency=transparency)
        found = read(tmp_path / name)
        expected = np.repeat((index if rest is None else np.full_like(index, rest))[..., None], 3, axis=2)
        expected[1, 1] = 255
        with case(name):
            assert np.array_equal(found, expected)


def test_opaque_images_are_bit_for_bit_what_they_were(tmp_path: Path) -> None:
    pixels = noise(20, 33, 4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), pixels[..., :3])
    for width in (33, 150, 300):  # up to an aspect of 1 to 15
        image = Image.fromarray(noise(20, width))
        image.save(tmp_path / "a.png")
        long = round(width * 12 / 20)
        left = (long - 12) // 2
        expected = image.resize((long, 12), Image.Resampling.BICUBIC).crop((left, 0, left + 12, 12))
        assert np.array_equal(read(tmp_path / "a.png", 12), np.asarray(expected))


def test_a_long_image_costs_no_more_memory_than_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, resize = [], Image.Image.resize

    def counting(image: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *rest)

    pixels = np.zeros((1, 10_000, 3), dtype=np.uint8)
    pixels[:, 5000:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    Image.fromarray(np.repeat(noise(1, 501), 4, axis=0)).save(tmp_path / "noise.png")
    monkeypatch.setattr(Image.Image, "resize", counting)
    wide, tall = read(tmp_path / "wide.png", 224), read(tmp_path / "tall.png", 224)
    assert max(width * height for width, height in sizes) <= 224 * 224 * 17
    assert np.array_equal(wide, tall.transpose(1, 0, 2))
    # The 224 columns are the right half of one pixel, black, and the left half of the next, white.
    assert (wide[:, :20] < 20).all() and np.abs(wide[:, ::-1].astype(int) + wide - 255).max() <= 2, "the centre stays"
    found = read(tmp_path / "noise.png", 4)
    assert np.abs(found.astype(int) - noise(1, 501)[:, 248:252]).max() <= 40, "and is that of the whole image"


def png_of(width: int, height: int) -> bytes:
    """Return the header of a PNG, which is all that may be read of a bomb."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_bombs_are_refused_by_the_number_of_their_pixels(tmp_path: Path) -> None:
    assert PIXEL_LIMIT == 89_478_485
    for width, height, found in (
        (9460, 9460, "9,460 x 9,460"),
        (12_000, 12_000, "12,000 x 12,000"),
        (30_000, 30_000, "more than twice as many"),
    ):
        (tmp_path / "a.png").write_bytes(png_of(width, height))
        told = (
            f"a.png: expected at most 89,478,485 pixels, found {found}: mend or remove it, or leave such files out by"
        )
        for size in (None, 8):
            with case(width, size):
                files = ImageFiles(tmp_path, np.array([b"a.png"]), (8, 8), size)
                assert_refused_like((partial(files.load, "bomb"), told))
    (tmp_path / "a.png").write_bytes(png_of(9459, 9459))  # within the limit, and then without pixels
    assert_refused_like((lambda: ImageFiles(tmp_path, np.array([b"a.png"]), (8, 8), 8).load("a"), "not a readable"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "images"
    write_images(data, {"train": 2, "test": 2})
    os.mkfifo(data / "train/ant/pipe.png")
    os.mkfifo(data / "train/pipe.png")
    (data / "train/bee/null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(data / "train/cat")  # the path of a socket is short
        server.bind("socket.png")
    left_out = LeftOut()
    _, splits = read_folder(data, None, left_out=left_out)
    assert len(splits["train"][0]) == 6
    assert left_out.lines("d") == ["d: left out images outside of a class folder (1); pipes, sockets or devices (3)"]
    for file in (data / "train/ant/pipe.png", Path("/dev/zero"), data):
        assert_refused_like((partial(read_image, file, 8), "expected a file, found a pipe, a device or a"))


def test_what_pil_reads_well_is_taken_and_the_rest_is_counted_in_one_line(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 200, dtype=np.uint8)
    frames = [Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)) for grey in (10, 200)]
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.avif", "AVIF"), ("d.PBM", "PPM"), ("e.webp", "WEBP")):
        if kind != "AVIF" or features.check("avif"):
            Image.fromarray(pixels).save(tmp_path / name, kind)
    frames[0].save(tmp_path / "z.gif", save_all=True, append_images=frames[1:])
    for name in ("notes.txt", "more.TXT", "picture.xcf", "README", ".hidden.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    left_out = LeftOut()
    images, *_ = read_folder(tmp_path, None, left_out=left_out)[1]["train"]
    assert isinstance(images, torch.Tensor) and len(images) == 5 + int(features.check("avif") or False)
    assert (images[-1] == 10).all() and (images[:-1].int() - 200).abs().max() <= 2, "of a GIF the first frame"
    told = "d: left out files of other formats (2 .txt, 1 without a suffix, 1 .xcf)"
    assert left_out.lines("d") == [told]


def test_a_file_is_opened_as_one_of_few_formats_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert_refused_like(
        (lambda: read_image(tmp_path / "a.jpg", None), r"a\.jpg: not a readable image \(cannot identify")
    )
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", "PNG")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read(tmp_path / "a.jpg"), noise(8, 8))
    first, second = (Image.fromarray(np.full((8, 8, 3), grey, dtype=np.uint8)) for grey in (10, 200))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])  # two images in a JPEG
    assert (read(tmp_path / "phone.jpg") == 10).all()


def spoilt(tmp_path: Path) -> Path:
    """Return a folder of images of which the first, one in each split and one too large cannot be read."""
    data = write_images(tmp_path / "images", {"train": 12, "val": 5, "test": 6})
    whole = (data / "train/ant/00.png").read_bytes()
    (data / "train/ant/00.png").write_bytes(whole[:60])
    (data / "train/cat/05.png").write_bytes(png_of(12_000, 12_000))
    (data / "val/bee/01.png").write_bytes(b"")
    (data / "test/bee/02.png").write_bytes(whole[:100])
    return data


BAD = {"train/ant/00.png", "train/cat/05.png", "val/bee/01.png", "test/bee/02.png"}


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_bad_images_stop_or_are_skipped_before_anything_is_drawn(mode: str, tmp_path: Path) -> None:
    data = spoilt(tmp_path)
    told = (
        r"train/ant/00\.png: not a readable image .*: mend or remove it, or leave such files out by --bad-images skip"
    )
    assert_refused_like((lambda: read_folder(data, None, mode), told))
    left_out = LeftOut(skip=True)
    classes, splits = read_folder(data, None, mode, left_out)
    for file in BAD:
        (data / file).unlink()
    same, expected = read_folder(data, None, mode)
    assert classes == same and {split: len(labels) for split, (_, labels, _) in splits.items()} == {
        "train": 34, "val": 14, "test": 17,
    }  # fmt: skip
    for split, (images, labels, files) in splits.items():
        assert len(files) == len(labels) and not {str(data / file) for file in BAD} & {
            *map(files.path, range(len(files)))
        }
        pixels = [i.load(split) if isinstance(i, ImageFiles) else i for i in (images, expected[split][0])]
        assert torch.equal(*pixels) and torch.equal(labels, expected[split][1])
    assert set(left_out.skipped) == {str(data / file) for file in BAD}
    (line,) = left_out.lines("folder:x")
    assert line.startswith(
        f"folder:x: skipped 4 images that cannot be read, the first is {data}/train/ant/00.png: not a"
    )


def test_without_labels_bad_images_are_skipped_too(tmp_path: Path) -> None:
    data = spoilt(tmp_path) / "train"
    for mode in ("memory", "stream"):
        images, labels, _ = read_folder(data, None, mode, LeftOut(skip=True))[1]["train"]
        assert len(images) == len(labels) == 34
    for file in data.rglob("*.png"):
        file.write_bytes(b"")
    for size, told in ((None, "expected an image, found none that can be read"), (8, "none of the images can be read")):
        assert_refused_like((partial(read_folder, data, size, "stream", LeftOut(skip=True)), told))


def test_a_class_without_a_readable_image_and_another_size_are_still_refused(tmp_path: Path) -> None:
    data = spoilt(tmp_path)
    Image.new("RGB", (9, 9)).save(data / "val/ant/00.png")
    told = r"val/ant/00\.png: expected 8 x 8 pixels like the first image, found 9 x 9: give --image-size"
    assert_refused_like((lambda: read_folder(data, None, "stream", LeftOut(skip=True)), told))
    for file in (data / "test/bee").iterdir():
        file.write_bytes(b"")
    told = r"none of the images of class 'bee' can be read, the first is .*test/bee/00\.png: not a readable image"
    assert_refused_like((lambda: read_folder(data, 8, "memory", LeftOut(skip=True)), told))


def test_a_bad_test_image_does_not_cost_a_night(tmp_path: Path, make: Make) -> None:
    """Streamed test images are read when all is trained, but looked at before."""
    data = write_images(tmp_path / "images", {"train": 9, "test": 5})
    (data / "test/bee/03.png").write_bytes(b"")
    recipe = make(dataset=f"folder:{data}", images="stream", val_fraction=0.2)
    assert_refused_like((lambda: train(recipe, tmp_path / "run"), "test/bee/03.png: not a readable image"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_a_run_lists_what_it_skipped_and_goes_on_with_the_same_images(
    mode: str, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    data = spoilt(tmp_path)
    options = {"dataset": f"folder:{data}", "images": mode, "epochs": 1}
    assert_refused_like((lambda: train(make(**options), tmp_path / "run"), "00.png: not a readable image"))
    capsys.readouterr()
    train(make(**options, bad_images="skip"), tmp_path / "run")
    out, err = capsys.readouterr()
    assert err.count("skipped 4 images that cannot be read") == 1 and "skipped" not in out
    assert set(read_json(tmp_path / "run/inputs.json")["skipped"]) == {str(data / file) for file in BAD}
    assert evaluate_run(tmp_path / "run")["images"]["test"] == 17
    train(RunDirectory.open(tmp_path / "run").recipe(), tmp_path / "run", resume=True)
    Image.new("RGB", (8, 8)).save(data / "train/ant/00.png")  # mended: these are other images
    told = "the train images are not those of .*: expected 34 images, found 35"
    assert_refused_like(
        (lambda: train(RunDirectory.open(tmp_path / "run").recipe(), tmp_path / "run", resume=True), told)
    )


def test_the_validation_images_are_drawn_from_what_can_be_read(tmp_path: Path, make: Make) -> None:
    data = write_images(tmp_path / "images", {"train": 12, "test": 5})
    (data / "train/ant/03.png").write_bytes(b"")
    recipe = make(dataset=f"folder:{data}", bad_images="skip", val_fraction=0.25)
    found = open_data(recipe)
    (data / "train/ant/03.png").unlink()
    expected = open_data(make(dataset=f"folder:{data}", val_fraction=0.25))
    for split in ("train", "val"):
        a, b = getattr(found, split), getattr(expected, split)
        assert torch.equal(a.index, b.index) and torch.equal(a.pixels, b.pixels)
    assert load(Folder(data), root=tmp_path, image_size=None, val_fraction=0.0, labels_per_class=None, seed=0,
                skip_bad=True).left_out.skipped == {}  # fmt: skip
