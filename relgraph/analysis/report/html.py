"""The page and its elements: HTML that is escaped by construction, since what is no `Html` yet is text."""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

VOID = ("img", "br", "meta", "line", "rect", "circle", "path")
# JSON may hold these, but a script element ends at "</script", and older JavaScript ends a line at the last two.
IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
# Characters that no HTML document may hold, and surrogates, which stand in names of files that are not UTF-8.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
ASSETS = files("relgraph.assets.report")
SCRIPTS = ("vendor/force-graph.min.js", "page.js", "graph.js")
NOTHING = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return text as HTML, which `Html` is already; characters that no HTML document may hold become U+FFFD.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return text if isinstance(text, Html) else Html(html.escape(FORBIDDEN.sub("\ufffd", text)))


def element(name: str, attributes: Mapping[str, str | float | None], *children: str) -> Html:
    r"""Return an element; attributes that are `None` are left out, children that are plain text are escaped.

    >>> element("p", {"class": "a\"b", "id": None}, "1 < 2")
    '<p class="a&quot;b">1 &lt; 2</p>'
    """
    listed = "".join(f' {key}="{escaped(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in VOID and not children:
        return Html(f"<{name}{listed}/>")
    return Html(f"<{name}{listed}>{joined(*children)}</{name}>")


def joined(*parts: str) -> Html:
    """Return parts one after the other, those that are plain text escaped."""
    return Html("".join(escaped(part) for part in parts))


def json_script(id: str, content: Any) -> Html:
    r"""Return JSON as an element that a script reads; nothing in it can end the element.

    >>> json_script("data", "</script>")
    '<script type="application/json" id="data">"\\u003c/script\\u003e"</script>'
    """
    text = FORBIDDEN.sub("\ufffd", json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    return element("script", {"type": "application/json", "id": id}, Html(text.translate(IN_SCRIPT)))


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


def legend(part: str, label: str, keys: Iterable[tuple[int, str, str]], *words: Html, pressed: bool) -> Html:
    """Return a group of buttons, after some words: each shows or lights up one "run" or "class" by its number.

    `keys` are number, name and colour of each; `pressed` says whether they are at first.
    """
    buttons = []
    for number, name, colour in keys:
        state = {f"data-{part}": str(number), "aria-pressed": str(pressed).lower()}
        swatch = element("span", {"class": "swatch", "style": f"--c:{colour}"})
        buttons.append(element("button", {"type": "button", "class": "key", **state}, swatch, name))
    group = {"class": "legend", "id": f"{part}-legend", "role": "group", "aria-label": label}
    return element("div", group, *words, *buttons)


def number(value: float | None) -> str:
    """Return a count as it is, another number with three digits, and a dash where there is none.

    >>> number(1200), number(0.5)
    ('1,200', '0.500')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return (f"{value:,}" if isinstance(value, int) else f"{value:.3f}").replace("-", "\N{MINUS SIGN}")


def document(title: str, sections: Mapping[str, tuple[str, Html]], subtitle: str) -> str:
    """Return the document of sections, by their id: heading and content. Each is an entry of the contents."""
    contents = [element("li", {}, element("a", {"href": f"#{id}"}, heading)) for id, (heading, _) in sections.items()]
    body = []
    for id, (heading, content) in sections.items():
        head = element("h2", {"id": f"{id}-heading"}, heading)
        body.append(element("section", {"id": id, "aria-labelledby": f"{id}-heading"}, head, content))
    # No string or comment in a script may end the element that holds it.
    scripts = (re.sub("</(?=script)", r"<\\/", asset(name), flags=re.IGNORECASE) for name in SCRIPTS)
    parts = {
        "title": element("title", {}, title),
        "heading": element("h1", {}, title),
        "subtitle": element("p", {"class": "subtitle"}, subtitle),
        "contents": element("ol", {}, *contents),
        "body": joined(*body),
        "styles": "\n".join(asset(name) for name in ("page.css", "graph.css")),
        "scripts": "\n".join(f"<script>\n{script}\n</script>" for script in scripts),
    }
    # One pass: what is filled in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], asset("page.html"))


def asset(name: str) -> str:
    """Return a file of the page."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")
