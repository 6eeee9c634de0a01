"""A page with a synthetic graph of 600 nodes, and Debian's Chromium to open it."""

import base64
import io
import json
import os
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relgraph.analysis.colours import RAMP, SHAPES, TEN
from relgraph.analysis.report.page import STYLES, asset, scripts

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Graph = dict[str, Any]
Edge = list[float]

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1000",
)  # fmt: skip
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", '"><b>bold</b>&amp;']
CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Graph</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="%(csp)s">
<style>%(css)s body { margin: 1rem }</style></head><body>
<section id="graph"><h2>The graph</h2><div id="graph-view"></div>
<script type="application/json" id="graph-data">%(data)s</script></section><div style="height: 40rem"></div>
<button id="theme"><span id="theme-name"></span></button><div id="tip" hidden></div>%(scripts)s</body></html>"""


def page(graph: Graph) -> str:
    """Return a page that shows the graph under the report's content security policy."""
    return PAGE % {
        "csp": CSP,
        "css": "\n".join(map(asset, STYLES)),
        "data": json.dumps(graph).replace("<", "\\u003c"),
        "scripts": "".join(f"<script>{script}</script>" for script in scripts()),
    }


def _sprite(count: int, columns: int, tile: int) -> str:
    from PIL.Image import new

    picture = new("RGB", (columns * tile, -(-count // columns) * tile))
    for number in range(count):
        corner = number % columns * tile, number // columns * tile
        colour = 40 + number % 20 * 10, 230 - number % 20 * 9, number * 7 % 256
        picture.paste(colour, (*corner, corner[0] + tile, corner[1] + tile))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _edges(number: random.Random, count: int, groups: int, degree: int) -> list[Edge]:
    """Return `count * degree` edges between different pairs, most of them within a group, as `graph_edges` has them."""
    found: dict[tuple[int, int], Edge] = {}
    while len(found) < count * degree:
        one = number.randrange(count)
        inside = number.random() < 0.9
        other = (one + groups * number.randrange(1, count // groups)) % count if inside else number.randrange(count)
        if one != other:
            weights = [round(number.random(), 3) for _ in range(2)]
            found.setdefault((min(one, other), max(one, other)), [one, other, *weights, int(inside)])
    return list(found.values())


def letters(number: int) -> str:
    return "".join(chr(97 + number // 26**place % 26) for place in (2, 1, 0))


def synthetic(count: int = 600, groups: int = 20, degree: int = 8) -> Graph:
    """Return a graph of `count` nodes with `count * degree` edges of each network; a few edges are in both."""
    number = random.Random(0)
    classes = [*HOSTILE, *(f"class {i}" for i in range(len(HOSTILE), groups))]
    middles = [(number.uniform(-0.85, 0.85), number.uniform(-0.85, 0.85)) for _ in classes]
    nodes = []
    for i in range(count):
        label = i % groups
        places = [[number.gauss(middles[label][axis], 0.06) for axis in (0, 1)] for _ in range(2)]
        (x, y), (u, v) = [[max(-1.0, min(1.0, value)) for value in one] for one in places]
        predicted = label if number.random() < 0.7 else number.randrange(groups)
        node = {
            "id": i, "label": classes[label], "class": label, "thumb": [i % 50, i // 50],
            "prediction_student": predicted, "prediction_teacher": label,
            "community_student": label // 2, "community_teacher": label // 3,
            "x_student": x, "y_student": y, "x_teacher": -u, "y_teacher": v,
            "file": f"{label}/{letters(i)}<b>.png", "overlap": round(number.random(), 3),
        }  # fmt: skip
        nodes.append(node)
    student, teacher = (_edges(number, count, groups, degree) for _ in range(2))
    sprite = {"tile": 8, "columns": 50, "data": _sprite(count, 50, 8)}
    return {
        "nodes": nodes, "classes": classes, "edges": {"teacher": teacher, "student": student}, "sprite": sprite,
        "numbers": [{"key": "overlap", "name": "Overlap"}], "k": degree, "colours": TEN, "ramp": RAMP, "shapes": SHAPES,
    }  # fmt: skip


def without_teacher(graph: Graph) -> Graph:
    """Return the graph as a run without a teacher gives it."""
    absent = ("prediction_teacher", "community_teacher", "x_teacher", "y_teacher")
    nodes = [{key: None if key in absent else value for key, value in node.items()} for node in graph["nodes"]]
    return {**graph, "nodes": nodes, "edges": {"student": graph["edges"]["student"], "teacher": None}}


@pytest.fixture(scope="session")
def graph() -> Graph:
    return synthetic()


@pytest.fixture(scope="session")
def address(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "graph.html"
    file.write_text(page(graph), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    """Return a browser, which ends with the tests of a file: its pages are drawn as long as it runs."""
    missing = [str(program) for program in (CHROMIUM, CHROMEDRIVER) if not program.is_file()]
    missing += [] if find_spec("selenium") else ["selenium"]
    if missing:
        told = f"needs {' and '.join(missing)} (apt install chromium chromium-driver, pip install selenium)"
        if os.environ.get("RELGRAPH_EXPECT_BROWSER") == "1":
            pytest.fail(f"{told}, and RELGRAPH_EXPECT_BROWSER=1 expects it")
        pytest.skip(told)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(CHROMEDRIVER)))
    driver.set_script_timeout(120)
    driver.get("about:blank")  # leaves the browser's own first page, which asks for a lot
    try:
        yield driver
    finally:
        driver.quit()
