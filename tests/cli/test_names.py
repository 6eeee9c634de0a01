"""relgraph students: what it lists, by name and by pattern."""

import timm

from tests.cli.shared import Failing, Program


def test_the_students_of_the_benchmark(program: Program) -> None:
    lines = program("students").stdout.splitlines()
    rows = {row[0]: row[1:] for row in map(str.split, lines[2 : lines.index("")])}
    assert rows["resnet8x4"] == ["1,207,840", "256", "177.0"]
    assert rows["shufflenetv1"] == ["853,158", "960", "38.6"]
    assert len(rows) == 22
    assert "timm:MODEL and torchvision:MODEL" in " ".join(lines[-2:])


def test_a_part_of_a_name_and_a_pattern(program: Program) -> None:
    part, pattern = program("students", "WRN"), program("students", "wrn_*")
    assert part.stdout == pattern.stdout
    names = [line.split()[0] for line in part.stdout.splitlines()[2:]]
    assert names == ["wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]
    assert program("students", "ShuffleV2").stdout == program("students", "shufflenetv2").stdout


def test_models_of_a_library(program: Program) -> None:
    names = program("students", "timm:resnet*d").stdout.split()
    assert names == [f"timm:{name}" for name in timm.list_models("resnet*d")]
    assert program("students", "torchvision:vgg11").stdout.split() == ["torchvision:vgg11", "torchvision:vgg11_bn"]


def test_nothing_matches(failure: Failing) -> None:
    told = "no student matches 'timm:nothing*': `relgraph students` lists them all"
    assert failure("students", "timm:nothing*").endswith(told)
