"""Each spelling of each kind names the same thing."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from relgraph import names
from relgraph.graph.criteria import frobenius
from relgraph.graph.scales import by_mean
from relgraph.methods import RunFacts
from relgraph.methods.own import Related
from tests.checks import case
from tests.own.conftest import PACKAGES

RUN = RunFacts(8, 4, 6)


def spellings(package: str, attribute: str, registered: str) -> list[Any]:
    """Return a module's, a file's and a registered spelling of an attribute, and the object itself."""
    file = PACKAGES / package / f"{package}.py"
    return [f"{package}:{attribute}", f"{file}:{attribute}", registered, getattr(import_module(package), attribute)]


def test_students_and_teachers(site: Path) -> None:
    for spec in spellings("labnets", "Tiny", "labtiny"):
        with case(spec):
            backbone = names.student(spec).build(3, 12)
            assert backbone.width == 16 and type(backbone.model).__name__ == "Tiny"
    for spec in spellings("labnets", "Colours", "labcolours"):
        with case(spec):
            teacher = names.load_teacher(spec)
            assert teacher(torch.rand(2, 3, 8, 8)).shape == (2, 6) and teacher.mean == (0.5, 0.5, 0.5)


def test_data_sets(site: Path) -> None:
    for spec in spellings("labdata", "Flat", "labflat"):
        with case(spec):
            source = names.dataset(spec)
            original = source.read(Path("nowhere"), None, "auto")
            assert len(original.train) == 90 and original.train.classes == ("red", "green", "blue")
            assert source.short_name in ("flat", "labflat")


def test_methods_alone_and_in_sums(site: Path) -> None:
    for spec in spellings("labloss", "Regression", "labreg"):
        with case(spec):
            loss = names.build_method(spec, RUN, arguments=["power=1"])
            assert loss is not None and [*loss.weights.values()] == [1.0]
            (method,) = loss.parts.values()
            assert type(method).__name__ == "Regression" and method.power == 1 and method.widths == (4, 6)
    for spec in spellings("labloss", "Regression", "labreg")[:3]:
        with case(spec):
            loss = names.build_method(f"0.5*{spec}+2*kd", RUN)
            assert loss is not None and sorted(loss.weights.values()) == [0.5, 2.0]
    for spec in spellings("labloss", "relation", "")[:2]:
        with case(spec):
            (item,) = names.parse_methods(f"3*{spec}")
            assert (item.name, item.cls, item.weight) == ("relation", Related, 3.0)
    (item,) = names.parse_methods(import_module("labloss").relation)
    assert item.cls is Related


def test_parts_of_relations(site: Path) -> None:
    for spec in spellings("labloss", "signs", "labsigns"):
        with case(spec):
            found = names.kernel(spec)
            assert found is not None and found.name == "signs"
            loss = names.build_method("ega", RUN, {"kernel": spec})
            assert loss is not None
            method: Any = loss.parts["ega"]
            assert method.relation.kernel.name == "signs"
    file = PACKAGES / "labloss" / "labloss.py"
    for module in ("labloss", str(file)):
        for read, attribute in ((names.scale, "doubled"), (names.criterion, "largest")):
            with case(module, attribute):
                assert getattr(read(f"{module}:{attribute}"), "__name__", "") == attribute
    assert names.scale("by_mean") is by_mean and names.criterion("frobenius") is frobenius
    loss = names.build_method("sp", RUN, arguments=["scale=labloss:doubled", "criterion=labloss:largest"])
    assert loss is not None
    method = loss.parts["sp"]
    assert method.relation.forms() == ("matrix", "blocked")


def test_loggers(site: Path) -> None:
    for spec in spellings("labdata", "Flat", "")[:2]:  # any object: what is no logger is told where it is opened
        with case(spec):
            target, text = names.logger(spec)
            assert target.__name__ == "Flat" and text == spec
