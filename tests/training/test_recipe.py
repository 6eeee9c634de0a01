"""The recipe: what wins over what, and what is refused in which words."""

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, asdict, fields, replace
from functools import partial
from typing import Any

import pytest

from relgraph.data import AUGMENTATIONS
from relgraph.graph.pair import FORMS
from relgraph.methods import EGA, KD, METHODS, SP
from relgraph.names import Named
from relgraph.options import options_of
from relgraph.training.presets import DIGITS, PRESETS
from relgraph.training.pretrain_recipe import DEFAULTS, PretrainRecipe
from relgraph.training.recipe import Recipe, resolve
from tests.checks import assert_refused

TEACHER: dict[str, Any] = {"teacher": "timm:resnet50"}
Given = dict[str, Any]


def refused(message: str, make: Callable[..., Recipe], *given: Any, **options: Any) -> None:
    """Check that a recipe is refused in these words, or in words that begin with them, where they end in "…"."""
    assert_refused((lambda: make(*given, **options), message))


def test_what_is_given_wins_over_the_preset_and_that_over_the_defaults() -> None:
    """Digits bring their preset, and no other data set does."""
    default = Recipe()
    assert resolve({}, "none") == resolve({"dataset": "digits"}, "none") == default
    preset = resolve({}, "digits")
    assert preset == replace(default, **DIGITS) == resolve({}) == resolve({"dataset": "digits"}) != default
    given = resolve({"student": "resnet20", "lr": 0.2}, "digits")
    assert given == replace(preset, student="resnet20", lr=0.2)
    assert resolve({"student": default.student}, "digits").student == default.student != preset.student
    assert resolve({"dataset": "cifar100", **TEACHER}) == Recipe(dataset="cifar100", **TEACHER)
    refined = {"graph": "knn", "scope": "dataset", "refine": "conv"}
    assert resolve(refined).teacher_lr == 0.001 < resolve({"graph": "knn", "scope": "dataset"}).teacher_lr
    assert resolve({**refined, "teacher_lr": 0.02}).teacher_lr == 0.02


def test_another_data_set_needs_a_teacher_of_its_own_unless_cross_entropy_alone_teaches() -> None:
    needs: Sequence[Given] = ({}, {"method": "kd"}, {"method": "none", "alpha": 1.0})
    for given in needs:
        told = "stl10 needs a teacher, since the embedded one knows digits alone: give --teacher timm:NAME…"
        refused(told, resolve, {"dataset": "stl10", **given})
        assert resolve({"dataset": "stl10", **given, **TEACHER}).dataset == "stl10"
    for spelling in ("none", " none "):
        assert not resolve({"dataset": "stl10", "method": spelling}).uses_teacher


def test_ega_is_the_official_script() -> None:
    recipe = resolve({"dataset": "cifar100", **TEACHER}, "ega")
    official = {
        "method": "ega", "topology": "dense", "node_weight": 0.8, "edge_weight": 0.24, "label_weight": 1.0,
        "alpha": 0.0, "methods": [Named("ega", EGA)],  # at its published weight
        "method_args": (), "refine": None, "initial_epochs": 0, "student": "resnet8x4", "epochs": 240,
        "batch_size": 64, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step",
        "milestones": (150, 180, 210),
        "val_fraction": 0.0, "select": "test", "drop_last": False, "precision": "32-true", "teacher_mode": "online",
        "dim": 256, "views": "independent", "normalise": "teacher", "teacher_head": "joint", "teacher_lr": 0.01,
    }  # fmt: skip
    assert {name: getattr(recipe, name) for name in official} == official
    assert EGA.weight == 1
    rates = {name: resolve({"student": name}, "ega").lr for name in ("shufflenetv1", "ShuffleV1", "mobilenetv2")}
    assert rates == {"shufflenetv1": 0.01, "ShuffleV1": 0.01, "mobilenetv2": 0.05}
    sequential = resolve({"dataset": "cifar100", **TEACHER}, "ega-sequential")
    assert sequential == replace(recipe, edge_weight=0.3, teacher_head="sequential")


def test_a_share_of_labels_replaces_the_preset_s_number_of_them() -> None:
    assert resolve({"label_fraction": 0.5}).labels_per_class == 0
    assert resolve({"label_noise": 0.5}).labels_per_class == DIGITS["labels_per_class"]
    assert resolve({"label_fraction": 0.5, "labels_per_class": 2}).labels_per_class == 2


