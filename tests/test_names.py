"""How methods are written: sums, weights, options, what a run shares with them, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from relgraph import names
from relgraph.analysis.method_info import SMALL_RUN
from relgraph.graph import criteria, kernels, scales
from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import Kernel
from relgraph.graph.memory import NearestOthers, RandomOthers
from relgraph.graph.refine import Refinement, SignedConv
from relgraph.graph.scales import Scale
from relgraph.graph.topology import ALL_PAIRS, Given, Nearest
from relgraph.methods import CCL, EGA, KD, METHODS, NCE, PKT, SP, Batch, FitNet, Method, Output, RunFacts, Sum, option
from relgraph.methods.relational import Relational
from relgraph.names import Named, build, build_method, parse_methods, read_arguments, reads_graph
from relgraph.options import options_of
from relgraph.training.recipe import Recipe
from tests.checks import assert_refused

KNOWN: dict[str, type[Method]] = {"ega": EGA, "kd": KD, "pkt": PKT, "nce": NCE, "ccl": CCL, "sp": SP}
MAPS = ((2, 8, 8), (3, 4, 4))
RUN = RunFacts(4, 5, 6, MAPS, ((2, 8, 8), (5, 2, 2)))


class Options(Method):
    """A method of some options."""

    weight = 2.0

    share: float = option(default=0.5)
    count: int = option(default=3)
    name: str = option(default="a")
    side: Literal["left", "right"] = option(default="left")
    temperature: float = option(default=4.0)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        return {"options": student.embedding.sum()}


class Others(Options):
    """The same options under another name."""


def weights_of(text: str, beta: float | None = None) -> list[tuple[str, float]]:
    """Return each method with the weight that it is given in a sum: the written one, or the published one."""
    named = parse_methods(text, beta, KNOWN)
    built = build(named, RUN, {})
    assert built is not None or not named
    return [] if built is None else list(built.weights.items())


def with_options(*arguments: str, cls: type[Method] = Options, **shared: Any) -> dict[str, Any]:
    built = build([Named("options", cls)], RUN, shared, arguments)
    assert built is not None and built.weights == {"options": 2.0}
    method = built.parts["options"]
    return {name: getattr(method, name) for name in options_of(cls)}


def test_sums_and_weights() -> None:
    expected = {
        "ega": {"ega": 1.0},
        "sp": {"sp": 3000.0},
        "ega+kd": {"ega": 1.0, "kd": 1.0},
        "kd+ega": {"kd": 1.0, "ega": 1.0},
        "nce+kd": {"nce": 1.0, "kd": 1.0},  # nce ends in an e, as the number 1e+3 goes on after one
        "2*nce+1e+3*sp+pkt": {"nce": 2.0, "sp": 1000.0, "pkt": 30000.0},
        "1e-3*kd": {"kd": 0.001},
        "1.E+3*sp+2.5E-1*kd": {"sp": 1000.0, "kd": 0.25},
        " 0.5 * ega + .9*kd ": {"ega": 0.5, "kd": 0.9},
        "0*ega": {"ega": 0.0},
        "2*Ega+SP": {"ega": 2.0, "sp": 3000.0},
        **{text: {} for text in ("none", " none ", "NONE")},
    }
    assert {text: dict(weights_of(text)) for text in expected} == expected
    assert [name for name, _ in weights_of("kd+ega")] == ["kd", "ega"], "in the order that was written"


def test_every_method_can_be_followed_by_any_other() -> None:
    for first in METHODS:
        for second in METHODS.keys() - {first}:
            assert [item.name for item in parse_methods(f"{first}+{second}")] == [first, second]


def test_what_was_written_is_told_from_what_was_published() -> None:
    assert parse_methods("sp+0.9*kd") == [Named("sp", SP, None), Named("kd", KD, 0.9)]
    for beta in (5.0, 0.0):
        assert parse_methods("sp", beta) == [Named("sp", SP, beta)] and weights_of("sp", beta) == [("sp", beta)]
    assert weights_of("none", 5.0) == []


def test_texts_that_are_refused() -> None:
    written = "methods are written NAME, WEIGHT*NAME or a sum of these with +, got"
    unknown = "unknown method 'kdd': did you mean 'kd'? (known: ccl, ega, kd, nce, none, pkt, sp)"
    alone = "none is cross-entropy alone: it has no weight and stands in no sum"
    weight, finite = "the weight of kd must be", "at least 0 and finite, got"
    cases: list[tuple[str, float | None, str]] = [
        *((text, None, unknown) for text in ("kdd", "ega+kdd")),
        *((text, None, f"{written} ''") for text in ("", "+3*kd", "ega+", "ega++pkt")),
        *((text, None, f"{written} {text!r}") for text in ("2*", "ega,kd", "2", "kd*2")),
        *((f"{text}kd", None, f"a sum names each method once, got kd more often in '{text}kd'")
          for text in ("kd+ega+", "kd+0.5*")),
        *((f"{text}*kd", None, f"{weight} a number, got {text!r}") for text in ("two", "2*3", "")),
        *((f"{text}*kd", None, f"{weight} {finite} {float(text)}") for text in ("-1", "nan", "inf", "1e999")),
        *(("kd", beta, f"{weight} {finite} {beta}") for beta in (-1.0, math.nan)),
        *((text, 2.0, f"beta is the weight of one method: write the weights of {text!r} as in 25*rkd+0.9*kd")
          for text in ("ega+kd", "3*kd")),
        *((text, None, alone) for text in ("none+kd", "2*NONE")),
    ]  # fmt: skip
    assert_refused(*((partial(parse_methods, text, beta, KNOWN), told) for text, beta, told in cases))


def test_what_is_built_carries_the_weights() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    assert build_method("none", RUN) is None
    alone, both = build_method("pkt", RUN), build_method("2*ega+1.0*pkt", RUN)
    assert isinstance(alone, Sum) and isinstance(both, Sum)
    assert isinstance(both.parts["ega"], EGA) and isinstance(alone.parts["pkt"], PKT)
    assert alone.weights == {"pkt": 30000.0} and both.weights == {"ega": 2.0, "pkt": 1.0}
    ega, pkt = EGA()(student, teacher), PKT()(student, teacher)
    torch.testing.assert_close(both(student, teacher), 2 * ega + pkt)
    torch.testing.assert_close(alone(student, teacher), 30000 * pkt)


def test_options_have_the_kind_that_the_field_names() -> None:
    written: dict[str, dict[str, Any]] = {
        "share=2": {"share": 2.0},
        "count=7": {"count": 7},
        "name=a=b": {"name": "a=b"},
        " options.share = 0.25 ": {"share": 0.25},
        "Options.share=0.25": {"share": 0.25},
        "temperature=2": {"temperature": 2.0},  # which the run has as well
    }
    for argument, given in written.items():
        assert repr(with_options(argument)) == repr({**with_options(), **given})


def test_an_option_that_is_written_comes_before_the_runs() -> None:
    assert with_options(temperature=3.0)["temperature"] == 3.0
    assert with_options("temperature=2", temperature=3.0)["temperature"] == 2.0
    assert with_options(temperature=None)["temperature"] == 4.0


def test_options_that_are_refused() -> None:
    form = "an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got"
    known = "(known: count, name, share, side, temperature)"
    cases = {
        "share=much": "share of options must be a number, got 'much'",
        "side=rigth": "unknown side of options 'rigth': did you mean 'right'? (known: left, right)",
        **{text: f"{form} {text!r}" for text in ("share", "=2", "options.=2")},
        "opions.share=2": "unknown method 'opions': did you mean 'options'? (known: options)",
        "share=1 options.share=2": "share of options is given twice: 1.0 and 2",
        "shar=1": f"unknown option of the method 'shar': did you mean 'share'? {known}",
    }
    assert_refused(*((partial(with_options, *text.split()), told) for text, told in cases.items()))


def test_options_of_several_methods_are_told_apart_by_name() -> None:
    named = [Named("one", Options), Named("other", Others), Named("kd", KD)]
    found = read_arguments(named, ["one.share=1", "other.share=2", "other.count=9"])
    assert found == {"one": {"share": 1.0}, "other": {"share": 2.0, "count": 9}, "kd": {}}
    several = "share is an option of several methods: write one.share or other.share"
    assert_refused((lambda: read_arguments(named, ["share=1"]), several))


class Bare(Method):
    """A method without a field."""

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        return {"bare": student.embedding.sum()}


def test_methods_without_options_say_so() -> None:
    bare, plain = Named("bare", Bare), Named("plain", type("Plain", (Bare,), {}))
    built = build([bare], RUN, {})
    assert options_of(Bare) == {} and built is not None and isinstance(built.parts["bare"], Bare)
    assert_refused(
        (lambda: build([bare], RUN, {}, ["tau=1"]), "there are no options of bare, got 'tau'"),
        (lambda: build([bare, plain], RUN, {}, ["tau=1"]), "there are no options of bare and plain, got 'tau'"),
        (lambda: build_method("none", RUN, {}, ["tau=1"]), "there are no options of cross-entropy alone, got 'tau'"),
        (
            lambda: build_method("kd", RUN, {}, ["tau=1"]),
            "unknown option of the method 'tau' (known: standardise, temperature)",
        ),
    )


def test_options_reach_the_methods_of_a_sum() -> None:
    method = build_method("nce+2*ccl+kd", RUN, {}, ["nce.tau=0.5", "ccl.tau=0.25"])
    assert isinstance(method, Sum)
    expected = Sum({"nce": (1.0, NCE(0.5)), "ccl": (2.0, CCL(0.25)), "kd": (1.0, KD())})
    student, teacher = (Output(torch.randn(6, 4), torch.randn(6, 3)) for _ in range(2))
    batch = Batch(torch.arange(6), torch.arange(6) % 3)
    assert torch.equal(method(student, teacher, batch), expected(student, teacher, batch))


def test_what_the_run_says_is_no_option_of_the_method_and_what_it_shares_is_one() -> None:
    relational, parts = {"graph", "k", "neighbours", "nodes", "pool", "form"}, {"kernel", "scale", "criterion"}
    assert options_of(SP).keys() == relational | parts
    assert options_of(NCE).keys() == {"tau"} | relational and options_of(KD).keys() == {"temperature", "standardise"}
    assert options_of(EGA).keys() == {"node_weight", "edge_weight", "cross"} | relational | parts
    assert not {name for cls in METHODS.values() for name in options_of(cls)} & {*vars(RUN), "refine", "refinement"}
    assert [name for name, cls in KNOWN.items() if "graph" in options_of(cls)] == ["ega", "pkt", "nce", "ccl", "sp"]


def test_every_option_of_every_method_can_be_written() -> None:
    """Its default, written out, is read as itself."""
    for name, cls in METHODS.items():
        for key, given in options_of(cls).items():
            if given.default is not None:
                assert read_arguments(parse_methods(name), [f"{key}={given.default}"]) == {name: {key: given.default}}


def relational(name: str = "pkt", run: RunFacts = RUN, **shared: Any) -> Relational:
    built = build_method(name, run, shared, beta=1.0)
    assert built is not None
    method = built.parts[name]
    assert isinstance(method, Relational)
    return method


def test_the_runs_graph_reaches_methods_with_one() -> None:
    edges = torch.tensor([[1, 2], [0, 0]])
    for name in ("pkt", "ega"):
        assert relational(name).rule is ALL_PAIRS
        assert relational(name, graph="dense").rule is ALL_PAIRS
        assert relational(name, graph="knn", k=3, neighbours="union").rule == Nearest(3, "union")
        assert relational(name, graph="knn", k=None).rule == Nearest(8)
        assert isinstance(relational(name, graph=edges).rule, Given)
    kd = build_method("kd", RUN, {"graph": "knn", "k": 3})
    assert kd is not None and isinstance(kd.parts["kd"], KD)


def test_a_graph_may_be_an_option_of_one_method_alone() -> None:
    built = build_method("sp+pkt", RUN, {"graph": "dense"}, ["pkt.graph=knn", "pkt.k=3"])
    assert built is not None
    assert [getattr(method, "rule", None) for _, method in built.each()] == [ALL_PAIRS, Nearest(3)]


def test_a_refinement_has_the_widths_of_the_nodes() -> None:
    for name, nodes, widths in (("pkt", None, (5, 6)), ("pkt", "embedding", (4, 4)), ("nce", None, (4, 4))):
        for refine in ("smooth", "conv"):
            found = relational(name, refine=refine, nodes=nodes).refinement
            assert isinstance(found, Refinement) and (found.dim, found.teacher_dim) == widths
            assert isinstance(found.student, SignedConv) == (refine == "conv")


def test_maps_are_refined_by_smoothing_alone() -> None:
    found = relational(refine="smooth", nodes="map").refinement
    assert found is not None and (found.dim, found.teacher_dim) == (3 * 4 * 4, 5 * 2 * 2)
    huge = ((2**16, 2**10, 2**10),)  # a learned refinement of such a map has no place in any memory
    run = replace(RUN, student_maps=huge, teacher_maps=huge)
    told = "a learned refinement trains the teacher's side by its classifier…"
    assert_refused((lambda: relational("sp", run, refine="conv"), told))


def test_what_a_constructor_refuses_is_told() -> None:
    none_of = "nodes 'map' need stage maps of student and teacher, got none of the"

    def refused(told: str, text: str = "pkt", *options: str, run: RunFacts = RUN, **shared: str) -> None:
        assert_refused((lambda: build_method(text, run, shared, options), f"{told}…"))

    refused(f"{none_of} student", "sp", run=replace(RUN, student_maps=()), refine="smooth")
    refused(f"{none_of} teacher", "sp", run=replace(RUN, teacher_maps=()), refine="smooth")
    refused("unknown nodes 'pixel'", nodes="pixel")
    refused("pkt: unknown nodes 'pixel'", "kd+pkt", nodes="pixel")
    refused("unknown graph 'dnse': did you mean 'dense'?", graph="dnse")
    refused("unknown refinement 'conf': did you mean 'conv'?", refine="conf")
    refused("tau must be above 0, got -1.0", "nce", "tau=-1")


def test_a_form_brings_its_weight_unless_one_is_given() -> None:
    stages = ((2, 8, 8), (3, 8, 8), (4, 4, 4))
    run = replace(RUN, student_maps=stages, teacher_maps=stages)
    for name, options, weight in (("cc", ["correlation=consecutive"], 0.02), ("cc", [], 100.0), ("fitnet", [], 100.0)):
        for text, beta, expected in ((name, None, weight), (f"3*{name}", None, 3.0), (name, 3.0, 3.0)):
            method = build_method(text, run, {}, options, beta=beta)
            assert isinstance(method, Sum) and method.weights == {name: expected}
    embeddings = {"nodes": "embedding"}
    alone, both = build_method("fitnet", run, embeddings), build_method("fitnet+sp", run, embeddings)
    assert isinstance(alone, Sum) and alone.weights == {"fitnet": 1.0}
    assert isinstance(alone.parts["fitnet"], FitNet) and alone.parts["fitnet"].weight == 1 and FitNet.weight == 100
    assert isinstance(both, Sum) and both.weights == {"fitnet": 1.0, "sp": 3000.0}


CRD_RUN = replace(RUN, images=9, labels=torch.arange(9) % 3)


def test_the_graph_of_a_sum_is_that_of_the_batch_and_a_memory_keeps_its_own() -> None:
    def rules(text: str, *options: str) -> dict[str, Any]:
        method = build_method(text, CRD_RUN, {"graph": "knn", "k": 4}, options)
        assert isinstance(method, Sum)
        return {name: getattr(part, "rule", None) for name, part in method.each()}

    assert rules("crd+pkt") == {"crd": RandomOthers(16384), "pkt": Nearest(4)}
    assert rules("crd+pkt", "crd.graph=knn", "crd.k=2") == {"crd": NearestOthers(2), "pkt": Nearest(4)}
    assert rules("crd+kd", "graph=dense") == {"crd": NearestOthers(), "kd": None}
    assert rules("crd") == {"crd": NearestOthers(4)}, "alone it takes the run's"


def test_whether_the_graph_of_a_run_reaches_a_method() -> None:
    assert all(reads_graph(parse_methods(text)) for text in ("crd", "crd+sp"))
    assert not any(reads_graph(parse_methods(text)) for text in ("crd+kd", "kd", "none"))


class Warm(KD):
    """KD at another temperature of its own."""

    temperature: float = option(default=1.5, above=0)


def test_the_defaults_of_a_run_are_the_methods_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "warm", Warm)
    for name, cls in METHODS.items():
        method, own = build_method(name, SMALL_RUN, vars(Recipe(method=name))), cls.for_run(SMALL_RUN)
        assert method is not None
        for option_name in options_of(cls):
            assert getattr(method.parts[name], option_name) == getattr(own, option_name), option_name


def test_kernels_scales_and_criteria_are_those_of_their_names() -> None:
    for read, module in ((names.kernel, kernels), (names.scale, scales), (names.criterion, criteria)):
        kind = {names.kernel: Kernel, names.scale: Scale, names.criterion: Criterion}[read]
        known = [name for name, part in vars(module).items() if isinstance(part, kind)]
        assert known and all(read(name) is getattr(module, name) for name in known), "all that there are"
        assert read(None) is None and read(part := getattr(module, known[0])) is part
    x = torch.randn(4, 3)
    for text, expected in (
        ("gaussian:0.5", kernels.gaussian(0.5)),
        ("damped_pearson:0.5", kernels.damped_pearson(0.5)),
        ("gaussian_taylor:0.5:3", kernels.gaussian_taylor(0.5, 3)),
    ):
        found = names.kernel(text)
        assert found is not None and torch.equal(found(x), expected(x))
    halved = names.scale(" softmax : 2 ")
    assert halved is not None and torch.equal(halved(x), (x / 2).log_softmax(-1))


def test_names_of_parts_that_are_refused() -> None:
    taylor = "the kernel gaussian_taylor is written gaussian_taylor:GAMMA:ORDER, got"
    cases: list[tuple[Callable[[Any], object], str, str]] = [
        (names.kernel, "cosin", "unknown kernel 'cosin': did you mean 'cosine'? (known: cosine, …"),
        (names.kernel, "", "unknown kernel '' (known: cosine, …"),
        (names.scale, "cosine", "unknown scale 'cosine'…"),
        (names.criterion, "huber:1", "the criterion huber is written huber, got 'huber:1'"),
        *((names.kernel, text, f"the kernel gaussian is written gaussian:GAMMA, got {text!r}")
          for text in ("gaussian", "gaussian:", "gaussian:a", "gaussian:nan", "gaussian:inf", "gaussian:1:2")),
        *((names.kernel, text, f"{taylor} {text!r}") for text in ("gaussian_taylor:1", "gaussian_taylor:1:2.5")),
        (names.kernel, "gaussian:0", "gamma must be positive, got 0.0"),
        (names.scale, "softmax:-1", "a temperature must be positive, got -1.0"),
    ]  # fmt: skip
    assert_refused(*((partial(read, text), told) for read, text, told in cases))


def test_which_teachers_and_data_sets_are_given_by_a_path() -> None:
    own = {"checkpoint:runs/a": True, "repdistiller:vgg13": True, "embedded:digits": False, "timm:checkpoint": False}
    assert {text: names.teacher(text).has_classifier for text in own} == own
    names.dataset("folder:photos")
    names.dataset("cifar10")
    told = "unknown data set 'cifar': did you mean 'cifar10'? (known: cifar10, …"
    assert_refused((lambda: names.dataset("cifar"), told))
