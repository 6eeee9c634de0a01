"""The recipe: what wins over what, and what is refused in which words."""

import math
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest

from relgraph.data import AUGMENTATIONS
from relgraph.errors import RelgraphError
from relgraph.graph.forms import FORMS
from relgraph.methods import EGA, KD, METHODS, SP
from relgraph.names import Named
from relgraph.options import options_of
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


def test_words_are_those_of_the_graph_and_of_the_data() -> None:
    known = options_of(Recipe)
    assert tuple(known["form"].words) == FORMS and tuple(known["augment"].words) == ("auto", *AUGMENTATIONS)


def test_parts_divide_the_batch() -> None:
    assert resolve({"batch_size": 12, "accumulate": 3}).accumulate == 3
    with pytest.raises(RelgraphError, match=r"^batch_size must be a multiple of accumulate.*, got 12 and 5$"):
        resolve({"batch_size": 12, "accumulate": 5})
    with pytest.raises(RelgraphError, match=r"^form belongs to methods that relate the images of a batch, got kd$"):
        resolve({"method": "kd", "form": "blocked"})


@pytest.mark.parametrize("needs", [{}, {"method": "kd"}, {"method": "none", "alpha": 1.0}])
def test_another_data_set_needs_a_teacher_of_its_own(needs: dict[str, Any]) -> None:
    with pytest.raises(
        RelgraphError,
        match=r"^stl10 needs a teacher, .* give --teacher timm:NAME",
    ):
        resolve({"dataset": "stl10", **needs})
    assert resolve({"dataset": "stl10", **needs, **TEACHER}).dataset == "stl10"


def test_cross_entropy_alone_needs_no_teacher() -> None:
    for spelling in ("none", " none "):
        assert not resolve({"dataset": "stl10", "method": spelling}).uses_teacher


