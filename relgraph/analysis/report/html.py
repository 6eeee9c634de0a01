"""HTML that is escaped by construction: what is no `Html` yet is text."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

VOID = ("img", "br", "meta", "line", "rect", "circle", "path")
# JSON may hold these, but a script element ends at "</script", and older JavaScript ends a line at the last two.
IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
# Characters that no HTML document may hold, and surrogates, which stand in names of files that are not UTF-8.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return text as HTML, which `Html` is already.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return text if isinstance(text, Html) else Html(html.escape(readable(text)))


def readable(text: str) -> str:
    """Return the text with each character that no HTML document may hold replaced by U+FFFD."""
    return FORBIDDEN.sub("\ufffd", text)


def element(name: str, attributes: Mapping[str, str | float | None], *children: str) -> Html:
    r"""Return an element; attributes that are `None` are left out, children that are plain text are escaped.

    >>> element("p", {"class": "a\"b", "id": None}, "1 < 2")
    '<p class="a&quot;b">1 &lt; 2</p>'
    """
    listed = "".join(f' {key}="{escaped(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in VOID and not children:
        return Html(f"<{name}{listed}/>")
    return Html(f"<{name}{listed}>{''.join(escaped(child) for child in children)}</{name}>")


def joined(*parts: str) -> Html:
    """Return parts one after the other, those that are plain text escaped."""
    return Html("".join(escaped(part) for part in parts))


def json_script(id: str, content: Any) -> Html:
    r"""Return JSON as an element that a script reads; nothing in it can end the element.

    >>> json_script("data", "</script>")
    '<script type="application/json" id="data">"\\u003c/script\\u003e"</script>'
    """
    text = readable(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    return Html(f'<script type="application/json" id="{escaped(id)}">{text.translate(IN_SCRIPT)}</script>')
