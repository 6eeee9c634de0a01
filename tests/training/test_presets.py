"""Presets against the published settings, written out once more, and what of them a user may change."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from relgraph.options import options_of
from relgraph.training.presets import FAMILY, PRESETS, find_preset, with_arguments
from relgraph.training.recipe import Recipe, resolve
from relgraph.training.schedule import student_schedule
from tests.checks import assert_refused, case

TEACHER: dict[str, Any] = {"teacher": "repdistiller:resnet32x4"}
# What the three official codes for CIFAR-100 have in common.
CIFAR: dict[str, Any] = {
    "batch_size": 64, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step", "val_fraction": 0.0,
    "drop_last": False, "precision": "32-true", "alpha": 0.0, "augmentation": "crop",
}  # fmt: skip
# RepDistiller's script: weight of the labels and of the method, epochs.
SCRIPT: dict[str, tuple[float, float, int]] = {
    "kd": (0.1, 0.9, 240), "fitnet": (1, 100, 240), "at": (1, 1000, 240), "sp": (1, 3000, 240), "cc": (1, 0.02, 240),
    "vid": (1, 1, 240), "rkd": (1, 1, 240), "pkt": (1, 30000, 240), "ab": (1, 1, 270), "ft": (1, 200, 240),
    "fsp": (1, 1, 270), "nst": (1, 50, 240), "crd": (1, 0.8, 240),
}  # fmt: skip


def facts(recipe: Recipe, *names: str) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in names}


def weight_of(recipe: Recipe, method: str) -> float:
    """Return the weight of a method in its run: the written one, or that of the form that is asked for."""
    (named,) = recipe.methods
    if named.weight is not None:
        return named.weight
    return 0.02 if recipe.method_args == ("correlation=consecutive",) else named.cls.weight


def rates(recipe: Recipe) -> list[float]:
    """Return the learning rate of each epoch."""
    schedule = student_schedule(recipe)
    return [schedule.rate(epoch) for epoch in range(recipe.epochs)]


def test_the_methods_of_repdistiller_have_its_scripts_settings() -> None:
    assert list(SCRIPT) == list(FAMILY)
    for method, (labels, weight, epochs) in SCRIPT.items():
        with case(method):
            recipe = resolve({"dataset": "cifar100", **TEACHER}, method)
            assert recipe == resolve({"dataset": "cifar100", **TEACHER, "method": method}, "repdistiller")
            assert facts(recipe, *CIFAR) == CIFAR and recipe.epochs == epochs
            assert (recipe.label_weight, weight_of(recipe, method)) == (labels, weight)
            assert (recipe.head, recipe.teacher_head, recipe.views, recipe.normalise, recipe.select) == (
                "linear", "own", "shared", "dataset", "last",
            )  # fmt: skip
            first = epochs - 240
            assert [recipe.stage(epoch) for epoch in (0, 29, 30, epochs - 1)] == (
                ["method", "method", "labels", "labels"] if first else ["both"] * 4
            )
            found = rates(recipe)
            falls = [epoch for epoch, (before, after) in enumerate(pairwise(found), 1) if after < before]
            assert found[0] == 0.05 and falls == [first + 150, first + 180, first + 210]


def test_small_students_have_a_fifth_of_the_rate_and_ega_s_only_one_of_them() -> None:
    for preset, student, rate in (
        ("crd", "mobilenetv2", 0.01),
        ("kd", "MobileNetV2", 0.01),
        ("repdistiller", "ShuffleV1", 0.01),
        ("sskd", "shufflenetv2", 0.01),
        ("sskd", "vgg8", 0.05),
        ("ega", "shufflenetv1", 0.01),
        ("ega-sequential", "ShuffleV1", 0.01),
        ("ega", "mobilenetv2", 0.05),
    ):
        given = {"dataset": "cifar100", **TEACHER, "student": student}
        assert resolve(given, preset).lr == rate
        assert resolve({**given, "lr": 0.3}, preset).lr == 0.3


def test_sskd_seed_and_moco_have_their_scripts_settings() -> None:
    sskd = resolve({"dataset": "cifar100", **TEACHER, "ss_head": "runs/head"}, "sskd")
    assert facts(sskd, *CIFAR) == CIFAR and (sskd.label_weight, sskd.select, sskd.head) == (0.1, "test", "linear")
    options = options_of(sskd.methods[0].cls)
    published = {"kd_weight": 0.9, "tf_weight": 2.7, "ss_weight": 10.0, "tau": 0.5, "tf_ratio": 1.0, "ss_ratio": 0.75}
    assert {name: options[name].default for name in published} == published and not sskd.method_args
    for name in ("seed", "moco"):
        recipe = resolve({"dataset": "folder:photos", "teacher": "timm:resnet50"}, name)
        official = {
            "epochs": 200, "batch_size": 256, "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "cosine",
            "drop_last": True, "label_weight": 0.0, "augmentation": "moco", "learns_labels": False,
        }  # fmt: skip
        assert facts(recipe, *official) == official and {"tau=0.2", "queue=65536", "head=mlp"} <= {*recipe.method_args}
        assert ("teacher_tau=1e-4" in recipe.method_args) == (name == "seed")
        assert rates(recipe)[0] == 0.03 and rates(recipe)[100] == pytest.approx(0.015)


def test_arguments_may_be_a_mapping() -> None:
    given = {"method": "nce", "method_args": {"tau": np.float32(0.5), "official": True}}
    assert_refused((lambda: resolve(given), "unknown option of the method 'official'…"))
    recipe = resolve({"method": "seed", "method_args": {"tau": 0.5, "queue": 99}, "teacher_args": {"a": True}}, "seed")
    assert {"tau=0.5", "queue=99", "head=mlp"} <= {*recipe.method_args} and "tau=0.2" not in recipe.method_args
    assert recipe.teacher_args == ("a=true",)
    listed = {"method": "nce", "method_args": {"layers": [1, 2]}}
    told = "layers of method_args must be a text, a number or a switch, got [1, 2]"
    assert_refused((lambda: resolve(listed), told))


def test_weights_of_egas_terms_are_left_out_for_other_methods() -> None:
    assert "node_weight" in find_preset("ega", "0.5*ega+sp").options and "edge_weight" in find_preset("ega").options
    assert not {"node_weight", "edge_weight"} & find_preset("ega", "sp").options.keys()
    assert resolve({"method": "sp"}, "ega").edge_weight is None


def test_every_preset_says_what_it_is_and_all_that_differs_in_sentences() -> None:
    for name in PRESETS:
        preset = find_preset(name)
        assert preset.options.keys() <= options_of(Recipe).keys() and preset.about[-1] != "."
        assert bool(preset.differs) == bool(preset.source) == (name not in ("none", "digits", "pixels"))
        assert all(told[0].isupper() and told.endswith(".") for told in preset.differs)
        assert len(set(preset.differs)) == len(preset.differs)
    assert "without." in find_preset("crd").differs[-1] and "paraphraser" in find_preset("ft").differs[-1]
    both = find_preset("repdistiller", "at+vid", "vgg8").differs
    assert sum("Networks with different numbers" in told for told in both) == 1
    assert any("classifier of vgg8" in told for told in both)


def test_a_sum_and_cross_entropy_alone_are_trained_by_the_benchmark_s_protocol() -> None:
    recipe = resolve({**TEACHER, "method": "crd+kd"}, "repdistiller")
    assert [(item.name, item.weight) for item in recipe.methods] == [("crd", None), ("kd", None)]
    assert (recipe.label_weight, recipe.beta, recipe.epochs) == (1.0, None, 240)
    summed = resolve({**TEACHER, "method": "cc+sp"}, "repdistiller")
    assert summed.method_args == ("cc.correlation=consecutive",)
    assert resolve({**TEACHER, "method": "0.5*kd"}, "repdistiller").methods[0].weight == 0.5
    alone = resolve({"dataset": "cifar100", "method": "none"}, "repdistiller")
    assert facts(alone, *CIFAR) == CIFAR and (alone.head, alone.uses_teacher) == ("linear", False)


def test_what_a_user_gives_wins_and_milestones_come_in_proportion() -> None:
    given = {"dataset": "cifar100", **TEACHER}
    assert resolve(given, "crd").milestones == (150, 180, 210) and resolve(given, "ab").milestones == (180, 210, 240)
    short = resolve({**given, "epochs": 27}, "fsp")
    assert short.initial_epochs == 3 and student_schedule(short).milestones == (18, 21, 24)
    assert resolve({**given, "epochs": 27, "milestones": (9,)}, "fsp").milestones == (9,)
    assert resolve({**given, "method_args": ("key_dim=64",)}, "cc").method_args == (
        "correlation=consecutive",
        "key_dim=64",
    )
    assert resolve({**given, "method_args": ("correlation=taylor",)}, "cc").method_args == ("correlation=taylor",)
    assert with_arguments(("a=1", "x.b=2"), ("b=3",)) == ("a=1", "b=3")
    assert resolve({**given, "teacher_head": "joint", "teacher": "timm:resnet50"}, "rkd").teacher_head == "joint"


def test_misuse_is_named() -> None:
    crd = partial(find_preset, "repdistiller")
    told = f"RepDistiller has the methods {', '.join(FAMILY)} and sums of them, got "
    assert_refused(
        (partial(crd, "irg"), f"{told}irg"),
        (partial(crd, "kd+seed"), f"{told}seed"),
        (partial(find_preset, "seed", "crd"), "the preset seed trains seed alone, got method crd"),
        (partial(find_preset, "rdk"), "unknown preset 'rdk': did you mean 'rkd'?…"),
        (partial(resolve, {"dataset": "cifar100", "teacher": "timm:resnet50"}, "kd"),
         "teacher_head 'own' needs a teacher checkpoint:RUN or repdistiller:NAME, got timm:resnet50: another has "
         "--teacher-head joint, sequential or fitted"),
    )  # fmt: skip
