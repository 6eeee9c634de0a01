"""The run directory: what a stranger finds in it, and what is no run."""

import json
import math
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from relgraph.files import digest, read_yaml
from relgraph.graph.relation import Relation
from relgraph.own_code import Own
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.recipe import Recipe, resolve
from relgraph.training.runs import RunDirectory, check_free, environment, free_name
from tests.checks import OF_BATCHES, assert_refused_like
from tests.training.conftest import Runs

# The terms of each variant, and the figures of its evaluation.
CLASSES = ["val_top1", "val_top5"]
COLUMNS: dict[str, tuple[list[str], list[str]]] = {
    "dense": (["cross_entropy", "node", "edge", "teacher_head"], CLASSES),
    "knn-conv": (["cross_entropy", "kd_of_logits", "node", "edge", "teacher_head", "teacher_refined"], CLASSES),
    "none": (["cross_entropy"], CLASSES),
    "memory-maps": (
        ["cross_entropy", "crd_student_anchors", "crd_teacher_anchors", "sp", "kd", "teacher_head"], CLASSES
    ),
    "early": (["cross_entropy", "sp", "teacher_head"], CLASSES),
    "sskd": (["cross_entropy", "kd", "transformed", "self_supervision", "teacher_head"], CLASSES),
    "seed": (["cross_entropy", "seed", "teacher_head"], ["val_knn"]),
    "unlabelled": (["cross_entropy", "infonce", "teacher_head"], []),
}  # fmt: skip


RECIPES = [
    Recipe(),
    resolve({}),
    resolve({}, "ega"),
    Recipe(
        graph="knn", k=3, refine="conv", lr=1e-5, weight_decay=5e-20, teacher_mean=(0.1, 1 / 3, 0.5),
        teacher_args=("num_classes=1001", "a=b: c"), milestones=(1, 2), dataset="folder:/tmp/öl # 1", root="~/null",
    ),
    Recipe(method="1e+3*sp+nce", method_args=("nce.tau=1e-2",), nodes="feature", init_epochs=3),
    Recipe(method="kd", beta=0.0),
    Recipe(method="sskd", gamma=0.0, ss_head="runs/head", augment="simclr", init_from="runs/a b"),
    Recipe(method="kd", teacher="checkpoint:runs/x", teacher_head="own"),
]  # fmt: skip


def test_the_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    names = [item.name for item in fields(Recipe)]
    for number, recipe in enumerate(RECIPES):
        run = RunDirectory.create(tmp_path / str(number), recipe)
        again = RunDirectory.open(run.path).recipe()
        assert again == recipe
        assert all(type(getattr(again, name)) is type(getattr(recipe, name)) for name in names)
        written = yaml.safe_load(run.recipe_file.read_text(encoding="utf-8"))
        assert list(written) == names, "every option is written, in order"


def test_columns_and_sums_of_the_metrics(finished: Runs) -> None:
    for variant, (terms, judged) in COLUMNS.items():
        for row in RunDirectory(finished(variant)).read_metrics():
            own = terms
            if variant == "early" and row["epoch"] > 1:
                own = ["cross_entropy", "teacher_head"]  # the method has had its stage
            measures = [name for name in row if name in OF_BATCHES]
            assert set(measures) >= ({"batch_overlap", "batch_edge_rank"} if variant != "none" else set())
            top1 = ["train_top1"] if judged == CLASSES else []
            others = ["epoch", "lr", "loss", *own, *top1, "degenerate", "images_per_s", *judged,
                      *(["val_overlap@8", "val_homophily_student", "val_homophily_teacher"]
                        if variant not in ("none", "unlabelled") else [])]  # fmt: skip
            assert [name for name in row if name not in measures] == others
            assert all(math.isfinite(value) for value in row.values()) and row["images_per_s"] > 0
            of_student = [row[name] for name in own if name not in ("teacher_head", "teacher_refined")]
            assert row["loss"] == pytest.approx(sum(of_student), rel=1e-9)
            if judged == CLASSES:
                assert 0 <= row["val_top1"] <= row["val_top5"] == 100, "there are three classes"


