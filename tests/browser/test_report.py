"""A whole report in a real browser: it asks for nothing, complains of nothing, and its switches work."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from relgraph.analysis.report import write_report
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from tests.browser.conftest import Graph
from tests.browser.test_graph_view import View, lone, pairs, visited
from tests.pictures import write_folder

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# A folder's name cannot hold a slash; the division slash looks like one.
HOSTILE = ("<script>alert(1)<%script>".replace("%", "\N{DIVISION SLASH}"), "<img src=x onerror=alert(2)>", "cat")


@pytest.fixture(scope="module")
def address(browser: "Chrome", tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report on two runs, of a student with a teacher and of one without."""
    root = tmp_path_factory.mktemp("report")
    write_folder(root / "images", {"train": 8, "test": 12}, HOSTILE)
    for method in ("ega", "none"):
        recipe = Recipe(dataset=f"folder:{root / 'images'}", method=method, student="resnet8", dim=8, epochs=2,
                        batch_size=8, val_fraction=0.25, device="cpu", precision="32-true")  # fmt: skip
        train(recipe, root / method)
    write_report([root / "ega", root / "none"], root / "report.html", k=4)
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


def test_nothing_overflows_a_narrow_window(report: View) -> None:
    metrics = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    report.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    report.settle()
    assert report.run("return document.documentElement.scrollWidth <= window.innerWidth")
