"""Colours of classes, the same in reports, exported graphs and figures."""

from colorsys import hls_to_rgb

# Petroff, 2021, arXiv 2107.02270, "Accessible color sequences for data visualization": ten that people with the common
# colour deficiencies can distinguish; its two greys stand last, since grey is what has no label here.
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#e76300", "#92dadd", "#a96b59", "#b9ac70", "#717581", "#94a4a2")
# The same ten darker or lighter, whichever is farther from the first ten.
TEN_MORE = (
    "#1a4f85", "#ffd78a", "#f0806a", "#c79be3", "#8a3b00", "#3a9296", "#5c352a", "#6f6530", "#b9bcc4", "#4d5a58",
)  # fmt: skip
NO_CLASS = "#8b8f97"


def class_colours(count: int) -> list[str]:
    """Return a colour `#rrggbb` for each class: up to 20 listed ones, otherwise hues spread around the circle.

    >>> class_colours(2), len(set(class_colours(100)))
    (['#3f90da', '#ffa90e'], 100)
    """
    if count <= len(TEN) + len(TEN_MORE):
        return list((TEN + TEN_MORE)[:count])
    # Successive ones differ by the golden angle, and in lightness.
    hues = (hls_to_rgb(number * 0.618034 % 1, (0.45, 0.6, 0.52)[number % 3], 0.62) for number in range(count))
    return ["#" + bytes(round(part * 255) for part in hue).hex() for hue in hues]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour `#rrggbb`.

    >>> rgb("#3f90da")
    (63, 144, 218)
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
