"""Students for classes of pixels as ONNX files and exported programs: images of other sizes than the training's."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.deploy.exported_program import write_exported
from relgraph.deploy.onnx_file import write_onnx
from tests.checks import assert_refused_like, case
from tests.deploy.students import segmenter_of


@pytest.mark.slow
@torch.no_grad()
def test_files_map_images_of_any_size_to_logits_of_that_size(tmp_path: Path) -> None:
    student = segmenter_of("resnet8")
    pixels = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    x = torch.linspace(0, 6, 41)
    waves = 127 + 120 * torch.sin(x[:37, None] * torch.tensor([1.0, 1.7, 2.3])[:, None, None] + x)
    given, image = torch.randn(3, 3, 37, 41), waves.round().to(torch.uint8)
    vectors, logits = student(student.preprocess(image)[None])
    wanted = {False: student(given), True: (vectors, interpolate(logits, (37, 41), mode="bilinear"))}
    for inside, inputs in ((False, given), (True, image[None])):
        with case(inside):
            onnx = tmp_path / f"{inside}.onnx"
            assert write_onnx(student, onnx, with_preprocessing=inside, images=pixels) < 1e-5
            session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
            near = 0.02 if inside else 1e-4  # PIL rounds after each of two passes
            for one, expected in zip(session.run(None, {"images": np.asarray(inputs)}), wanted[inside], strict=True):
                torch.testing.assert_close(torch.as_tensor(one), expected, rtol=near, atol=near)
    program = tmp_path / "student.pt2"
    assert write_exported(student, program, images=pixels) < 1e-5
    for one, expected in zip(torch.export.load(program).module()(given), wanted[False], strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_of_one_size_is_a_program_of_that_size(tmp_path: Path) -> None:
    class OneSize(nn.Module):
        """Scores of images of one size, as most vision transformers read them."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            if images.shape[2:] != (32, 32):
                raise ValueError("another size")
            found: Tensor = self.layer(images)
            return found

    student, given = segmenter_of(OneSize, (32, 32)), torch.randn(3, 3, 32, 32)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert write_exported(student, tmp_path / "one.pt2", images=images) < 1e-5
    read: dict[str, object] = {"relgraph.json": ""}
    program = torch.export.load(tmp_path / "one.pt2", extra_files=read).module()
    assert json.loads(str(read["relgraph.json"]))["input"]["shape"] == ["batch", 3, 32, 32]
    torch.testing.assert_close(program(given)[1], student(given)[1])
    assert write_onnx(student, tmp_path / "one.onnx", images=images) < 1e-5
    inside = partial(write_onnx, student, tmp_path / "in.onnx", with_preprocessing=True, images=images)
    assert_refused_like((inside, "reads images of 32 x 32 alone: expected no preprocessing inside"))
