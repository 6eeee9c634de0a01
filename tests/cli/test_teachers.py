import re

import click

from relgraph.names import SOURCES
from relgraph.networks.catalogue import LISTS, find_teachers
from tests.cli.shared import Failing, Program


def specs(text: str) -> list[str]:
    """Return the spellings at the beginnings of lines."""
    return re.findall(rf"^((?:{'|'.join(SOURCES)}):\S+)", text, re.MULTILINE)


def test_overview(program: Program) -> None:
    text = program("teachers").stdout
    for source, listed in LISTS.items():
        assert re.search(rf"^{source}:NAME\S* +{len(listed())} ", text, re.MULTILINE)
    named = [spec for spec in specs(text) if not re.search("NAME|FILE", spec)]
    assert len(named) >= 5
    for spec in named:
        assert spec in [teacher.spec for teacher in find_teachers(spec)]


def test_patterns(program: Program) -> None:
    for pattern in ("dinov2", "open_clip:*ViT-B-32*", "embedded"):
        assert specs(program("teachers", pattern).stdout) == [teacher.spec for teacher in find_teachers(pattern)]


def test_what_is_known_of_a_teacher(program: Program) -> None:
    *_, line = program("teachers", "torchvision:resnet18").stdout.splitlines()
    address = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert re.split("  +", line) == ["torchvision:resnet18/IMAGENET1K_V1", "224 px", "45 MB", address]
    *_, line = program("teachers", "embedded:digits").stdout.splitlines()
    assert line.split() == ["embedded:digits", "8", "px", "-", "-"]


def test_no_match(failure: Failing) -> None:
    assert failure("teachers", "dinov4").startswith("no teacher matches 'dinov4': did you mean dinov")


def test_examples_find_something(command: click.Group) -> None:
    typed = re.findall(r"relgraph teachers '?([^' \n]+)'?", command.commands["teachers"].epilog or "")
    assert len(typed) >= 4
    for pattern in typed:
        assert find_teachers(pattern)
