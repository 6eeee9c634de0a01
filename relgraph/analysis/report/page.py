"""The page: the report's content as one HTML document that loads nothing else."""

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from relgraph.analysis.report.html import Html, element, joined

OWN = ("page.js", "graph.js")  # in this order, after the libraries


def document(title: str, sections: Mapping[str, tuple[str, Html]], subtitle: str) -> str:
    """Return the document of sections, by their id: heading and content. Each is an entry of the contents."""
    contents = [element("li", {}, element("a", {"href": f"#{id}"}, heading)) for id, (heading, _) in sections.items()]
    body = []
    for id, (heading, content) in sections.items():
        head = element("h2", {"id": f"{id}-heading"}, heading)
        body.append(element("section", {"id": id, "aria-labelledby": f"{id}-heading"}, head, content))
    parts = {
        "title": element("title", {}, title),
        "heading": element("h1", {}, title),
        "subtitle": element("p", {"class": "subtitle"}, subtitle),
        "contents": element("ol", {}, *contents),
        "body": joined(*body),
        "styles": "\n".join(_asset(name) for name in ("page.css", "graph.css")),
        "scripts": "\n".join(f"<script>\n{_in_script(_asset(name))}\n</script>" for name in _scripts()),
    }
    # One pass: what is filled in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _scripts() -> list[str]:
    """Return the names of all scripts: libraries first."""
    vendor, own = _folder().joinpath("vendor"), [name for name in OWN if _folder().joinpath(name).is_file()]
    libraries = vendor.iterdir() if vendor.is_dir() else ()
    return [*sorted(f"vendor/{file.name}" for file in libraries if file.name.endswith(".js")), *own]


def _folder() -> Traversable:
    return files("relgraph.assets.report")


def _asset(name: str) -> str:
    """Return a file of the page; the graph view is made of files of its own, and a page without them has no view."""
    file = _folder().joinpath(name)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _in_script(code: str) -> str:
    """Return JavaScript in which no string or comment ends the element that holds it."""
    return re.sub("</(?=script)", r"<\\/", code, flags=re.IGNORECASE)
