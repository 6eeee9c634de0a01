"""Charts read back as XML."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from relgraph.analysis.report.charts import BOTTOM, LEFT, RIGHT, TOP, Curve, chart, ticks
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
    teachers = [Curve(0, "a", "teacher", [(1, 2.0), (2, 1.25)]), Curve(1, "b", "teacher", [(1, 2.0)])]
    assert '<p class="note">Dashed or a ring: the teacher.</p>' in chart("Loss", teachers, (1, 2))
    assert "the teacher" not in chart("Loss", [Curve(0, "a", "student", [(1, 2.0)])], (1, 2))
