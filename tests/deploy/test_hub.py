import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from torch import Tensor, nn

import relgraph
from relgraph.deploy.hub import HubStudent, Made, write_hub
from relgraph.networks.plain import PlainStudent
from tests.checks import assert_refused, assert_refused_like
from tests.deploy.students import images_of, student_of

RESULT: dict[str, Any] = {
    "test": {"best": {"top1": 91.234, "knn": 88.0}}, "images": {"train": 1299, "labelled": 30, "test": 355},
    "seed": 7, "note": "best epoch picked by k-NN",
}  # fmt: skip
MADE = Made("resnet8", "rkd+kd", "timm:resnet18", "digits", RESULT, "mit")


@torch.no_grad()
def assert_same(found: PlainStudent, student: PlainStudent) -> None:
    assert not found.training and found.classes == student.classes and found.preprocess == student.preprocess
    images = torch.randn(3, 3, 32, 32)
    for mine, others in zip(found(images), student(images), strict=True):
        assert mine is others is None or torch.equal(mine, others)


def test_a_folder_opens_by_the_hub_s_methods_and_by_relgraph(tmp_path: Path) -> None:
    for classes, projected in ((10, False), (0, True)):
        student = student_of("resnet8", classes=classes, projected=projected)
        folder = tmp_path / f"hub{classes}"
        assert write_hub(student, folder, MADE, images=images_of(student)) == 0
        found = HubStudent.from_pretrained(folder)
        assert_same(found, student)
        assert_same(relgraph.load_student(folder), student)
        found.save_pretrained(tmp_path / f"again{classes}")
        for name in ("README.md", "config.json", "model.safetensors"):
            assert (tmp_path / f"again{classes}" / name).read_bytes() == (folder / name).read_bytes()


def test_the_card_says_how_the_student_was_made(tmp_path: Path) -> None:
    student = student_of("resnet8")
    write_hub(student, tmp_path / "hub", MADE, images=images_of(student))
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "relgraph"
    told = (
        "rkd+kd", "timm:resnet18", "digits, 1,299 training images (30 labelled)", "Seed**: 7", "91.23 %",
        "k-NN accuracy of the features | 88.00 %", "on 355 test images", "Best epoch picked by k-NN.",
    )  # fmt: skip
    assert [words for words in told if words not in card.text] == []
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["classes"] == list(student.classes) and config["preprocessing"]["std"] == [0.2, 0.25, 0.3]
    last = MADE._replace(result={**RESULT, "test": {"last": {"top1": 87.654}}})  # as with --select last
    write_hub(student, tmp_path / "last", last, images=images_of(student))
    assert "top-1 accuracy | 87.65 %" in ModelCard.load(tmp_path / "last" / "README.md").text
    write_hub(student, tmp_path / "unstated", MADE._replace(licence=None), images=images_of(student))
    card = ModelCard.load(tmp_path / "unstated" / "README.md")
    assert card.data.license is None and "Licence**: not stated" in card.text


class Tiny(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_code_of_one_s_own_is_named_again(tmp_path: Path) -> None:
    student = student_of(Tiny())
    write_hub(student, tmp_path / "hub", MADE, images=images_of(student), own=Tiny())
    assert_same(relgraph.load_student(tmp_path / "hub", student=Tiny()), student)
    assert_same(HubStudent.from_pretrained(tmp_path / "hub", student=Tiny()), student)
    assert_refused_like((lambda: relgraph.load_student(tmp_path / "hub"), "names code of its own, own.py:Own"))


def test_a_repository_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, commit = student_of("resnet8"), 40 * "a"
    repository = tmp_path / "models--me--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    write_hub(student, repository / "snapshots" / commit, MADE, images=images_of(student))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(relgraph.load_student("hf:me/tiny"), student)
    assert_same(HubStudent.from_pretrained("me/tiny"), student)
    assert_refused_like((lambda: relgraph.load_student("hf:me/none"), "hf:me/none"))


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    student, folder = student_of("resnet8"), tmp_path / "hub"
    folder.mkdir()
    write_hub(student, folder, MADE, images=images_of(student))  # an empty one
    before = sorted(tmp_path.rglob("*"))
    told = f"{folder} exists already: expected a new or an empty folder"
    assert_refused((lambda: write_hub(student, folder, MADE, images=images_of(student)), told))
    missing = tmp_path / "missing" / "hub"
    assert_refused_like(
        (lambda: write_hub(student, missing, MADE, images=images_of(student)), "cannot write .*No such")
    )
    other = student_of("resnet8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relgraph.deploy.hub.load_student", lambda *_, **__: other)
        new = tmp_path / "new"
        assert_refused_like((lambda: write_hub(student, new, MADE, images=images_of(student)), "within 0.0001"))
    assert sorted(tmp_path.rglob("*")) == before
