"""Each class has a colour of its own, as programs read it."""

import re

import pytest

from relgraph.analysis.colours import NO_CLASS, TEN, class_colours, rgb


@pytest.mark.parametrize("count", [0, 1, 10, 11, 20, 21, 100])
def test_classes_have_colours_of_their_own(count: int) -> None:
    found = class_colours(count)
    assert len(set(found)) == len(found) == count and NO_CLASS not in found
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
    assert count > 10 or found == list(TEN[:count])


@pytest.mark.parametrize("count", [10, 100])
def test_numbers_of_a_colour_are_those_it_is_written_with(count: int) -> None:
    for colour in class_colours(count):
        parts = rgb(colour)
        assert "#" + "".join(f"{part:02x}" for part in parts) == colour
