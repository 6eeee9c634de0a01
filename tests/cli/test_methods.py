"""`relgraph methods`: the table and each method in full, and the documentation's table, against the registry."""

import re
from inspect import getdoc
from pathlib import Path

from click.testing import CliRunner
from relgraph_cli.main import main

from relgraph.analysis.method_info import method_info
from relgraph.methods import METHODS
from relgraph.methods.base import facts_of
from relgraph.methods.relational import Relational

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def output(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["methods", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_has_a_row_for_each_method_with_its_paper_and_differences_below() -> None:
    text = output()
    lines, words = text.splitlines(), " ".join(text.split())
    rows = {line.split()[0]: line for line in lines[2 : 2 + len(METHODS)]}
    assert list(rows) == list(METHODS) and max(map(len, lines)) <= 125, "it fits a terminal"
    for name, cls in METHODS.items():
        facts = facts_of(cls)
        assert rows[name].endswith(f"{cls.weight:g}") and f"{facts['Paper']}: {facts['Differs']}" in words


def test_one_in_full_has_options_with_defaults_and_the_docstring() -> None:
    text = output("rkd")
    assert re.search(r"^options +distance_weight=25\.0, angle_weight=50\.0, --graph=dense, ", text, re.MULTILINE)
    assert "Paper, official code and this one:" in text
    assert re.search(r"^reads +feature$", text, re.MULTILINE)
    assert "none of its own" in output("at")


def test_every_method_has_a_page() -> None:
    shared = getdoc(Relational)
    assert shared is not None
    for name, cls in METHODS.items():
        text, found = output(name), method_info(name)
        for fact in ("kernel", "topology", "criterion"):
            assert re.search(rf"^{fact} +{re.escape(getattr(found, fact))}$", text, re.MULTILINE)
        assert re.search(rf"^weight +{cls.weight:g}$", text, re.MULTILINE)
        assert text.endswith(f"\n\n{found.doc}\n")
        assert text.endswith(shared + "\n") == ("See `Relational`" in str(cls.__doc__))


def test_names_are_read_in_any_case_as_by_method() -> None:
    assert output("RKD") == output("rkd")
    assert output("none") == output("None") == "none: cross-entropy alone, without a teacher\n"


def test_options_of_the_recipe_are_named_as_such() -> None:
    assert re.search(r"^options +--temperature=4\.0$", output("kd"), re.MULTILINE)
    ega = r"^options +--graph=dense, .* --node-weight=0\.8, --edge-weight=0\.24, "
    assert re.search(ega, output("ega"), re.MULTILINE)
    assert {"--graph": "sampled", "--k": "None"}.items() <= method_info("crd").options.items()


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["methods", "rdk"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: unknown method 'rdk': did you mean 'rkd'?")


def test_the_page_s_table_names_each_method_with_its_weight() -> None:
    rows = re.findall(r"^\| (`[a-z`, ]+`) \|.*\| ([\d.]+) \| [^|]+\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name.strip("` "): float(weight) for names, weight in rows for name in names.split(",")}
    assert found == {name: cls.weight for name, cls in METHODS.items()}
