"""The student: its parts in order, and its way to disk and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from relgraph.names import build_backbone, load_student
from relgraph.networks.files import save_network
from relgraph.networks.student import Student
from tests.checks import assert_refused_like
from tests.networks.tiny import INFO


def test_embedding_and_logits_are_linear_in_the_feature() -> None:
    student = Student(build_backbone("resnet8", 3), 16, 5).eval()
    output = student(torch.rand(4, 3, 8, 8))
    project, classify = student.head.project, student.head.classify
    assert output.feature is not None and output.logits is not None
    assert output.embedding.shape == (4, 16) and output.logits.shape == (4, 5) and output.feature.shape == (4, 64)
    torch.testing.assert_close(output.embedding, output.feature @ project.weight.T + project.bias)
    torch.testing.assert_close(output.logits, output.embedding @ classify.weight.T + classify.bias)


def test_the_output_holds_the_stage_maps_and_their_gradients() -> None:
    student = Student(build_backbone("vgg8", 3), 16, 5)
    output = student(torch.rand(4, 3, 16, 16))
    assert [stage.shape[1:] for stage in output.maps] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), *[(512, 2, 2)] * 2]
    assert output.feature is not None
    torch.testing.assert_close(output.feature, output.maps[-1].mean(dim=(2, 3)))
    torch.autograd.backward(output.maps[0].sum())
    assert student.backbone.get_parameter("blocks.0.0.weight").grad is not None


def saved(path: Path, student: nn.Module, classes: Sequence[str] = ("a", "b", "c"), **info: Any) -> Path:
    """Save a student of 16 dimensions as a run does."""
    save_network(path / "student.safetensors", student, {**INFO, "dim": 16, "classes": list(classes), **info})
    return path / "student.safetensors"


def test_a_run_and_its_file_give_the_same_student(tmp_path: Path) -> None:
    student = Student(build_backbone("resnet8", 1), 16, 3)
    images = torch.rand(4, 1, 8, 8)
    student(images)  # so that running statistics are unlike a new network's
    file = saved(tmp_path, student)
    for path in (tmp_path, str(file)):
        again, info = load_student(path)
        assert not again.training and info == {**INFO, "dim": 16, "classes": ["a", "b", "c"]}
        assert torch.equal(again(images).logits, student.eval()(images).logits)
    of_timm = Student(build_backbone("timm:test_vit", 1, image_size=32), 16, 3).eval()  # is built for a size
    saved(tmp_path, of_timm, backbone="timm:test_vit", image_size=32)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(load_student(tmp_path)[0](images).logits, of_timm(images).logits)
    for keep in (0, 100, -1):
        saved(tmp_path, student)
        file.write_bytes(file.read_bytes()[:keep])
        assert_refused_like((lambda: load_student(file), r"^cannot read the network file .*student\.safetensors: "))


def test_other_files_are_no_student(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        assert_refused_like((lambda: load_student(tmp_path), message))

    fails(r"student\.safetensors")
    file = saved(tmp_path, Student(build_backbone("resnet8", 1), 8, 3))
    fails(r"ture: head\.classify\.weight is \(3, 16\) in the network, \(3, 8\)")
    save_network(file, build_backbone("resnet8", 1), INFO)
    fails("holds a backbone without a head")
    save_file({"weight": torch.zeros(1)}, file)
    fails("without relgraph's description")


def test_a_student_of_images_without_labels(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    saved(tmp_path, Student(build_backbone("resnet8", 1), 16, 0), classes=())
    student, info = load_student(tmp_path)
    assert info["classes"] == [] and student(torch.rand(2, 1, 8, 8)).logits.shape == (2, 1)
    assert not recwarn.list, "torch warns of layers without outputs"
