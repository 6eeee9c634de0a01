"""Classes of pixels: training, distillation and evaluation of whole runs, on a few tiny images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relgraph
from relgraph.analysis.run_loading import TrainedRun, evaluate_run
from relgraph.data.decoding import ImageSize
from relgraph.data.label_maps import IGNORED
from relgraph.data.pixel_sources import Nuclei
from relgraph.data.pixel_views import PixelAugmentation
from relgraph.data.sources import OriginalSplits
from relgraph.names import load_student, load_teacher
from relgraph.processes import ProcessGroup
from relgraph.training import trainer
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.recipe import Recipe, resolve
from relgraph.training.runs import RunDirectory
from relgraph.training.tasks import pixel_cross_entropy
from tests.checks import assert_refused_like, case
from tests.processes import run_on
from tests.tiny_pixels import CLASSES, TinyPixels, coloured
from tests.training.conftest import call_before, outcome, result_of
from tests.training.test_runs_over_processes import launched

FAST: dict[str, Any] = {
    "dataset": TinyPixels(), "student": "resnet8", "epochs": 2, "batch_size": 4, "device": "cpu", "threads": 1,
    "precision": "32-true", "logger": ("none",), "val_fraction": 0.2, "optimiser": "sgd", "lr": 0.02,
}  # fmt: skip
MEMORIES = tuple(
    f"cirkd.{name}" for name in ("pixel_weight=0.1", "region_weight=0.1", "pixel_queue=40", "region_queue=9")
)


def recipe(**options: Any) -> Recipe:
    return resolve({**FAST, **options}, "pixels")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run without a teacher, which is the teacher of others."""
    path = tmp_path_factory.mktemp("pixels") / "teacher"
    train(recipe(method="none"), path)
    return path


def distilled(teacher: Path, method: Any, **options: Any) -> Distillation:
    return build(recipe(teacher=f"checkpoint:{teacher}", method=method, labelled_images=6, **options))


