"""Tasks: which head a network has, which loss labels give, and by which figures it is judged."""

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
from relgraph.data.views import Normalise
from relgraph.names import build_backbone
from relgraph.training import tasks
from relgraph.training.building import open_data
from relgraph.training.distillation import build, open_task
from relgraph.training.recipe import Recipe
from relgraph.training.tasks import NEIGHBOURS, Classes, Neighbours, Task, classes_of
from tests.training.conftest import RecipeMaker, equal, states

CPU = torch.device("cpu")


def opened(recipe: Recipe) -> Task:
    return open_task(recipe, open_data(recipe), CPU)


def test_labels_make_a_task_of_classes_and_what_needs_none_one_of_neighbours(make: RecipeMaker) -> None:
    for kind, score, by_label, options in (
        (Classes, "top1", True, {}),
        (Classes, "top1", True, {"method": "none"}),
        (Classes, "top1", True, {"method": "seed", "gamma": 1.0}),
        (Neighbours, "knn", False, {"method": "seed"}),
        (Neighbours, "knn", False, {"gamma": 0.0}),
    ):
        task = opened(make(**options))
        assert (type(task), task.score, task.by_label) == (kind, score, by_label)
        assert set(task.selected) == {"val", "test", "last"} and task.device == CPU
        images = task.data.train.pixels[:2]
        assert torch.equal(task.student_input(images), Normalise(task.data.mean, task.data.std)(images))
        row = {"loss": 1.0, "seed": 0.5, "train_top1": 30.0}
        assert task.figures(row) == (row if by_label else {"loss": 1.0, "seed": 0.5})
        head = classes_of(task)
        assert type(head) is Classes and (head.data, head.student_input) == (task.data, task.student_input)


def test_a_student_has_a_class_for_each_label(make: RecipeMaker) -> None:
    for options, classes in (({}, 3), ({"dataset": "unlabelled", "method": "seed"}, 1)):
        student = opened(make(**options)).student(build_backbone("resnet8", 3, image_size=8), 5)
        output = student(torch.rand(2, 3, 8, 8))
        assert output.embedding.shape == (2, 5) and output.logits is not None and output.logits.shape == (2, classes)


def test_labels_teach_by_cross_entropy_over_those_that_are_known() -> None:
    logits, labels = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([2, -1, 0, -1])
    expected = sum(logits[i].exp().sum().log() - logits[i, labels[i]] for i in (0, 2)) / 2
    for kind in (Classes, Neighbours):
        found = kind.loss(logits, labels)
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-12, atol=0)
        none = kind.loss(logits, torch.full((4,), -1))
        assert none == 0 and not torch.autograd.grad(none, logits)[0].any()
        half = kind.loss(logits.bfloat16(), labels)
        assert half.dtype == torch.float32 and half.item() == pytest.approx(torch.as_tensor(expected).item(), rel=0.02)


