"""Tasks: which head a network has, which loss labels give, and by which figures it is judged."""

import pytest
import torch

from relgraph.data.views import Normalise
from relgraph.names import build_backbone
from relgraph.training import tasks
from relgraph.training.building import open_data
from relgraph.training.distillation import build, open_task
from relgraph.training.recipe import Recipe
from relgraph.training.tasks import Classes, Neighbours, Task, classes_of
from tests.training.conftest import RecipeMaker

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
        assert set(task.selected) == {"val", "test"} and task.device == CPU
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
    logits, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, -1, 0, -1])
    expected = sum(logits[i].exp().sum().log() - logits[i, labels[i]] for i in (0, 2)) / 2
    for kind in (Classes, Neighbours):
        found = kind.loss(logits, labels)
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-12, atol=0)
        assert kind.loss(logits, torch.full((4,), -1)) == 0
        half = kind.loss(logits.bfloat16(), labels)
        assert half.dtype == torch.float32 and float(half) == pytest.approx(float(expected), rel=0.02)


def test_classes_are_judged_by_the_network_s_own_classifier(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation mode, which changes nothing of it, and in pieces of any size."""
    job = build(make())
    student, split = job.objective.student, job.data.test
    student(torch.rand(8, 3, 8, 8))
    before = {name: x.clone() for name, x in student.state_dict().items()}
    found = job.task.evaluate(student, split, probe=True)
    monkeypatch.setattr(tasks, "BATCH", 5)
    assert job.task.evaluate(student, split) == found and not student.training
    with torch.no_grad():
        logits = student(job.task.student_input(split.pixels)).logits
    right = [int(row.argmax()) == label for row, label in zip(logits, split.labels.tolist(), strict=True)]
    assert found == {"top1": pytest.approx(100 * sum(right) / 18), "top5": 100.0}, "there are three classes"
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_neighbours_are_judged_by_features_and_nothing_is_said_without_labels(make: RecipeMaker) -> None:
    task = opened(make(method="seed"))
    student, data = task.student(build_backbone("resnet8", 3), 4), task.data
    for probe in (False, True):
        found = task.evaluate(student, data.test, probe=probe)
        assert set(found) == ({"knn", "linear"} if probe else {"knn"})
    bare = opened(make(method="seed", dataset="unlabelled"))
    assert bare.evaluate(student, bare.data.test, probe=True) == {}
