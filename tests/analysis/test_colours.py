"""Each class has a colour of its own, as programs read it."""

import re

from relgraph.analysis.colours import NO_CLASS, TEN, class_colours, rgb


def test_classes_have_colours_of_their_own() -> None:
    for count in (0, 1, 10, 11, 20, 21, 100):
        found = class_colours(count)
        assert len(set(found)) == len(found) == count and NO_CLASS not in found
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
        assert count > 10 or found == list(TEN[:count])
        assert ["#" + bytes(rgb(colour)).hex() for colour in found] == found
