"""`relgraph methods`, `students` and `teachers`, and the table of docs/methods.md, against what there is; tables."""

import re
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import click
import timm

from relgraph.analysis.method_info import method_info
from relgraph.methods import METHODS
from relgraph.methods.base import facts_of
from relgraph.methods.relational import Relational
from relgraph.names import SOURCES
from relgraph.networks.catalogue import LISTS, find_teachers
from tests.cli.conftest import Failing, Program

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
show = import_module("relgraph_cli.show")


def test_words_stand_to_the_left_and_numbers_to_the_right() -> None:
    found = show.table(["network", "top-1 %"], [["student", 9.0], ["a long name", None], ["x", 100]])
    assert found.splitlines() == [
        "network      top-1 %",
        "--------------------",
        "student         9.00",
        "a long name        -",
        "x             100.00",
    ]
    assert show.table(["a", "b"], [["x", "1,234"]]).splitlines()[-1] == "x  1,234"


def test_methods_have_a_row_each_with_paper_and_differences_below(program: Program) -> None:
    text = program("methods").stdout
    lines, words = text.splitlines(), " ".join(text.split())
    rows = {line.split()[0]: line for line in lines[2 : 2 + len(METHODS)]}
    assert list(rows) == list(METHODS) and max(map(len, lines)) <= 125, "it fits a terminal"
    for name, cls in METHODS.items():
        facts = facts_of(cls)
        assert rows[name].endswith(f"{cls.weight:g}") and f"{facts['Paper']}: {facts['Differs']}" in words
    pattern = r"^\| (`[a-z0-9`, ]+`) \|.*\| ([\d.]+) \| [^|]+\|$"
    documented = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name.strip("` "): float(weight) for names, weight in documented for name in names.split(",")}
    assert found == {name: cls.weight for name, cls in METHODS.items()}


def test_every_method_has_a_page_with_parts_options_and_docstring(program: Program, failure: Failing) -> None:
    pages, shared = {name: program("methods", name).stdout for name in METHODS}, getdoc(Relational)
    assert shared is not None
    for name, cls in METHODS.items():
        text, found = pages[name], method_info(name)
        for fact in ("kernel", "topology", "criterion"):
            assert re.search(rf"^{fact} +{re.escape(getattr(found, fact))}$", text, re.MULTILINE)
        assert re.search(rf"^weight +{cls.weight:g}$", text, re.MULTILINE)
        assert text.endswith(f"\n\n{found.doc}\n")
        assert text.endswith(shared + "\n") == ("See `Relational`" in str(cls.__doc__))
    for name, options in {
        "rkd": r"distance_weight=25\.0, angle_weight=50\.0, --graph=dense, ",
        "kd": r"standardise=False, --temperature=4\.0$",
        "ega": r"cross=edges, --graph=dense, [^\0]* --node-weight=0\.8, --edge-weight=0\.24, ",
        "at": "none of its own$",
    }.items():
        assert re.search(f"^options +{options}", pages[name], re.MULTILINE)
    assert "Paper, official code and this one:" in pages["rkd"]
    assert re.search(r"^reads +feature$", pages["rkd"], re.MULTILINE)
    assert {"--graph": "sampled", "--k": "None"}.items() <= method_info("crd").options.items()
    assert program("methods", "RKD").stdout == pages["rkd"], "in any case, as --method has it"
    for name in ("none", "None"):
        assert program("methods", name).stdout == "none: cross-entropy alone, without a teacher\n"
    assert failure("methods", "rkdd").startswith("unknown method 'rkdd': did you mean 'rkd'?")


def test_students_of_the_benchmark_by_name_and_by_pattern(program: Program) -> None:
    lines = program("students").stdout.splitlines()
    rows = {row[0]: row[1:] for row in map(str.split, lines[2 : lines.index("")])}
    assert rows["resnet8x4"] == ["1,207,840", "256", "177.0"]
    assert rows["shufflenetv1"] == ["853,158", "960", "38.6"]
    assert len(rows) == 22 and "timm:MODEL and torchvision:MODEL" in " ".join(lines[-3:])
    part, pattern = program("students", "WRN"), program("students", "wrn_*")
    assert part.stdout == pattern.stdout
    names = [line.split()[0] for line in part.stdout.splitlines()[2:]]
    assert names == ["wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]
    assert program("students", "ShuffleV2").stdout == program("students", "shufflenetv2").stdout


def test_students_of_a_library_and_none(program: Program, failure: Failing) -> None:
    names = program("students", "timm:resnet*d").stdout.split()
    assert names == [f"timm:{name}" for name in timm.list_models("resnet*d")]
    assert program("students", "torchvision:vgg11").stdout.split() == ["torchvision:vgg11", "torchvision:vgg11_bn"]
    told = "no student matches 'timm:nothing*': `relgraph students` lists them all"
    assert failure("students", "timm:nothing*").endswith(told)


def teachers_in(text: str) -> list[str]:
    """Return the spellings at the beginnings of lines."""
    return re.findall(rf"^((?:{'|'.join(SOURCES)}):\S+)", text, re.MULTILINE)


def test_teachers_in_the_overview_and_in_the_examples_are_found(program: Program, command: click.Group) -> None:
    text = program("teachers").stdout
    for source, listed in LISTS.items():
        assert re.search(rf"^{source}:NAME\S* +{len(listed())} ", text, re.MULTILINE)
    named = [spec for spec in teachers_in(text) if not re.search("NAME|FILE", spec)]
    typed = re.findall(r"relgraph teachers '?([^' \n]+)'?", command.commands["teachers"].help or "")
    assert len(named) >= 5 and len(typed) >= 4 and all(find_teachers(pattern) for pattern in typed)
    assert all(spec in [teacher.spec for teacher in find_teachers(spec)] for spec in named)


def test_teachers_by_pattern_and_what_is_known_of_them(program: Program, failure: Failing) -> None:
    for pattern in ("dinov2", "open_clip:*ViT-B-32*", "embedded"):
        found = teachers_in(program("teachers", pattern).stdout)
        assert found == [teacher.spec for teacher in find_teachers(pattern)]
    *_, line = program("teachers", "torchvision:resnet18").stdout.splitlines()
    address = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert re.split("  +", line) == ["torchvision:resnet18/IMAGENET1K_V1", "224 px", "45 MB", address]
    *_, line = program("teachers", "embedded:digits").stdout.splitlines()
    assert line.split() == ["embedded:digits", "8", "px", "-", "-"]
    assert failure("teachers", "dinov4").startswith("no teacher matches 'dinov4': did you mean dinov")