def test_unknown_names() -> None:
    refused("unknown option 'batchsize': did you mean 'batch_size'? (known: accumulate, …", resolve, {"batchsize": 8})
    told = f"unknown preset 'digit': did you mean 'digits'? (known: {', '.join(sorted(PRESETS))})"
    refused(told, resolve, {}, "digit")
    refused("unknown graph 'den': did you mean 'dense'? (known: dense, knn)", resolve, {"graph": "den"})
    refused("unknown data set 'cifar': did you mean 'cifar10'?…", resolve, {"dataset": "cifar", "method": "none"})


LEAST = {
    **dict.fromkeys(("epochs", "dim", "image_size", "teacher_size", "head_epochs", "accumulate"), 1),
    **dict.fromkeys(("workers", "labels_per_class", "init_epochs", "diagnose_every", "seed", "warmup_epochs"), 0),
    "patience": 1,
    "batch_size": 2,
    **dict.fromkeys(("lr", "min_lr", "teacher_lr", "momentum", "weight_decay", "gamma", "alpha", "beta"), 0.0),
}


def test_values_out_of_range() -> None:
    for name, least in LEAST.items():
        for value in [least - 1, *([math.nan, math.inf] if isinstance(least, float) else [])]:
            most = " and at most 2147483647" if name == "seed" else ""
            finite = "finite and " * (value == math.inf)
            refused(f"{name} must be {finite}at least {least:g}{most}, got {value}", Recipe, **{name: value})
    for value in (0.0, -1.0, math.nan):
        for name in ("temperature", "clip_norm"):
            refused(f"{name} must be above 0, got {value}", Recipe, **{name: value})
    for value in (-0.1, 1.0):
        refused(f"ema must be at least 0 and below 1, got {value}", Recipe, ema=value)
    refused("lr must be a number, got '5e-4'", Recipe, lr="5e-4")
    refused("seed must be at least 0 and at most 2147483647, got 2147483648", Recipe, seed=2**31)


