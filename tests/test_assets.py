"""The teacher that comes with the package is as good as its README says."""

from pathlib import Path

import pytest
import torch

from relgraph.data.datasets import DataSet, load
from relgraph.data.sources import Digits
from relgraph.names import build_backbone, load_teacher
from relgraph.networks.teachers import Teacher
from relgraph.training.evaluation import embed, knn_accuracy, linear_probe
from relgraph.training.feed import input_of


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load(Digits(), root=Path("unused"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)


def features(teacher: Teacher, digits: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    train, test = (embed(teacher, images, input_of(teacher), 256, "cpu") for images in (digits.train, digits.test))
    return train, test


def test_the_embedded_teacher_knows_digits_without_labels(digits: DataSet) -> None:
    train, test = features(load_teacher("embedded:digits"), digits)
    assert knn_accuracy(train, digits.train.labels, test, digits.test.labels, k=20) > 98
    assert linear_probe(train, digits.train.labels, test, digits.test.labels) > 98


def test_an_untrained_network_of_its_kind_does_not(digits: DataSet) -> None:
    teacher = load_teacher("embedded:digits")
    torch.manual_seed(0)
    untrained = build_backbone("resnet20", in_channels=1).eval()
    train, test = (embed(untrained, images, input_of(teacher), 256, "cpu") for images in (digits.train, digits.test))
    assert knn_accuracy(train, digits.train.labels, test, digits.test.labels, k=20) < 90


def test_the_file_is_small_and_described() -> None:
    assets = Path(__file__).parents[1] / "relgraph" / "assets"
    assert (assets / "digits-simclr.safetensors").stat().st_size < 2**20
    text = (assets / "README.md").read_text()
    assert "experiments/digits_teacher.py" in text and "CC BY 4.0" in text