def test_ega_is_the_official_script() -> None:
    recipe = resolve({"dataset": "cifar100", **TEACHER}, "ega")
    official = {
        "method": "ega",
        "topology": "dense",
        "node_weight": 0.8,
        "edge_weight": 0.24,
        "label_weight": 1.0,
        "alpha": 0.0,
        "methods": [Named("ega", EGA)],  # at its published weight
        "method_args": (),
        "refine": None,
        "initial_epochs": 0,
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
    assert EGA.weight == 1
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
        ({"batchsize": 8}, None, r"^unknown option 'batchsize': did you mean 'batch_size'\? \(known: accumulate, "),
        (
            {},
            "digit",
            r"^unknown preset 'digit': did you mean 'digits'\? \(known: digits, ega, ega-sequential, none\)$",
        ),
        ({"graph": "den"}, None, r"^unknown graph 'den': did you mean 'dense'\? \(known: dense, knn\)$"),
        ({"refine": "cov"}, None, r"^unknown refine 'cov': did you mean 'conv'\? \(known: conv, smooth\)$"),
        ({"precision": "bf16"}, None, r"^unknown precision 'bf16': did you mean 'bf16-mixed'\?"),
    ],
)
def test_unknown_names(given: dict[str, Any], preset: str | None, message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        resolve(given, preset)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"graph": "knn", "k": 64, "batch_size": 64}, r"^k must be between 1 and batch_size - 1 = 63, got 64$"),
        ({"graph": "knn", "k": 0}, r"^k must be between 1 and batch_size - 1 = 63, got 0$"),
        ({"graph": "knn", "batch_size": 8}, r"^k must be between 1 and batch_size - 1 = 7, got 8$"),
        (
            {"graph": "dense", "k": 4},
            r"^k and neighbours belong to the graph 'knn', got k = 4 and neighbours = 'teacher'$",
        ),
        ({"k": 4}, r"^k and neighbours belong to the graph 'knn', got k = 4 and neighbours = 'teacher'$"),
        (
            {"neighbours": "union"},
            r"^k and neighbours belong to the graph 'knn', got k = None and neighbours = 'union'$",
        ),
    ],
)
def test_graphs_that_a_batch_does_not_have(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        Recipe(**given)


LEAST = {
    **dict.fromkeys(("epochs", "dim", "image_size", "teacher_size", "accumulate"), 1),
    **dict.fromkeys(("workers", "labels_per_class", "init_epochs", "diagnose_every", "seed"), 0),
    "batch_size": 2,
    **dict.fromkeys(("lr", "teacher_lr", "momentum", "weight_decay", "gamma", "alpha", "beta"), 0.0),
}


def test_values_out_of_range() -> None:
    for name, least in LEAST.items():
        wrong = [least - 1, *([math.nan, math.inf] if isinstance(least, float) else [])]
        for value in wrong:
            with pytest.raises(RelgraphError, match=rf"^{name} must be at least {least:g}.*, got {value}$"):
                Recipe(**{name: value})  # type: ignore[arg-type]
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(RelgraphError, match=rf"^temperature must be above 0, got {value}$"):
            Recipe(temperature=value)
    with pytest.raises(RelgraphError, match=r"^lr must be a number, got '5e-4'$"):
        Recipe(lr="5e-4")  # type: ignore[arg-type]
    with pytest.raises(RelgraphError, match=r"^seed must be at least 0 and at most 2147483647, got 2147483648$"):
        Recipe(seed=2**31)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "kd", "k": 4}, r"^k belongs to methods that have a graph, got kd$"),
        ({"method": "none", "graph": "knn", "k": 4}, r"^k belongs to methods that have a graph, got none$"),
        ({"method": "kd", "refine": "conv"}, r"^refine belongs to methods that relate the images of a batch, got kd$"),
        ({"method": "none", "refine": "smooth"}, r"^refine belongs to methods that relate .*, got none$"),
        (
            {"method": "crd", "graph": "knn", "neighbours": "union"},
            r"^neighbours belongs to methods that relate the images of a batch, got crd$",
        ),
        ({"nodes": "map"}, r"^nodes belongs to methods that leave the choice of nodes, got ega$"),
        ({"method": "kd", "nodes": "feature"}, r"^nodes belongs to methods that leave the choice of nodes, got kd$"),
        ({"method": "sp", "nodes": "maps"}, r"^unknown nodes 'maps': did you mean 'map'\?"),
        ({"method": "sp+kd", "graph": "knn", "k": 64}, r"^k must be between 1 and batch_size - 1 = 63, got 64$"),
        ({"init_epochs": 240}, r"^init_epochs must be below epochs = 240, got 240$"),
        (
            {"method": "none", "init_epochs": 2},
            r"^init_epochs belongs to a method, which then trains alone, got .* none$",
        ),
        ({"method": "sp+kd", "beta": 2.0}, r"^beta is the weight of one method: write the weights of 'sp\+kd' as in "),
        (
            {"method": "0.9*kd", "beta": 2.0},
            r"^beta is the weight of one method: write the weights of '0\.9\*kd' as in ",
        ),
        ({"method": "kd+sp+kd"}, r"^a sum names each method once, got kd more often in 'kd\+sp\+kd'$"),
        ({"method": "sp+kf"}, r"^unknown method 'kf': did you mean 'kd'\?"),
        ({"method": "kd", "graph": "dense"}, r"^graph belongs to methods that have a graph, got kd$"),
        ({"method": "none", "graph": "knn"}, r"^graph belongs to methods that have a graph, got none$"),
        (
            {"method": "crd+kd", "graph": "knn"},
            r"^the graph of a sum is that of the images of a batch, got crd\+kd: give crd's own by --method-args "
            r"crd\.graph=\.\.\. and crd\.k=\.\.\.$",
        ),
        ({"method": "none", "beta": 2.0}, r"^beta belongs to a method, got none$"),
        *(
            ({"method": spelling}, rf"^{name} trains alone before the labels do, .*: give --init-epochs 0 to add it,")
            for spelling, name in (("fsp+kd", "fsp"), ("kd+2*ab", "ab"))
        ),
        ({"method": "two*kd"}, r"^the weight of kd must be a number, got 'two'$"),
        ({"method_args": ("tau",)}, r"^an option of a method must be NAME=VALUE or METHOD\.NAME=VALUE, got 'tau'$"),
        ({"method_args": ("tau=1",)}, r"^unknown option of the method 'tau' \(known: edge_weight, form, graph, "),
        ({"method": "nce", "method_args": ("ta=1",)}, r"^unknown option of the method 'ta': did you mean 'tau'\?"),
        ({"method": "nce", "method_args": ("tau=hot",)}, r"^tau of nce must be a number, got 'hot'$"),
        ({"method": "nce", "method_args": ("cc.order=1",)}, r"^unknown method 'cc'"),
        ({"method": "none", "method_args": ("tau=1",)}, r"^there are no options of cross-entropy alone, got 'tau'$"),
        (
            {"method": "nce+crd", "method_args": ("tau=1",)},
            r"^tau is an option of several methods: write nce\.tau or crd\.tau$",
        ),
    ],
)
def test_methods_that_a_recipe_does_not_fit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        Recipe(**given)


