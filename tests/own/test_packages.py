"""Packages of others, by each spelling, on the command line and in Python; their runs are opened in a new process."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import relgraph
from relgraph.errors import RelgraphError
from tests.checks import assert_refused_like
from tests.cli.conftest import recipe
from tests.own.conftest import PACKAGES, Relgraph
from tests.pictures import write_folder, write_image

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "precision": "32-true", "dim": 8}
FLAGS = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--precision", "32-true", "--dim", "8"]
NAMES = {
    "student": "labtiny", "teacher": "labcolours", "dataset": "labflat", "method": "0.5*labreg+ega",
    "kernel": "labsigns",
}  # fmt: skip
MODULES = {
    "student": "labnets:narrow", "teacher": "labnets:Colours", "dataset": "labdata:Flat",
    "method": "0.5*labloss:Regression+2*labloss:relation", "kernel": "labloss:signs",
}  # fmt: skip


def flags(spelled: dict[str, str]) -> list[str]:
    return [part for name, text in spelled.items() for part in (f"--{name}", text)]


@pytest.fixture(scope="module")
def runs(relgraph_process: Relgraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs whose parts were spelled as modules, and as registered names, on the command line."""
    folder = tmp_path_factory.mktemp("runs")
    commands = [["train", "--out", out, *FLAGS, *flags(each)] for out, each in (("module", MODULES), ("name", NAMES))]
    for end in relgraph_process(*commands, cwd=folder):
        end.done()
    return folder


@pytest.mark.slow
def test_a_run_of_registered_names_is_opened_and_one_of_modules_if_its_code_is_allowed(
    runs: Path, relgraph_process: Relgraph
) -> None:
    run = runs / "module"
    assert recipe(run)["method"] == MODULES["method"]
    code = json.loads((run / "inputs.json").read_text())["code"]
    assert {code[part]["package"] for part in ("student", "dataset", "method")} == {"labnets", "labdata", "labloss"}
    assert code["student"]["version"] == "1.0" and len(code["student"]["sha256"]) == 64
    evaluated, *listings, refused, some, again, exported, analysed, reported = relgraph_process(
        ["evaluate", "name", "--json"], ["students"], ["teachers"], ["data"], ["methods"], ["evaluate", "module"],
        ["evaluate", "module", "--dataset", "labdata:Flat"], ["evaluate", "module", *flags(MODULES)],
        ["export", "module", "-o", "graph.json", "--allow-code"], ["analyze", "module", "--k", "3", "--allow-code"],
        ["report", "module", *flags(MODULES)], cwd=runs,
    )  # fmt: skip
    assert 0 <= json.loads(evaluated.done())["student"]["top1"] <= 100
    lines = [line for each in listings for line in each.done().splitlines()]
    for name in ("labtiny", "labcolours", "labflat", "labreg"):
        assert "1.0" in next(line for line in lines if name in line), name
    told = r"names code of its own, lab\w+:\w+: it is run only if you name it again"
    assert re.search(told, refused.failed())
    assert "names code of its own, lab" in some.failed() and "labdata" not in some.errors
    for end in (again, exported, analysed, reported):
        end.done()
    assert json.loads((runs / "graph.json").read_text())["nodes"]


@pytest.mark.slow
def test_runs_of_packages_that_are_gone(runs: Path, relgraph_process: Relgraph) -> None:
    module, name = relgraph_process(
        ["evaluate", "module", "--allow-code"], ["evaluate", "name"], cwd=runs, installed=False
    )
    assert module.failed().startswith("Error: unknown source or module 'lab")
    told = "name was made with the dataset labflat of the package labdata 1.0, which does not register it here"
    assert name.failed() == f"Error: {told}\n"


