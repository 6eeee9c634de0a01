"""Colours and shapes of classes, the same in reports, exported graphs and figures, on light pages and dark ones."""

# Ten whose contrast is at least 2.7 to 1 with white and with the report's dark surface, so far apart as a random search
# could bring them in OKLab (Ottosson, 2020): the smallest distance of two counts, as seen normally (by half) and with
# protanopia, deuteranopia and tritanopia (Machado et al., 2009, doi 10.1109/TVCG.2009.113). None is grey.
TEN = ("#1868e8", "#f06000", "#40a050", "#8840b0", "#c81868", "#48a8c8", "#985010", "#f868a8", "#287078", "#a080f8")
NO_CLASS = "#8b8f97"
# Of numbers, from low to high: matplotlib's "plasma" without its darkest and lightest parts.
RAMP = ("#8f0da4", "#b12a90", "#cc4778", "#e16462", "#f2844b", "#fca636")
# The corners of a mark of radius 1, y downwards; a circle has none. matplotlib's markers are "os^DX".
SHAPES: dict[str, list[tuple[float, float]]] = {
    "circle": [],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    "cross": [(-1.2, -0.6), (-0.6, -1.2), (0, -0.6), (0.6, -1.2), (1.2, -0.6), (0.6, 0), (1.2, 0.6), (0.6, 1.2),
              (0, 0.6), (-0.6, 1.2), (-1.2, 0.6), (-0.6, 0)],
}  # fmt: skip


def class_colour(number: int) -> str:
    """Return the colour of a class that `class_colours` gives it, however many there are.

    >>> class_colour(1), class_colour(1_000_001) == class_colour(1)
    ('#f06000', True)
    """
    return TEN[number % len(TEN)]


def class_colours(count: int) -> list[str]:
    """Return a colour `#rrggbb` for each class: ten, which repeat; `class_shapes` then tells them apart.

    >>> class_colours(2), class_colours(11)[10] == class_colours(1)[0]
    (['#1868e8', '#f06000'], True)
    """
    return [class_colour(number) for number in range(count)]


def area_colours(count: int) -> list[str]:
    """Return a colour `#rrggbb` for each class of pixels, which have no shape: of more than ten those of PASCAL VOC.

    Three bits of a class's number, from the lowest on, are the highest bits of red, green and blue, the next three bits
    the bits below (Everingham et al., VOC development kit); 255 classes differ, the first is black.

    >>> area_colours(2), area_colours(21)[:4]
    (['#1868e8', '#f06000'], ['#000000', '#800000', '#008000', '#808000'])
    """
    if count <= len(TEN):
        return list(TEN[:count])
    return ["#" + "".join(f"{_voc(number >> channel):02x}" for channel in range(3)) for number in range(count)]


def _voc(bits: int) -> int:
    """Return every third bit of a number, the lowest first, as the bits of a byte, the highest first."""
    return sum((bits >> 3 * place & 1) << 7 - place for place in range(8))


def class_shapes(count: int) -> list[str]:
    """Return the shape of each class's mark, a name of `SHAPES`: fifty classes differ in colour or shape.

    >>> class_shapes(6), len(set(zip(class_colours(50), class_shapes(50))))
    (['circle', 'square', 'triangle', 'diamond', 'cross', 'circle'], 50)
    """
    names = list(SHAPES)
    return [names[(number % len(TEN) + number // len(TEN)) % len(names)] for number in range(count)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour `#rrggbb`.

    >>> rgb("#1868e8")
    (24, 104, 232)
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
