"""Features judged by their neighbours and by a probe: the figures of scikit-learn, from true labels alone."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.training import tasks
from relgraph.training.tasks import NEIGHBOURS, Neighbours

CLASSES = ("ant", "bee", "cat")
Judge = Callable[..., dict[str, float]]


def split(count: int, seed: int, labels: Tensor | None = None) -> ImageSet:
    """Return images `(count, 1, 3, 3)` that are a little brighter the higher their class."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(3, (count,), generator=generator)
    noise = torch.randint(0, 160, (count, 1, 3, 3), generator=generator)
    images = (noise + 25 * true.view(-1, 1, 1, 1)).to(torch.uint8)
    return ImageSet(images, true if labels is None else labels, CLASSES, "test", torch.arange(count))


class Embedding(nn.Module):
    """A fixed map of images to features, with a batch norm that training would move; it counts the images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(9, 5)
        self.norm = nn.BatchNorm1d(5)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        found: Tensor = self.norm(self.map(images.flatten(1)))
        return found


def prepare(images: Tensor) -> Tensor:
    return images / 255 - 0.5


@pytest.fixture
def backbone() -> Embedding:
    return Embedding()


@pytest.fixture
def judge(backbone: Embedding) -> Judge:
    def found(train: ImageSet, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        data = DataSet("tiny", train, images, images, (0.5,), (0.5,), 1, True)
        network: Any = SimpleNamespace(backbone=backbone)
        return Neighbours(data, prepare, torch.device("cpu")).evaluate(network, images, probe=probe)

    return found


def features(backbone: nn.Module, images: ImageSet) -> np.ndarray:
    """Return features in evaluation mode, in float64."""
    with torch.no_grad():
        weight, bias = (p.double() for p in backbone.map.parameters())  # type: ignore[union-attr]
        plain = prepare(images.pixels.double()).flatten(1) @ weight.T + bias
        return np.asarray(plain / (1 + 1e-5) ** 0.5)  # a new batch norm: mean 0, variance 1, weight 1, bias 0


def test_neighbours_and_probe_are_those_of_scikit_learn(backbone: Embedding, judge: Judge) -> None:
    train, test = split(300, 1), split(200, 2)
    of_train, of_test = features(backbone, train), features(backbone, test)
    known, asked = train.labels.numpy(), test.labels.numpy()
    nearest = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(of_train, known)
    scaler = StandardScaler().fit(of_train)
    regression = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(of_train), known)
    found = judge(train, test, probe=True)
    assert found["knn"] == pytest.approx(100 * nearest.score(of_test, asked), abs=0.51), "one vote may tie"
    assert found["linear"] == pytest.approx(100 * regression.score(scaler.transform(of_test), asked), abs=0.51)
    assert set(found) == {"knn", "linear"} and set(judge(train, test)) == {"knn"}
    assert found["knn"] > 45, "else the images would not tell their classes, and this test nothing"


def test_true_labels_judge_whatever_the_training_is_given(judge: Judge) -> None:
    train, test = split(300, 1), split(200, 2)
    expected = judge(train, test, probe=True)
    assert judge(train.relabel(torch.full((300,), -1)), test, probe=True) == expected
    assert judge(train.relabel(train.labels.roll(1)), test.relabel(test.labels.roll(1)), probe=True) == expected
    wrong = ImageSet(train.images, train.labels.flip(0), CLASSES, "train", train.index)
    assert judge(wrong, test, probe=True) != expected


def test_images_without_true_labels_are_no_neighbours(judge: Judge) -> None:
    train, test = split(300, 1), split(200, 2)
    some = torch.arange(300) % 3 == 0
    partly = split(300, 1, train.labels.where(some, torch.tensor(-1)))
    few = judge(train.select(some), test, probe=True)
    assert judge(partly, test, probe=True) == pytest.approx(few) and few != judge(train, test, probe=True)


def test_nothing_to_judge_by(judge: Judge, backbone: Embedding) -> None:
    train, test = split(30, 1), split(20, 2)
    none = torch.full((30,), -1)
    one_unknown = test.labels.clone().index_fill_(0, torch.tensor([7]), -1)
    assert judge(split(30, 1, none), test) == {}
    assert judge(train, test.select(torch.arange(0))) == {}
    assert judge(train, split(20, 2, one_unknown), probe=True) == {}
    assert backbone.seen == 0


def test_one_class_has_neighbours_and_no_probe(judge: Judge) -> None:
    train, test = split(30, 1), split(20, 2)
    ants = split(30, 1, torch.zeros(30, dtype=torch.long))
    assert judge(ants, test, probe=True) == {"knn": pytest.approx(100 * float((test.labels == 0).double().mean()))}
    assert set(judge(train, test, probe=True)) == {"knn", "linear"}


def test_no_more_than_so_many_are_known_and_always_the_same(
    judge: Judge, backbone: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "KNOWN", 12)
    train, test = split(300, 1), split(200, 2)
    found = judge(train, test, probe=True)
    assert backbone.seen == 12 + 200
    torch.manual_seed(99)
    assert judge(train, test, probe=True) == found
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:12]
    assert judge(train.select(chosen), test, probe=True) == pytest.approx(found)


def test_a_network_that_trains_is_left_as_it_was(judge: Judge, backbone: Embedding) -> None:
    backbone.train()
    backbone.map.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    judge(split(300, 1), split(200, 2), probe=True)
    assert backbone.training and backbone.norm.training and not backbone.map.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.equal(torch.get_rng_state(), state), "or a resumed training would draw other numbers"
