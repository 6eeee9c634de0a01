"""Options of methods: their help and facts, a method of one's own with them, and the weights of terms."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from relgraph.analysis.method_info import SMALL_RUN
from relgraph.methods import EGA, IRG, METHODS, RKD, SSKD, Batch, Method, Output, RunFacts, option
from relgraph.methods.base import facts_of
from relgraph.methods.relational import Relational
from relgraph.names import build_method, parse_methods, read_arguments
from relgraph.options import options_of
from tests.checks import assert_refused, assert_refused_like
from tests.methods.golden import random_output

RUN = RunFacts(4, 5, 6, ss_head=nn.Linear(6, 6))


class Every(Method):
    """A method.

    Paper: The paper (Somebody, 2020,
        arXiv 2001.00001)
    Differs: in nothing
    """


class Inheriting(Every):
    """A method like it.

    Differs: in its name
    """


def test_facts_stand_in_the_docstring_of_the_class_or_its_base() -> None:
    paper = "The paper (Somebody, 2020, arXiv 2001.00001)"
    assert facts_of(Every) == {"Paper": paper, "Differs": "in nothing"}
    assert facts_of(Inheriting) == {"Paper": paper, "Differs": "in its name"}
    assert options_of(METHODS["sp"])["k"].help == options_of(Relational)["k"].help != ""


# Where `None` stands for what another option of the method brings.
BROUGHT = {"irg": {"vertex_weight", "relation_weight", "transition_weight"}, "fitnet": {"nodes"}}


def test_every_method_says_what_its_options_are_and_keeps_their_published_defaults() -> None:
    for name, cls in METHODS.items():
        method, others = cls.for_run(SMALL_RUN), set()
        for key, item in options_of(cls).items():
            assert item.help and not item.help.startswith("See ") and "\n" not in item.help
            if getattr(method, key) != item.default:
                assert item.default is None and type(None) in item.kinds
                others.add(key)
        assert others == BROUGHT.get(name, set())
        facts, doc = facts_of(cls), cls.__doc__ or ""
        assert {"Paper", "Differs"} <= facts.keys() and all(facts.values())
        assert all(re.search(rf"^    {fact}: ", doc, re.MULTILINE) for fact in ("Paper", "Differs")), (
            "its own, no base's"
        )


def test_the_temperature_is_an_option_of_the_methods_that_have_one() -> None:
    for name in ("kd", "sskd"):
        assert read_arguments(parse_methods(name), ["temperature=2"]) == {name: {"temperature": 2.0}}
        built = build_method(name, RUN, {"temperature": 3.0}, ["temperature=2"])
        assert built is not None and built.parts[name].temperature == 2.0
    both = build_method("kd+sskd", RUN, {"temperature": 3.0}, ["sskd.temperature=2"])
    assert both is not None and [both.parts[name].temperature for name in ("kd", "sskd")] == [3.0, 2.0]
    told = r"several methods: write kd\.temperature or sskd\.temperature$"
    assert_refused_like((lambda: build_method("kd+sskd", RUN, {}, ["temperature=2"]), told))


WEIGHED: tuple[tuple[type[Method], dict[str, Any], dict[str, float]], ...] = (
    (EGA, {}, {"node_weight": 0.5, "edge_weight": 2.0}),
    (RKD, {}, {"distance_weight": 3.0, "angle_weight": 0.25}),
    (IRG, {}, {"vertex_weight": 2.0, "relation_weight": 3.0, "transition_weight": 0.5, "edge_transition_weight": 0.25}),
    (SSKD, {"student_width": 4, "teacher_width": 4, "ss_head": nn.Identity(), "head": "none"},
     {"kd_weight": 2.0, "tf_weight": 3.0, "ss_weight": 0.5}),
)  # fmt: skip


@pytest.mark.parametrize(("cls", "given", "weights"), WEIGHED)
def test_compare_leaves_the_weights_of_terms_to_terms(
    cls: type[Method], given: dict[str, Any], weights: dict[str, float]
) -> None:
    stages, batch = ((2, 4, 4), (4, 4, 4)), Batch(torch.arange(6), torch.arange(6) % 3)
    student, teacher = (random_output(6, 4, 3, 4, stages)._replace(extra=random_output(18, 4, 3, 4)) for _ in range(2))
    method, even = cls(**given, **weights), cls(**given, **dict.fromkeys(weights, 1.0))
    bare, terms = method.compare(student, teacher, batch), method.terms(student, teacher, batch)
    assert list(method.term_weights) == list(terms) == list(bare)
    assert method.term_weights == dict(zip(terms, weights.values(), strict=True))
    assert all(term > 0 for term in bare.values())
    torch.testing.assert_close(bare, even.terms(student, teacher, batch))
    torch.testing.assert_close(terms, {name: method.term_weights[name] * bare[name] for name in bare})
    torch.testing.assert_close(method(student, teacher, batch), torch.stack(list(terms.values())).sum())


def test_words_of_every_method_are_no_options() -> None:
    with pytest.raises(TypeError, match=r"^Wrong: every method has an attribute gamma, give the option another name$"):

        class Wrong(Method):
            gamma: float = option(default=1.0)  # type: ignore[misc]


def test_terms_are_a_dict_that_has_every_weighted_one() -> None:
    class Bare(Method):
        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Any:
            return student.embedding.sum()

    class Misspelt(Method):
        a_weight: float = option(default=2.0, term="a")

        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Any:
            return {"b": student.embedding.sum()}

    x = torch.ones(2, 2)
    assert_refused(
        (lambda: Bare()(x, x), "Bare compares by the terms bare, a dict, got Tensor"),
        (lambda: Misspelt()(x, x), "Misspelt compares by the terms a, a dict, got b"),
    )
    assert repr(Misspelt(3.0)) == "Misspelt(a_weight=3.0)"
