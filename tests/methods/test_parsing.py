"""How methods are spelled: sums, weights, options, what the run gives to a constructor, and what is refused."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.refine import Refinement, SignedConv
from relgraph.graph.sampling import Drawn, NearestOthers
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest
from relgraph.methods import CCL, EGA, KD, METHODS, NCE, PKT, SP, Batch, FitNet, Method, Output, Sum, build_method
from relgraph.methods.parsing import Spelled, build, has_graph, options_of, read_arguments, read_spelling, reads_graph
from relgraph.methods.relational import Relational

KNOWN: dict[str, type[Method]] = {"ega": EGA, "kd": KD, "pkt": PKT, "nce": NCE, "ccl": CCL, "sp": SP}
MAPS = ((2, 8, 8), (3, 4, 4))
RUN: dict[str, Any] = {
    "dim": 4,
    "student_width": 5,
    "teacher_width": 6,
    "student_maps": MAPS,
    "teacher_maps": ((2, 8, 8), (5, 2, 2)),
}


class Options(Method):
    """Every kind of option that there is."""

    weight = 2.0

    def __init__(
        self,
        share: float = 0.5,
        count: int = 3,
        exact: bool = False,
        name: str = "a",
        side: Literal["left", "right"] = "left",
        limit: int | None = None,
        most: float | Literal["all"] = 1.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.given = {"share": share, "count": count, "exact": exact, "name": name, "side": side, "limit": limit}
        self.given |= {"most": most, "temperature": temperature}

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        return {"options": student.embedding.sum()}


class Others(Options):
    """The same options under another name."""


def spell(spelling: str, beta: float | None = None) -> list[tuple[str, float]]:
    return [(item.name, item.weight) for item in read_spelling(spelling, KNOWN, beta)]


def with_options(*arguments: str, cls: type[Method] = Options) -> dict[str, Any]:
    method = build([Spelled("options", cls, 1.0, chosen=True)], {}, arguments)
    assert isinstance(method, Options)
    return method.given


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("ega", [("ega", 1.0)]),
        ("sp", [("sp", 3000.0)]),
        ("ega+kd", [("ega", 1.0), ("kd", 1.0)]),
        ("kd+ega", [("kd", 1.0), ("ega", 1.0)]),
        ("nce+kd", [("nce", 1.0), ("kd", 1.0)]),  # nce ends in an e, as the number 1e+3 goes on after one
        ("2*nce+1e+3*sp+pkt", [("nce", 2.0), ("sp", 1000.0), ("pkt", 30000.0)]),
        ("1e-3*kd", [("kd", 0.001)]),
        ("1e+3*sp", [("sp", 1000.0)]),
        ("1.E+3*sp+2.5E-1*kd", [("sp", 1000.0), ("kd", 0.25)]),
        (" 0.5 * ega + .9*kd ", [("ega", 0.5), ("kd", 0.9)]),
        ("0*ega", [("ega", 0.0)]),
        ("none", []),
        (" none ", []),
        ("NONE", []),
        ("KD", [("kd", 1.0)]),
        ("2*Ega+SP", [("ega", 2.0), ("sp", 3000.0)]),
    ],
)
def test_sums_and_weights(spelling: str, expected: list[tuple[str, float]]) -> None:
    assert spell(spelling) == expected


def test_every_method_can_be_followed_by_any_other() -> None:
    for first in METHODS:
        for second in METHODS.keys() - {first}:
            assert [item.name for item in read_spelling(f"{first}+{second}", METHODS)] == [first, second]


def test_beta_is_the_weight_of_a_single_method() -> None:
    assert spell("sp", 5.0) == [("sp", 5.0)]
    assert spell("sp", 0.0) == [("sp", 0.0)]
    assert spell("none", 5.0) == []


@pytest.mark.parametrize(
    ("spelling", "beta", "message"),
    [
        ("egga", None, "unknown method 'egga': did you mean 'ega'? (known: ccl, ega, kd, nce, none, pkt, sp)"),
        ("ega+kdd", None, "unknown method 'kdd': did you mean 'kd'? (known: ccl, ega, kd, nce, none, pkt, sp)"),
        ("", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got ''"),
        ("+3*kd", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got ''"),
        ("ega+", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got ''"),
        ("ega++pkt", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got ''"),
        ("2*", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got '2*'"),
        ("ega,kd", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got 'ega,kd'"),
        ("2", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got '2'"),
        ("kd*2", None, "methods are spelled NAME, WEIGHT*NAME or a sum of these with +, got 'kd*2'"),
        ("kd+ega+kd", None, "a sum names each method once, got kd more often in 'kd+ega+kd'"),
        ("kd+0.5*kd", None, "a sum names each method once, got kd more often in 'kd+0.5*kd'"),
        ("two*kd", None, "the weight of kd must be a number, got 'two'"),
        ("2*3*kd", None, "the weight of kd must be a number, got '2*3'"),
        ("*kd", None, "the weight of kd must be a number, got ''"),
        ("-1*kd", None, "the weight of kd must be at least 0 and finite, got -1.0"),
        ("nan*kd", None, "the weight of kd must be at least 0 and finite, got nan"),
        ("inf*kd", None, "the weight of kd must be at least 0 and finite, got inf"),
        ("1e999*kd", None, "the weight of kd must be at least 0 and finite, got inf"),
        ("kd", -1.0, "the weight of kd must be at least 0 and finite, got -1.0"),
        ("kd", math.nan, "the weight of kd must be at least 0 and finite, got nan"),
        ("ega+kd", 2.0, "beta is the weight of one method: write the weights of 'ega+kd' as in 25*rkd+0.9*kd"),
        ("3*kd", 2.0, "beta is the weight of one method: write the weights of '3*kd' as in 25*rkd+0.9*kd"),
        ("none+kd", None, "none is cross-entropy alone: it has no weight and stands in no sum"),
        ("2*NONE", None, "none is cross-entropy alone: it has no weight and stands in no sum"),
    ],
)
def test_spellings_that_are_refused(spelling: str, beta: float | None, message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        spell(spelling, beta)


def test_what_is_built_carries_the_weights() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    assert build_method("none", RUN) is None
    assert isinstance(build_method("ega", RUN), EGA), "with a weight of 1 it is the method itself"
    assert isinstance(build_method("1.0*pkt", RUN), PKT)
    alone = build_method("pkt", RUN)
    both = build_method("2*ega+pkt", RUN)
    assert isinstance(alone, Sum) and isinstance(both, Sum)
    assert alone.weights == {"pkt": 30000.0} and both.weights == {"ega": 2.0, "pkt": 30000.0}
    torch.testing.assert_close(both(student, teacher), 2 * EGA()(student, teacher) + alone(student, teacher))
    with_beta = build_method("pkt", RUN, beta=7.0)
    assert isinstance(with_beta, Sum) and with_beta.weights == {"pkt": 7.0}


@pytest.mark.parametrize(
    ("argument", "option", "value"),
    [
        ("share=0.25", "share", 0.25),
        ("share=1e-3", "share", 0.001),
        ("share=2", "share", 2.0),
        ("count=7", "count", 7),
        ("exact=true", "exact", True),
        ("exact=false", "exact", False),
        ("exact=YES", "exact", True),
        ("exact=no", "exact", False),
        ("name=a=b", "name", "a=b"),
        ("side=right", "side", "right"),
        ("limit=4", "limit", 4),
        ("most=0.5", "most", 0.5),
        ("most=all", "most", "all"),
        (" options.share = 0.25 ", "share", 0.25),
        ("Options.share=0.25", "share", 0.25),
    ],
)
def test_options_have_the_kind_that_the_constructor_names(argument: str, option: str, value: object) -> None:
    given = with_options(argument)
    assert given == {**with_options(), option: value}
    assert type(given[option]) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["share=much"], "share of options must be a number, got 'much'"),
        (["share=nan"], "share of options must be a number, got 'nan'"),
        (["share=inf"], "share of options must be a number, got 'inf'"),
        (["count=2.5"], "count of options must be a whole number, got '2.5'"),
        (["count="], "count of options must be a whole number, got ''"),
        (["exact=maybe"], "exact of options must be true or false, got 'maybe'"),
        (["limit=none"], "limit of options must be a whole number, got 'none'"),
        (["side=rigth"], "unknown side of options 'rigth': did you mean 'right'? (known: left, right)"),
        (["most=al"], "unknown most of options 'al': did you mean 'all'? (known: all)"),
        (["share"], "an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got 'share'"),
        (["=2"], "an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got '=2'"),
        (["options.=2"], "an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got 'options.=2'"),
        (["opions.share=2"], "unknown method 'opions': did you mean 'options'? (known: options)"),
        (["share=1", "options.share=2"], "share of options is given twice: 1.0 and 2"),
        (
            ["shar=1"],
            "unknown option of the method 'shar': did you mean 'share'? "
            "(known: count, exact, limit, most, name, share, side)",
        ),
        (
            ["temperature=2"],  # it is the run's
            "temperature of options has an option of its own: --temperature",
        ),
    ],
)
def test_options_that_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        with_options(*arguments)


def test_options_of_several_methods_are_told_apart_by_name() -> None:
    spelled = [Spelled("one", Options, 1.0), Spelled("other", Others, 1.0), Spelled("kd", KD, 1.0)]
    found = read_arguments(spelled, ["one.share=1", "other.share=2", "other.count=9"])
    assert found == {"one": {"share": 1.0}, "other": {"share": 2.0, "count": 9}, "kd": {}}
    with pytest.raises(
        RelgraphError, match=r"^share is an option of several methods: write one\.share or other\.share$"
    ):
        read_arguments(spelled, ["share=1"])


class Bare(Method):
    """A method without a constructor."""

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        return {"bare": student.embedding.sum()}


def test_a_method_without_a_constructor_has_no_options() -> None:
    assert options_of(Bare) == {}
    assert isinstance(build([Spelled("bare", Bare, 1.0)], RUN), Bare)
    with pytest.raises(RelgraphError, match=r"^there are no options of bare, got 'args'$"):
        build([Spelled("bare", Bare, 1.0)], RUN, ["args=1"])


def test_methods_without_options_say_so() -> None:
    for spelling, names in (("kd", "kd"), ("kd+ega", "kd and ega"), ("none", "cross-entropy alone")):
        message = f"^there are no options of {names}, got 'tau'$"
        with pytest.raises(RelgraphError, match=message):
            build_method(spelling, RUN, ["tau=1"])


def test_options_reach_the_methods_of_a_sum() -> None:
    method = build_method("nce+2*ccl+kd", RUN, ["nce.tau=0.5", "ccl.tau=0.25"])
    assert isinstance(method, Sum)
    expected = Sum({"nce": (1.0, NCE(0.5)), "ccl": (2.0, CCL(0.25)), "kd": (1.0, KD())})
    student, teacher = (Output(torch.randn(6, 4), torch.randn(6, 3)) for _ in range(2))
    batch = Batch(torch.arange(6), torch.arange(6) % 3)
    assert torch.equal(method(student, teacher, batch), expected(student, teacher, batch))


def test_what_the_run_says_is_no_option_of_the_method() -> None:
    assert list(options_of(NCE)) == ["tau"] and list(options_of(EGA)) == [] and list(options_of(KD)) == []
    assert [name for name, cls in KNOWN.items() if has_graph(cls)] == ["ega", "pkt", "nce", "ccl", "sp"]


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_every_method_can_be_spelled(name: str) -> None:
    """Its default, written out, is read as itself."""
    spelled = read_spelling(name, METHODS)
    for option, given in options_of(METHODS[name]).items():
        if given.default is not None:
            text = str(given.default).lower() if isinstance(given.default, bool) else str(given.default)
            assert read_arguments(spelled, [f"{option}={text}"]) == {name: {option: given.default}}


def relational(run: Mapping[str, Any], name: str = "pkt") -> Relational:
    method = build_method(name, run, beta=1.0)
    assert isinstance(method, Relational)
    return method


def test_the_runs_graph_reaches_methods_with_one() -> None:
    edges = torch.tensor([[1, 2], [0, 0]])
    for name in ("pkt", "ega"):
        assert relational(RUN, name).rule is ALL_PAIRS
        assert relational({**RUN, "graph": "dense"}, name).rule is ALL_PAIRS
        assert relational({**RUN, "graph": "knn", "k": 3, "neighbours": "union"}, name).rule == Nearest(3, "union")
        assert relational({**RUN, "graph": "knn", "k": None}, name).rule == Nearest(8)
        assert isinstance(relational({**RUN, "graph": edges}, name).rule, Given)
    assert isinstance(build_method("kd", {**RUN, "graph": "knn", "k": 3}), KD)


@pytest.mark.parametrize("refine", ["smooth", "conv"])
@pytest.mark.parametrize(
    ("name", "nodes", "widths"), [("pkt", None, (5, 6)), ("pkt", "embedding", (4, 4)), ("nce", None, (4, 4))]
)
def test_a_refinement_has_the_widths_of_the_nodes(
    refine: str, name: str, nodes: str | None, widths: tuple[int, int]
) -> None:
    found = relational({**RUN, "refine": refine, "nodes": nodes}, name).refinement
    assert isinstance(found, Refinement) and (found.dim, found.teacher_dim) == widths
    assert isinstance(found.student, SignedConv) == (refine == "conv")


def test_maps_are_refined_by_smoothing_alone() -> None:
    found = relational({**RUN, "refine": "smooth", "nodes": "map"}).refinement
    assert found is not None and (found.dim, found.teacher_dim) == (3 * 4 * 4, 5 * 2 * 2)
    huge = ((2**16, 2**10, 2**10),)  # a learned refinement of such a map has no place in any memory
    with pytest.raises(RelgraphError, match=r"^a learned refinement trains the teacher's side by its classifier"):
        relational({**RUN, "student_maps": huge, "teacher_maps": huge, "refine": "conv"}, "sp")


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_maps_that_are_not_there_cannot_be_refined(side: str) -> None:
    message = f"^nodes 'map' need stage maps of student and teacher, got none of the {side}$"
    with pytest.raises(RelgraphError, match=message):
        relational({**RUN, f"{side}_maps": (), "refine": "smooth"}, "sp")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_method("pkt", {**RUN, "nodes": "pixel"}), "unknown kind of nodes 'pixel'"),
        (lambda: build_method("pkt", {**RUN, "graph": "dnse"}), "unknown graph 'dnse': did you mean 'dense'?"),
        (lambda: build_method("pkt", {**RUN, "refine": "conf"}), "unknown refinement 'conf': did you mean 'conv'?"),
        (lambda: build_method("nce", RUN, ["tau=-1"]), "tau must be positive, got -1.0"),
    ],
)
def test_what_a_constructor_refuses_is_told(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}"):
        make()


def test_a_form_brings_its_weight_unless_one_is_given() -> None:
    stages = ((2, 8, 8), (3, 8, 8), (4, 4, 4))
    run = {**RUN, "student_maps": stages, "teacher_maps": stages}
    for name, options, weight in (
        ("cc", ["correlation=consecutive"], 0.02),
        ("cc", [], 100.0),
        ("fitnet", [], 100.0),
    ):
        for spelling, beta, expected in ((name, None, weight), (f"3*{name}", None, 3.0), (name, 3.0, 3.0)):
            method = build_method(spelling, run, options, beta=beta)
            assert isinstance(method, Sum) and method.weights == {name: expected}
    embeddings = {**run, "nodes": "embedding"}
    alone, both = build_method("fitnet", embeddings), build_method("fitnet+sp", embeddings)
    assert isinstance(alone, FitNet) and alone.weight == 1 and FitNet.weight == 100
    assert isinstance(both, Sum) and both.weights == {"fitnet": 1.0, "sp": 3000.0}


CRD_RUN: dict[str, Any] = {**RUN, "images": 9, "labels": torch.arange(9) % 3, "graph": "knn", "k": 4}


def test_the_graph_of_a_sum_is_that_of_the_batch_and_a_memory_keeps_its_own() -> None:
    def rules(spelling: str, *options: str) -> dict[str, Any]:
        method = build_method(spelling, CRD_RUN, options)
        assert isinstance(method, Sum)
        return {name: getattr(part, "rule", None) for name, part in method.methods.items()}

    assert rules("crd+pkt") == {"crd": Drawn(16384), "pkt": Nearest(4)}
    assert rules("crd+pkt", "crd.graph=knn", "k=2") == {"crd": NearestOthers(2), "pkt": Nearest(4)}
    assert rules("crd+kd", "graph=dense") == {"crd": NearestOthers(), "kd": None}
    assert rules("crd") == {"crd": NearestOthers(4)}, "alone it takes the run's"


def test_whether_the_graph_of_a_run_reaches_a_method() -> None:
    found = {name: reads_graph(read_spelling(name, METHODS)) for name in ("crd", "crd+kd", "crd+sp", "kd", "none")}
    assert found == {"crd": True, "crd+kd": False, "crd+sp": True, "kd": False, "none": False}
