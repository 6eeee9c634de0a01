"""Options of methods: ranges, words, texts, help, and a method of one's own with them; the weights of terms."""

import math
import re
from typing import Any, Literal, Self

import pytest
import torch
from torch import Tensor, nn

from relgraph.analysis.method_info import SMALL_RUN
from relgraph.errors import RelgraphError
from relgraph.methods import EGA, IRG, METHODS, RKD, SSKD, Batch, Method, Output, RunFacts, option
from relgraph.methods.options import facts_of, options_of
from relgraph.methods.relational import Relational
from relgraph.names import build, build_method, parse, parse_methods, read_arguments

RUN = RunFacts(4, 5, 6, ss_head=nn.Linear(6, 6))
each_method = pytest.mark.parametrize("name", METHODS)


class Every(Method):
    """Every kind of option.

    Paper: The paper (Somebody, 2020,
        arXiv 2001.00001)
    Differs: in nothing

    Args:
        tau: Temperature > 0, in one line.
        share: Share in [0, 1), which takes
            two lines.
        side: A word.
    """

    tau: float = option(default=0.5, above=0)
    share: float = option(default=0.25, least=0, below=1)
    ratio: float | None = option(default=None, least=0, most=1)
    count: int = option(default=3, least=1)
    exact: bool = option(default=False)
    side: Literal["left", "right"] = option(default="left")
    most: Literal["all"] | float = option(default="all")
    limit: int | Literal["none"] | None = option(default=None)
    path: str = option(default="a")
    no_option: int = 7


class Inheriting(Every):
    """A method of the same options.

    Differs: in its name

    Args:
        tau: Another word.
        share: See `Every`.
    """


@pytest.mark.parametrize(
    ("name", "accepted", "refused", "words"),
    [
        ("tau", [1e-9, 1, 1e9], [0, 0.0, -1.0, math.nan], "above 0"),
        ("share", [0, 0.999], [-1, 1, math.nan, math.inf], "at least 0 and below 1"),
        ("ratio", [None, 0, 1], [-0.1, 1.1, math.nan], "at least 0 and at most 1"),
        ("count", [1, 10**9], [0, -1], "at least 1"),
    ],
)
def test_numbers_lie_in_their_range(name: str, accepted: list[Any], refused: list[Any], words: str) -> None:
    assert options_of(Every)[name].range == words
    for value in accepted:
        assert getattr(Every(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(RelgraphError, match=f"^{re.escape(f'{name} must be {words}, got {value}')}$"):
            Every(**{name: value})


def test_words_are_those_of_the_literal_and_texts_are_no_numbers() -> None:
    assert Every(side="right").side == "right" and Every(most="all").most == "all" and Every(path="b").path == "b"
    with pytest.raises(RelgraphError, match=r"^unknown side 'rigth': did you mean 'right'\? \(known: left, right\)$"):
        Every(side="rigth")  # type: ignore[arg-type]
    with pytest.raises(RelgraphError, match=r"^unknown most 'al': did you mean 'all'\? \(known: all\)$"):
        Every(most="al")  # type: ignore[arg-type]
    with pytest.raises(RelgraphError, match=r"^tau must be a number, got '1'$"):
        Every(tau="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tau", "2", 2.0),
        ("tau", "1e-3", 0.001),
        ("ratio", "0.5", 0.5),
        ("count", "7", 7),
        ("exact", "true", True),
        ("exact", "NO", False),
        ("side", "right", "right"),
        ("most", "all", "all"),
        ("most", "0.5", 0.5),
        ("limit", "4", 4),
        ("limit", "none", "none"),
        ("path", "x=1", "x=1"),
    ],
)
def test_texts_are_read_as_the_kind_of_the_option(name: str, text: str, value: object) -> None:
    found = options_of(Every)[name].read(text, "every")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tau", "much", "tau of every must be a number, got 'much'"),
        ("tau", "nan", "tau of every must be a number, got 'nan'"),
        ("ratio", "inf", "ratio of every must be a number, got 'inf'"),
        ("ratio", "none", "ratio of every must be a number, got 'none'"),
        ("count", "2.5", "count of every must be a whole number, got '2.5'"),
        ("exact", "1", "exact of every must be true or false, got '1'"),
        ("side", "lef", "unknown side of every 'lef': did you mean 'left'? (known: left, right)"),
        ("most", "al", "unknown most of every 'al': did you mean 'all'? (known: all)"),
        ("limit", "non", "unknown limit of every 'non': did you mean 'none'? (known: none)"),
    ],
)
def test_texts_of_another_kind_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        options_of(Every)[name].read(text, "every")


def test_help_and_facts_stand_in_the_docstring_of_the_class_or_its_base() -> None:
    own, inherited = options_of(Every), options_of(Inheriting)
    assert "no_option" not in own and own.keys() == inherited.keys()
    assert own["tau"].help == "Temperature > 0, in one line." and inherited["tau"].help == "Another word."
    assert own["share"].help == inherited["share"].help == "Share in [0, 1), which takes two lines."
    assert own["count"].help == ""
    paper = "The paper (Somebody, 2020, arXiv 2001.00001)"
    assert facts_of(Every) == {"Paper": paper, "Differs": "in nothing"}
    assert facts_of(Inheriting) == {"Paper": paper, "Differs": "in its name"}
    assert options_of(METHODS["sp"])["k"].help == options_of(Relational)["k"].help != ""


