"""Maps of the classes of pixels of image files against the student's logits, resized by torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

import relgraph
from relgraph.analysis.colours import area_colours, rgb
from relgraph.networks.files import save_tensors
from relgraph.networks.plain import PlainStudent
from tests.checks import assert_refused_like, case
from tests.deploy.students import segmenter_of
from tests.pictures import write_image

FILES = ["a.png", "b.png", "in/c.jpg", "in/deep/d.png", "in/deep/e.png"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's file, as a run has it."""
    torch.manual_seed(0)
    student, path = segmenter_of("resnet8"), tmp_path_factory.mktemp("segmenter") / "student.safetensors"
    save_tensors(path, student.tensors(), student.info)
    return path


def expected(student: PlainStudent, image: Path) -> np.ndarray:
    """Return the classes of an image at its own size, by torch's own resizing of what the student says of all of it."""
    with Image.open(image) as opened:
        width, height = opened.size
    scale = max(24 / height, 32 / width)
    prepared = student.preprocess(image)
    assert prepared.shape[1:] == (round(height * scale), round(width * scale))
    with torch.no_grad():
        logits = student(prepared[None])[1]
    assert logits is not None and logits.shape[2:] == prepared.shape[1:]
    return interpolate(logits, (height, width), mode="bilinear").argmax(1)[0].numpy()


def test_masks_have_the_size_of_their_images_and_the_classes_of_the_student(
    file: Path, new: Path, tmp_path: Path
) -> None:
    student = relgraph.load_student(file)
    for number, workers in enumerate((0, 2)):
        with case(workers):
            folder = tmp_path / f"masks{number}"
            found = relgraph.predict(file, new, masks=folder, overlay=True, top=9, workers=workers, device="cpu")
            assert [row.file for row in found.rows] == [str(new / name) for name in FILES]
            assert list(found.skipped) == [str(new / "in/bad.png")]
            for row, name in zip(found.rows, FILES, strict=True):
                mask = (folder / name).with_suffix(".png")
                assert row.mask == str(mask)
                with Image.open(mask) as opened, Image.open(new / name) as image:
                    assert opened.mode == "P" and opened.size == image.size
                    classes = np.asarray(opened)
                np.testing.assert_array_equal(classes, expected(student, new / name))
                shares = {f"class {number}": float((classes == number).mean()) for number in range(3)}
                assert dict(zip(row.classes, row.probabilities, strict=True)) == pytest.approx(shares)
                assert list(row.probabilities) == sorted(row.probabilities, reverse=True)
                with Image.open(mask.with_suffix(".overlay.jpg")) as opened:
                    assert opened.size == image.size
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    masks = {str(Path(name).with_suffix(".png")) for name in FILES}
    assert written == {"classes.json"} | masks | {name.replace(".png", ".overlay.jpg") for name in masks}
    legend = json.loads((folder / "classes.json").read_text())["classes"]
    assert [(one["number"], one["name"], one["colour"]) for one in legend] == [
        (number, f"class {number}", area_colours(3)[number]) for number in range(3)
    ]
    with Image.open(folder / "a.png") as opened:
        assert opened.convert("RGB").getpixel((0, 0)) == rgb(legend[np.asarray(opened)[0, 0]]["colour"])


def test_without_a_folder_the_classes_of_most_pixels_are_told(file: Path, new: Path) -> None:
    (row,) = relgraph.predict(file, new / "a.png", device="cpu").rows
    classes = expected(relgraph.load_student(file), new / "a.png")
    most = int(np.bincount(classes.flatten()).argmax())
    assert row.cells() == {"file": str(new / "a.png"), "class": f"class {most}", "share": (classes == most).mean()}


def test_what_does_not_fit_is_refused_and_nothing_is_written(
    file: Path, run: relgraph.Run, new: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    write_image(new / "a.jpg")
    write_image(new / "long.png", (70, 4))
    before = sorted(tmp_path.rglob("*"))
    assert_refused_like(
        (lambda: relgraph.predict(file, new, masks=tmp_path / "full"), "full exists already: expected a new or an emp"),
        (
            lambda: relgraph.predict(file, new, masks=tmp_path / "o"),
            "a.jpg and .*a.png would both be written to .*a.png",
        ),
        (lambda: relgraph.predict(file, new / "in/bad.png", masks=tmp_path / "o"), "can be read, found none$"),
        (lambda: relgraph.predict(file, new / "long.png", masks=tmp_path / "o"), "can be read, found none$"),
        (lambda: relgraph.predict(file, new, overlay=True), "beside masks: expected a folder for these$"),
        (
            lambda: run.predict(new, masks=tmp_path / "o"),
            "gives a class to a whole image: expected no folder for masks$",
        ),
        (
            lambda: relgraph.predict(file, new / "a.png", masks=tmp_path / "full/mine/o"),
            "^cannot write .*Not a directory$",
        ),
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_that_its_camera_turned_has_the_mask_of_the_upright_one(file: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "upright.png", (30, 60), 5)
    with Image.open(tmp_path / "upright.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    relgraph.predict(file, tmp_path, masks=tmp_path / "masks", device="cpu")
    masks = [np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")) for name in ("upright", "turned")]
    assert masks[0].shape == (60, 30) and len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(masks[0], masks[1])
