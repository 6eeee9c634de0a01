import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from relgraph.deploy.exported_program import traced
from relgraph.deploy.onnx_file import write_onnx
from tests.checks import assert_refused_like, case
from tests.deploy.students import images_of, student_of


def run(path: Path, images: Any) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = session.run(None, {"images": np.asarray(images)})
    return found


def metadata(path: Path) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(str(path)).metadata_props}


def shapes(values: Any) -> dict[str, list[Any]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in values
    }


@pytest.mark.slow
@torch.no_grad()
def test_a_file_maps_images_to_the_student_s_outputs_and_tells_their_preprocessing(tmp_path: Path) -> None:
    student, path = student_of("resnet8"), tmp_path / "student.onnx"
    worst = write_onnx(student, path, images=images_of(student))
    assert 0 <= worst < 1e-5
    for count in (1, 7):
        images = torch.randn(count, 3, 32, 32)
        for found, expected in zip(run(path, images), student(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    graph = onnx.load(str(path)).graph
    assert shapes(graph.input) == {"images": ["batch", 3, 32, 32]}
    assert shapes(graph.output) == {"embedding": ["batch", 8], "logits": ["batch", 10]}
    assert str(Path(__file__).parents[2]) not in path.read_bytes().decode(errors="ignore"), "no paths of this machine"
    told = metadata(path)
    assert told["opset"] == onnx.load(str(path)).opset_import[0].version
    assert told["classes"] == [f"class {i}" for i in range(10)] and told["outputs"] == ["embedding", "logits"]
    assert told["input"]["range"] == pytest.approx([-2, 3]) and told["input"]["type"] == "float32"
    how = {"size": 32, "resize": "shorter side", "interpolation": "bicubic", "crop": "centre", "inside": False}
    assert told["preprocessing"].items() >= {**how, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}.items()


@pytest.mark.slow
@torch.no_grad()
def test_preprocessing_can_be_inside(tmp_path: Path) -> None:
    """Images of any size are resized and cropped as PIL does it, but for a level of what it rounds in between."""
    x = torch.linspace(0, 6, 57)
    waves = torch.sin(x[:, None] * torch.tensor([1.0, 1.7, 2.3])[:, None, None] + x[None, :40])
    for channels in (3, 1):
        student, path = student_of("resnet8", channels=channels), tmp_path / f"{channels}.onnx"
        write_onnx(student, path, with_preprocessing=True, images=images_of(student))
        assert metadata(path)["input"] == {
            "name": "images", "type": "uint8", "shape": ["batch", 3, "height", "width"], "range": [0, 255]
        }  # fmt: skip
        wide = (127 + 120 * waves).round().to(torch.uint8)
        for picture in (wide, wide.transpose(1, 2), wide[:, :32, :32], wide[:, :20, :33]):
            with case(channels, picture.shape):
                expected = student(student.preprocess(picture)[None])
                for found, outputs in zip(run(path, picture[None]), expected, strict=True):
                    torch.testing.assert_close(torch.from_numpy(found), outputs, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_a_student_without_a_classifier_has_vectors_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, path = student_of("resnet8", classes=0, part="feature", projected=True), tmp_path / "student.onnx"
    log = logging.getLogger("torch.onnx")  # which hands nothing on to the root's, where pytest listens
    log.addHandler(caplog.handler)
    try:
        write_onnx(student, path, images=images_of(student))
    finally:
        log.removeHandler(caplog.handler)
    assert shapes(onnx.load(str(path)).graph.output) == {"embedding": ["batch", 6]}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert metadata(path)["classes"] == []


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(x)
        return inverse


class Lacking(nn.Module):
    """Own code with an operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inverse = nn.Conv2d(3, 4, 3), Inverse()

    def forward(self, images: Tensor) -> Tensor:
        inverses: Tensor = self.inverse(self.conv(images))
        return inverses.mean((2, 3))


class Branching(nn.Module):
    """Own code that no graph holds: it asks its images what to do."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class Fixed(nn.Module):
    """Own code that asks for a number of images where a graph has none."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) / len(images)


@pytest.mark.slow
def test_what_cannot_be_written_is_told_in_a_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "student.onnx"

    def write(network: Any) -> Any:
        student = student_of(network, size=8)
        return lambda: write_onnx(student, path, images=images_of(student))

    assert_refused_like(
        (write(Lacking()), r"student.onnx is not written: ONNX lacks the operator aten.linalg_pinv.* of the module "
                           r"backbone.model.inverse \(.*Inverse\)"),
        (write(Branching()), "own.py:Own cannot be exported by torch.export: .*data-dependent"),
        (write(Fixed()), "own.py:Own cannot be exported by torch.export: its code is for one number of images"),
    )  # fmt: skip
    student, other = student_of("resnet8"), traced(student_of("resnet8"), False)
    monkeypatch.setattr("relgraph.deploy.onnx_file.traced", lambda *_: other)
    expected = "is not written: expected outputs in onnxruntime within 0.0001 of the student's .relative., found"
    assert_refused_like((lambda: write_onnx(student, path, images=images_of(student)), expected))
    assert list(tmp_path.iterdir()) == []
    path.write_text("before")
    assert_refused_like((lambda: write_onnx(student, path, images=images_of(student)), expected))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