def test_classes_are_judged_by_the_network_s_own_classifier(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation mode, which changes nothing of it, and in pieces of any size."""
    job = build(make())
    student, split = job.objective.student, job.data.test
    student(torch.rand(8, 3, 8, 8))
    before = states(student)
    found = job.task.evaluate(student, split, probe=True)
    monkeypatch.setattr(tasks, "BATCH", 5)
    assert job.task.evaluate(student, split) == found and not student.training
    with torch.no_grad():
        logits = student(job.task.student_input(split.pixels)).logits
    right = [int(row.argmax()) == label for row, label in zip(logits, split.labels.tolist(), strict=True)]
    assert found == {"top1": pytest.approx(100 * sum(right) / 18), "top5": 100.0}, "there are three classes"
    assert equal(states(student), before)


# Features judged by their neighbours and by a probe: the figures of scikit-learn, from true labels alone.


NAMES = ("ant", "bee", "cat")


def split(count: int, seed: int, labels: Tensor | None = None) -> ImageSet:
    """Return images `(count, 1, 3, 3)` that are a little brighter the higher their class."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(3, (count,), generator=generator)
    noise = torch.randint(0, 160, (count, 1, 3, 3), generator=generator)
    images = (noise + 25 * true.view(-1, 1, 1, 1)).to(torch.uint8)
    return ImageSet(images, true if labels is None else labels, NAMES, "test", torch.arange(count))


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


def judge(
    train: ImageSet, images: ImageSet, *, backbone: nn.Module | None = None, probe: bool = False
) -> dict[str, float]:
    """Return the figures of a network of the same weights in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = SimpleNamespace(backbone=backbone or Embedding())
    data = DataSet("tiny", train, images, images, (0.5,), (0.5,), 1, True)
    return Neighbours(data, prepare, torch.device("cpu")).evaluate(network, images, probe=probe)


def features(backbone: nn.Module, images: ImageSet) -> np.ndarray:
    """Return features in evaluation mode, in float64."""
    with torch.no_grad():
        weight, bias = (p.double() for p in backbone.map.parameters())  # type: ignore[union-attr]
        plain = prepare(images.pixels.double()).flatten(1) @ weight.T + bias
        return np.asarray(plain / (1 + 1e-5) ** 0.5)  # a new batch norm: mean 0, variance 1, weight 1, bias 0


def test_neighbours_and_probe_are_those_of_scikit_learn() -> None:
    train, test, backbone = split(300, 1), split(200, 2), Embedding()
    of_train, of_test = features(backbone, train), features(backbone, test)
    known, asked = train.labels.numpy(), test.labels.numpy()
    nearest = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(of_train, known)
    scaler = StandardScaler().fit(of_train)
    regression = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(of_train), known)
    found = judge(train, test, backbone=backbone, probe=True)
    assert found["knn"] == pytest.approx(100 * nearest.score(of_test, asked), abs=0.51), "one vote may tie"
    assert found["linear"] == pytest.approx(100 * regression.score(scaler.transform(of_test), asked), abs=0.51)
    assert set(found) == {"knn", "linear"} and set(judge(train, test)) == {"knn"}
    assert found["knn"] > 45, "else the images would not tell their classes, and this test nothing"


def test_true_labels_judge_whatever_the_training_is_given() -> None:
    """Images that have none are no neighbours."""
    train, test = split(300, 1), split(200, 2)
    expected = judge(train, test, probe=True)
    assert judge(train.relabel(torch.full((300,), -1)), test, probe=True) == expected
    assert judge(train.relabel(train.labels.roll(1)), test.relabel(test.labels.roll(1)), probe=True) == expected
    wrong = ImageSet(train.images, train.labels.flip(0), NAMES, "train", train.index)
    assert judge(wrong, test, probe=True) != expected
    some = torch.arange(300) % 3 == 0
    partly = split(300, 1, train.labels.where(some, torch.tensor(-1)))
    few = judge(train.select(some), test, probe=True)
    assert judge(partly, test, probe=True) == pytest.approx(few) and few != expected


def test_nothing_to_judge_by_and_one_class_for_which_there_is_no_probe() -> None:
    train, test, backbone = split(30, 1), split(20, 2), Embedding()
    none, one_unknown = torch.full((30,), -1), test.labels.clone().index_fill_(0, torch.tensor([7]), -1)
    assert judge(split(30, 1, none), test, backbone=backbone) == {}
    assert judge(train, test.select(torch.arange(0)), backbone=backbone) == {}
    assert judge(train, split(20, 2, one_unknown), backbone=backbone, probe=True) == {}
    assert backbone.seen == 0
    ants = split(30, 1, torch.zeros(30, dtype=torch.long))
    assert judge(ants, test, probe=True) == {"knn": pytest.approx(100 * float((test.labels == 0).double().mean()))}
    assert set(judge(train, test, probe=True)) == {"knn", "linear"}


def test_no_more_than_so_many_are_known_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "KNOWN", 12)
    train, test, backbone = split(300, 1), split(200, 2), Embedding()
    found = judge(train, test, backbone=backbone, probe=True)
    assert backbone.seen == 12 + 200
    torch.manual_seed(99)
    assert judge(train, test, backbone=backbone, probe=True) == found
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:12]
    assert judge(train.select(chosen), test, backbone=backbone, probe=True) == pytest.approx(found)


def test_a_network_that_trains_is_left_as_it_was() -> None:
    backbone = Embedding()
    backbone.map.eval()
    before, state = states(backbone), torch.get_rng_state()
    judge(split(300, 1), split(200, 2), backbone=backbone, probe=True)
    assert backbone.training and backbone.norm.training and not backbone.map.training
    assert equal(states(backbone), before) and all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.equal(torch.get_rng_state(), state), "or a resumed training would draw other numbers"
