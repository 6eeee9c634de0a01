"""A whole report in a real browser: on a phone, a laptop, a wide screen and paper, light and dark; its switches work.

`RELGRAPH_SCREENSHOTS=FOLDER` keeps what it looks like: pictures are for eyes, no test compares them.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relgraph.analysis.report import write_report
from relgraph.files import read_yaml, write_yaml
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from tests.browser.conftest import Graph
from tests.browser.test_graph_view import View, lone, pairs, visited
from tests.checks import case, plain
from tests.pictures import write_folder

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# A folder's name cannot hold a slash; the division slash looks like one.
SIZES = {"phone": (390, 844), "laptop": (1280, 800), "wide": (1920, 1080)}
EXAMINED = (("phone", "light"), ("laptop", "dark"))  # by axe-core, which takes seconds
PAPER = (700, 990)  # pixels of A4 without its margins
IN_SIGHT = """const box = document.querySelector('nav a[href="#graph"]').getBoundingClientRect();
    return box.left >= 0 && box.top >= 0 && box.right <= innerWidth && box.bottom <= innerHeight"""
REDUCED = {"name": "prefers-reduced-motion", "value": "reduce"}
HOSTILE = ("<script>alert(1)<%script>".replace("%", "\N{DIVISION SLASH}"), "<img src=x onerror=alert(2)>", "cat")


@pytest.fixture(scope="module")
def address(browser: "Chrome", tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report on six runs: two data sets, two seeds, SEED, no teacher, and one not finished."""
    root = tmp_path_factory.mktemp("report")
    write_folder(root / "images", {"train": 8, "test": 12}, HOSTILE)
    write_folder(root / "others", {"train": 8, "test": 12})
    shared: dict[str, Any] = {"student": "resnet8", "dim": 8, "epochs": 2, "batch_size": 8, "val_fraction": 0.25,
                              "device": "cpu", "precision": "32-true"}  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "ega": {}, "again": {"seed": 1}, "none": {"method": "none"}, "seed": {"method": "seed", "gamma": 0.0},
        "other": {"dataset": f"folder:{root / 'others'}"},
    }  # fmt: skip
    for name, options in own.items():
        train(Recipe(**{"dataset": f"folder:{root / 'images'}", "method": "ega", **shared, **options}), root / name)
    begun = shutil.copytree(root / "none", root / "begun")
    write_yaml(begun / "recipe.yaml", plain({**read_yaml(begun / "recipe.yaml", sealed=True), "seed": 1}))
    (begun / "result.json").unlink()
    runs = [root / name for name in ("ega", "again", "none", "seed", "other", "begun")]
    write_report(runs, root / "report.html", k=4)
    return (root / "report.html").as_uri()


@pytest.fixture
def report(browser: "Chrome", address: str) -> Iterator[View]:
    yield from visited(browser, address)


def graph_of(report: View) -> Graph:
    found: Graph = report.run("return JSON.parse(document.querySelector('#graph-data').textContent)")
    return found


def test_hostile_names_are_text_and_hovering_a_node_shows_it(report: View) -> None:
    assert all(name in report.text("body") for name in HOSTILE)
    assert not report.run("return document.querySelector('img[src=x]')")
    node = lone(graph_of(report))
    report.hover(node)
    report.wait("document.querySelector('.rg-card') && document.querySelector('.rg-card').offsetParent")
    assert node["label"] in report.text(".rg-card")


def test_the_three_switches_of_edges(report: View) -> None:
    graph, shown = graph_of(report), {}
    for choice in ("student", "teacher", "differing"):
        report.choose("edges", choice)
        shown[choice] = int(report.data("edgesShown"))
    student, teacher = (pairs(graph["edges"][side]) for side in ("student", "teacher"))
    assert shown == {"student": len(student), "teacher": len(teacher), "differing": len(student ^ teacher)}
    assert shown["differing"] > 0


def test_the_theme_is_switched_by_hand(report: View) -> None:
    def background() -> str:
        return str(report.run("return getComputedStyle(document.body).backgroundColor"))

    seen = {background()}
    for _ in range(3):
        report.driver.find_element("css selector", "#theme").click()
        seen.add(background())
    assert len(seen) == 2, "light and dark"


