"""A program that trains goes on with its own number of threads and its own random numbers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import relgraph
from relgraph.training.callbacks import EpochEnd
from relgraph.training.distillation import train
from tests.checks import assert_refused
from tests.training.conftest import RecipeMaker, outcome

QUICK: dict[str, Any] = {"epochs": 1, "device": "cpu", "precision": "32-true", "threads": 1}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def state() -> tuple[int, Tensor]:
    return torch.get_num_threads(), torch.get_rng_state()


class Failing(relgraph.Callback):
    """Fails where a job is on its own threads, and has drawn its own numbers."""

    def after_epoch(self, end: EpochEnd) -> None:
        assert torch.get_num_threads() == 1
        torch.rand(3)
        raise ValueError("of the caller")


def test_threads_and_random_numbers_are_the_callers_again(images: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset": f"folder:{images}", **QUICK}
    torch.manual_seed(5)
    threads, numbers = state()
    taught = {**given, "student": "resnet8", "teacher": "embedded:digits"}
    relgraph.train(**taught, out=tmp_path / "run")
    assert state()[0] == threads == 2 and torch.equal(state()[1], numbers)
    relgraph.pretrain(**given, network="resnet8", out=tmp_path / "network")
    assert state()[0] == threads and torch.equal(state()[1], numbers)
    with pytest.raises(ValueError, match="of the caller"):
        relgraph.train(**taught, out=tmp_path / "failed", callbacks=[Failing()])
    assert state()[0] == threads and torch.equal(state()[1], numbers)
    taught = {name: taught[name] for name in ("dataset", "teacher", "device", "precision", "threads")}
    relgraph.embed(**taught, out=tmp_path / "store")
    assert state()[0] == threads and torch.equal(state()[1], numbers)


def test_arguments_of_the_functions_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    calls: dict[str, Any] = {
        "top": partial(relgraph.predict, nowhere, "a.png"),
        "k": partial(relgraph.evaluate, nowhere),
        "views": relgraph.embed,
        "first": partial(relgraph.report, nowhere, tmp_path / "a.html"),
        "batch_size": partial(relgraph.query, nowhere, "a.png", index="b.npy"),
    }
    told = "{} must be a whole number of at least 1, got {!r}"
    for value in (0, -1, 2.5, "x", True):
        assert_refused(*((partial(call, **{name: value}), told.format(name, value)) for name, call in calls.items()))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (partial(relgraph.analyze, nowhere), {"k": 2.5}, told.format("k", 2.5)),
        (partial(relgraph.export, nowhere, "a.gexf"), {"k": 0}, told.format("k", 0)),
        (relgraph.train, {"out": 5}, "out must be the path of a run, got 5"),
        (relgraph.pretrain, {"resume": True}, "resume must be the path of a run, got True"),
        (relgraph.train, {"devices": 2}, "devices is an option of the command line alone: torchrun …"),
        (relgraph.embed, {"config": "a.yaml"}, "config is an option of the command line alone: read the file, …"),
    ]
    assert_refused(*((partial(call, **given), expected) for call, given, expected in cases))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_callers_random_numbers_change_none_of_a_run(make: RecipeMaker, tmp_path: Path) -> None:
    torch.manual_seed(5)
    train(make(epochs=2, threads=1), tmp_path / "plain")
    torch.manual_seed(6)
    relgraph.api.run_recipe(make(epochs=2, threads=1), tmp_path / "called")
    assert outcome(tmp_path / "called") == outcome(tmp_path / "plain")
