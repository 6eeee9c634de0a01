"""A student in int8: how much of it is, how near it stays, and what is told of it."""

from pathlib import Path
from typing import Any

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
from relgraph.deploy.quantised import calibration_images, compare_int8, int8_share, write_int8
from relgraph.names import build_backbone
from relgraph.networks.heads import Head
from relgraph.networks.plain import PlainStudent
from tests.checks import refusal


def untrained(name: str, size: int = 32) -> PlainStudent:
    """Return a student of colour images with the random weights of a seed."""
    backbone = build_backbone(name, 3, image_size=size)
    info = {"in_channels": 3, "image_size": size, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": list("abcde")}
    return PlainStudent(backbone, Head(backbone.width, 64, 5), None, "embedding", info).eval()


def noise(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def run_file(path: Path, student: PlainStudent, pixels: torch.Tensor) -> list[np.ndarray]:
    images = Normalise(student.preprocess.mean, student.preprocess.std)(pixels)
    found: list[np.ndarray] = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainStudent, Path, Any]:
    torch.manual_seed(0)
    student, path = untrained("resnet8x4"), tmp_path_factory.mktemp("int8") / "student.onnx"
    return student, path, write_int8(student, path, noise(64))


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


def test_outputs_stay_near_those_of_the_student(written: tuple[PlainStudent, Path, Any]) -> None:
    student, path, _ = written
    pixels = noise(50, seed=1)
    vectors, logits = student(torch.stack([student.preprocess(image) for image in pixels]))
    for found, expected in zip(run_file(path, student, pixels), (vectors, logits), strict=True):
        error = np.linalg.norm(found - expected.detach().numpy()) / np.linalg.norm(expected.detach().numpy())
        assert 1e-4 < error < 0.05


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
    steps = np.abs(weight).max() / 127
    assert any(np.abs(difference).max() <= 0.51 * steps for difference in near)


def test_the_same_images_give_the_same_file(written: tuple[PlainStudent, Path, Any], tmp_path: Path) -> None:
    student, path, _ = written
    write_int8(student, tmp_path / "again.onnx", noise(64))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    write_int8(student, tmp_path / "other.onnx", noise(64) // 2)
    assert (tmp_path / "other.onnx").read_bytes() != path.read_bytes()


def test_nothing_is_left_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    told = refusal(lambda: write_int8(untrained("resnet8"), tmp_path / "none" / "student.onnx", noise(4)))
    assert told.startswith("cannot write") and "\n" not in told
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_are_training_images_of_a_seed(digits_run: Path) -> None:
    run = TrainedRun(digits_run)
    found = calibration_images(run, 20)
    assert found.shape == (20, 1, 8, 8) and found.dtype == torch.uint8
    training = {bytes(image.numpy().tobytes()) for image in run.data.train.images[:]}
    assert all(image.numpy().tobytes() in training for image in found)
    assert calibration_images(run, 20).equal(found) and not calibration_images(run, 20, seed=1).equal(found)


def test_accuracy_and_neighbours_before_and_after_are_those_of_the_files(digits_run: Path, tmp_path: Path) -> None:
    run, student = TrainedRun(digits_run), relgraph.load_student(digits_run)
    whole, small = tmp_path / "whole.onnx", tmp_path / "int8.onnx"
    write_int8(student, small, calibration_images(run), keep=whole)
    found, test = compare_int8(run, student, whole, small), run.data.test
    teacher = run.outputs(test)[1]
    assert teacher is not None
    tables = [near(teacher.embedding.numpy())]
    for name, path in (("before", whole), ("after", small)):
        vectors, logits = run_file(path, student, test.images[:])
        correct = 100 * (logits.argmax(1) == test.labels.numpy()).mean()
        assert found[name]["top1"] == pytest.approx(correct, abs=0.3)  # one image: batches of another size round so
        tables.append(near(vectors))
        assert found[name]["overlap"] == pytest.approx(shared(tables[-1], tables[0]), abs=2e-3)
    assert found["kept"] == pytest.approx(shared(tables[1], tables[2]), abs=2e-3) and found["kept"] > 0.5
    assert (found["k"], found["split"], found["images"]) == (10, "test", len(test))
    assert found["before"]["top1"] == pytest.approx(relgraph.evaluate(digits_run)["student"]["top1"], abs=0.3)


def near(vectors: np.ndarray) -> list[set[int]]:
    search = NearestNeighbors(n_neighbors=10, metric="correlation", algorithm="brute").fit(vectors)
    return [set(row) for row in search.kneighbors(return_distance=False).tolist()]


def shared(one: list[set[int]], other: list[set[int]]) -> float:
    return sum(len(a & b) for a, b in zip(one, other, strict=True)) / (10 * len(one))
