"""Students that start from weights: published ones, a file's; how their images are normalised; stages by name."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from relgraph.files import read_json, read_yaml
from relgraph.names import build_backbone, open_student
from relgraph.networks.files import save_network, weights_fingerprint
from relgraph.training.distillation import build, train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.runs import free_name
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, call_before, equal, outcome, states

NAME = "torchvision:shufflenet_v2_x0_5"
TAGGED = f"{NAME}/IMAGENET1K_V1"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of random weights that torch keeps as a download of `TAGGED`; there is no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    monkeypatch.setattr(published.value, "url", "http://127.0.0.1:9/tiny.pth")
    file = tmp_path / "hub" / "checkpoints" / "tiny.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(17)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), file)
    return file


def started(file: Path) -> dict[str, Any]:
    """Return the tensors of a backbone that begins with a file's."""
    return {f"model.{name}": x for name, x in torch.load(file).items() if not name.startswith("fc.")}


@pytest.mark.slow
def test_a_student_starts_from_published_weights_or_a_file(make: RecipeMaker, weights: Path) -> None:
    file, expected = str(weights), started(weights)
    for options, name in (
        ({"student": TAGGED}, TAGGED),
        ({"student": NAME, "student_weights": file}, file),
        ({"student": TAGGED, "student_weights": file, "method": "none"}, file),
    ):
        job = build(make(**options))
        found = job.objective.student.backbone
        assert all(torch.equal(found.state_dict()[key], x) for key, x in expected.items())
        assert job.frozen["student weights"] == {"name": name, "fingerprint": weights_fingerprint(found)}
        assert f"student: from the weights of {name}, its images normalised as the {job.recipe.normalise}'s" in job.note
    bare = build(make(student=NAME))
    assert "student weights" not in bare.frozen and "student:" not in bare.note
    assert not torch.equal(
        states(bare.objective.student.backbone)["model.conv1.0.weight"], expected["model.conv1.0.weight"]
    )


