"""The interactive graph in a real browser: what it draws, what it says, and what it never does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relgraph.analysis.colours import TEN
from tests.browser.conftest import HOSTILE, Edge, Graph, page, without_teacher

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


class View:
    """The open page, by what a user does and sees."""

    def __init__(self, driver: "Chrome") -> None:
        self.driver = driver

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def wait(self, condition: str) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 30, 0.05).until(lambda _: self.run(f"return Boolean({condition})"), condition)

    def open(self, address: str) -> None:
        self.log("browser"), self.log("performance")
        self.driver.get(address)
        self.wait("document.querySelector('#graph-view').dataset.ready")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing moves and the lines at rest are painted."""
        self.wait("document.querySelector('#graph-view').dataset.moving !== 'true'")
        self.driver.execute_async_script(
            "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 400)"
        )

    def data(self, name: str) -> str:
        return str(self.run("return document.querySelector('#graph-view').dataset[arguments[0]] ?? ''", name))

    def choose(self, name: str, value: str) -> None:
        switch = self.driver.find_element("css selector", f"input[name=graph-{name}][value={value}]")
        # At once: a page that scrolls smoothly would still be on its way when the click comes.
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", switch)
        switch.click()
        self.settle()

    def set(self, name: str, value: str | bool) -> None:
        """Set a control that is no switch: a list, a slider or a box to tick."""
        self.run(
            """const [name, value] = arguments, control = document.querySelector(`[name=graph-${name}]`);
            if (typeof value === 'boolean') control.checked = value; else control.value = value;
            control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change'))""",
            name, value,
        )  # fmt: skip
        self.settle()

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def shown(self, selector: str) -> bool:
        return bool(self.driver.find_element("css selector", selector).is_displayed())

    def painted(self) -> dict[str, int]:
        """Count the pixels of what edges, images and names are painted on by colour (`"r,g,b"`)."""
        found: dict[str, int] = self.run(
            """const counts = {};
            for (const canvas of document.querySelectorAll('.rg-stage canvas:not(.rg-print)')) {
              const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {});
              copy.drawImage(canvas, 0, 0);
              const p = copy.getImageData(0, 0, canvas.width, canvas.height).data;
              for (let i = 0; i < p.length; i += 4) {
                if (p[i + 3]) { const key = `${p[i]},${p[i + 1]},${p[i + 2]}`; counts[key] = (counts[key] ?? 0) + 1 }
              }
            } return counts"""
        )
        return found

    def hover(self, node: dict[str, Any], press: bool = False, side: str = "student") -> None:
        from selenium.webdriver import ActionChains

        stage = self.driver.find_element("css selector", ".rg-stage")
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", stage)
        zoom, (middle_x, middle_y) = float(self.data("zoom")), map(float, self.data("centre").split())
        x, y = round((node[f"x_{side}"] - middle_x) * zoom), round((middle_y - node[f"y_{side}"]) * zoom)
        actions = ActionChains(self.driver, duration=0).move_to_element_with_offset(stage, 0, 0)
        actions.move_to_element_with_offset(stage, x, y)
        (actions.click() if press else actions).perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self) -> None:
        """Reach the stage as a keyboard does: of the graph it comes first."""
        from selenium.webdriver import Keys

        self.press(Keys.TAB)
        assert self.run("return document.activeElement.className") == "rg-stage"

    def log(self, kind: str) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log(kind)]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        events = [json.loads(message)["message"] for message in self.log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome")]


def visited(browser: "Chrome", address: str) -> Iterator[View]:
    """Open a page, and assert at the end that it logged nothing and asked for nothing but itself and its pictures."""
    opened = View(browser)
    opened.open(address)
    yield opened
    assert opened.log("browser") == []
    assert [url for url in opened.requests() if not url.startswith("data:image/")] == [address]
    with pytest.raises(Exception, match="no such alert"):
        _ = browser.switch_to.alert
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def view(browser: "Chrome", address: str) -> Iterator[View]:
    yield from visited(browser, address)


def shown(browser: "Chrome", file: Path, graph: Graph) -> View:
    """Open a page of another graph."""
    file.write_text(page(graph), encoding="utf-8")
    opened = View(browser)
    opened.open(file.as_uri())
    return opened


def pairs(edges: list[Edge]) -> set[tuple[float, float]]:
    return {(min(a, b), max(a, b)) for a, b, *_ in edges}


def neighbours(graph: Graph, side: str, number: int) -> set[float]:
    return {b if a == number else a for a, b in pairs(graph["edges"][side]) if number in (a, b)}


def lone(graph: Graph, side: str = "student") -> dict[str, Any]:
    """Return the node of the hostile class that stands farthest from all others: nothing lies over it."""
    nodes: list[dict[str, Any]] = graph["nodes"]

    def room(node: dict[str, Any]) -> float:
        x, y = f"x_{side}", f"y_{side}"
        return float(min((node[x] - o[x]) ** 2 + (node[y] - o[y]) ** 2 for o in nodes if o is not node))

    return max((node for node in nodes if node["class"] == 0), key=room)


def test_edge_switches_change_what_is_drawn(view: View, graph: Graph) -> None:
    assert (view.data("edges"), view.data("positions"), view.data("colour")) == ("student", "student", "label")
    assert int(view.data("nodesShown")) == 600
    view.set("most", "0")
    assert int(view.data("edgesShown")) == len(graph["edges"]["student"]) == 4_800
    student, teacher = pairs(graph["edges"]["student"]), pairs(graph["edges"]["teacher"])
    drawn = {"student": view.painted()}
    for value, expected in (
        ("teacher", (0, len(teacher))),
        ("differing", (len(student - teacher), len(teacher - student))),
    ):
        view.choose("edges", value)
        drawn[value] = view.painted()
        assert view.data("edges") == value
        assert (int(view.data("edgesStudent")), int(view.data("edgesTeacher"))) == expected
        assert int(view.data("edgesShown")) == sum(expected)
    assert student & teacher
    assert drawn["student"] != drawn["teacher"] != drawn["differing"] != drawn["student"]
    view.choose("edges", "student")
    assert view.painted() == drawn["student"]


def test_limits_of_edges(view: View, graph: Graph) -> None:
    classes, edges = [node["class"] for node in graph["nodes"]], graph["edges"]["student"]

    def drawn() -> int:
        return int(view.data("edgesShown"))

    kept, degree = 0, [0] * len(classes)
    for a, b, *_ in sorted(edges, key=lambda edge: -edge[2]):  # the strongest first, as long as both ends have room
        if max(degree[int(a)], degree[int(b)]) < 2:
            kept, degree[int(a)], degree[int(b)] = kept + 1, degree[int(a)] + 1, degree[int(b)] + 1
    assert drawn() == kept < 600, "as many at first"
    view.set("most", "0")
    view.set("across", True)
    between = [edge for edge in edges if classes[int(edge[0])] != classes[int(edge[1])]]
    assert drawn() == len(between)
    view.set("least", "60")
    weights = [edge[2] for edge in edges]
    bound = min(weights) + 0.6 * (max(weights) - min(weights))
    assert drawn() == sum(edge[2] >= bound for edge in between)
    assert f"at least {bound:.2f}" in view.text(".rg-least")
    view.choose("edges", "differing")
    assert "any" in view.text(".rg-least"), "another quantity: how much the networks differ"


PAN = """
const done = arguments[0], held = [], canvas = document.querySelector('.rg-edges'), later = setTimeout;
let lines = 0;
canvas.getContext('2d').stroke = () => { lines += 1; };
window.setTimeout = (act) => held.push(act);
const key = new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true });
document.querySelector('.rg-stage').dispatchEvent(key);
const after = (frames, act) => (frames ? requestAnimationFrame(() => after(frames - 1, act)) : act());
after(3, () => {
  const moving = { lines, picture: canvas.style.transform !== '' };
  window.setTimeout = later;
  held.forEach((act) => act());
  done([moving, { lines, picture: canvas.style.transform !== '' }]);
});
"""


def test_many_edges_move_as_a_picture_until_the_view_rests(view: View) -> None:
    """Painting thousands of lines in each frame is slow, and no clock tells: a canvas draws them later."""
    view.set("most", "0")
    moving, resting = view.driver.execute_async_script(PAN)
    assert moving == {"lines": 0, "picture": True}
    assert resting == {"lines": int(view.data("edgesShown")), "picture": False}
    assert resting["lines"] > 4000
    view.set("most", "1")
    moving, _ = view.driver.execute_async_script(PAN)
    assert moving["lines"] > 0 and not moving["picture"], "few are painted in each frame"


def test_thumbnails_do_not_pile_up(view: View, graph: Graph) -> None:
    for _ in range(3):
        view.driver.find_element("css selector", "button[title='Zoom in']").click()
        view.settle()
    shown: list[tuple[float, float]] = view.run(
        """const canvas = document.querySelector('.rg-mount canvas'), { width, height } = canvas, found = [];
        const data = document.querySelector('#graph-view').dataset, [x, y] = data.centre.split(' ').map(Number);
        const copy = new OffscreenCanvas(width, height).getContext('2d');
        copy.drawImage(canvas, 0, 0);
        const p = copy.getImageData(0, 0, width, height).data;
        for (const [nodeX, nodeY, colour] of arguments[0]) {
          const at = [width / 2 + (nodeX - x) * data.zoom, height / 2 + (y - nodeY) * data.zoom];
          const [column, row] = at.map(Math.round), pixel = 4 * (row * width + column);
          const inside = column >= 0 && row >= 0 && column < width && row < height;
          if (inside && colour.every((part, i) => p[pixel + i] === part)) found.push(at);
        } return found""",
        [[node["x_student"], node["y_student"], thumb_colour(node)] for node in graph["nodes"]],
    )
    apart = [max(abs(a - c), abs(b - d)) for i, (a, b) in enumerate(shown) for c, d in shown[:i]]
    assert len(shown) > 20 and min(apart) > 40, "each has its own room"


def thumb_colour(node: dict[str, Any]) -> list[int]:
    number = node["thumb"][1] * 50 + node["thumb"][0]
    return [40 + number % 20 * 10, 230 - number % 20 * 9, number * 7 % 256]


def test_one_finger_scrolls_past_and_two_zoom(view: View) -> None:
    metrics = {"width": 400, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    view.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    view.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    view.run("document.querySelector('.rg-stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    view.settle()

    def touch(kind: str, *points: tuple[float, float]) -> None:
        event = {"type": kind, "touchPoints": [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]}
        view.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    before, scrolled = (view.data("zoom"), view.data("centre")), view.run("return scrollY")
    touch("touchStart", (200, 400))
    for step in range(1, 11):
        touch("touchMove", (200, 400 - 20 * step))
    touch("touchEnd")
    view.settle()
    assert view.run("return scrollY") > scrolled + 100
    assert (view.data("zoom"), view.data("centre")) == before
    view.run("document.querySelector('.rg-stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    view.settle()
    scrolled = view.run("return scrollY")
    touch("touchStart", (180, 350), (220, 350))
    for step in range(1, 9):
        touch("touchMove", (180 - 5 * step, 350), (220 + 5 * step, 350))
    touch("touchEnd")
    view.settle()
    assert float(view.data("zoom")) == pytest.approx(3 * float(before[0]), rel=0.05)
    assert view.run("return scrollY") == scrolled
    view.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_the_search_knows_files_and_numbers(view: View, graph: Graph) -> None:
    from selenium.webdriver import Keys

    search = view.driver.find_element("css selector", "input[name=graph-search]")
    search.send_keys("234")
    assert int(view.data("nodesShown")) == 1, "a number is one image's"
    search.clear()
    search.send_keys(graph["nodes"][77]["file"].upper(), Keys.ENTER)
    view.wait("document.querySelector('#graph-view').dataset.pinned === '77'")
    assert graph["nodes"][77]["file"] in view.text(".rg-panel")


def test_hovering_shows_a_node_and_clicking_pins_it(view: View, graph: Graph) -> None:
    node = lone(graph)
    assert not view.shown(".rg-card")
    view.hover(node)
    view.wait("!document.querySelector('.rg-card').hidden")
    assert view.data("current") == str(node["id"])
    card = view.text(".rg-card")
    right = "right" if node["prediction_student"] == node["class"] else "wrong"
    student, teacher = (neighbours(graph, side, node["id"]) for side in ("student", "teacher"))
    shared = len(student & teacher)
    for told in (
        HOSTILE[0],
        f"Student:{graph['classes'][node['prediction_student']]} ({right})",
        f"Teacher:{graph['classes'][node['prediction_teacher']]} (right)",
        f"{shared} neighbour{'s' * (shared != 1)} in both graphs",
        f"of the student's {len(student)} and the teacher's {len(teacher)}",
    ):
        assert told in card
    thumb = "document.querySelector('.rg-card canvas').getContext('2d').getImageData(36, 36, 1, 1).data"
    assert view.run(f"return [...{thumb}].slice(0, 3)") == thumb_colour(node)
    view.hover(node, press=True)
    assert view.data("pinned") == str(node["id"])
    counts = [view.run(f"return document.querySelectorAll('.rg-neighbours')[{i}].children.length") for i in (0, 1)]
    assert counts == [len(student), len(teacher)]
    view.hover(node, press=True)
    assert view.data("pinned") == ""


def test_colours_follow_label_prediction_and_community(view: View) -> None:
    assert view.run("return document.querySelectorAll('#graph-view :is(img, script, b)').length") == 0
    names = view.run("return [...document.querySelectorAll('.rg-groups .rg-name')].map((one) => one.textContent)")
    assert names[:3] == HOSTILE, "hostile names are text"
    drawn = [view.painted()]
    assert len(names) == 20 > len(TEN), "colours come again: a class lights up where a pointer is on its name"
    view.run("document.querySelector('.rg-groups button').dispatchEvent(new PointerEvent('pointerenter'))")
    own, other = (",".join(str(int(TEN[i][at : at + 2], 16)) for at in (1, 3, 5)) for i in (0, 1))
    lit = view.painted()
    assert lit[own] > drawn[0][own] and lit[other] == drawn[0][other], "its marks are painted above a veil"
    view.run("document.querySelector('.rg-groups button').dispatchEvent(new PointerEvent('pointerleave'))")
    assert view.painted() == drawn[0]
    groups = {"prediction_student": 20, "community_student": 10, "prediction_teacher": 20, "community_teacher": 7}
    for value, count in groups.items():
        view.driver.find_element("css selector", f"select[name=graph-colour] option[value={value}]").click()
        view.settle()
        assert view.data("colour") == value
        drawn.append(view.painted())
        assert view.run("return document.querySelectorAll('.rg-groups li').length") == count
    assert drawn[0] != drawn[1] != drawn[2] != drawn[4]
    view.set("colour", "overlap")
    assert not view.run("return document.querySelector('.rg-groups')")
    assert view.text(".rg-scale").startswith("Overlap") and view.painted() not in drawn


def test_the_other_map_moves_the_nodes(view: View, graph: Graph) -> None:
    node = lone(graph, "teacher")
    view.choose("positions", "teacher")
    assert view.data("positions") == "teacher"
    view.hover(node, side="teacher")
    view.wait("!document.querySelector('.rg-card').hidden")
    assert view.data("current") == str(node["id"])


def test_reduced_motion_jumps(view: View) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    view.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    view.run("document.querySelector('input[name=graph-positions][value=teacher]').click()")
    assert view.data("moving") == "false"


def test_the_search_keeps_a_class(view: View, graph: Graph) -> None:
    view.driver.find_element("css selector", "input[name=graph-search]").send_keys(HOSTILE[0])
    view.settle()
    assert int(view.data("nodesShown")) == 30
    members = {node["id"] for node in graph["nodes"] if node["class"] == 0}
    view.set("most", "0")
    expected = sum(bool(members & {a, b}) for a, b, *_ in graph["edges"]["student"])
    assert int(view.data("edgesShown")) == expected
    view.run("document.querySelector('.rg-table').open = true")
    view.wait("document.querySelectorAll('.rg-table tbody tr').length === 30")
    assert view.text(".rg-table tbody tr td") == HOSTILE[0]


def test_keyboard_zooms_moves_and_walks_among_neighbours(view: View, graph: Graph) -> None:
    from selenium.webdriver import Keys

    view.focus()
    first = int(view.data("current"))
    assert view.shown(".rg-card")
    near = neighbours(graph, "student", first)
    weights = {frozenset(edge[:2]): edge[2] for edge in graph["edges"]["student"]}
    view.press(Keys.ARROW_RIGHT)
    second = int(view.data("current"))
    assert second in near
    assert weights[frozenset((first, second))] == max(weights[frozenset((first, other))] for other in near)
    assert f"Neighbour 1 of {len(near)} of {graph['nodes'][first]['file']}" in view.text("[role=status]")
    view.press(Keys.ARROW_DOWN)
    view.press(Keys.ARROW_RIGHT)
    assert int(view.data("current")) in neighbours(graph, "student", second)
    view.press(Keys.ENTER)
    assert view.data("pinned") == view.data("current") != ""
    view.press(Keys.ESCAPE)
    assert view.data("current") == "" and view.data("pinned") != ""
    view.press(Keys.ESCAPE)
    assert view.data("pinned") == ""


def test_keyboard_zooms_and_moves_the_view(view: View) -> None:
    from selenium.webdriver import Keys

    view.focus()
    view.press(Keys.ESCAPE)
    whole, middle = float(view.data("zoom")), view.data("centre")
    view.press("+")
    view.settle()
    assert float(view.data("zoom")) == pytest.approx(1.4 * whole, rel=0.01)
    view.press("-", "0")
    view.settle()
    assert float(view.data("zoom")) == pytest.approx(whole, rel=0.01)
    view.press(Keys.ARROW_RIGHT)
    view.settle()
    assert float(view.data("centre").split()[0]) == pytest.approx(float(middle.split()[0]) + 60 / whole, abs=0.01)


def test_wheel_buttons_and_dragging(view: View) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    whole = float(view.data("zoom"))
    script = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 100, bubbles: true, cancelable: true}))"
    canvas = view.driver.find_element("css selector", ".rg-mount canvas")
    assert view.run(f"return {script}", canvas) is True  # a page that scrolls past: nothing prevented it
    assert float(view.data("zoom")) == whole
    stage = view.driver.find_element("css selector", ".rg-stage")
    view.run("arguments[0].scrollIntoView({block: 'center'})", stage)
    ActionChains(view.driver).move_to_element_with_offset(stage, 20, 20).move_by_offset(3, 3).perform()
    ActionChains(view.driver).scroll_from_origin(ScrollOrigin.from_element(stage), 0, -200).perform()
    view.settle()
    nearer = float(view.data("zoom"))
    assert nearer > 1.1 * whole
    view.driver.find_element("css selector", "button[title='Zoom out']").click()
    view.settle()
    assert float(view.data("zoom")) == pytest.approx(nearer / 1.4, rel=0.01)
    x = float(view.data("centre").split()[0])
    ActionChains(view.driver).move_to_element(stage).click_and_hold().move_by_offset(100, 0).release().perform()
    view.settle()
    assert float(view.data("centre").split()[0]) == pytest.approx(x - 100 / float(view.data("zoom")), abs=0.01)
    assert view.data("pinned") == ""


def test_theme_follows_the_system_and_the_page(view: View) -> None:
    background = "return getComputedStyle(document.querySelector('.rg-stage')).backgroundColor"
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(26, 29, 33)"}
    for scheme, other in (("light", "dark"), ("dark", "light")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        view.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        view.run("delete document.documentElement.dataset.theme")
        view.settle()
        drawn = view.painted()
        assert view.run(background) == colours[scheme]
        view.run("document.documentElement.dataset.theme = arguments[0]", other)
        view.settle()
        assert view.run(background) == colours[other] and view.painted() != drawn


def test_nothing_overflows_a_narrow_window(view: View) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    view.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    view.run("document.querySelector('.rg-table').open = true")
    view.settle()
    assert view.run("return innerWidth") == 400
    assert view.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth") == 0


def test_a_run_without_a_teacher(browser: "Chrome", graph: Graph, tmp_path: Path) -> None:
    view = shown(browser, tmp_path / "alone.html", without_teacher(graph))
    view.set("most", "0")
    assert int(view.data("edgesShown")) == 4_800
    assert view.run("return document.querySelectorAll('#graph-view input[type=radio]').length") == 0
    options = "return [...document.querySelectorAll('select[name=graph-colour] option')].map((one) => one.value)"
    assert view.run(options) == ["label", "prediction_student", "community_student", "overlap"]
    assert "eacher" not in view.text("#graph-view .rg-legend")
    view.hover(lone(graph), press=True)
    assert "eacher" not in view.text("#graph-view .rg-panel")
    assert view.log("browser") == []


def test_a_graph_without_images_or_predictions(browser: "Chrome", graph: Graph, tmp_path: Path) -> None:
    unknown = {"label": "", "class": -1, "prediction_student": None, "prediction_teacher": None}
    bare = {**graph, "nodes": [{**node, **unknown} for node in graph["nodes"]], "sprite": None}
    view = shown(browser, tmp_path / "bare.html", bare)
    view.hover(lone(graph), press=True)
    assert "unlabelled" in view.text(".rg-card") and "predict" not in view.text(".rg-card")
    assert view.run("return document.querySelectorAll('.rg-thumb').length") == 0
    assert view.log("browser") == []
