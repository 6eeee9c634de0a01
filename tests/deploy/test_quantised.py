"""A student in int8: how much of it is, how near it stays, and what is told of it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import to_array
from sklearn.neighbors import NearestNeighbors

import relgraph
from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.views import Normalise
from relgraph.deploy import quantised
from relgraph.deploy.quantised import (
    Quantised,
    calibration_images,
    compare_int8,
    int8_share,
    some_pixels,
    told_int8,
    write_int8,
)
from relgraph.errors import RelgraphError
from relgraph.networks.plain import PlainStudent
from tests.checks import refusal
from tests.deploy.students import student_of


def noise(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def run_file(path: Path, student: PlainStudent, pixels: torch.Tensor) -> list[np.ndarray]:
    images = Normalise(student.preprocess.mean, student.preprocess.std)(pixels)
    found: list[np.ndarray] = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainStudent, Path, Any]:
    torch.manual_seed(0)
    student, path = student_of("resnet8x4", dim=64), tmp_path_factory.mktemp("int8") / "student.onnx"
    return student, path, write_int8(student, path, noise(64))


@pytest.mark.slow
def test_nearly_all_weights_are_int8_and_the_file_is_a_quarter(written: tuple[PlainStudent, Path, Any]) -> None:
    student, path, told = written
    sizes = {kind: 0 for kind in onnx.TensorProto.DataType.values()}
    for tensor in onnx.load(path).graph.initializer:
        sizes[tensor.data_type] += to_array(tensor).size
    assert told.share == int8_share(path) == sizes[onnx.TensorProto.INT8] / sum(sizes.values()) >= 0.95
    matrices = sum(p.numel() for p in student.parameters() if p.ndim > 1)
    assert sizes[onnx.TensorProto.INT8] >= matrices, "no convolution or matrix was left out"
    assert told.bytes == path.stat().st_size <= 0.3 * told.float_bytes
    assert told.float_bytes >= 4 * matrices


@pytest.mark.slow
def test_outputs_stay_near_those_of_the_student(written: tuple[PlainStudent, Path, Any]) -> None:
    student, path, _ = written
    pixels = noise(50, seed=1)
    vectors, logits = student(torch.stack([student.preprocess(image) for image in pixels]))
    for found, expected in zip(run_file(path, student, pixels), (vectors, logits), strict=True):
        error = np.linalg.norm(found - expected.detach().numpy()) / np.linalg.norm(expected.detach().numpy())
        assert 1e-4 < error < 0.05


@pytest.mark.slow
def test_each_weight_is_within_half_a_step_of_its_own_channel(written: tuple[PlainStudent, Path, Any]) -> None:
    student, path, _ = written
    graph = onnx.load(path).graph
    values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    nodes = [[values[name] for name in node.input] for node in graph.node if node.op_type == "DequantizeLinear"
             and node.input[0] in values]  # fmt: skip
    convolutions = [(whole, scale) for whole, scale, *_ in nodes if whole.ndim == 4]
    assert len(convolutions) == sum(p.ndim == 4 for p in student.parameters())
    assert all(scale.shape == whole.shape[:1] for whole, scale in convolutions)
    weight = student.head.classify.weight.detach().numpy()
    near = [whole * np.reshape(scale, (-1,) + (1,) * (whole.ndim - 1)) - weight for whole, scale, *_ in nodes
            if whole.shape == weight.shape]  # fmt: skip
    steps = np.abs(weight).max() / 64
    assert any(np.abs(difference).max() <= 0.51 * steps for difference in near)
    # Of seven bits: twice 255 times one of them fits into 16, which some processors have for it.
    assert {np.abs(whole).max() for whole, *_ in nodes if whole.dtype == np.int8} == {64}


@pytest.mark.slow
def test_the_same_images_give_the_same_file(written: tuple[PlainStudent, Path, Any], tmp_path: Path) -> None:
    student, path, _ = written
    write_int8(student, tmp_path / "again.onnx", noise(64))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    write_int8(student, tmp_path / "other.onnx", noise(64) // 2)
    assert (tmp_path / "other.onnx").read_bytes() != path.read_bytes()


@pytest.mark.slow
def test_nothing_is_left_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    told = refusal(lambda: write_int8(student_of("resnet8"), tmp_path / "none" / "student.onnx", noise(4)))
    assert told.startswith("cannot write") and "\n" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_calibration_images_are_training_images_of_a_seed(digits_run: Path) -> None:
    run = TrainedRun(digits_run)
    found = calibration_images(run, 20)
    assert found.shape == (20, 1, 8, 8) and found.dtype == torch.uint8
    training = {bytes(image.numpy().tobytes()) for image in some_pixels(run.data.train)}
    assert all(image.numpy().tobytes() in training for image in found)
    assert calibration_images(run, 20).equal(found) and not calibration_images(run, 20, seed=1).equal(found)


@pytest.mark.slow
def test_accuracy_and_neighbours_before_and_after_are_those_of_the_files(digits_run: Path, tmp_path: Path) -> None:
    run, student = TrainedRun(digits_run), relgraph.load_student(digits_run)
    whole, small = tmp_path / "whole.onnx", tmp_path / "int8.onnx"
    write_int8(student, small, calibration_images(run), keep=whole)
    found, test = compare_int8(run, student, whole, small), run.data.test
    assert (found["batch"], found["threads"]) == (64, 1)
    teacher = run.outputs(test)[1]
    assert teacher is not None
    tables = [near(teacher.embedding.numpy())]
    for name, path in (("before", whole), ("after", small)):
        parts = [run_file(path, student, part) for part in some_pixels(test).split(32)]  # type: ignore[no-untyped-call]
        vectors, logits = map(np.concatenate, zip(*parts, strict=True))
        correct = 100 * (logits.argmax(1) == test.labels.numpy()).mean()
        assert found[name]["top1"] == pytest.approx(correct, abs=0.3)  # one image: threads round so
        tables.append(near(vectors))
        assert found[name]["overlap"] == pytest.approx(shared(tables[-1], tables[0]), abs=2e-3)
    assert found["kept"] == pytest.approx(shared(tables[1], tables[2]), abs=2e-3) and found["kept"] > 0.5
    assert (found["k"], found["split"], found["images"]) == (10, "test", len(test))
    assert found["before"]["top1"] == pytest.approx(relgraph.evaluate(digits_run)["student"]["top1"], abs=0.3)


def test_a_file_that_cannot_be_compared_is_not_left(tmp_path: Path) -> None:
    student, path, run = student_of("resnet8"), tmp_path / "phone.onnx", SimpleNamespace()

    def write(student: PlainStudent, path: Path, *_: Any, **__: Any) -> Quantised:
        path.write_bytes(b"int8")
        return Quantised(4, 16, 1.0)

    for error in (RelgraphError("neighbours are compared among three images or more, got 2"), KeyboardInterrupt()):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(quantised, "calibration_images", lambda run: noise(4))
            patch.setattr(quantised, "write_int8", write)
            patch.setattr(quantised, "compare_int8", raising(error))
            quantised.export_int8(cast(TrainedRun, run), student, path)
        assert not path.exists()


def raising(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def near(vectors: np.ndarray) -> list[set[int]]:
    search = NearestNeighbors(n_neighbors=10, metric="correlation", algorithm="brute").fit(vectors)
    return [set(row) for row in search.kneighbors(return_distance=False).tolist()]


def shared(one: list[set[int]], other: list[set[int]]) -> float:
    return sum(len(a & b) for a, b in zip(one, other, strict=True)) / (10 * len(one))


@pytest.mark.slow
def test_a_file_with_its_preprocessing_takes_pixels_of_any_size(tmp_path: Path) -> None:
    student, path = student_of("resnet8", channels=1), tmp_path / "student.onnx"
    pixels = torch.randint(256, (40, 1, 32, 32), dtype=torch.uint8)
    told = write_int8(student, path, pixels, with_preprocessing=True)
    assert told.share >= 0.95
    session = onnxruntime.InferenceSession(path)
    found = session.run(["embedding"], {"images": pixels.expand(-1, 3, -1, -1).numpy()})[0]
    expected = student(torch.stack([student.preprocess(image) for image in pixels]))[0].detach().numpy()
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    assert session.run(["logits"], {"images": np.zeros((1, 3, 50, 41), np.uint8)})[0].shape == (1, 10)
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["weights"]) == "int8" and json.loads(props["preprocessing"])["inside"]


def test_the_lines_hold_what_there_is() -> None:
    both = {"before": {"images_per_second": 100.0}, "after": {"images_per_second": 1_500.0}}
    found: dict[str, Any] = {"bytes": 260_000, "float_bytes": 1_000_000, "share": 0.987, "k": 10, "kept": 0.912}
    found |= {"images": 1_000, "split": "train", "batch": 64, "threads": 2, **both}
    lines = [
        "int8: 98.7 % of the numbers, 0.26 MB for 1.00 MB in float32",
        "10 nearest neighbours as in float32 91.2 % (1,000 images of the split train)",
        "images/s in onnxruntime 100 -> 1,500 (batches of 64, 2 threads)",
    ]
    assert told_int8(found) == lines
    for name, top1, overlap in (("before", 51.0, 0.5), ("after", 50.25, 0.49)):
        found[name] |= {"top1": top1, "overlap": overlap}
    assert told_int8(found)[1].startswith(
        "top-1 51.00 -> 50.25 %, 10 nearest neighbours as the teacher's 50.0 -> 49.0 %"
    )
