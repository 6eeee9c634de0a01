import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from relgraph.deploy.weights_file import write_weights
from relgraph.names import build_backbone
from relgraph.networks.plain import PlainStudent
from tests.checks import assert_refused, case
from tests.deploy.students import images_of, student_of


def written(student: PlainStudent, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder.mkdir()
    assert write_weights(student, folder / "student.safetensors", images=images_of(student)) < 1e-5
    return load_file(folder / "student.safetensors"), json.loads((folder / "config.json").read_text())


@torch.no_grad()
def test_timm_loads_a_model_without_classes_by_its_own_names(tmp_path: Path) -> None:
    """One with classes is of `test_families`."""
    student = student_of("timm:test_resnet", channels=1, classes=0)
    tensors, told = written(student, tmp_path / "timm")
    assert told["library"] == "timm" and told["arguments"]["num_classes"] == 0 and told["outputs"] == ["feature"]
    model = timm.create_model(told["architecture"], **told["arguments"])
    model.load_state_dict(tensors, strict=True)
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model.eval()(images), student.backbone(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_torchvision_loads_its_models_by_its_own_names(tmp_path: Path) -> None:
    for name, classes in (("resnet18", 0), ("squeezenet1_1", 10), ("mobilenet_v3_small", 4)):
        with case(name, classes):
            student = student_of(f"torchvision:{name}", classes=classes)
            tensors, told = written(student, tmp_path / f"{name}{classes}")
            model = models.get_model(told["architecture"], weights=None, **told["arguments"])
            if "identity" in told:  # what ends in no linear layer, and a student without a classifier
                model.set_submodule(told["identity"], nn.Identity())
            model.load_state_dict(tensors, strict=True)
            images = torch.randn(2, 3, 32, 32)
            logits = told["outputs"] == ["logits"]
            assert logits == (classes > 0 and name != "squeezenet1_1")
            expected = student(images)[1] if logits else student.backbone(images)
            torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-5)


def test_torchvision_s_first_layer_has_the_channels_of_the_images(tmp_path: Path) -> None:
    tensors, told = written(student_of("torchvision:resnet18", channels=1), tmp_path / "grey")
    assert tensors["conv1.weight"].shape[1] == told["in_channels"] == 1


def test_others_have_the_names_of_their_own_module(tmp_path: Path) -> None:
    student = student_of("resnet8", classes=3)
    tensors, told = written(student, tmp_path / "built")
    build_backbone(told["architecture"]).load_state_dict(tensors, strict=True)
    assert told["classes"] == ["class 0", "class 1", "class 2"] and told["preprocessing"]["size"] == 32


def test_a_config_of_another_program_is_left_alone(tmp_path: Path) -> None:
    student, config = student_of("resnet8"), tmp_path / "config.json"
    path = tmp_path / "student.safetensors"
    for text in ('{"architectures": ["Other"]}', "no JSON"):
        config.write_text(text)
        told = f"{config} is not of relgraph export and would be lost: write student.safetensors elsewhere"
        assert_refused((lambda: write_weights(student, path, images=images_of(student)), told))
        assert config.read_text() == text and not path.exists()
    config.unlink()
    for _ in range(2):  # its own is overwritten
        write_weights(student, path, images=images_of(student))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "student.safetensors"]


def test_the_files_of_a_first_export_outlive_a_second_one_in_its_folder(tmp_path: Path) -> None:
    first, second = student_of("resnet8", classes=3), student_of("resnet8x4", classes=5)
    write_weights(first, tmp_path / "a.safetensors", images=images_of(first))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    told = f"{tmp_path / 'config.json'} is there already, expected what b.safetensors would have, found another: …"
    assert_refused((lambda: write_weights(second, tmp_path / "b.safetensors", images=images_of(second)), told))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    write_weights(first, tmp_path / "again.safetensors", images=images_of(first))  # described by the same words
    assert (tmp_path / "again.safetensors").read_bytes() == before["a.safetensors"]


def test_the_description_of_a_folder_for_the_hub_is_not_lost(tmp_path: Path) -> None:
    student, text = student_of("resnet8"), '{"relgraph": "student"}'
    (tmp_path / "config.json").write_text(text)
    told = f"{tmp_path / 'config.json'} is there already, …"
    assert_refused((lambda: write_weights(student, tmp_path / "s.safetensors", images=images_of(student)), told))
    assert (tmp_path / "config.json").read_text() == text
