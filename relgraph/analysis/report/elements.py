"""What the sections of the page are made of: paragraphs, tables, figures, and keys that light up a part of them."""

import math
from collections.abc import Sequence

from relgraph.analysis.report.html import Html, element

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def paragraph(words: str, kind: str | None = None) -> Html:
    """Return a paragraph, such as one of the kind "note"."""
    return element("p", {"class": kind}, words)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "figures") -> Html:
    """Return a table whose first column heads its rows."""
    head = element("tr", {}, *(element("th", {"scope": "col"}, name) for name in header))
    body = []
    for first, *cells in rows:
        body.append(element("tr", {}, element("th", {"scope": "row"}, first), *(element("td", {}, c) for c in cells)))
    title = element("caption", {}, element("span", {}, caption))
    content = element("table", {"class": kind}, title, element("thead", {}, head), element("tbody", {}, *body))
    return element("div", {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": caption}, content)


def figure(caption: str, *content: Html, kind: str | None = None) -> Html:
    """Return a drawing or a picture under its caption."""
    return element("figure", {"class": kind}, element("figcaption", {}, caption), *content)


def legend(id: str, label: str, *content: Html) -> Html:
    """Return a group of keys."""
    return element("div", {"class": "legend", "id": id, "role": "group", "aria-label": label}, *content)


def key(part: str, number: int, name: str, colour: str, *, pressed: bool) -> Html:
    """Return a button that shows or lights up one "run" or "class" by its number."""
    state = {f"data-{part}": str(number), "aria-pressed": str(pressed).lower()}
    swatch = element("span", {"class": "swatch", "style": f"--c:{colour}"})
    return element("button", {"type": "button", "class": "key", **state}, swatch, name)


def number(value: float | None) -> str:
    """Return a count as it is, another number with three digits, and a dash where there is none.

    >>> number(1200), number(0.5)
    ('1,200', '0.500')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return (f"{value:,}" if isinstance(value, int) else f"{value:.3f}").replace("-", MINUS)