def test_the_limits_themselves_are_allowed() -> None:
    assert Recipe(graph="knn", k=7, batch_size=8).neighbours_of_each == 7
    assert Recipe(graph="knn", batch_size=9).neighbours_of_each == 8
    assert Recipe(batch_size=2, gamma=0, alpha=0, beta=0, momentum=0, weight_decay=0).batch_size == 2
    assert Recipe(init_epochs=239).initial_epochs == 239 and Recipe(epochs=1, init_epochs=0).initial_epochs == 0
    assert Recipe(method="none", init_epochs=0).stage(0) == "both"
    assert Recipe(method="fsp+2*ab", init_epochs=0).stage(0) == "both"


@pytest.mark.parametrize(
    ("spelling", "beta", "expected"),
    [
        ("none", None, []),
        ("sp", None, [Named("sp", SP)]),
        ("sp", 0.0, [Named("sp", SP, 0.0)]),
        ("sp+0.9*kd", None, [Named("sp", SP), Named("kd", KD, 0.9)]),
        ("1e+3*sp + kd", None, [Named("sp", SP, 1000.0), Named("kd", KD)]),
    ],
)
def test_methods_and_their_weights(spelling: str, beta: float | None, expected: list[Any]) -> None:
    assert Recipe(method=spelling, beta=beta).methods == expected


def test_sums_take_options_by_the_method_s_name() -> None:
    assert Recipe(method="nce+crd", method_args=("nce.tau=1", "negatives=8")).relates
    assert Recipe(method="crd", graph="knn", k=200).k == 200, "not neighbours within the batch"
    assert Recipe(method="crd+kd", method_args=("graph=knn", "k=200")).graph_in_use is None
    assert Recipe(method="crd+sp", graph="knn", method_args=("crd.k=200",)).graph_in_use == "knn"


@pytest.mark.parametrize(
    ("options", "graph"),
    [
        ({"method_args": ("graph=knn", "k=3")}, "knn"),
        ({"graph": "knn", "method_args": ("graph=dense",)}, "dense"),
        ({"method": "sp+rkd", "method_args": ("sp.graph=knn", "rkd.graph=knn")}, "knn"),
        ({"method": "sp+rkd", "method_args": ("sp.graph=knn",)}, "knn+dense"),
        ({"method": "crd", "method_args": ("graph=knn",)}, "knn"),
        ({"method": "crd"}, None),
        ({"method": "kd+sp"}, "dense"),
    ],
)
def test_the_graph_in_use_is_that_of_the_method_s_own_option(options: dict[str, Any], graph: str | None) -> None:
    assert Recipe(**options).graph_in_use == graph


def test_what_is_looked_up_once_is_not_part_of_a_recipe() -> None:
    fresh, used = Recipe(method="sp+kd"), Recipe(method="sp+kd")
    assert used.methods and used == fresh and replace(used, method="kd").methods == [Named("kd", KD)]
    assert list(asdict(used)) == [item.name for item in fields(Recipe)]
    assert pickle.loads(pickle.dumps(used)) == fresh


@pytest.mark.parametrize(
    ("options", "relates", "topology"),
    [
        ({}, True, "dense"),
        ({"graph": "knn"}, True, "knn"),
        ({"method": "kd"}, False, "dense"),
        ({"method": "crd"}, False, "dense"),
        ({"method": "kd+sp", "graph": "knn"}, True, "knn"),
        ({"method": "none"}, False, "dense"),
    ],
)
def test_what_relates_the_images_of_a_batch(options: dict[str, Any], relates: bool, topology: str) -> None:
    recipe = Recipe(**options)
    assert (recipe.relates, recipe.topology) == (relates, topology)


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
    known = options_of(Recipe)
    assert list(known) == [item.name for item in fields(Recipe)]
    for name, item in known.items():
        assert item.help.endswith(".") and item.help[0] != " ", name
        item.check(item.default)
    aliases = [alias for item in known.values() for alias in item.aliases]
    assert sorted(aliases) == ["--distill", "--model_s", "-a", "-b", "-r"]