def look(report: View, name: str, size: tuple[int, int], scheme: str, media: str = "") -> None:
    """Show the page at a size, in a scheme of colours or as on paper."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    report.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    report.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    report.settle()
    if folder := os.environ.get("RELGRAPH_SCREENSHOTS"):
        clip = {"x": 0, "y": 0, "width": width, "height": report.run("return document.body.scrollHeight"), "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
        picture = report.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture))


def test_sizes_and_schemes(report: View) -> None:
    axe_core_python = pytest.importorskip("axe_core_python")
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    report.run(axe)
    report.run("document.querySelector('.rg-table').open = true")
    report.run("document.querySelector('button[data-node]').click()")
    for name, size in SIZES.items():
        for scheme in ("light", "dark"):
            with case(name, scheme):
                look(report, f"{name}-{scheme}", size, scheme)
                assert report.run("return document.documentElement.scrollWidth <= innerWidth")
                begins = report.run("return document.querySelector('.rg-stage').getBoundingClientRect().top + scrollY")
                assert name == "phone" or begins < 0.65 * size[1], "the graph is in the first screen"
                for place in ("#content", "#graph"):
                    report.run("document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant'})", place)
                    report.settle()
                    assert report.run(IN_SIGHT), "the contents stay, and lead to the graph at once"
                report.run("document.querySelector('#graph').scrollIntoView({behavior: 'instant'})")
                bottom = report.run("return document.querySelector('.rg-stage').getBoundingClientRect().bottom")
                assert bottom <= size[1], "the whole graph is seen where its section begins"
                if (name, scheme) not in EXAMINED:
                    continue
                faults = report.driver.execute_async_script(
                    """const done = arguments[0], serious = (one) => ['serious', 'critical'].includes(one.impact);
                    axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations
                      .filter(serious).map((one) => [one.id, ...one.nodes.map((node) => node.html)])))"""
                )
                assert faults == []


def test_on_paper(report: View) -> None:
    """Paper is white where the screen is dark, no table is cut, and the graph is a picture of one piece."""
    look(report, "screen-before-paper", SIZES["laptop"], "dark")
    look(report, "paper", PAPER, "dark", "print")
    assert (
        report.run("return getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    )
    wide = (
        "return [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
    )
    assert report.run(wide) == 0
    painted = """const canvas = document.querySelector('.rg-print'), box = canvas.getBoundingClientRect();
        const p = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [box.width, p.some((part) => part)]"""
    width, some = report.run(painted)
    assert PAPER[0] * 0.9 < width <= PAPER[0] and some
    assert not report.shown(".rg-controls") and not report.shown("nav")


def test_maps_and_lists_lead_to_the_graph(report: View) -> None:
    """An image has a ring on both maps while it is pointed at on one, and a click shows it in the graph."""
    from selenium.webdriver import ActionChains

    report.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [REDUCED]})
    nodes = graph_of(report)["nodes"]
    node = nodes[7]
    drawing = report.driver.find_element("css selector", ".map svg[data-side=teacher]")
    report.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", drawing)
    unit = drawing.size["width"] / 2.12
    offset = round(node["x_teacher"] * unit), round(-node["y_teacher"] * unit)
    ActionChains(report.driver, duration=0).move_to_element_with_offset(drawing, *offset).perform()
    rings = report.run(
        "return [...document.querySelectorAll('.ring')].map((one) => [one.cx, one.cy].map((v) => v.baseVal.value))"
    )
    pointed = nodes[int(report.data("current"))]
    assert abs(pointed["x_teacher"] - node["x_teacher"]) < 0.02
    for side, ring in zip(("student", "teacher"), rings, strict=True):
        assert ring == pytest.approx([pointed[f"x_{side}"], -pointed[f"y_{side}"]], abs=1e-5)
    assert pointed["file"] in report.text("#tip")
    ActionChains(report.driver).click().perform()
    assert report.data("pinned") == str(pointed["id"])
    assert report.run("return document.activeElement.className") == "rg-stage"
    link = report.driver.find_element("css selector", "#worst button[data-node]")
    report.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", link)
    link.click()
    assert report.data("pinned") == link.get_attribute("data-node")
    top = report.run("return document.querySelector('.rg-stage').getBoundingClientRect().top")
    assert 0 <= top < 400


def test_files_are_named_and_a_run_that_is_not_finished_is_told(report: View) -> None:
    names = [node["file"] for node in graph_of(report)["nodes"]]
    assert len({*names}) == len(names) and all(name.endswith(".png") for name in names)
    assert any(name in report.text("#worst") for name in names)
    rows = report.run("return [...document.querySelectorAll('tbody tr')].map((one) => one.innerText)")
    assert any(row.startswith("begun") and "2, not finished" in row for row in rows)
    assert not any("not finished" in row for row in rows if row.startswith(("ega", "none")))
