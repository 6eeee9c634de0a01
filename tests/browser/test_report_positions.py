"""The position of an image that others are compared with, in a real browser: by a click and by keys."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from relgraph.analysis.report.page import document
from relgraph.analysis.report.segmentation import Segmented, Shown, segmentation_section
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import LabelMaps

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SERIOUS = """const done = arguments[0], serious = (one) => ['serious', 'critical'].includes(one.impact);
axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations.filter(serious)
  .map((one) => [one.id, ...one.nodes.map((node) => node.html)])))"""


def test_a_click_and_the_arrow_keys_choose_the_position(browser: "Chrome", tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    axe = Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js")
    maps = torch.zeros(1, 12, 16, dtype=torch.uint8)
    images = ImageSet(maps[:, None], torch.zeros(1, dtype=torch.long), ("sky", "<b>road"), "test", torch.arange(1),
                      maps=LabelMaps.of(maps))  # fmt: skip
    similar = {"teacher": torch.rand(4, 4, 4, 4), "one": torch.rand(12, 9, 12, 9)}
    shown = Shown(0, 0.0, maps[0], {"one": maps[0]}, similar)
    found = Segmented([shown], {"one": torch.tensor([[192, 0], [0, 0]])}, None, "one", 1)
    page = document("Cells", {"pixels": ("Pixels", segmentation_section(found, images, ["a <b>.png"]))}, "")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())

    def tiles() -> list[list[int]]:
        """Return the column and row of the tile that each network shows."""
        return browser.execute_script(  # type: ignore[no-any-return]
            """return [...document.querySelectorAll('[data-grid]')].map((one) => {
            const sides = one.dataset.grid.split(' ').map(Number);
            return one.style.backgroundPosition.split(' ')
              .map((part, i) => Math.round(parseFloat(part) / 100 * (sides[i] - 1)))})"""
        )

    assert tiles() == [[2, 2], [4, 6]]
    image = browser.find_element("css selector", "button.spot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", image)
    width, height = image.size["width"], image.size["height"]
    assert height == pytest.approx(width * 3 / 4, abs=1)
    actions = ActionChains(browser, duration=0)
    actions.move_to_element_with_offset(image, round(width * 0.4), round(-height * 0.3)).click().perform()
    assert tiles() == [[3, 0], [8, 2]]
    ActionChains(browser).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ENTER).perform()
    assert tiles() == [[3, 1], [7, 4]]
    ActionChains(browser).key_down(Keys.CONTROL).send_keys(Keys.ARROW_DOWN).key_up(Keys.CONTROL).perform()
    assert tiles() == [[3, 1], [7, 4]], "with Control a key is the browser's"
    browser.execute_script(axe.read_text(encoding="utf-8"))
    assert browser.execute_async_script(SERIOUS) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
