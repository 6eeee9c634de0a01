import pytest

from relgraph.analysis.report.html import Html, element, escaped, joined, json_script
from tests.analysis.test_report import Page

HOSTILE = ["<script>alert(1)</script>", "\"'&amp;", "</script><!--", "]]>\u2028\u2029", "a\x00b\x1b", "\udcff", "日本"]


def plain(text: str) -> str:
    """Return the text as a document may hold it."""
    for character in "\x00\x1b\udcff":
        text = text.replace(character, "\ufffd")
    return text


def test_text_json_and_attributes_come_back_as_they_were() -> None:
    for text in HOSTILE:
        drawn = element("p", {"title": text}, text, element("b", {}, text))
        drawn.encode()  # a lone surrogate would fail here
        found = Page(drawn)
        assert found.elements == [("p", {"title": plain(text)}), ("b", {})]
        assert found.text.replace("\n", "") == plain(text) * 2
        script = json_script("graph-data", {text: [text]})
        script.encode()
        assert script.count("<") == 2 and "\u2028" not in script and "\u2029" not in script, "it cannot end its element"
        expected = text.replace("\udcff", "\ufffd")  # JSON itself escapes control characters
        assert Page(script).graph == {expected: [expected]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_script("data", float("nan"))


def test_html_is_not_escaped_again() -> None:
    assert joined("a<", Html("<br/>"), escaped("<")) == "a&lt;<br/>&lt;"
    assert element("img", {"alt": "", "id": None}) == '<img alt=""/>'
    assert element("div", {"id": "graph-view"}) == '<div id="graph-view"></div>'
