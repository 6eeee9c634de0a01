"""The page: templates filled with the report's content, as one HTML document that loads nothing else."""

import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

ASSETS = files("relgraph.assets.report")
STYLES = ("page.css", "graph.css")
SCRIPTS = ("vendor/force-graph.min.js", "page.js")
PARTS = ("_elements", "_data", "_colours", "_edges", "_paint", "_moves", "_panel", "_maps", "")
GRAPH = tuple(f"graph{part}.js" for part in PARTS)  # one script
# Characters that no HTML document may hold, and surrogates, which stand in names of files that are not UTF-8.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def document(title: str, sections: Mapping[str, tuple[str, Markup]], subtitle: str) -> str:
    """Return the document of sections, by their id: heading and content. Each is an entry of the contents."""
    styles = [Markup(asset(name)) for name in STYLES]
    page = fill("page.html", title=title, sections=sections, subtitle=subtitle, styles=styles, scripts=scripts())
    return FORBIDDEN.sub("\ufffd", page)


def scripts() -> list[Markup]:
    """Return the page's scripts: the library, the page's own, and the parts of the graph view as one."""
    graph = "(() => {\n'use strict';\n" + "\n".join(map(asset, GRAPH)) + "})();\n"
    # No string or comment of JavaScript may end the element that holds it.
    found = [*map(asset, SCRIPTS), graph]
    return [Markup(re.sub("</(?=script)", r"<\\/", script, flags=re.IGNORECASE)) for script in found]


def fill(template: str, **content: Any) -> Markup:
    r"""Return a template of the page with its content: what is no `Markup` yet is text, and is escaped.

    >>> "a &lt; b" in fill("results.html", caption="a < b", header=[], rows=[], notes=[])
    True
    """
    return Markup(_environment().get_template(template).render(content))


@cache
def _environment() -> Environment:
    made = Environment(loader=PackageLoader("relgraph", "assets/report"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.filters |= {"number": number, "percent": percent}
    return made


def asset(name: str) -> str:
    """Return a file of the page."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def number(value: float | None) -> str:
    """Return a count as it is, another number with three digits, and a dash where there is none.

    >>> number(1200), number(0.5)
    ('1,200', '0.500')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return (f"{value:,}" if isinstance(value, int) else f"{value:.3f}").replace("-", MINUS)


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 in percent, with one decimal, and a dash where there is none.

    >>> percent(0.4321).replace(chr(160), " ")
    '43.2 %'
    """
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