@pytest.mark.slow
def test_files_are_found_from_any_directory_and_from_another_place(relgraph_process: Relgraph, tmp_path: Path) -> None:
    for name in ("labnets", "labdata", "labloss"):
        shutil.copy(PACKAGES / name / f"{name}.py", tmp_path)
    spelled = {name: text.replace(":", ".py:") for name, text in MODULES.items()}
    (end,) = relgraph_process(["train", "--out", "run", *FLAGS, *flags(spelled)], cwd=tmp_path, installed=False)
    end.done()
    assert recipe(tmp_path / "run")["student"] == f"{tmp_path / 'labnets.py'}:narrow"
    other = tmp_path / "other"
    other.mkdir()
    (end,) = relgraph_process(["evaluate", "../run", "--allow-code"], cwd=other, installed=False)
    end.done()
    for name in ("labnets", "labdata", "labloss"):
        (tmp_path / f"{name}.py").rename(other / f"{name}.py")
    again = ["evaluate", "../run", *flags(spelled)]
    lost, found = relgraph_process(["evaluate", "../run", "--allow-code"], again, cwd=other, installed=False)
    assert lost.failed().endswith("labloss.py, found none\n")
    found.done()
    (other / "labnets.py").write_text((other / "labnets.py").read_text() + "\n# another version\n")
    (changed,) = relgraph_process(again, cwd=other, installed=False)
    assert changed.done() and "the code of the student" in changed.errors


@pytest.mark.slow
def test_objects_in_python(site: Path, tmp_path: Path) -> None:
    labdata, labloss, labnets = map(import_module, ("labdata", "labloss", "labnets"))

    student = labnets.Tiny(3)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    parts = {"student": student, "teacher": labnets.Colours(), "dataset": labdata.Flat()}
    method = [(0.5, labloss.Regression), labloss.relation]
    run = relgraph.train(**parts, method=method, out=tmp_path / "run", **QUICK)
    assert run.result["epochs"] == 1 and [row["epoch"] for row in run.metrics] == [1.0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items()), "a copy is trained"
    vectors, logits = run.student()(torch.rand(2, 3, 12, 12))
    assert vectors.shape == (2, 16) and logits is not None and logits.shape == (2, 3)
    figures = run.evaluate()
    assert figures["student"]["top1"] == pytest.approx(run.result["test"]["best"]["top1"])
    assert run.export(tmp_path / "graph.gexf").path.is_file() and run.report(tmp_path / "r.html").is_file()
    assert run.analyze(k=3)["overlap"] >= 0
    assert_refused_like(
        (lambda: relgraph.evaluate(tmp_path / "run"), ".*recipe.yaml names code of its own, labloss:Regression: .*"),
        (
            lambda: relgraph.evaluate(tmp_path / "run", allow_code=True),
            "the method was Relation, an object in Python: .*",
        ),
    )
    assert relgraph.evaluate(tmp_path / "run", **parts, method=method) == figures
    with pytest.raises(RelgraphError, match="unknown option 'seed'"):
        relgraph.Run(tmp_path / "run", seed=3)


def test_data_of_one_s_own_is_named_again_from_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "photos", {"train": 12, "test": 4})
    monkeypatch.chdir(tmp_path)
    run = relgraph.train(
        dataset="folder:photos", method="none", student="resnet8", val_fraction=0.25, **QUICK, out="run"
    )
    figures = run.evaluate(k=3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    place = tmp_path / "photos"
    assert_refused_like(
        (lambda: relgraph.evaluate("../run", k=3), "photos: no such folder in .*elsewhere"),
        (lambda: relgraph.evaluate("../run", k=3, dataset=f"classes:{place}"), "dataset of .* is folder:photos, .*"),
    )
    assert {**relgraph.evaluate("../run", k=3, dataset=f"folder:{place}"), "run": ""} == {**figures, "run": ""}
    write_image(place / "test" / "cat" / "more.png", seed=99)
    with pytest.raises(RelgraphError, match="the test images are not those of"):
        relgraph.evaluate("../run", k=3, dataset=f"folder:{place}")
