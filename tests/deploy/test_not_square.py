"""Images that are not square: the height and width of training travel with the student, and every reader uses them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import relgraph
from relgraph.analysis.run_loading import TrainedRun
from relgraph.deploy.exported_program import EXTRA
from relgraph.deploy.onnx_file import Session
from relgraph.networks.files import read_network
from relgraph.networks.plain import Preprocessing
from tests.checks import assert_refused_like, case
from tests.deploy.conftest import QUICK
from tests.pictures import write_folder, write_image

ALONE: dict[str, Any] = {**QUICK, "method": "none", "teacher": "embedded:digits"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images and four test images of each of two classes, 12 high and 20 wide."""
    return write_folder(tmp_path_factory.mktemp("wide") / "photos", {"train": 12, "test": 4}, size=(20, 12))


@pytest.fixture(scope="module")
def wide_run(wide: Path) -> relgraph.Run:
    return relgraph.train(dataset=f"folder:{wide}", **ALONE, out=wide.parent / "run")


def outputs_in_run(run: relgraph.Run) -> tuple[list[str], Tensor, Tensor]:
    """Return the files, vectors and logits of the test images as the run evaluates them."""
    trained = TrainedRun(run.path)
    images, files = trained.images("test"), trained.data.file_names(trained.images("test"))
    assert files is not None
    logits = trained.outputs(images, teacher=False)[0].logits
    assert logits is not None
    return files, trained.vectors(images, teacher=False)[0], logits


@torch.no_grad()
def test_every_reader_of_a_student_prepares_images_as_it_was_trained(
    wide_run: relgraph.Run, wide: Path, tmp_path: Path
) -> None:
    run, student, (files, vectors, logits) = wide_run, wide_run.student(), outputs_in_run(wide_run)
    files = [str(wide / name) for name in files]
    torch.testing.assert_close(student(torch.stack([student.preprocess(file) for file in files])), (vectors, logits))

    found = run.predict(files, top=2, device="cpu", workers=0)
    for row, expected in zip(found.rows, logits.softmax(1), strict=True):
        by_class = dict(zip(row.classes, row.probabilities, strict=True))
        assert [by_class[name] for name in student.classes] == pytest.approx(expected.tolist(), abs=1e-5)

    own: dict[str, Any] = {"teacher": f"checkpoint:{run.path}", "teacher_args": ("output=embedding",)}
    own |= {"dataset": f"folder:{wide}", "device": "cpu", "precision": "32-true", "workers": 0}
    assert relgraph.load_teacher(own["teacher"]).input_size == (12, 20)
    store, table = tmp_path / "store", tmp_path / "own.npy"
    relgraph.embed(**own, index_transform="none", out=store)
    relgraph.embed(**own, out=table)
    training = sorted(map(str, wide.glob("train/*/*")))
    for index in (store, table):
        with case(index):
            answers = run.query(training, index=index, k=1, device="cpu", workers=0, images_in=wide)
            assert all(row.file.endswith(row.answers[0].name) for row in answers.rows)
            assert all(row.answers[0].score == pytest.approx(1, abs=1e-5) for row in answers.rows)


@pytest.mark.slow
@torch.no_grad()
def test_files_for_other_programs_read_what_the_student_does(wide_run: relgraph.Run, tmp_path: Path) -> None:
    """Inside, images of any form are resized until they cover the student's, and cropped, as PIL does it."""
    run, student, plain, inside = wide_run, wide_run.student(), tmp_path / "student.onnx", tmp_path / "inside.onnx"
    run.export(plain)
    run.export(inside, with_preprocessing=True)
    images = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close([*Session(plain)(images)], [*student(images)], rtol=1e-4, atol=1e-5)
    x = torch.linspace(0, 6, 57)
    waves = torch.sin(x[:, None] * torch.tensor([1.0, 1.7, 2.3])[:, None, None] + x[None, :40])
    tall = (127 + 120 * waves).round().to(torch.uint8)
    for picture in (tall, tall.transpose(1, 2).contiguous(), tall[:, :20, :33], tall[:, :12, :20]):
        with case(picture.shape):
            expected = student(student.preprocess(picture)[None])
            torch.testing.assert_close([*Session(inside)(picture[None])], [*expected], rtol=0.02, atol=0.02)
    program, told, ones = tmp_path / "student.pt2", {EXTRA: ""}, torch.ones(3, 3, 12, 20)
    run.export(program)
    torch.testing.assert_close(torch.export.load(program, extra_files=told).module()(ones), student(ones))
    description = json.loads(told[EXTRA])
    assert description["input"]["shape"] == ["batch", 3, 12, 20]
    how = {"height": 12, "size": 20, "resize": "cover", "crop": "centre"}
    assert description["preprocessing"].items() >= how.items()
    run.export(tmp_path / "hub", format="hub")
    assert "images of 12 x 20 pixels" in (tmp_path / "hub" / "README.md").read_text()
    assert relgraph.load_student(tmp_path / "hub").preprocess == student.preprocess


def test_a_size_of_height_and_width_is_that_of_images_of_any_form(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {"train": 8, "test": 3}, size=(23, 31))
    write_image(folder / "train" / "cat" / "other.png", (40, 18))
    run = relgraph.train(dataset=f"folder:{folder}", image_size=(16, 10), **ALONE, out=tmp_path / "run")
    student, (files, vectors, logits) = run.student(), outputs_in_run(run)
    prepared = torch.stack([student.preprocess(folder / name) for name in files])
    assert prepared.shape == (6, 3, 16, 10)
    with torch.no_grad():
        torch.testing.assert_close(student(prepared), (vectors, logits))


def test_a_file_of_before_and_one_for_squares_have_no_height(wide_run: relgraph.Run, run: relgraph.Run) -> None:
    infos = [read_network(each.path / "student.safetensors")[1] for each in (wide_run, run)]
    assert (infos[0].pop("height"), infos[0]["image_size"], infos[1]["image_size"]) == (12, 20, 8)
    for info in infos:
        prepare = Preprocessing.of(info)
        assert prepare.image_size == info["image_size"] and prepare.plain()["resize"] == "shorter side"
        assert "height" not in info.keys() | prepare.plain().keys()


def test_a_student_of_one_form_is_refused_before_the_training(wide: Path, tmp_path: Path) -> None:
    options = {**ALONE, "student": "timm:vit_tiny_patch16_224", "image_size": (16, 32), "dataset": f"folder:{wide}"}
    told = "^the student cannot read images of 16 x 32 pixels: .*"
    assert_refused_like((lambda: relgraph.train(**options, out=tmp_path / "run"), told))
