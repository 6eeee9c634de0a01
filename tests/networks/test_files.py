"""Networks on disk: what is written is read again, and what is damaged or foreign is refused by name."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from relgraph.names import build_backbone, open_student, student
from relgraph.networks.files import (
    find_network,
    load_head,
    load_network,
    load_projector,
    load_ss_head,
    load_strictly,
    read_network,
    save_network,
    save_ss_head,
)
from relgraph.networks.heads import Head, Projector, Student
from tests.checks import assert_refused, assert_refused_like
from tests.networks.tiny import INFO


def trained_backbone() -> nn.Module:
    """Return a backbone whose every tensor, running statistics included, is unlike a new one's."""
    backbone = build_backbone("resnet8", 1)
    backbone(torch.rand(4, 1, 8, 8))
    return backbone


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_every_kind_of_backbone_comes_back(tmp_path: Path) -> None:
    """MNASNet loads no weights without the version of their layout."""
    path, images = tmp_path / "student.safetensors", torch.rand(4, 3, 48, 48)
    for name in ("wrn_16_1", "ShuffleV2", "MobileNetV2", "timm:test_resnet", "timm:test_vit",
                 "torchvision:shufflenet_v2_x0_5", "torchvision:mnasnet0_5"):  # fmt: skip
        backbone = build_backbone(name, 3, image_size=48)
        backbone(images)  # so that running statistics are unlike a new network's
        save_network(path, backbone, {**INFO, "backbone": name, "in_channels": 3, "image_size": 48})
        again, info = load_network(path, student)
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


def test_other_files_are_no_network(tmp_path: Path) -> None:
    path, unread = tmp_path / "student.safetensors", "^cannot read the network file .*"
    load, read = partial(load_network, path, student), partial(read_network, path)
    assert_refused_like((read, unread + path.name), (partial(read_network, tmp_path), unread + tmp_path.name))
    save_network(path, trained_backbone(), INFO)
    whole = path.read_bytes()
    for keep in (0, 4, 200, -1):
        path.write_bytes(whole[:keep])
        assert_refused_like((load, unread))
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        assert_refused_like((read, r"weights without relgraph's description: expected a student\.safetens"))
    for description in ("not JSON", "{}", '{"backbone": "resnet8"}'):
        save_file({"weight": torch.zeros(2)}, path, metadata={"relgraph": description})
        assert_refused_like((load, "is damaged: expected JSON with backbone, image_size, in_channels, mean"))


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    weight, bias, begin = torch.zeros(2, 3), torch.zeros(2), "x.safetensors is of another architecture: "
    for changed, message in (
        ({"weight": weight}, "bias is (2,) in the network, missing in the file"),
        ({"weight": weight, "bias": bias, "scale": bias}, "scale is missing in the network, (2,) in the file"),
        ({"weight": torch.zeros(2, 4), "bias": bias}, "weight is (2, 3) in the network, (2, 4) in the file"),
    ):
        load = partial(load_strictly, nn.Linear(3, 2), changed, Path("x.safetensors"))
        assert_refused((load, begin + message))
    save_network(tmp_path / "x", trained_backbone(), {**INFO, "backbone": "resnet14"})
    told = r"is of another architecture: .* in the network, .* in the file$"
    assert_refused_like((partial(load_network, tmp_path / "x", student), told))


PROJECTOR: dict[str, Any] = {"dim": 5, "hidden": 12, "norm": True}


def pretrained(path: Path, **info: Any) -> nn.ModuleDict:
    """Save a backbone with its projector, of which every tensor is unlike a new one's, and return them."""
    backbone, projector = trained_backbone(), Projector(64, 5, hidden=12, norm=True)
    projector(torch.randn(9, 64))
    network = nn.ModuleDict({"backbone": backbone, "projector": projector})
    save_network(path, network, {**INFO, "projector": PROJECTOR, **info})
    return network.eval()


def trained_student(path: Path, **info: Any) -> nn.ModuleDict:
    network = nn.ModuleDict({"backbone": trained_backbone(), "head": Head(64, 16, 3)})
    save_network(path, network, {**INFO, "dim": 16, "classes": ["a", "b", "c"], **info})
    return network.eval()


