import json
from pathlib import Path

import pytest
import torch

from relgraph.deploy.exported_program import EXTRA, _resized, write_exported
from tests.checks import assert_refused_like, case
from tests.deploy.students import images_of, student_of


@torch.no_grad()
def test_a_program_maps_any_number_of_images_to_the_student_s_outputs(tmp_path: Path) -> None:
    student, path = student_of("resnet8"), tmp_path / "student.pt2"
    assert write_exported(student, path, images=images_of(student)) < 1e-5
    told = {EXTRA: ""}
    program = torch.export.load(path, extra_files=told).module()
    for count in (1, 7):
        images = torch.randn(count, 3, 32, 32)
        for found, expected in zip(program(images), student(images), strict=True):
            torch.testing.assert_close(found, expected)
    found = json.loads(told[EXTRA])
    assert found["classes"] == list(student.classes) and found["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert found["input"]["shape"] == ["batch", 3, 32, 32] and found["input"]["range"] == pytest.approx([-2, 3])


@pytest.mark.slow
@torch.no_grad()
def test_preprocessing_inside_takes_images_of_any_size(tmp_path: Path) -> None:
    student, path = student_of("resnet8", classes=0, part="feature", projected=True), tmp_path / "student.pt2"
    write_exported(student, path, with_preprocessing=True, images=images_of(student))
    program = torch.export.load(path).module()
    for size in ((32, 32), (20, 33), (57, 40), (32, 90)):
        with case(size):
            flat = torch.randint(0, 256, (3, 1, 1), dtype=torch.uint8).expand(3, *size)
            vectors, logits = program(flat[None].contiguous())
            torch.testing.assert_close(vectors, student(student.preprocess(flat)[None])[0])
            assert logits is None


def test_a_length_is_rounded_as_python_rounds() -> None:
    for size in (7, 32):
        for shorter in range(1, 50):
            for length in range(shorter, 100):
                assert _resized(length, size, shorter) == round(length * size / shorter), (length, size, shorter)


def test_what_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    student = student_of("resnet8", size=8)
    path = tmp_path / "missing" / "student.pt2"
    assert_refused_like(
        (lambda: write_exported(student, path, images=images_of(student)), "cannot write .*No such file")
    )
