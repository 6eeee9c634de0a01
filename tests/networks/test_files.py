"""Networks on disk: what is written is read again, and what is damaged or foreign is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.files import load_network, load_strictly, read_network, save_network
from relgraph.networks.heads import Head
from relgraph.networks.students import build_backbone

INFO: dict[str, Any] = {
    "backbone": "resnet8",
    "in_channels": 1,
    "image_size": 8,
    "mean": [0.5],
    "std": [0.25],
    "objective": "ega",
}


def trained_backbone() -> nn.Module:
    """Return a backbone whose every tensor, running statistics included, is unlike a new one's."""
    backbone = build_backbone("resnet8", 1)
    backbone(torch.rand(4, 1, 8, 8))
    return backbone


def saved(path: Path) -> Path:
    save_network(path, trained_backbone(), INFO)
    return path


def test_a_backbone_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path, backbone = tmp_path / "student.safetensors", trained_backbone()
    save_network(path, backbone, INFO)
    again, info = load_network(path)
    assert info == INFO
    assert not again.training
    state = again.state_dict()
    assert list(state) == list(backbone.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.state_dict().items())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), backbone.eval()(images))


def test_a_student_is_stored_whole_and_its_backbone_read_alone(tmp_path: Path) -> None:
    path, backbone, head = tmp_path / "student.safetensors", trained_backbone(), Head(64, 16, 10)
    save_network(path, nn.ModuleDict({"backbone": backbone, "head": head}), INFO)
    tensors, info = read_network(path)
    assert info == INFO
    own = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    again = Head(64, 16, 10)
    load_strictly(again, own, path)
    feature = torch.randn(3, 64)
    assert torch.equal(again(feature)[1], head(feature)[1])
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_network(path)[0](images), backbone.eval()(images))


@pytest.mark.parametrize(
    "name",
    [
        "wrn_16_1", "ShuffleV2", "MobileNetV2", "timm:test_resnet", "timm:test_vit", "torchvision:shufflenet_v2_x0_5",
        "torchvision:mnasnet0_5",
    ],
)  # fmt: skip
def test_every_kind_of_backbone_comes_back(tmp_path: Path, name: str) -> None:
    """MNASNet loads nothing that does not say of which version of its layout it is."""
    path, images = tmp_path / "student.safetensors", torch.rand(4, 3, 48, 48)
    backbone = build_backbone(name, 3, image_size=48)
    backbone(images)  # so that running statistics are unlike a new network's
    save_network(path, backbone, {**INFO, "backbone": name, "in_channels": 3, "image_size": 48})
    again, info = load_network(path)
    assert info["backbone"] == name and not again.training
    with torch.no_grad():
        assert torch.equal(again(images), backbone.eval()(images))


def test_two_names_of_one_weight_are_both_stored(tmp_path: Path) -> None:
    """As in timm's CoaT, whose blocks share a layer."""
    first = nn.Linear(3, 3)
    save_network(tmp_path / "shared.safetensors", nn.Sequential(first, first), INFO)
    tensors, _ = read_network(tmp_path / "shared.safetensors")
    assert list(tensors) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert all(torch.equal(tensors[f"{i}.weight"], first.weight) for i in range(2))


def test_half_precision_weights_are_read_into_float32(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_network(path, trained_backbone().bfloat16(), INFO)
    assert {p.dtype for p in load_network(path)[0].parameters()} == {torch.float32}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^cannot read the network file .*nowhere"):
        read_network(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "student.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RelgraphError, match=r"^cannot read the network file "):
        load_network(path)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^cannot read the network file "):
        read_network(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_programs_weights(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(
        RelgraphError, match=r"holds weights without relgraph's description: expected a student.safetensors"
    ):
        read_network(path)


@pytest.mark.parametrize("description", ["not JSON", "{}", '{"backbone": "resnet8"}'])
def test_a_description_that_describes_nothing(tmp_path: Path, description: str) -> None:
    path = tmp_path / "student.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"relgraph": description})
    with pytest.raises(RelgraphError):
        load_network(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias is missing"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "scale": torch.zeros(2)},
            "scale is not part of the network",
        ),
        (
            {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)},
            r"weight is \(2, 3\) in the network, \(2, 4\) in the file",
        ),
    ],
)
def test_weights_of_another_architecture(changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^x.safetensors is of another architecture: {message}$"):
        load_strictly(nn.Linear(3, 2), changed, Path("x.safetensors"))


def test_the_wrong_backbone_for_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_network(path, trained_backbone(), {**INFO, "backbone": "resnet14"})
    with pytest.raises(RelgraphError, match=r"is of another architecture: .* in the network, .* in the file$"):
        load_network(path)
