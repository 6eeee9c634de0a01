import json
from html.parser import HTMLParser

import pytest

from relgraph.analysis.report.html import Html, element, escaped, joined, json_script

HOSTILE = ["<script>alert(1)</script>", "\"'&amp;", "</script><!--", "]]>\u2028\u2029", "a\x00b\x1b", "\udcff", "日本"]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    text.encode()  # a lone surrogate would fail here
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def plain(text: str) -> str:
    """Return the text as a document may hold it."""
    for character in "\x00\x1b\udcff":
        text = text.replace(character, "\ufffd")
    return text


def test_text_json_and_attributes_come_back_as_they_were() -> None:
    for text in HOSTILE:
        found = read(element("p", {"title": text}, text, element("b", {}, text)))
        assert found.tags == ["p", "b"]
        assert found.attributes == [plain(text)] and found.text == plain(text) * 2
        script = json_script("data", {text: [text]})
        assert script.count("<") == 2 and "\u2028" not in script and "\u2029" not in script, "it cannot end its element"
        expected = text.replace("\udcff", "\ufffd")  # JSON itself escapes control characters
        assert json.loads(read(script).text) == {expected: [expected]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_script("data", float("nan"))


def test_html_is_not_escaped_again() -> None:
    assert joined("a<", Html("<br/>"), escaped("<")) == "a&lt;<br/>&lt;"
    assert element("img", {"alt": "", "id": None}) == '<img alt=""/>'
    assert element("div", {"id": "graph-view"}) == '<div id="graph-view"></div>'