def test_a_pre_training_is_read_in_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    network = pretrained(file)
    for path in (file, tmp_path):
        backbone, info = load_network(path, student)
        assert equal(backbone, network["backbone"]) and info == {**INFO, "projector": PROJECTOR}
        projector = load_projector(path)
        assert equal(projector, network["projector"]) and not projector.training and not backbone.training
    save_network(file, network.half(), info)
    parts = (load_projector(file), load_network(file, student)[0])
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}


def test_a_students_head_comes_with_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    network = trained_student(file)
    for path in (file, tmp_path):
        head, classes = load_head(path)
        assert equal(head, network["head"]) and not head.training and classes == ("a", "b", "c")
        assert equal(load_network(path, student)[0], network["backbone"])
    save_network(file, network.half(), read_network(file)[1])
    assert {p.dtype for p in load_head(file)[0].parameters()} == {torch.float32}


def test_the_network_of_a_run(tmp_path: Path) -> None:
    told = r"holds no network: expected network\.safetensors of a pre-training or student\.safetensors of a "
    assert_refused_like((partial(find_network, tmp_path), told))
    (tmp_path / "student.safetensors").touch()
    assert find_network(tmp_path) == tmp_path / "student.safetensors"
    assert find_network(tmp_path / "any.name") == tmp_path / "any.name"


def test_parts_that_are_missing_damaged_or_of_other_sizes(tmp_path: Path) -> None:
    """Sizes are those of the weights, whatever a description says."""
    pre, run = tmp_path / "n", tmp_path / "s"
    projector, head = partial(load_projector, pre), partial(load_head, run)
    told = r"s holds no classifier: expected student\.safetensors of a training run with labels$"
    classes: Any
    for classes in ([], None):
        trained_student(run, classes=classes)
        assert_refused_like((head, told))
    said: Any
    for said in (3, {"dim": 5, "hidden": 12}, {**PROJECTOR, "hidden": -1}, {**PROJECTOR, "norm": False}):
        network = pretrained(pre, projector=said, dim=5, classes=["a"])
        assert equal(load_projector(pre), network["projector"])
    trained_student(run, projector=PROJECTOR, classes=["a", "b"])
    assert_refused_like(
        (head, r"classify.bias is \(2,\) in the network, \(3,\) in the file$"),
        (partial(load_head, pre), "n holds no classifier: expected"),
        (partial(load_projector, run), r"holds no projector: expected the network\.safetensors of relgraph pretrain, "),
    )
    first, last = nn.Linear(64, 12), nn.Linear(12, 5)
    for layers, words in (
        ([nn.BatchNorm1d(12), nn.ReLU(), last], r"0\.bias is \(1,\) in the network, \(12,\) in the file$"),
        ([first, nn.ReLU(), last, nn.Linear(5, 5)], r"1\.bias is \(12,\) in the network, missing in the file$"),
        ([first], r"n is of another architecture: 2\.bias is \(1,\) in the network, missing in the file$"),
    ):
        save_network(pre, nn.ModuleDict({"projector": nn.Sequential(*layers)}), INFO)
        assert_refused_like((projector, words))


def test_a_self_supervision_head_comes_back_frozen(tmp_path: Path) -> None:
    file, head = tmp_path / "ss_head.safetensors", Projector(6, 6)
    known = {"teacher": "embedded:digits", "fingerprint": "ab12", "transformations": "all"}
    save_ss_head(file, head, **known)
    for path in (file, tmp_path):
        again, info = load_ss_head(path, 6)
        assert equal(again, head) and not again.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in again.parameters())
        assert info == {"kind": "sskd-head", "width": 6, **known}
    told = r"d\.safetensors was trained for a teacher of width 6, this one has 7$"
    assert_refused_like((partial(load_ss_head, tmp_path, 7), told))


