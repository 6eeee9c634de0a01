"""Images as marks on a map: a path for each class, in its colour and shape, and the names of the classes."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from relgraph.analysis.colours import NO_CLASS, SHAPES, class_colours, class_shapes

LINE = 0.06  # height of a name on the map, whose sides are 2


class Marks(NamedTuple):
    """All images of one class (-1: without one) on a map: the path of their marks, and how each begins there."""

    label: int
    colour: str
    shape: str
    path: str


def outline(shape: str, radius: float) -> str:
    """Return a mark as the relative part of an SVG path, from its centre on; a circle is the round end of a line."""
    corners = [(x * radius, y * radius) for x, y in SHAPES[shape]]
    if not corners:
        return "h0"
    steps = zip(corners[1:], corners, strict=False)
    first = f"m{corners[0][0]:.3f} {corners[0][1]:.3f}"
    return first + "".join(f"l{x - u:.3f} {y - v:.3f}" for (x, y), (u, v) in steps) + "z"


def scatter(places: Tensor, labels: Sequence[int], classes: int, radius: float) -> list[Marks]:
    """Return points `(n, 2)` within -1..1 as the marks of each class, those without a label first."""
    colours, shapes = [*class_colours(classes), NO_CLASS], [*class_shapes(classes), "circle"]
    points: dict[int, list[str]] = {}
    for (x, y), label in zip(places.tolist(), labels, strict=True):
        points.setdefault(label, []).append(f"M{x:.3f} {-y:.3f}")
    ends = {label: outline(shapes[label], radius) for label in points}
    return [
        Marks(label, colours[label], shapes[label], "".join(point + ends[label] for point in points[label]))
        for label in sorted(points)
    ]


def class_names(places: Tensor, labels: Tensor, names: Sequence[str]) -> list[tuple[float, float, str]]:
    """Return where on a map to write the names of classes: at the medians of their points, `(x, y, name)`, y downwards.

    Those of most images come first; a name that would hide an earlier one, or leave the map, is left out.
    """
    found: list[tuple[float, float, str]] = []
    counts = labels[labels >= 0].bincount(minlength=len(names))
    for label in counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())].tolist():
        name = names[label] if len(names[label]) <= 24 else names[label][:23] + "\N{HORIZONTAL ELLIPSIS}"
        x, y = (float(value) for value in places[labels == label].median(0).values)
        half = 0.3 * LINE * len(name)
        taken = any(abs(x - u) < half + 0.3 * LINE * len(other) and abs(-y - v) < LINE for u, v, other in found)
        if not taken and abs(x) + half < 1.05:
            found.append((x, -y, name))
    return found