MISFITS: list[tuple[Given, str]] = [
    # Parts of a batch, and its graph.
    ({"batch_size": 12, "accumulate": 5},
     "batch_size must be a multiple of accumulate, the parts of a batch, got 12 and 5"),
    ({"graph": "knn", "k": 64, "batch_size": 64}, "k must be between 1 and batch_size - 1 = 63, got 64"),
    ({"graph": "knn", "k": 0}, "k must be between 1 and batch_size - 1 = 63, got 0"),
    ({"graph": "knn", "batch_size": 8}, "k must be between 1 and batch_size - 1 = 7, got 8"),
    ({"method": "sp+kd", "graph": "knn", "k": 64}, "k must be between 1 and batch_size - 1 = 63, got 64"),
    ({"k": 4, "graph": "dense"}, "k and neighbours belong to the graph 'knn', got k = 4 and …"),
    ({"k": 4}, "k and neighbours belong to the graph 'knn', got k = 4 and neighbours = 'teacher'"),
    ({"neighbours": "union"}, "k and neighbours belong to the graph 'knn', got k = None and neighbours = 'union'"),
    # What no method of the run reads.
    ({"method": "kd", "k": 4}, "k belongs to methods that have a graph, got kd"),
    ({"method": "seed", "k": 3}, "k belongs to methods that have a graph, got seed"),
    ({"method": "none", "graph": "knn", "k": 4}, "k belongs to methods that have a graph, got none"),
    ({"method": "sp", "node_weight": 1.0}, "node_weight belongs to the method ega, got sp"),
    ({"method": "none", "edge_weight": 0.24}, "edge_weight belongs to the method ega, got none"),
    ({"method": "ega", "temperature": 2.0}, "temperature belongs to methods that have one and alpha, got ega"),
    ({"method": "kd", "graph": "dense"}, "graph belongs to methods that have a graph, got kd"),
    ({"method": "kd", "form": "blocked"}, "form belongs to methods that relate the images of a batch, got kd"),
    ({"method": "kd", "refine": "conv"}, "refine belongs to methods that relate the images of a batch, got kd"),
    ({"method": "none", "refine": "smooth"}, "refine belongs to methods that relate the images of a batch, …"),
    ({"method": "crd", "graph": "knn", "neighbours": "union"},
     "neighbours belongs to methods that relate the images of a batch, got crd"),
    ({"method": "kd", "nodes": "feature"}, "nodes belongs to methods with the option nodes, got kd"),
    ({"method": "none", "beta": 2.0}, "beta belongs to a method, got none"),
    ({"ss_head": "runs/head"}, "ss_head belongs to sskd, got method ega"),
    ({"ss_head": "runs/head", "method": "none"}, "ss_head belongs to sskd, got method none"),
    ({"method": "rkd", "kernel": "cosine"}, "kernel belongs to methods that compare by one relation, got rkd"),
    ({"method": "kd", "scale": "raw"}, "scale belongs to methods that compare by one relation, got kd"),
    ({"method": "none", "criterion": "huber"}, "criterion belongs to methods that compare by one relation, got none"),
    # Names and options of methods, as relgraph.names reads them.
    ({"method": []}, "a sum of methods needs at least one, got none: cross-entropy alone is 'none'"),
    ({"milestones": (5, 3)}, "milestones must rise from 1 on, got 5, 3"),
    ({"milestones": (5, 5)}, "milestones must rise from 1 on, got 5, 5"),
    ({"milestones": (0,)}, "milestones must rise from 1 on, got 0"),
    ({"kernel": "cosin"}, "unknown kernel 'cosin': did you mean 'cosine'? (known: cosine, damped_pearson, …"),
    ({"method_args": ("scale=by_men",)}, "unknown scale 'by_men': did you mean 'by_mean'?…"),
    ({"method": "sp+kf"}, "unknown method 'kf': did you mean 'kd'?…"),
    ({"method": "sp+kd", "beta": 2.0}, "beta is the weight of one method: write the weights of 'sp+kd' as in …"),
    ({"method_args": ("tau=1",)}, "unknown option of the method 'tau' (known: criterion, cross, edge_weight, …"),
    ({"method": "nce", "method_args": ("tau=hot",)}, "tau of nce must be a number, got 'hot'"),
    ({"method": "sskd", "method_args": ("ss_head=1",)}, "unknown option of the method 'ss_head'…"),
    ({"method": "crd+kd", "graph": "knn"}, "the graph of a sum is that of the images of a batch, got crd+kd: "
     "give crd's own by --method-args crd.graph=... and crd.k=…"),
    # The teacher's head.
    ({"teacher_head": "own"}, "teacher_head 'own' needs a teacher checkpoint:RUN or repdistiller:NAME, got …"),
    # The student's head.
    ({"head": "linear"}, "head 'linear' has no projected embedding, which ega compares: use 'projection'"),
    ({"head": "linear", "method": "kd+nce"}, "head 'linear' has no projected embedding, which nce compares: use …"),
    ({"head": "linear", "method": "rkd", "nodes": "embedding"}, "head 'linear' has no projected embedding, …"),
    ({"head": "linear", "method": "pkt+kd", "method_args": ("nodes=embedding",)}, "head 'linear' has no projected …"),
    ({"head": "linear", "method": "kd", "dim": 64}, "dim belongs to head 'projection', got 'linear' and 64"),
    ({"teacher_head": "own", "teacher": "checkpoint:a", "head_epochs": 3},
     "head_epochs belongs to teacher_head 'sequential', got 'own' and 3"),
    # Stages.
    ({"init_epochs": 240}, "init_epochs must be below epochs = 240, got 240"),
    ({"method": "none", "init_epochs": 2}, "init_epochs belongs to a method, which then trains alone, got …"),
    *(({"method": text}, f"{name} trains alone before the labels do, a stage that a sum does not have: give …")
      for text, name in (("fsp+kd", "fsp"), ("kd+2*ab", "ab"))),
    ({"method": "none", "gamma": 0.0}, "nothing teaches the student: gamma and alpha are 0, got method none"),
    ({"method": "seed", "init_epochs": 1},
     "nothing teaches the student after 1 init_epochs: gamma and alpha are 0, give --init-epochs 0"),
    ({"method": "fsp", "gamma": 0.0}, "nothing teaches the student after 27 init_epochs: …"),
    # The optimiser and its rate.
    ({"optimiser": "adamw", "momentum": 0.8}, "momentum belongs to optimiser sgd, got adamw and 0.8"),
    ({"optimiser": "adamw", "nesterov": True}, "nesterov belongs to optimiser sgd, got adamw and True"),
    ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum above 0, got 0"),
    ({"weight_decay": 0.0, "decay_norm_and_bias": False},
     "decay_norm_and_bias belongs to a weight decay, got weight_decay 0"),
    ({"min_lr": 0.01}, "min_lr belongs to schedule cosine, got step"),
    ({"schedule": "cosine", "min_lr": 0.1}, "min_lr must be at most lr = 0.05, got 0.1"),
    ({"schedule": "constant", "schedule_by": "step"}, "schedule_by belongs to schedule cosine, got constant"),
    ({"schedule": "cosine", "milestones": (3,)}, "milestones belongs to schedule step, got cosine"),
    ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs must be below epochs = 5, got 5"),
    ({"milestones": (30, 4), "warmup_epochs": 5}, "milestones must not lie in the 5 warmup_epochs, got 30, 4"),
    ({"epochs": 24, "warmup_epochs": 16}, "milestones must not lie in the 16 warmup_epochs, got 15, 18, 21"),
    ({"patience": 240}, "patience must be below epochs = 240, got 240"),
]  # fmt: skip