def test_the_environment(finished: Runs) -> None:
    found = json.loads((finished("dense") / "environment.json").read_text(encoding="utf-8"))
    assert list(found) == ["started", "command", "seed", "python", "versions", "commit", "hardware", "sha256"]
    assert found["seed"] == 0 and environment(7)["seed"] == 7
    assert {"relgraph", "torch", "torch_geometric"} <= found["versions"].keys()
    assert found["versions"]["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    assert list(found["hardware"]) == ["processor", "cores", "torch_threads", "processes", "gpu"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])


def test_a_directory_that_is_free(tmp_path: Path) -> None:
    check_free(tmp_path)
    check_free(tmp_path / "new")
    file = tmp_path / "file"
    file.write_text("")
    told = r"exists already: continue it with --resume .*, or choose another --out$"
    assert_refused_like(*((partial(check_free, taken), told) for taken in (file, tmp_path)))


def test_names_of_new_runs(tmp_path: Path) -> None:
    birds: dict[str, Any] = {"dataset": "folder:/data/birds"}
    knn = Recipe(**birds, graph="knn", refine="conv", student="resnet8")
    (tmp_path / "birds-resnet8-ega-knn-conv-seed0").mkdir()
    for recipe, name in (
        (Recipe(seed=3), "digits-resnet8x4-ega-dense-seed3"),
        (replace(knn, seed=1), "birds-resnet8-ega-knn-conv-seed1"),
        (knn, "birds-resnet8-ega-knn-conv-seed0-2"),
        (Recipe(method="kd"), "digits-resnet8x4-kd-seed0"),
        (Recipe(method="crd"), "digits-resnet8x4-crd-seed0"),
        (Recipe(method="25*sp + 0.9*kd", refine="smooth"), "digits-resnet8x4-25xsp+0.9xkd-dense-smooth-seed0"),
        (resolve_pretraining({}), "digits-resnet20-simclr-seed0"),
        (resolve_pretraining({"objective": "moco", **birds, "seed": 2}), "birds-resnet20-moco-seed2"),
        (resolve_pretraining({"objective": "sskd-head", "teacher": "embedded:digits"}), "digits-sskd-head-seed0"),
    ):
        assert free_name(tmp_path, recipe) == tmp_path / name


def test_what_is_no_run(tmp_path: Path) -> None:
    told = r"is not a run: expected a directory with recipe\.yaml"
    assert_refused_like((lambda: RunDirectory.open(tmp_path), told))
    for text, told in (
        ("lr: [\n", r"^cannot read .*recipe\.yaml: [^\n]*$"),
        ("seed: 1\nlr: 0.1\nseed: 2\n", r"^cannot read .*recipe\.yaml: it says seed twice$"),
        ("- a\n- b\n", r"recipe\.yaml must hold options as 'name: value' lines, got list$"),
        ("epochs: 3\n", r"recipe\.yaml must hold every option, it lacks dataset, root, "),
        ("epoch: 3\n", r"^unknown option 'epoch': did you mean 'epochs'\?"),
        ("epochs: 0\n", r"^epochs must be at least 1, got 0$"),
        ("epochs: three\n", r"^epochs must be a whole number, got 'three'$"),
        ("k: 2.5\n", r"^k must be a whole number, got 2\.5$"),
        ("weight_decay: 5e-4\n", r"^weight_decay must be a number, got '5e-4'$"),
        ("a: !!python/object/apply:os.getcwd []\n", r"^cannot read .*recipe\.yaml: [^\n]*$"),
    ):
        (tmp_path / "recipe.yaml").write_text(f"{text}# sha256: {digest(text.encode())}\n")
        assert_refused_like((lambda: RunDirectory.open(tmp_path).recipe(), told))
    for rows in ("1,nothing\n", "1,2,3,4\n"):
        seal = digest(f"epoch,loss,\n{rows}".encode())
        (tmp_path / "metrics.csv").write_text(f"epoch,loss,sha256:{seal}\n{rows}")
        assert_refused_like((lambda: RunDirectory(tmp_path).read_metrics(), r"^cannot read .*metrics.csv: "))
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe")
    assert_refused_like((lambda: RunDirectory(tmp_path).read_metrics(), r"^cannot read .*metrics.csv: "))


def test_options_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("batch-size: 8\nmilestones: [1, 2]\nrefine: null\n")
    assert read_yaml(file) == {"batch_size": 8, "milestones": (1, 2), "refine": None}
    file.write_text("")
    assert read_yaml(file) == {}
    told = r"^cannot read .*nowhere\.yaml: [^\n]*$"
    assert_refused_like((lambda: read_yaml(tmp_path / "nowhere.yaml"), told))


def test_pre_trainings_and_trainings_are_told_apart(tmp_path: Path) -> None:
    pretraining, training = resolve_pretraining({"objective": "moco", "epochs": 1}), Recipe()
    first, second = (
        RunDirectory.create(tmp_path / "first", pretraining),
        RunDirectory.create(tmp_path / "second", training),
    )
    assert first.stored() == pretraining and isinstance(first.stored(), PretrainRecipe)
    assert second.stored() == second.recipe() == training
    told = (r"first is a pre-training \(moco\): expected a run of relgraph train; its network is a teacher, --teacher "
            r"checkpoint:.*first, its figures are in result\.json, and relgraph pretrain --resume .*first goes on with "
            r"it$")  # fmt: skip
    assert_refused_like(
        (first.recipe, told),
        (lambda: first.check_recipe(training), "is a pre-training: expected a training$"),
        (lambda: second.check_recipe(pretraining), "is a training: expected a pre-training$"),
        (lambda: first.check_recipe(replace(pretraining, lr=1.0)),
         r"was started with another recipe: lr was 0\.03, is now 1\.0$"),
    )  # fmt: skip
    first.check_recipe(pretraining)


def test_a_sum_with_ones_own_method_is_resumed_with_its_weights(tmp_path: Path) -> None:
    def recipe(weight: float, other: str = "kd") -> Recipe:
        return Recipe(method=Own.of([other, (weight, Relation())], "method"))

    run = RunDirectory.create(tmp_path / "run", recipe(0.5))
    run.check_recipe(recipe(0.5))
    told = "another recipe: method was kd.0.5.object:Relation, is now"
    assert_refused_like(
        (lambda: run.check_recipe(recipe(2.0)), f"{told} kd.2."),
        (lambda: run.check_recipe(recipe(0.5, "sp")), f"{told} sp."),
    )