@pytest.mark.slow
def test_images_are_normalised_as_those_of_the_weights(make: RecipeMaker, weights: Path, tmp_path: Path) -> None:
    plain = build(make()).data
    own = (tuple(plain.mean), tuple(plain.std))
    run = tmp_path / "run"
    run.mkdir()
    info = {"backbone": TAGGED, "in_channels": 3, "image_size": 8, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    save_network(run / "network.safetensors", nn.ModuleDict({"backbone": build_backbone(TAGGED, image_size=8)}), info)
    of_run = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for options, chosen, expected in (
        ({}, "dataset", own),
        ({"student": NAME}, "dataset", own),
        ({"student": TAGGED}, "student", IMAGENET),
        ({"student": TAGGED, "normalise": "dataset"}, "dataset", own),
        ({"student": NAME, "student_weights": str(weights)}, "dataset", own),
        ({"student": NAME, "student_weights": str(weights), "normalise": "student"}, "student", IMAGENET),
        ({"student": TAGGED, "init_from": str(run)}, "student", of_run),
    ):
        job = build(make(method="none", **options))
        assert job.recipe.normalise == chosen and (tuple(job.data.mean), tuple(job.data.std)) == expected
        assert job.description()["mean"] == list(expected[0])
    weights.unlink()  # a run that starts from another one needs no published weights
    build(make(method="none", student=TAGGED, init_from=str(run)))


def test_grey_images_are_normalised_as_the_data_set_s(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose mean would a colour's be? Asked for by name, it is refused."""
    options: dict[str, Any] = {"dataset": "digits", "labels_per_class": 3, "student": "timm:test_resnet.r160_in1k"}
    monkeypatch.setattr(  # as if its weights were there
        "relgraph.networks.timm_source.TimmSource.start", lambda self, weights, *images: self.build(*images)
    )
    job = build(make(method="none", **options))
    assert job.recipe.normalise == "dataset" and len(job.data.mean) == 1
    told = r"^normalise 'student' needs images with the student's channels, got 1 and 3 of timm:test_resnet"
    assert_refused_like((partial(build, make(method="none", normalise="student", **options)), told))


@pytest.mark.slow
def test_a_run_goes_on_and_its_student_is_read_without_the_published_weights(
    make: RecipeMaker, weights: Path, tmp_path: Path
) -> None:
    recipe, whole, stopped = make(student=TAGGED, epochs=2), tmp_path / "whole", tmp_path / "stopped"
    train(recipe, whole)
    for owner, name, number, gone in (
        ("relgraph.training.trainer", "write_first", 1, False),  # without a checkpoint it starts again from the weights
        ("relgraph.training.trainer", "train_epoch", 2, True),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            call_before(patch, __import__(owner, fromlist=["x"]), name, number)
            train(recipe, stopped, resume=stopped.exists())
        if gone:
            weights.unlink()
    train(recipe, stopped, resume=True)
    assert outcome(stopped) == outcome(whole)
    assert read_yaml(stopped / "recipe.yaml", sealed=True)["normalise"] == "student"
    assert read_json(stopped / "inputs.json")["student weights"]["name"] == TAGGED
    student, info = open_student(stopped)
    assert (info["backbone"], tuple(info["mean"])) == (TAGGED, IMAGENET[0])
    torch.manual_seed(0)
    assert student(torch.rand(2, 3, 8, 8)).logits is not None


@pytest.mark.slow
def test_other_weights_are_noticed_where_they_are_read_again(make: RecipeMaker, weights: Path, tmp_path: Path) -> None:
    recipe, path = make(student=TAGGED, epochs=1), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        call_before(patch, __import__("relgraph.training.trainer", fromlist=["x"]), "write_first", 1)
        train(recipe, path)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), weights)
    told = f"^the weights of the student weights {TAGGED}: expected those with which"
    assert_refused_like((partial(train, recipe, path, resume=True), told))


def test_what_does_not_start_is_told(make: RecipeMaker, weights: Path, tmp_path: Path) -> None:
    file = str(weights)
    assert_refused_like(
        (partial(make, student=NAME, student_weights=file, init_from="run"), "^a student starts from init_from or stu"),
        (lambda: build(make(student_weights=file)), "^student_weights belong to students of timm, .* got resnet8"),
        (lambda: build(make(student=NAME, student_weights="no.pth")), "^there is no weights file no.pth"),
        (lambda: build(make(normalise="student")), "^normalise 'student' needs weights that tell .* got resnet8"),
        (
            lambda: build(make(student_stages=("layer1",))),
            r"^stages are chosen of .*: student resnet8 has stages of its",
        ),
        (lambda: build(make(student=NAME, student_stages=("stage5",))), "^unknown stage 'stage5': did you mean 'stage"),
        (
            lambda: build(make(teacher_stages=("layer1",))),
            "^stages are chosen of .*: teacher embedded:digits has stages",
        ),
    )
    pretraining = resolve_pretraining({"dataset": "digits", "network": TAGGED, "device": "cpu", "epochs": 1})
    told = f"^pretrain begins with random weights: expected a name without them, got {TAGGED}$"
    assert_refused_like((partial(pretrain, pretraining, tmp_path / "pretraining"), told))
    assert free_name(tmp_path, make(student=TAGGED)).parent == tmp_path


# Networks of one's own, with stages by name


def small() -> nn.Module:
    """Return a network of a user's own."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        nn.Conv2d(32, 64, 3, 2, 1),
    )


@pytest.mark.slow
def test_methods_that_read_maps_work_with_own_networks(make: RecipeMaker, tmp_path: Path) -> None:
    stages = ("0", "1", "2", "3")
    options: dict[str, Any] = {"student": small, "epochs": 1}
    for method in ("at", "sp", "fitnet"):
        path = tmp_path / method
        train(make(method=method, student_stages=stages, **options), path)
        student, info = open_student(path, student=small)
        assert info["stages"] == list(stages)
        assert [tuple(m.shape[1:]) for m in student(torch.rand(1, 3, 8, 8)).maps] == [
            (16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2)
        ]  # fmt: skip
        if method != "sp":  # which compares the map that the module itself gives
            assert_refused_like((partial(build, make(method=method, **options)), r"maps=\(\.\.\.\)|map"))


def test_two_runs_from_one_module_begin_equal(make: RecipeMaker, tmp_path: Path) -> None:
    module = small()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    recipe = make(method="sp", student=module, student_stages=("2",), epochs=1, accumulate=2)
    first = states(build(recipe).objective)
    train(recipe, tmp_path / "run")
    assert equal(states(build(recipe).objective), first)
    assert all(torch.equal(x, module.state_dict()[name]) for name, x in before.items())
