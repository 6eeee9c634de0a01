"""What is opened before anything is built: device, data and teacher, and what is refused there."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.training import hardware
from relgraph.training.building import open_data, open_fabric, open_teacher, parse_arguments
from relgraph.training.distillation import build
from relgraph.training.hardware import native_bf16
from relgraph.training.recipe import Recipe
from tests.checks import assert_refused, assert_refused_like
from tests.training.conftest import RecipeMaker


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda_where_it_was_asked_for(make: RecipeMaker) -> None:
    told = r"^device cuda was asked for, but torch finds no CUDA device here: [^\n]*$"
    assert_refused_like((lambda: open_fabric(make(device="cuda")), told))


def test_precision_is_what_the_processor_is_fast_at_unless_asked(make: RecipeMaker) -> None:
    auto = "bf16-mixed" if native_bf16() else "32-true"
    for asked, found in (("auto", auto), ("32-true", "32-true"), ("bf16-mixed", "bf16-mixed")):
        assert open_fabric(make(precision=asked))._precision.precision == found


def test_what_cpuinfo_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert not native_bf16(), "a system without it"
    for text, name, bf16 in (
        ("model name\t: Xeon\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", "Xeon", True),
        ("model name\t: Old Xeon\nflags\t\t: fpu avx2 avx512f\n", "Old Xeon", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", None, True),
        ("", None, False),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        assert native_bf16() == bf16
        assert hardware.processor() == name or (name is None and hardware.processor() != "")


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"student": "resnet9"}, r"^unknown student 'resnet9'"),
    ({"method": "egg"}, r"^unknown method 'egg': did you mean 'ega'\?"),
    ({"teacher": "embedded:digit"}, r"did you mean '(embedded:)?digits'"),
    ({"teacher": "checkpoint:nowhere.safetensors"}, r"nowhere\.safetensors"),
    ({"node_weight": -1.0}, r"^node_weight must be at least 0, got -1\.0$"),
    ({"method": "crd", "method_args": ("tau=0",)}, r"^tau must be above 0, got 0\.0$"),
    ({"method": "sp", "refine": "conv"}, r"^a learned refinement trains the teacher's side by its classifier"),
    ({"alpha": 1.0, "temperature": 0.0}, r"^temperature must be .*, got 0\.0$"),
    ({"labels_per_class": 13}, r"has 12 training images, fewer than the 13 labels"),
    ({"labelled_share": 0.0}, r"labelled.share.* must be above 0.*, got 0\.0$"),
    ({"graph": "knn", "k": 6, "labelled_share": 1.0}, r"k must be .*5.*6"),  # batches of the 6 labelled images
    ({"graph": "knn", "k": 36, "batch_size": 64, "labels_per_class": 0}, r"k must be .*35.*36"),
    # The last, smaller batch, of 36 images.
    (
        {"graph": "knn", "k": 4, "batch_size": 16, "labels_per_class": 0, "drop_last": False},
        r"^the last batch of an epoch, of 4 images: k must be .*3.*4",
    ),
    (
        {"method": "darkrank", "batch_size": 17, "labels_per_class": 0, "drop_last": False},
        r"^the last batch of an epoch, of 2 images: .*",
    ),
    (
        {"batch_size": 16, "accumulate": 8, "labels_per_class": 0, "drop_last": False},
        r"over 8 parts: .* or number of parts, got 4 images in the last \(--drop-last leaves it out\)$",
    ),
    ({"dataset": "folder:nowhere"}, r"nowhere: no such folder.*$"),
)


def test_what_does_not_fit(make: RecipeMaker) -> None:
    assert_refused_like(*((lambda options=options: build(make(**options)), told) for options, told in WRONG))


def test_images_without_labels_for_what_needs_them_and_for_what_needs_none(make: RecipeMaker) -> None:
    for options, message in (
        ({"method": "ega"}, r"^folder:.* has no labels, and method ega learns from labels here: seed, moco, infonce "),
        ({"method": "none"}, r"has no labels, and method none learns from labels"),
        ({"method": "kd", "gamma": 0.0}, r"has no labels, and method kd learns from labels"),
        ({"method": "seed+kd"}, r"has no labels, and method seed\+kd learns from labels"),
        ({"method": "seed", "alpha": 0.5}, r"has no labels, and method seed learns from labels"),
        ({"method": "seed", "gamma": 1.0}, r"has no labels, and method seed learns from labels"),
        ({"method": "seed", "teacher_head": "sequential"}, r"no labels, from which a sequential teacher_head learns"),
        ({"method": "seed", "labels_per_class": 2}, r"has no labels to hide or to change"),
    ):
        assert_refused_like((partial(open_data, replace(make(dataset="unlabelled"), **options)), message))
    for given in ({"method": "seed"}, {"gamma": 0.0}, {"method": "crd", "gamma": 0.0}):
        data = open_data(make(dataset="unlabelled", **given))
        assert data.train.classes == () and (len(data.train), len(data.val), len(data.test)) == (36, 0, 0)


def test_without_validation_images_only_the_test_split_can_select() -> None:
    """Or nothing is picked."""
    for recipe in (Recipe(val_fraction=0.0, select="test"), Recipe(val_fraction=0.0, select="last")):
        data = open_data(recipe)
        assert len(data.val) == 0 and len(data.train) + len(data.test) == 1797
    told = r"^picking the best epoch needs validation images"
    assert_refused_like((lambda: open_data(Recipe(val_fraction=0.0, select="val")), told))


def test_a_teacher_reads_images_as_it_was_trained(make: RecipeMaker) -> None:
    teacher = open_teacher(make(teacher_mean=(0.25,), teacher_std=(0.5,)))
    assert (teacher.channels, teacher.mean, teacher.std) == (1, (0.25,), (0.5,))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_arguments_of_a_teacher_are_typed() -> None:
    found = parse_arguments(("a=1", "b=0.5", "c=true", "d=same", "e=x=y"))
    assert found == {"a": 1, "b": 0.5, "c": True, "d": "same", "e": "x=y"}
    assert [type(value) for value in found.values()] == [int, float, bool, str, str]
    assert_refused(
        (lambda: parse_arguments(("a=[1",)), "the value of the teacher argument 'a' is not valid: '[1'"),
        (lambda: parse_arguments(("a",)), "teacher arguments must be name=value, got 'a'"),
        (lambda: parse_arguments(("=1",)), "teacher arguments must be name=value, got '=1'"),
    )
