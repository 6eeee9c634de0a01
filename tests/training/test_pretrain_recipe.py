"""The recipe of a pre-training: what was published, filled in once, and mistakes told in a sentence."""

from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from relgraph.training.pretrain_recipe import DIGITS, PretrainRecipe, augmentation, resolve_pretraining
from relgraph.training.runs import RunDirectory
from tests.checks import assert_refused

PHOTOS = {"dataset": "folder:photos"}
HEAD = {"objective": "sskd-head", "teacher": "embedded:digits"}


def test_what_each_objective_was_published_with() -> None:
    names = ("temperature", "epochs", "batch_size", "lr", "weight_decay", "schedule", "warmup_epochs")
    for given, expected in (
        ({"objective": "simclr"}, (0.5, 200, 256, 0.06, 5e-4, "cosine", 10)),
        ({"objective": "moco"}, (0.2, 200, 256, 0.03, 1e-4, "cosine", 10)),
        (HEAD, (1.0, 60, 64, 0.05, 5e-4, "step", 0)),
    ):
        found = resolve_pretraining({**PHOTOS, **given})
        assert tuple(getattr(found, name) for name in names) == expected
        assert (found.dim, found.queue, found.key_momentum, found.optimiser) == (128, 65536, 0.999, "sgd")


def test_what_is_given_wins_and_nothing_else_is_given() -> None:
    given: dict[str, Any] = {"temperature": 0.07, "epochs": 7, "lr": 1, "schedule": "constant", "warmup_epochs": 2}
    for base in ({}, {"objective": "moco"}, HEAD, PHOTOS):
        found = asdict(resolve_pretraining({**base, **given}))
        assert {name: found[name] for name in given} == given
    nothing = dict.fromkeys(("epochs", "objective", "dataset", "hidden"))
    assert resolve_pretraining(nothing) == resolve_pretraining({})


def test_digits_bring_the_settings_of_the_teacher_in_the_package() -> None:
    found = asdict(resolve_pretraining({}))
    assert {name: found[name] for name in DIGITS} == DIGITS
    assert (found["network"], found["optimiser"], found["warmup_epochs"]) == ("resnet20", "adamw", 20)
    for other in ({"objective": "moco"}, HEAD, PHOTOS):
        assert resolve_pretraining(other).optimiser == "sgd" and resolve_pretraining(other).dim == 128


def test_the_warm_up_is_a_tenth_or_ten_and_on_digits_twenty() -> None:
    for epochs, warmup in ((1, 0), (9, 0), (10, 1), (55, 5), (100, 10), (1000, 10)):
        assert resolve_pretraining({**PHOTOS, "epochs": epochs}).warmup_epochs == warmup
        assert resolve_pretraining({**PHOTOS, "epochs": epochs, "warmup_epochs": 0}).warmup_epochs == 0
        assert resolve_pretraining({**HEAD, "epochs": epochs}).warmup_epochs == 0, "as its official code"
    for epochs, warmup in ((1, 0), (50, 5), (200, 20), (400, 20)):
        assert resolve_pretraining({"epochs": epochs}).warmup_epochs == warmup


def test_resolved_twice_and_through_a_file_it_is_the_same(tmp_path: Path) -> None:
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"objective": "moco", "epochs": 12, "queue": 99},
        {**HEAD, "transformations": "all", "teacher_mean": (0.5,), "teacher_args": ("output=projection",)},
        {**PHOTOS, "hidden": 7, "image_size": 16, "workers": 2, "eval_every": 3, "warmup_epochs": 0},
    )
    for number, given in enumerate(cases):
        recipe = resolve_pretraining(given)
        assert resolve_pretraining(asdict(recipe)) == recipe
        run = RunDirectory.create(tmp_path / str(number), recipe)
        assert run.stored() == recipe
        assert set(yaml.safe_load(run.recipe_file.read_text())) == {item.name for item in fields(PretrainRecipe)}
        run.check_recipe(recipe)


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"objective": "simcl"}, "unknown objective 'simcl': did you mean 'simclr'? (known: moco, simclr, sskd-head)"),
    ({"objective": 3}, "unknown objective '3' (known: moco, simclr, sskd-head)"),
    ({"dataset": "cifar"}, "unknown data set 'cifar': did you mean 'cifar10'?"),
    ({"dataset": 5}, "unknown data set '5'"),
    ({"epoch": 3}, "unknown option 'epoch': did you mean 'epochs'?"),
    ({"student": "resnet8"}, "unknown option 'student'"),
    ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
    ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
    *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("epochs", "dim", "hidden", "queue")),
    *(({name: -1}, f"{name} must be at least 0, got -1") for name in ("lr", "weight_decay", "warmup_epochs")),
    ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs must be below epochs = 5, got 5"),
    ({"temperature": 0}, "temperature must be above 0, got 0"),
    ({"key_momentum": 1.0}, "key_momentum must be at least 0 and below 1, got 1.0"),
    ({"seed": -1}, "seed must be at least 0 and at most 2147483647, got -1"),
    ({"objective": "sskd-head"}, "sskd-head trains a head of a teacher: give --teacher, spelled as for relgraph"),
    ({"objective": "moco", "teacher": "embedded:digits"}, "moco has no teacher, got embedded:digits: teachers are"),
    ({**HEAD, "hidden": 64}, "hidden belongs to simclr and moco, got objective sskd-head"),
    ({**HEAD, "compile": True}, "compile belongs to simclr and moco, got objective sskd-head"),
    ({"queue": 9}, "queue belongs to moco, got objective simclr"),
    ({"optimiser": "adamw", "momentum": 0.5}, "momentum belongs to optimiser sgd, got adamw and 0.5"),
    ({"teacher_size": 64}, "teacher_size belongs to sskd-head, got objective simclr"),
    ({"teacher_args": ("output=projection",)}, "teacher_args belongs to sskd-head, got objective simclr"),
]  # fmt: skip


def test_errors() -> None:
    assert_refused(*((partial(resolve_pretraining, given), f"{told}…") for given, told in ERRORS))


def test_the_augmentation_that_fits() -> None:
    for given, side, expected in (
        (PHOTOS, 64, "simclr-small"),
        (PHOTOS, 65, "simclr"),
        ({"objective": "moco", **PHOTOS}, 32, "moco"),
        ({}, 8, "digits"),
        ({"objective": "moco"}, 8, "digits"),
        (HEAD, 8, "crop"),
        ({**HEAD, **PHOTOS}, 224, "crop"),
        ({"augment": "moco"}, 8, "moco"),
        ({**PHOTOS, "augment": "crop"}, 224, "crop"),
    ):
        assert augmentation(resolve_pretraining(given), side) == expected