def test_a_recipe_does_not_change() -> None:
    recipe = Recipe()
    with pytest.raises(FrozenInstanceError):
        recipe.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, 1.0),
        ({"method": "none"}, 1.0),
        *(({"method": name}, 0.0) for name in ("seed", "moco", "infonce", "ntxent")),
        *(({"method": "seed", **given}, 0.0) for given in ({"beta": 2.0}, {"method": "2*seed"})),
        ({"method": "sskd"}, 0.1),
        ({"method": "seed+kd"}, 1.0),  # of a sum no gamma was published
        ({"method": "seed+sskd"}, 1.0),
        ({"method": "seed", "gamma": 0.5}, 0.5),
        ({"method": "sskd", "gamma": 0}, 0.0),
    ],
)
def test_the_published_weight_of_the_labels(options: dict[str, Any], weight: float) -> None:
    recipe = Recipe(**options)
    assert recipe.label_weight == weight and recipe.gamma == options.get("gamma")


@pytest.mark.parametrize(
    ("options", "learns"),
    [
        ({}, True),
        ({"method": "none"}, True),
        ({"gamma": 0.0}, False),
        ({"gamma": 0.0, "alpha": 0.1}, True),
        ({"method": "kd", "gamma": 0.0}, True),
        ({"method": "sskd", "gamma": 0.0}, True),
        ({"method": "seed"}, False),
        ({"method": "seed", "gamma": 0.1}, True),
        ({"method": "seed", "alpha": 0.1}, True),
        ({"method": "seed+kd"}, True),
        ({"method": "seed+kd", "gamma": 0.0}, True),
        ({"method": "seed+crd"}, True),
        ({"method": "seed+crd", "gamma": 0.0}, False),
    ],
)
def test_whether_anything_teaches_the_classifier(options: dict[str, Any], learns: bool) -> None:
    assert Recipe(**options).learns_labels == learns


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "crop"),
        ({"method": "none"}, "crop"),
        ({"method": "sskd"}, "crop"),
        ({"method": "seed"}, "digits"),
        ({"method": "kd+ntxent"}, "digits"),
        ({"method": "seed", "dataset": "cifar100"}, "moco"),
        ({"method": "kd+ntxent", "dataset": "folder:photos"}, "moco"),
        ({"method": "seed", "augment": "crop"}, "crop"),
        ({"augment": "simclr-small"}, "simclr-small"),
    ],
)
def test_the_published_augmentation(options: dict[str, Any], name: str) -> None:
    assert Recipe(**options).augmentation == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment": "simclr-smal"}, r"^unknown augment 'simclr-smal': did you mean 'simclr-small'\?"),
        ({"teacher_head": "owned"}, r"^unknown teacher_head 'owned': did you mean 'own'\?"),
        ({"teacher_head": "own"}, r"^teacher_head 'own' needs a teacher checkpoint:RUN, got embedded:digits$"),
        ({"teacher_head": "own", "teacher": "checkpoint:a", "head_epochs": 3},
         r"^head_epochs belongs to teacher_head 'sequential', got 'own' and 3$"),
        ({"ss_head": "runs/head"}, r"^ss_head belongs to sskd, got method ega$"),
        ({"ss_head": "runs/head", "method": "none"}, r"^ss_head belongs to sskd, got method none$"),
        ({"method": "none", "gamma": 0.0}, r"^nothing teaches the student: gamma and alpha are 0, got method none$"),
        ({"method": "seed", "init_epochs": 1},
         r"^nothing teaches the student after 1 init_epochs: gamma and alpha are 0, give --init-epochs 0$"),
        ({"method": "fsp", "gamma": 0.0}, r"^nothing teaches the student after 27 init_epochs: "),
        ({"method": "seed", "k": 3}, r"^k belongs to methods that have a graph, got seed$"),
        ({"method": "sskd", "method_args": ("ss_head=1",)}, r"^unknown option of the method 'ss_head'"),
    ],
)  # fmt: skip
def test_self_supervision_that_a_recipe_does_not_fit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        Recipe(**given)


def test_what_self_supervision_allows() -> None:
    assert Recipe(method="none", gamma=0.0, alpha=1.0).learns_labels
    assert Recipe(method="fsp", gamma=0.0, alpha=1.0).initial_epochs == 27
    assert Recipe(method="fsp", gamma=0.0, init_epochs=0).stage(0) == "both"
    assert Recipe(method="sskd+seed", ss_head="runs/head").ss_head == "runs/head"
    assert Recipe(method="none", teacher_head="own", teacher="checkpoint:a", init_from="b").init_from == "b"
    assert resolve({"method": "seed", "dataset": "folder:photos", **TEACHER}).labels_per_class == 0
