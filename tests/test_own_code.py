"""Spellings of code of one's own: what they are, what they load, and when a file may name them."""

import sys
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

from relgraph import names, own_code
from relgraph.errors import RelgraphError
from relgraph.own_code import Own, is_own, load, permitting, spelling_of
from relgraph.training.recipe import Recipe
from relgraph.training.resuming import changed_code
from tests.checks import assert_refused, assert_refused_like, case


def test_what_spells_code_of_one_s_own() -> None:
    own = "nets.py:make", "a/b c/nets.py:Net.tiny", "lab.nets:Net", "lab:Net", "~/x.py:f", "Übung.netz:Netz"
    others = (
        "", "vgg8", "timm:resnet18", "torchvision:resnet18/DEFAULT", "open_clip:ViT-B-32/openai", "folder:photos",
        "csv:table.py", "checkpoint:runs/a", "object:Net", "crd+0.9*kd", "lab.nets", "lab:nets:Net", "2lab:Net",
        "0.5*losses.py:Mine", "gaussian:0.4", "lab.nets:", ":Net",
    )  # fmt: skip
    assert [text for text in own if not is_own(text)] == [] and [text for text in others if is_own(text)] == []


def test_a_file_is_loaded_once_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_nets.py").write_text("VALUE = 3\n")
    (tmp_path / "nets.py").write_text(
        "from dataclasses import dataclass\nfrom neighbour_of_nets import VALUE\n\n"
        "@dataclass\nclass Net:\n    width: int = VALUE\n    class Inner:\n        depth = 2\n"
    )
    text = f"{tmp_path / 'nets.py'}:Net"
    found = load(text)
    assert found().width == 3 and load(f"{text}.Inner").depth == 2 and load(text) is found
    assert spelling_of(found) == text, "found again by the file"
    code = own_code.origin("students", text)
    assert code["file"] == str(tmp_path / "nets.py") and code["spelling"] == text and len(code["sha256"]) == 64


def test_a_file_that_was_changed_is_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "changing.py"
    for value in (1, 2):
        file.write_text(f"value = {value}\n")
        assert load(f"{file}:value") == value
    assert not (tmp_path / "__pycache__").exists()


def test_a_path_that_would_be_read_as_a_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c++").mkdir()
    monkeypatch.chdir(tmp_path / "c++")
    told = "nets.py:Net must lie at a path without + and *, which stand for sums, got /…"
    assert_refused((lambda: own_code.absolute("nets.py:Net"), told))


def test_faults_are_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "broken": "import no_such_module_at_all",
        "raising": "raise KeyError('x')",
        "ending": "1 +",
        "fine": "import nturl2path as nett\nnet = 1",
    }
    for name, text in files.items():
        Path(f"{name}.py").write_text(text + "\n")
    path = sys.path.copy()
    assert_refused_like(
        (lambda: names.student("fine.py"), "fine.py is a file of code: name what is in it, as fine.py:ATTRIBUTE"),
        (lambda: load("none.py:Net"), "none.py:Net: expected a file none.py, found none"),
        (lambda: load("fine.py:nets"), "unknown attribute of fine.py 'nets': did you mean 'net'\\? \\(known: net\\)"),
        (lambda: load("broken.py:Net"), "broken.py:Net needs the module no_such_module_at_all, which is neither .*"),
        (lambda: load("raising.py:Net"), r"raising.py:Net cannot be imported: KeyError: 'x' \(raising.py, line 1\)"),
        (lambda: load("ending.py:Net"), "ending.py:Net cannot be imported: SyntaxError: .*"),
        (lambda: load("tim:resnet18"), "unknown source or module 'tim': did you mean 'timm'.*"),
        (
            lambda: load("relgraph.nothing:Net"),
            "relgraph.nothing:Net needs the module relgraph.nothing, which is neither installed nor in this directory",
        ),
    )
    assert load("fine:net") == 1, "the current directory is searched"
    monkeypatch.setattr(sys, "path", path)
    sys.modules.pop("fine")


def test_spellings_of_objects() -> None:
    def local() -> None:
        """Have no name that others find."""

    class Net:
        """Nor this."""

    cases: dict[str, Any] = {
        "relgraph.errors:RelgraphError": RelgraphError,
        "pathlib:Path.cwd": Path.cwd,
        "object:int": 3,
        "object:function": local,
        "object:Net": Net,
        "object:method": Path("x").exists,
        "object:partial": partial(RelgraphError, "x"),
        "object:list": [(0.5, RelgraphError)],
    }
    for expected, target in cases.items():
        with case(expected):
            assert (
                spelling_of(target) == expected
                and str(Own.of(target) if expected != "object:int" else expected) == expected
            )
    assert str(Own.of([(Path("image"), 3)], "dataset")) == "object:list", "no sum of methods"
    several = [(0.5, RelgraphError), "kd", (0.123456789, 3)]
    assert str(Own.of(several, "method")) == "0.5*relgraph.errors:RelgraphError+kd+0.123456789*object:int"
    assert spelling_of(wraps(RelgraphError)(local)) == "object:function", "not what it says that it is"
    for plain in ("text", 3, 0.5, None, True):
        assert Own.of(plain) is plain
    assert Own(1, "a:b") == Own(2, "a:b") and Own.of(Own(1, "a:b")).target == 1


def test_what_a_file_names_is_refused_unless_it_is_named_again() -> None:
    refused = "run names code of its own, lab.nets:Net: it is run only if you name it again, or with --allow-code "
    refused += "(in Python allow_code=True)"
    text = "0.5*lab.nets:Net+kd"

    def check() -> None:
        names.check_permitted(text, "run")

    assert_refused((check, refused))
    for given in ({"spellings": ["lab.nets:Net"]}, {"everything": True}):
        with permitting(**given):
            check()
            with permitting(["lab.nets:Other"]):
                check()
        assert_refused((check, refused))
    with permitting(["lab.nets:Other"]):
        assert_refused((check, refused))
    for harmless in ("kd", "timm:resnet18", "object:Net", ""):
        names.check_permitted(harmless, "run")


def test_files_are_found_from_any_directory() -> None:
    here = Path.cwd()
    assert names.settled({
        "method": "0.5*l.py:M+kd+l.py:M2", "method_args": ["kernel= k.py:f ", "tau=1"], "logger": ("l.py:L", "none"),
        "seed": 3, "teacher_mean": [1.0],
    }) == {
        "method": f"0.5*{here}/l.py:M+kd+{here}/l.py:M2", "method_args": (f"kernel={here}/k.py:f", "tau=1"),
        "logger": (f"{here}/l.py:L", "none"), "seed": 3, "teacher_mean": (1.0,),
    }  # fmt: skip


@pytest.mark.slow
def test_the_code_of_every_option_is_recorded_and_told_if_it_changes(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("from relgraph.graph.kernels import cosine\n")
    recipe = Recipe(method="sp", method_args=(f"kernel={tmp_path / 'parts.py'}:cosine",))
    known = {"code": names.origins(recipe)}
    assert known["code"]["method_args"]["file"] == str(tmp_path / "parts.py")
    assert names.own_code_of(recipe) == [f"{tmp_path / 'parts.py'}:cosine"] and not changed_code(known, recipe, "run")
    (tmp_path / "parts.py").write_text("from relgraph.graph.kernels import cosine  # as it was\n")
    (line,) = changed_code(known, recipe, "run")
    assert line.startswith("the code of the method_args")