def test_options_that_do_not_fit_each_other() -> None:
    assert_refused(*((partial(Recipe, **given), message) for given, message in MISFITS))


def test_the_limits_themselves_are_allowed() -> None:
    assert Recipe(batch_size=12, accumulate=3).accumulate == 3
    assert Recipe(graph="knn", k=7, batch_size=8).neighbours_of_each == 7
    assert Recipe(graph="knn", batch_size=9).neighbours_of_each == 8
    assert Recipe(batch_size=2, gamma=0, alpha=0, beta=0, momentum=0, weight_decay=0).batch_size == 2
    assert Recipe(init_epochs=239).initial_epochs == 239 and Recipe(epochs=1, init_epochs=0).initial_epochs == 0
    assert Recipe(method="none", init_epochs=0).stage(0) == "both"
    assert Recipe(method="fsp+2*ab", init_epochs=0).stage(0) == "both"
    assert Recipe(method="none", gamma=0.0, alpha=1.0).learns_labels
    assert Recipe(method="fsp", gamma=0.0, alpha=1.0).initial_epochs == 27
    assert Recipe(method="fsp", gamma=0.0, init_epochs=0).stage(0) == "both"
    assert Recipe(method="sskd+seed", ss_head="runs/head").ss_head == "runs/head"
    assert Recipe(method="none", teacher_head="own", teacher="checkpoint:a", init_from="b").init_from == "b"
    assert resolve({"method": "seed", "dataset": "folder:photos", **TEACHER}).labels_per_class == 0
    assert Recipe(optimiser="adamw", weight_decay=0.0, warmup_epochs=150, patience=239).epochs == 240
    assert Recipe(schedule="cosine", min_lr=0.05, warmup_epochs=239, schedule_by="step").milestones is None


def test_sums_take_options_by_the_method_s_name() -> None:
    assert Recipe(method="nce+crd", method_args=("nce.tau=1", "negatives=8")).relates
    assert Recipe(method="crd", graph="knn", k=200).k == 200, "not neighbours within the batch"
    assert Recipe(method="crd+kd", method_args=("graph=knn", "k=200")).graph_in_use is None
    assert Recipe(method="crd+sp", graph="knn", method_args=("crd.k=200",)).graph_in_use == "knn"


def test_the_graph_in_use_is_that_of_the_method_s_own_option() -> None:
    """And a method relates the images of a batch or does not."""
    for method, graph, arguments, expected in (
        ("ega", None, ("graph=knn", "k=3"), "knn"),
        ("ega", "knn", ("graph=dense",), "dense"),
        ("sp+rkd", None, ("sp.graph=knn", "rkd.graph=knn"), "knn"),
        ("sp+rkd", None, ("sp.graph=knn",), "knn+dense"),
        ("crd", None, ("graph=knn",), "knn"),
        ("crd", None, (), None),
        ("kd+sp", None, (), "dense"),
    ):
        assert resolve({"method": method, "graph": graph, "method_args": arguments}).graph_in_use == expected
    for method, graph, relates in (("ega", None, True), ("ega", "knn", True), ("kd", None, False),
                                   ("crd", None, False), ("kd+sp", "knn", True), ("none", None, False)):  # fmt: skip
        recipe = resolve({"method": method, "graph": graph})
        assert (recipe.relates, recipe.topology) == (relates, graph or "dense")


def test_what_is_looked_up_once_is_not_part_of_a_recipe_which_does_not_change() -> None:
    fresh, used = Recipe(method="sp+kd"), Recipe(method="sp+kd")
    assert used.methods and used == fresh and replace(used, method="kd").methods == [Named("kd", KD)]
    assert list(asdict(used)) == [item.name for item in fields(Recipe)]
    assert pickle.loads(pickle.dumps(used)) == fresh
    assert Recipe(method="sp", beta=0.0).methods == [Named("sp", SP, 0.0)]
    with pytest.raises(FrozenInstanceError):
        fresh.lr = 1.0  # type: ignore[misc]