# Where `None` stands for what another option of the method brings.
BROUGHT = {"irg": {"vertex_weight", "relation_weight", "transition_weight"}, "fitnet": {"nodes"}}


@each_method
def test_every_option_says_what_it_is_and_its_published_default_is_that_of_an_instance(name: str) -> None:
    method = METHODS[name].for_run(SMALL_RUN)
    others = set()
    for key, item in options_of(METHODS[name]).items():
        assert item.help and not item.help.startswith("See ") and "\n" not in item.help
        if getattr(method, key) != item.default:
            assert item.default is None and type(None) in item.kinds
            others.add(key)
    assert others == BROUGHT.get(name, set())


@each_method
def test_every_method_names_its_paper_and_where_it_differs(name: str) -> None:
    facts, doc = facts_of(METHODS[name]), METHODS[name].__doc__ or ""
    assert {"Paper", "Differs"} <= facts.keys() and all(facts.values())
    assert all(re.search(rf"^    {fact}: ", doc, re.MULTILINE) for fact in ("Paper", "Differs")), "its own, no base's"


def test_the_temperature_is_an_option_of_the_methods_that_have_one() -> None:
    for name in ("kd", "sskd"):
        assert read_arguments(parse_methods(name), ["temperature=2"]) == {name: {"temperature": 2.0}}
        built = build_method(name, RUN, {"temperature": 3.0}, ["temperature=2"])
        assert built is not None and built.parts[name].temperature == 2.0
    both = build_method("kd+sskd", RUN, {"temperature": 3.0}, ["sskd.temperature=2"])
    assert both is not None and [both.parts[name].temperature for name in ("kd", "sskd")] == [3.0, 2.0]
    with pytest.raises(RelgraphError, match=r"several methods: write kd\.temperature or sskd\.temperature$"):
        build_method("kd+sskd", RUN, {}, ["temperature=2"])


class Mine(Method):
    """Follow the teacher's feature through a linear layer, `mean |W s - t|^power`.

    Args:
        power: Power > 0 of each difference.
    """

    weight = 3.0
    reads = ("feature",)
    student_width: int
    teacher_width: int
    power: float = option(default=2.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer = nn.Linear(self.student_width, self.teacher_width)

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        return cls(run.student_width, run.teacher_width, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        assert student.feature is not None and teacher.feature is not None
        return {"mine": (self.layer(student.feature) - teacher.feature).abs().pow(self.power).mean()}


def test_a_method_of_ones_own_is_written_built_and_trained_like_the_others() -> None:
    known = {**METHODS, "mine": Mine}
    assert list(options_of(Mine)) == ["power"] and options_of(Mine)["power"].help == "Power > 0 of each difference."
    loss = build(parse("mine+0.5*pkt", known), RUN, {"graph": "knn", "k": 3}, ["power=1.5"])
    assert loss is not None and loss.weights == {"mine": 3.0, "pkt": 0.5} and loss.reads == ("feature",)
    mine = loss.parts["mine"]
    assert isinstance(mine, Mine) and mine.power == 1.5 and mine.layer.weight.shape == (6, 5)
    student, teacher = (Output(torch.randn(8, 4), feature=torch.randn(8, width)) for width in (5, 6))
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
    before = loss(student, teacher)
    before.backward()
    optimiser.step()
    assert loss(student, teacher) < before
    with pytest.raises(RelgraphError, match=r"^power must be above 0, got 0\.0$"):
        build(parse("mine", known), RUN, {}, ["power=0"])


def outputs() -> tuple[Output, Output]:
    def output(rows: int) -> Output:
        maps = tuple(torch.randn(rows, channels, 4, 4) for channels in (2, 4))
        return Output(torch.randn(rows, 4), torch.randn(rows, 3), torch.randn(rows, 4), maps)

    student, teacher = (output(6)._replace(extra=output(18)) for _ in range(2))
    return student, teacher


@pytest.mark.parametrize(
    ("cls", "given", "weights"),
    [
        (EGA, {}, {"node_weight": 0.5, "edge_weight": 2.0}),
        (RKD, {}, {"distance_weight": 3.0, "angle_weight": 0.25}),
        (
            IRG,
            {},
            {"vertex_weight": 2.0, "relation_weight": 3.0, "transition_weight": 0.5, "edge_transition_weight": 0.25},
        ),
        (
            SSKD,
            {"student_width": 4, "teacher_width": 4, "ss_head": nn.Identity(), "head": "none"},
            {"kd_weight": 2.0, "tf_weight": 3.0, "ss_weight": 0.5},
        ),
    ],
)
def test_compare_leaves_the_weights_of_terms_to_terms(
    cls: type[Method], given: dict[str, Any], weights: dict[str, float]
) -> None:
    (student, teacher), batch = outputs(), Batch(torch.arange(6), torch.arange(6) % 3)
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
    with pytest.raises(RelgraphError, match=r"^Bare compares by the terms bare, a dict, got Tensor$"):
        Bare()(x, x)
    with pytest.raises(RelgraphError, match=r"^Misspelt compares by the terms a, a dict, got b$"):
        Misspelt()(x, x)
    assert repr(Misspelt(3.0)) == "Misspelt(a_weight=3.0)"
