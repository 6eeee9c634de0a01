"""Charts read back as XML; each class has a colour of its own."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
import torch

from relgraph.analysis.colours import NO_CLASS, TEN, class_colours, rgb
from relgraph.analysis.report.charts import BOTTOM, LEFT, RIGHT, TOP, Curve, chart, scatter, ticks
from tests.checks import case


def test_ticks_are_even_round_and_around_the_values() -> None:
    for low, high in ((0, 1), (0, 97.3), (-0.2, 0.31), (3e-5, 4e-5), (0, 1e6), (5, 5), (0, 0), (-3, -3)):
        found = ticks(low, high)
        with case(low, high):
            assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
            steps = [b - a for a, b in pairwise(found)]
            assert steps == pytest.approx([steps[0]] * len(steps))
            assert f"{steps[0]:.0e}"[0] in "125"
    for last in (1, 2, 7, 8, 100, 240):
        found = ticks(1, last, integers=True)
        assert all(tick == int(tick) for tick in found) and len(set(found)) == len(found) <= 8, last


def test_points_are_where_their_values_say() -> None:
    drawn = chart("Loss", [Curve(3, "<a>", "", [(1, 0.0), (2, 5.0), (3, 10.0)])], (1, 3))
    (line,) = ET.fromstring(drawn).iter("polyline")
    points = [tuple(float(number) for number in point.split(",")) for point in line.attrib["points"].split()]
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    assert points == [(LEFT, BOTTOM), middle, (RIGHT, TOP)]
    assert line.attrib["data-values"] == "1:0 2:5 3:10" and line.attrib["data-name"] == "<a>"


def test_one_epoch_is_a_dot_and_a_screen_reader_is_told_the_end() -> None:
    dot = ET.fromstring(chart("Loss", [Curve(0, "a", "", [(1, 2.0)])], (1, 1)))
    assert len(list(dot.iter("circle"))) == 1
    line = ET.fromstring(chart("Loss", [Curve(0, "a", "student", [(1, 2.0), (2, 1.25)])], (1, 2)))
    assert next(line.iter("svg")).attrib["aria-label"] == "Loss by epoch, at the end: a student 1.25"


def test_a_map_has_each_point_once_in_the_colour_of_its_class() -> None:
    places, labels = torch.rand(30, 2) * 2 - 1, [i % 4 - 1 for i in range(30)]
    colours = class_colours(3)
    paths = scatter(places, labels, colours)
    assert [colour for _, colour, _ in paths] == [NO_CLASS, *colours]
    for label, _, path in paths:
        found = [(float(x), float(y)) for x, y in re.findall(r"M(\S+) (\S+)h0", path)]
        own = [i for i, other in enumerate(labels) if other == label]
        torch.testing.assert_close(torch.tensor(found), places[own] * torch.tensor([1, -1]), atol=6e-4, rtol=0)


def test_classes_have_colours_of_their_own() -> None:
    for count in (0, 1, 10, 11, 20, 21, 100):
        found = class_colours(count)
        assert len(set(found)) == len(found) == count and NO_CLASS not in found
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
        assert count > 10 or found == list(TEN[:count])
        assert ["#" + bytes(rgb(colour)).hex() for colour in found] == found