def test_what_is_no_self_supervision_head(tmp_path: Path) -> None:
    file, known = tmp_path / "ss_head.safetensors", {"teacher": "x", "fingerprint": "y"}
    load, unread = partial(load_ss_head, file, 6), "^cannot read the self-supervision head file .*ss_head.safetensors: "
    assert_refused_like((partial(load_ss_head, tmp_path, 6), unread))
    save_ss_head(file, Projector(6, 6), **known)
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused_like((load, unread))
    info = {"kind": "sskd-head", "width": 6}
    save_network(file, Projector(6, 5), {**info, **known, "transformations": "rotations"})
    assert_refused_like((load, r"of another architecture: 2\.bias is \(6,\) in the network, \(5,\) in"))
    save_network(file, Projector(6, 6), info)
    assert_refused_like((load, r"is damaged: it lacks fingerprint, teacher, transformations$"))
    for metadata, message in (
        (None, "holds weights without relgraph's description: expected the ss_head"),
        ({"relgraph": "[]"}, "is damaged: expected JSON with names and values, got"),
        ({"relgraph": '{"backbone": "resnet8"}'}, "is damaged or was changed after it was written"),
    ):
        save_file({"weight": torch.zeros(2)}, file, metadata=metadata)
        assert_refused_like((load, rf"ss_head.* {message}"))
    save_network(file, Projector(6, 6), {"backbone": "resnet8"})
    assert_refused_like((load, r"ss_head.* holds no self-supervision head: expected the ss_head"))


def save_student(path: Path, student: nn.Module, classes: Sequence[str] = ("a", "b", "c"), **info: Any) -> Path:
    """Save a student of 16 dimensions as a run does."""
    save_network(path / "student.safetensors", student, {**INFO, "dim": 16, "classes": list(classes), **info})
    return path / "student.safetensors"


def test_a_run_and_its_file_give_the_same_student(tmp_path: Path) -> None:
    student = Student(build_backbone("resnet8", 1), 16, 3)
    images = torch.rand(4, 1, 8, 8)
    student(images)  # so that running statistics are unlike a new network's
    file = save_student(tmp_path, student)
    for path in (tmp_path, str(file)):
        again, info = open_student(path)
        assert not again.training and info == {**INFO, "dim": 16, "classes": ["a", "b", "c"]}
        assert torch.equal(again(images).logits, student.eval()(images).logits)
    of_timm = Student(build_backbone("timm:test_vit", 1, image_size=32), 16, 3).eval()  # is built for a size
    save_student(tmp_path, of_timm, backbone="timm:test_vit", image_size=32)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(open_student(tmp_path)[0](images).logits, of_timm(images).logits)
    for keep in (0, 100, -1):
        save_student(tmp_path, student)
        file.write_bytes(file.read_bytes()[:keep])
        assert_refused_like((lambda: open_student(file), r"^cannot read the network file .*student\.safetensors: "))


def test_a_student_with_a_linear_head_is_described_and_built_again(tmp_path: Path) -> None:
    student = Student(build_backbone("resnet8", 1), None, 3).eval()
    file = save_student(tmp_path, student, dim=None)
    (again, info), (head, classes), images = open_student(file), load_head(file), torch.rand(4, 1, 8, 8)
    assert info["dim"] is None and equal(head, student.head) and (head.dim, classes) == (64, ("a", "b", "c"))
    assert torch.equal(again(images).logits, student(images).logits)


def test_other_files_are_no_student(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        assert_refused_like((lambda: open_student(tmp_path), message))

    fails(r"student\.safetensors")
    file = save_student(tmp_path, Student(build_backbone("resnet8", 1), 8, 3))
    fails(r"ture: head\.classify\.weight is \(3, 16\) in the network, \(3, 8\)")
    save_network(file, build_backbone("resnet8", 1), INFO)
    fails("holds a backbone without a head")
    save_file({"weight": torch.zeros(1)}, file)
    fails("without relgraph's description")


def test_a_student_of_images_without_labels(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    save_student(tmp_path, Student(build_backbone("resnet8", 1), 16, 0), classes=())
    student, info = open_student(tmp_path)
    assert info["classes"] == [] and student(torch.rand(2, 1, 8, 8)).logits.shape == (2, 1)
    assert not recwarn.list, "torch warns of layers without outputs"
