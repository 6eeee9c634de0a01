"""The student: its parts in order, and its way to disk and back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from relgraph.errors import RelgraphError
from relgraph.names import build_backbone, load_student
from relgraph.networks.files import save_network
from relgraph.networks.student import Student

Runs = Callable[[str], Path]


def test_embedding_and_logits_are_linear_in_the_feature() -> None:
    student = Student(build_backbone("resnet8", 3), 16, 5).eval()
    output = student(torch.rand(4, 3, 8, 8))
    project, classify = student.head.project, student.head.classify
    assert output.feature is not None and output.logits is not None
    assert output.embedding.shape == (4, 16) and output.logits.shape == (4, 5) and output.feature.shape == (4, 64)
    torch.testing.assert_close(output.embedding, output.feature @ project.weight.T + project.bias)
    torch.testing.assert_close(output.logits, output.embedding @ classify.weight.T + classify.bias)


def test_the_output_holds_the_stage_maps() -> None:
    student = Student(build_backbone("vgg8", 3), 16, 5)
    output = student(torch.rand(4, 3, 16, 16))
    assert [tuple(stage.shape) for stage in output.maps] == [
        (4, 64, 16, 16), (4, 128, 8, 8), (4, 256, 4, 4), (4, 512, 2, 2), (4, 512, 2, 2),
    ]  # fmt: skip
    assert output.feature is not None
    torch.testing.assert_close(output.feature, output.maps[-1].mean(dim=(2, 3)))
    torch.autograd.backward(output.maps[0].sum())
    assert student.backbone.get_parameter("blocks.0.0.weight").grad is not None


def test_a_student_of_timm_is_built_for_the_size_of_its_images(tmp_path: Path) -> None:
    student = Student(build_backbone("timm:test_vit", 1, image_size=32), 8, 3).eval()
    info = {"backbone": "timm:test_vit", "in_channels": 1, "image_size": 32, "mean": [0.5], "std": [0.5], "dim": 8}
    save_network(tmp_path / "student.safetensors", student, {**info, "classes": ["a", "b", "c"]})
    again, _ = load_student(tmp_path)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(images).logits, student(images).logits)


def test_a_run_and_its_file_give_the_same_student(finished: Runs) -> None:
    path = finished("dense")
    (first, info), (second, same) = load_student(path), load_student(str(path / "student.safetensors"))
    assert info == same
    assert info["classes"] == ["ant", "bee", "cat"] and info["dim"] == 16 and info["backbone"] == "resnet8"
    assert not first.training
    images = torch.rand(2, info["in_channels"], 8, 8)
    assert torch.equal(first(images).logits, second(images).logits)
    best = torch.load(path / "best.ckpt", weights_only=True)["objective"]
    assert all(torch.equal(best[f"student.{name}"], tensor) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_student(copied: Runs, keep: int) -> None:
    file = copied("dense") / "student.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RelgraphError, match=r"^cannot read the network file .*student\.safetensors: [^\n]*$"):
        load_student(file)


def test_a_backbone_alone_is_no_student(tmp_path: Path) -> None:
    info = {"backbone": "resnet8", "in_channels": 1, "image_size": 8, "mean": [0.5], "std": [0.5]}
    save_network(tmp_path / "student.safetensors", build_backbone("resnet8", 1), info)
    with pytest.raises(RelgraphError, match=r"holds a backbone without a head"):
        load_student(tmp_path)


def test_a_student_of_another_architecture(tmp_path: Path) -> None:
    info = {"backbone": "resnet8", "in_channels": 1, "image_size": 8, "mean": [0.5], "std": [0.5], "dim": 16}
    student = Student(build_backbone("resnet8", 1), 8, 3)
    save_network(tmp_path / "student.safetensors", student, {**info, "classes": ["a", "b", "c"]})
    with pytest.raises(
        RelgraphError, match=r"is of another architecture: head\.classify\.weight is \(3, 16\) in the network, \(3, 8\)"
    ):
        load_student(tmp_path)


def test_no_run_and_another_programs_file(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"student\.safetensors"):
        load_student(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "student.safetensors")
    with pytest.raises(RelgraphError, match=r"without relgraph's description"):
        load_student(tmp_path)


def test_a_student_of_images_without_labels(finished: Runs, recwarn: pytest.WarningsRecorder) -> None:
    student, info = load_student(finished("unlabelled"))
    assert info["classes"] == [] and student(torch.rand(2, 3, 8, 8)).logits.shape == (2, 1)
    assert not recwarn.list, "torch warns of layers without outputs"
