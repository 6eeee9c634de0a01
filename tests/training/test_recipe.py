"""The recipe: what wins over what, and what is refused in which words."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from relgraph.errors import RelgraphError
from relgraph.training.recipe import PRESETS, Recipe, resolve

TEACHER: dict[str, Any] = {"teacher": "timm:resnet50"}


def test_what_is_given_wins_over_the_preset_and_that_over_the_defaults() -> None:
    default = Recipe()
    assert resolve({}, "none") == default
    preset = resolve({}, "digits")
    assert preset == replace(default, **PRESETS["digits"]) != default
    given = resolve({"student": "resnet20", "lr": 0.2}, "digits")
    assert given == replace(preset, student="resnet20", lr=0.2)
    assert resolve({"student": default.student}, "digits").student == default.student != preset.student


def test_digits_bring_their_preset_and_no_other_data_set_does() -> None:
    assert resolve({}) == resolve({"dataset": "digits"}) == resolve({}, "digits")
    assert resolve({"dataset": "cifar100", **TEACHER}) == Recipe(dataset="cifar100", **TEACHER)
    assert resolve({"dataset": "digits"}, "none") == Recipe()


@pytest.mark.parametrize("needs", [{}, {"method": "kd"}, {"method": "none", "alpha": 1.0}])
def test_another_data_set_needs_a_teacher_of_its_own(needs: dict[str, Any]) -> None:
    with pytest.raises(
        RelgraphError,
        match=r"^stl10 needs a teacher, .* give --teacher timm:NAME",
    ):
        resolve({"dataset": "stl10", **needs})
    assert resolve({"dataset": "stl10", **needs, **TEACHER}).dataset == "stl10"


def test_cross_entropy_alone_needs_no_teacher() -> None:
    assert not resolve({"dataset": "stl10", "method": "none"}).uses_teacher


def test_ega_is_the_official_script() -> None:
    recipe = resolve({"dataset": "cifar100", **TEACHER}, "ega")
    official = {
        "method": "ega",
        "graph": "dense",
        "node_weight": 0.8,
        "edge_weight": 0.24,
        "gamma": 1.0,
        "alpha": 0.0,
        "beta": 1.0,
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": None,  # 150, 180 and 210 of 240, and in that proportion of other lengths
        "dim": 256,
        "views": "independent",
        "normalise": "teacher",
        "teacher_head": "joint",
        "teacher_lr": 0.01,
    }
    assert {name: getattr(recipe, name) for name in official} == official
    sequential = resolve({"dataset": "cifar100", **TEACHER}, "ega-sequential")
    assert sequential == replace(recipe, edge_weight=0.3, teacher_head="sequential")


def test_a_share_of_labels_replaces_the_preset_s_number_of_them() -> None:
    assert resolve({"label_fraction": 0.5}).labels_per_class == 0
    assert resolve({"label_noise": 0.5}).labels_per_class == PRESETS["digits"]["labels_per_class"]
    assert resolve({"label_fraction": 0.5, "labels_per_class": 2}).labels_per_class == 2


def test_every_preset_is_a_recipe() -> None:
    for name in PRESETS:
        assert isinstance(resolve({}, name), Recipe)


@pytest.mark.parametrize(
    ("given", "preset", "message"),
    [
        ({"batchsize": 8}, None, r"^unknown option 'batchsize': did you mean 'batch_size'\? \(known: alpha, "),
        (
            {},
            "digit",
            r"^unknown preset 'digit': did you mean 'digits'\? \(known: digits, ega, ega-sequential, none\)$",
        ),
        ({"graph": "den"}, None, r"^unknown graph 'den': did you mean 'dense'\? \(known: dense, knn\)$"),
        ({"refine": "cov"}, None, r"^unknown refine 'cov': did you mean 'conv'\? \(known: conv, smooth\)$"),
        ({"neighbours": "onion"}, None, r"^unknown neighbours 'onion': did you mean 'union'\?"),
        ({"views": "share"}, None, r"^unknown views 'share': did you mean 'shared'\?"),
        ({"schedule": "cosin"}, None, r"^unknown schedule 'cosin': did you mean 'cosine'\?"),
        ({"select": "tests"}, None, r"^unknown select 'tests': did you mean 'test'\?"),
        ({"device": "gpu"}, None, r"^unknown device 'gpu': did you mean 'cpu'\?"),
        ({"precision": "bf16"}, None, r"^unknown precision 'bf16': did you mean 'bf16-mixed'\?"),
    ],
)
def test_unknown_names(given: dict[str, Any], preset: str | None, message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        resolve(given, preset)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 1}, r"^a relation needs two images: batch_size must be at least 2, got 1$"),
        ({"epochs": 0}, r"^epochs must be at least 1, got 0$"),
        ({"dim": 0}, r"^dim must be at least 1, got 0$"),
        ({"graph": "knn", "k": 64, "batch_size": 64}, r"^k must be between 1 and batch_size - 1 = 63, got 64$"),
        ({"graph": "knn", "k": 0}, r"^k must be between 1 and batch_size - 1 = 63, got 0$"),
        ({"graph": "knn", "batch_size": 8}, r"^k must be between 1 and batch_size - 1 = 7, got 8$"),
        ({"graph": "dense", "k": 4}, r"^k and neighbours belong to the graph 'knn'"),
        *(
            ({name: -0.5}, rf"^{name} must be at least 0, got -0\.5$")
            for name in ("lr", "teacher_lr", "momentum", "weight_decay", "gamma", "alpha", "beta")
        ),
        ({"labels_per_class": -1}, r"^labels_per_class must be at least 0, got -1$"),
        ({"lr": "5e-4"}, r"^lr must be a number, got '5e-4'$"),
        ({"epochs": 2.5}, r"^epochs must be a whole number, got 2\.5$"),
        ({"k": "8", "graph": "knn"}, r"^k must be a whole number, got '8'$"),
        ({"lr": float("nan")}, r"^lr must be at least 0, got nan$"),
    ],
)
def test_values_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        Recipe(**given)


def test_the_limits_themselves_are_allowed() -> None:
    assert Recipe(graph="knn", k=7, batch_size=8).neighbours_of_each == 7
    assert Recipe(graph="knn", batch_size=9).neighbours_of_each == 8
    assert Recipe(batch_size=2, gamma=0, alpha=0, beta=0, momentum=0, weight_decay=0).batch_size == 2


def test_every_field_says_what_it_is_and_its_choices_hold_its_default() -> None:
    aliases = []
    for item in fields(Recipe):
        text, choices = item.metadata["help"], item.metadata["choices"]
        assert text.strip() == text and text.endswith("."), item.name
        assert not choices or item.default is None or item.default in choices, item.name
        aliases += item.metadata["aliases"]
    assert sorted(aliases) == ["--distill", "--model_s", "-a", "-b", "-r"]


def test_a_recipe_does_not_change() -> None:
    recipe = Recipe()
    with pytest.raises(FrozenInstanceError):
        recipe.lr = 1.0  # type: ignore[misc]