def test_stages_of_a_method_that_trains_alone_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(SP):
        init_share = 1 / 9

    monkeypatch.setitem(METHODS, "early", Early)
    recipe = Recipe(method="early", epochs=27)
    assert recipe.initial_epochs == 3
    assert [recipe.stage(epoch) for epoch in (0, 2, 3, 26)] == ["method", "method", "labels", "labels"]
    assert replace(recipe, epochs=240).initial_epochs == 27
    assert Recipe(method="2*early", epochs=27).initial_epochs == 3
    added = Recipe(method="early+kd", epochs=27, init_epochs=0)
    for other in (replace(recipe, init_epochs=0), added, Recipe(epochs=27)):
        assert other.initial_epochs == 0 and {other.stage(epoch) for epoch in range(27)} == {"both"}
    asked = Recipe(method="sp+kd", epochs=4, init_epochs=1)
    assert [asked.stage(epoch) for epoch in range(4)] == ["method", "labels", "labels", "labels"]


def test_every_option_says_what_it_is_and_may_be_its_default() -> None:
    for recipe, short in ((Recipe, ["--distill", "--model_s", "-a", "-b", "-r"]), (PretrainRecipe, [])):
        known = options_of(recipe)
        assert list(known) == [item.name for item in fields(recipe)]
        for name, item in known.items():
            assert item.help.endswith(".") and item.help[0] != " ", name
            item.check(item.default)
        assert sorted(alias for item in known.values() for alias in item.aliases) == short
    own = options_of(Recipe)
    assert tuple(own["form"].words) == FORMS and tuple(own["augment"].words) == ("auto", *AUGMENTATIONS)
    assert known["momentum"].help == "Momentum of SGD." and known["root"].help == own["root"].help
    assert tuple(known["objective"].words) == tuple(DEFAULTS)


# Of each recipe the published weight of the labels, and whether anything teaches the classifier.
LABELS: list[tuple[Given, float, bool]] = [
    ({}, 1.0, True),
    ({"method": "none"}, 1.0, True),
    ({"gamma": 0.0}, 0.0, False),
    ({"gamma": 0.0, "alpha": 0.1}, 0.0, True),
    ({"method": "kd", "gamma": 0.0}, 0.0, True),
    *(({"method": name}, 0.0, False) for name in ("seed", "moco", "infonce", "ntxent", "2*seed")),
    ({"method": "seed", "beta": 2.0}, 0.0, False),
    ({"method": "seed", "gamma": 0.1}, 0.1, True),
    ({"method": "seed", "alpha": 0.1}, 0.0, True),
    ({"method": "sskd"}, 0.1, True),
    ({"method": "sskd", "gamma": 0.0}, 0.0, True),
    ({"method": "seed+sskd"}, 1.0, True),  # of a sum no gamma was published
    ({"method": "moco+0.1*anchor"}, 0.0, False),  # unless all of it need no labels
    ({"method": "mlld"}, 0.1, True),
    ({"method": "seed+kd"}, 1.0, True),
    ({"method": "seed+kd", "gamma": 0.0}, 0.0, True),
    ({"method": "seed+crd"}, 1.0, True),
    ({"method": "seed+crd", "gamma": 0.0}, 0.0, False),
]


def test_the_published_weight_of_the_labels_and_what_teaches_the_classifier() -> None:
    for options, weight, learns in LABELS:
        recipe = Recipe(**options)
        assert (recipe.label_weight, recipe.learns_labels) == (weight, learns), options
        assert recipe.gamma == options.get("gamma")


def test_the_published_augmentation() -> None:
    for method, dataset, augment, expected in (
        ("ega", "digits", "auto", "crop"),
        ("none", "digits", "auto", "crop"),
        ("sskd", "digits", "auto", "crop"),
        ("seed", "digits", "auto", "digits"),
        ("kd+ntxent", "digits", "auto", "digits"),
        ("seed", "cifar100", "auto", "moco"),
        ("kd+ntxent", "folder:photos", "auto", "moco"),
        ("seed", "digits", "crop", "crop"),
        ("ega", "digits", "simclr-small", "simclr-small"),
    ):
        given = {"method": method, "dataset": dataset, "augment": augment, **TEACHER}
        assert resolve(given).augmentation == expected


def test_adamw_has_rates_of_its_own_under_a_preset_of_sgd() -> None:
    given = {"dataset": "cifar100", "teacher": "timm:resnet18", "optimiser": "adamw"}
    found = resolve(given, "ega")
    assert (found.lr, found.teacher_lr) == (1e-3, 1e-3) != (resolve({**given, "optimiser": "sgd"}, "ega").lr, 1e-3)
    assert resolve({**given, "lr": 0.02}, "ega").lr == 0.02