def naive(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Return mIoU and accuracy of classes of pixels, counted one by one."""
    pairs = [(p, t) for p, t in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True) if t != 255]
    overlap = {
        name: 100 * sum(p == t == c for p, t in pairs) / sum(c in pair for pair in pairs)
        for c, name in enumerate(CLASSES)
    }
    right = 100 * sum(p == t for p, t in pairs) / len(pairs)
    each = {f"iou_{name}": found for name, found in overlap.items()}
    return {"miou": sum(overlap.values()) / len(overlap), "pixel_accuracy": right, **each}


def test_a_run_is_evaluated_at_the_size_of_the_labels_and_opens_again(teacher: Path) -> None:
    student, test = load_student(teacher), coloured(6, "test", 1)
    assert test.maps is not None
    inputs = _prepared(student, test)
    vectors, logits = student(inputs)
    assert logits is not None and vectors.shape == (6, 64) and logits.shape == (6, len(CLASSES), 12, 16)
    scores = student.backbone.logits(student.backbone.stages(inputs)[0])
    assert scores is not None
    own = torch.stack([test.maps.own(i) for i in range(6)])
    predicted = nn.functional.interpolate(scores, size=own.shape[1:], mode="bilinear").argmax(1)
    expected = pytest.approx(naive(predicted, own))
    result = result_of(teacher)
    evaluated = evaluate_run(TrainedRun(teacher, {"dataset": TinyPixels()}))
    assert result["test"]["best"] == expected and evaluated["student"] == expected
    torch.testing.assert_close(load_teacher(f"checkpoint:{teacher}").features(inputs).logits, scores)


def _prepared(student: Any, images: Any) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in (student.preprocess.mean, student.preprocess.std))
    prepared: Tensor = (images.pixels / 255 - mean) / std
    return prepared


def test_labels_teach_at_their_own_size_by_the_mean_over_known_pixels() -> None:
    logits, labels = torch.randn(2, 3, 2, 3, requires_grad=True), torch.randint(-1, 3, (2, 4, 6))
    large = nn.functional.interpolate(logits, size=(4, 6), mode="bilinear").log_softmax(1)
    known = [(b, y, x) for b in range(2) for y in range(4) for x in range(6) if labels[b, y, x] >= 0]
    expected = -torch.stack([large[b, labels[b, y, x], y, x] for b, y, x in known]).mean()
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)
    assert pixel_cross_entropy(logits, torch.full_like(labels, -1)) == 0


def test_such_data_choose_their_preset_and_a_student_starts_from_an_earlier_run(teacher: Path) -> None:
    assert resolve({"dataset": "nuclei", "method": "none"}).schedule == "poly"
    assert resolve({"dataset": "cifar10", "method": "none"}).schedule == "step"
    started = build(recipe(method="none", init_from=str(teacher))).objective.student.backbone.bare.state_dict()
    kept = load_student(teacher).backbone.bare.state_dict()
    assert all(torch.equal(started[name], x) for name, x in kept.items())


def test_images_without_a_label_take_part_in_the_relations_alone(teacher: Path) -> None:
    job = distilled(teacher, "pixelwise", crop_size=(8, 12))
    train_set = job.data.train
    index = torch.tensor([int((train_set.labels < 0).nonzero()[0]), int((train_set.labels >= 0).nonzero()[0])])
    batch = relgraph.methods.Batch(index, train_set.labels[index])
    inputs = job.feed(train_set.pixels[index], batch, torch.Generator().manual_seed(3))
    unlabelled, labelled = inputs.batch.labels
    assert inputs.images.shape[2:] == labelled.shape == (8, 12)
    assert bool((unlabelled == -1).all()) and bool((labelled >= 0).any())
    view = PixelAugmentation((0.5, 2.0), (8, 12)).draw(2, 12, 16, torch.Generator().manual_seed(3))
    assert train_set.maps is not None
    seen = view.apply_labels(train_set.maps.rows(index)).long()
    assert torch.equal(inputs.batch.labels, torch.where(seen == IGNORED, -1, seen))
    assert inputs.teacher is not None and inputs.teacher.logits is not None
    terms = job.objective(inputs).terms
    assert set(terms) == {"cross_entropy", "pixelwise"} and terms["pixelwise"] > 0


def test_methods_over_scores_maps_positions_and_pooled_vectors_train(teacher: Path) -> None:
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("pairwise+pixelwise", {"method_args": ("pairwise.pool=1",)}),
        ("cwd", {"method_args": ("nodes=logits",)}),
        ("gram+cirkd+kd+at", {"method_args": MEMORIES}),
        ("ega", {}),
        ("ega", {"nodes": "positions", "graph": "knn", "k": 8}),  # of an image, more than a batch has images
        ("rkd", {"nodes": "positions", "accumulate": 2}),
        ("seed", {}),
    )
    for method, options in cases:
        with case(method, options):
            job = distilled(teacher, method, **options)
            before = [x.clone() for x in job.objective.student.backbone.bare.parameters()]
            index = torch.arange(4)
            losses = step(job, job.data.train.pixels[index], index, torch.Generator(), Meter(at=job.task.at))
            assert bool(torch.stack(list(losses.terms.values())).isfinite().all())
            moved = zip(before, job.objective.student.backbone.bare.parameters(), strict=True)
            assert all(not torch.equal(one, other) for one, other in moved)


def test_a_discriminator_learns_beside_the_student_at_its_own_rate_and_ends_a_run_when_it_runs_away(
    teacher: Path,
) -> None:
    job = distilled(teacher, "holistic", method_args=("discriminator_lr=0.0002", "width=8"))
    (group,) = job.optimisers["teacher_optimiser"].param_groups
    method = job.objective.method
    assert method is not None and group["lr"] == 0.0002
    own = [*method.parameters()]
    assert {id(p) for p in group["params"]} == {id(p) for p in own}
    before = [p.clone() for p in own]
    losses = step(job, job.data.train.pixels[:4], torch.arange(4), torch.Generator(), Meter(at=job.task.at))
    assert list(losses.teacher_terms) == ["teacher_discriminator", "teacher_penalty"]
    assert any(not torch.equal(one, other) for one, other in zip(before, own, strict=True))
    away = distilled(teacher, "holistic", method_args=("discriminator_lr=1e18", "width=8"))
    told = r"^the loss is not a number in epoch 1: .*teacher_penalty first; a smaller learning rate"
    assert_refused_like((lambda: train_epoch(away, 0), told))


def test_a_run_without_labels_is_taught_by_the_relations_of_a_dense_network() -> None:
    class Dense(nn.Module):
        """Tokens of a network that knows no classes."""

        mean, std = (0.5,) * 3, (0.5,) * 3

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(images, 4)

    job = build(recipe(teacher=Dense(), method="gram", gamma=0.0))
    row = train_epoch(job, 0)[0]
    assert row["gram"] > 0 and row["cross_entropy"] == 0 and "train_pixel_accuracy" not in row
    assert job.evaluate(0) == {}


def test_a_stopped_run_ends_bit_for_bit(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"method": "skd+0.1*holistic+cirkd", "method_args": ("conditional=true", "width=8", *MEMORIES)}
    made = recipe(teacher=f"checkpoint:{teacher}", labelled_images=6, **options)
    train(made, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        call_before(patch, trainer, "train_epoch", 2)
        train(made, tmp_path / "stopped")
    train(made, tmp_path / "stopped", resume=True)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def work_on(processes: ProcessGroup, made: Recipe, path: Path) -> dict[str, Any]:
    launched(processes)
    return train(made, path)


@pytest.mark.slow
def test_two_processes_have_the_figures_of_one(teacher: Path, tmp_path: Path) -> None:
    made = recipe(
        teacher=f"checkpoint:{teacher}",
        method="pairwise+pixelwise+cirkd",
        method_args=MEMORIES,
        labelled_images=6,
        batch_norm="sync",
        # Of seed 0 rounding moves a number over the edge of a ReLU: one process differs as much, by 7e-3, from itself
        # where its weights began 6e-8 away.
        seed=1,
    )
    found, _ = run_on(2, work_on, tmp_path, made, tmp_path / "two")
    expected = train(made, tmp_path / "one")
    rows = [RunDirectory.open(tmp_path / name).read_metrics() for name in ("two", "one")]
    terms = ("loss", "cross_entropy", "pairwise", "pixelwise", "degenerate")
    for two, one in zip(*rows, strict=True):
        assert [two[name] for name in terms] == pytest.approx([one[name] for name in terms], rel=1e-4)
    assert found["processes"] == 2 and found["test"]["last"] == pytest.approx(expected["test"]["last"], abs=1)


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(tmp_path: Path) -> None:
    class Eight(Nuclei):
        """Nuclei's first eight images, for training and testing."""

        def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
            found = super().read(root, image_size, mode)
            train = found.train.select(torch.arange(8))
            return OriginalSplits(train, replace(train, split="test"), 0, flip=False)

    options = {"dataset": Eight(), "batch_size": 8, "epochs": 250, "val_fraction": 0.0, "select": "last"}
    made = recipe(**options, method="none", crop_scale=(1.0, 1.0), optimiser="adamw", lr=0.01)
    assert train(made, tmp_path / "eight")["test"]["last"]["miou"] > 95


def test_what_does_not_fit_is_said(teacher: Path) -> None:
    def with_teacher(**options: Any) -> Callable[[], object]:
        return lambda: build(recipe(**{"teacher": f"checkpoint:{teacher}", "method": "sp", **options}))

    def alone(**options: Any) -> Callable[[], object]:
        return lambda: build(recipe(method="none", **options))

    assert_refused_like(
        (alone(labels_per_class=3), "labels of pixels: expected labelled_images"),
        (alone(holdout_classes="0.1,0.1", val_fraction=0), "labels of pixels: expected labelled_images"),
        (alone(augment="moco"), "labels of pixels: expected augment 'pixels', got 'moco'"),
        (alone(student=nn.Sequential(nn.Flatten(), nn.LazyLinear(4))), "need stage maps"),
        (with_teacher(views="independent"), "labels of pixels: expected views 'shared'"),
        (with_teacher(graph="knn", k=2, scope="dataset"), "labels of pixels: expected scope 'batch'"),
        (with_teacher(teacher_mode="stored"), "labels of pixels: expected teacher_mode 'online'"),
        (with_teacher(teacher_head="own"), "labels of pixels: expected teacher_head 'joint'"),
        (with_teacher(refine="conv"), "refinement conv is learned from classes of images"),
        (with_teacher(method="pixelwise", teacher="embedded:digits"), "compares scores of the 3 classes.*got none"),
        (with_teacher(method="dkd"), "DKD reads logits"),
        (with_teacher(method="nce"), "NCE reads one label for each"),
        (with_teacher(method="kd", pool=0.5), "pool belongs to methods that compare positions"),
        (alone(crop_size=(1, 2, 3)), "crop_size must be"),
        (alone(crop_scale=(2.0, 0.5)), "crop_scale must be two factors"),
        (lambda: build(Recipe(crop_size=8, method="none")), "crop_size belongs to labels of pixels"),
    )
