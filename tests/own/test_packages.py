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
from tests.own.conftest import PACKAGES, Relgraph, run_several
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
def by_module(relgraph_process: Relgraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose parts were spelled as modules on the command line."""
    folder = tmp_path_factory.mktemp("by_module")
    done = relgraph_process("train", "--out", "run", *FLAGS, *flags(MODULES), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
def test_a_run_of_modules_is_opened_if_its_code_is_allowed(
    by_module: Path, relgraph_process: Relgraph, site: Path
) -> None:
    assert recipe(by_module)["method"] == MODULES["method"]
    code = json.loads((by_module / "inputs.json").read_text())["code"]
    assert {code[part]["package"] for part in ("student", "dataset", "method")} == {"labnets", "labdata", "labloss"}
    assert code["student"]["version"] == "1.0" and len(code["student"]["sha256"]) == 64
    refused = relgraph_process("evaluate", by_module, cwd=by_module.parent)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert re.search(r"names code of its own, lab\w+:\w+: it is run only if you name it again", refused.stderr)
    some = relgraph_process("evaluate", by_module, "--dataset", "labdata:Flat", cwd=by_module.parent)
    assert some.returncode == 1 and "names code of its own, lab" in some.stderr and "labdata" not in some.stderr
    run = str(by_module)
    done = run_several(
        site, ["evaluate", run, *flags(MODULES)], ["export", run, "-o", "graph.json", "--allow-code"],
        ["analyze", run, "--k", "3", "--allow-code"], ["report", run, *flags(MODULES)], cwd=by_module.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((by_module.parent / "graph.json").read_text())["nodes"]
    gone = relgraph_process("evaluate", by_module, "--allow-code", cwd=by_module.parent, installed=False)
    assert gone.returncode == 1 and len(gone.stderr.splitlines()) == 1, gone.stderr
    assert gone.stderr.startswith("Error: unknown source or module 'lab")


@pytest.mark.slow
def test_a_run_of_registered_names_needs_no_word(relgraph_process: Relgraph, site: Path, tmp_path: Path) -> None:
    done = relgraph_process("train", "--out", "run", *FLAGS, *flags(NAMES), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = relgraph_process("evaluate", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["student"]["top1"] <= 100
    gone = relgraph_process("evaluate", "run", cwd=tmp_path, installed=False)
    told = "run was made with the dataset labflat of the package labdata 1.0, which does not register it here"
    assert gone.returncode == 1 and gone.stderr == f"Error: {told}\n"
    listings = run_several(site, ["students"], ["teachers"], ["data"], ["methods"], cwd=tmp_path).stdout.splitlines()
    for name in ("labtiny", "labcolours", "labflat", "labreg"):
        assert "1.0" in next(line for line in listings if name in line), name


@pytest.mark.slow
def test_files_are_found_from_any_directory_and_from_another_place(relgraph_process: Relgraph, tmp_path: Path) -> None:
    for name in ("labnets", "labdata", "labloss"):
        shutil.copy(PACKAGES / name / f"{name}.py", tmp_path)
    spelled = {name: text.replace(":", ".py:") for name, text in MODULES.items()}
    done = relgraph_process("train", "--out", "run", *FLAGS, *flags(spelled), cwd=tmp_path, installed=False)
    assert done.returncode == 0, done.stderr
    assert recipe(tmp_path / "run")["student"] == f"{tmp_path / 'labnets.py'}:narrow"
    other = tmp_path / "other"
    other.mkdir()
    done = relgraph_process("evaluate", "../run", "--allow-code", cwd=other, installed=False)
    assert done.returncode == 0, done.stderr
    for name in ("labnets", "labdata", "labloss"):
        (tmp_path / f"{name}.py").rename(other / f"{name}.py")
    lost = relgraph_process("evaluate", "../run", "--allow-code", cwd=other, installed=False)
    assert lost.returncode == 1 and lost.stderr.endswith("labloss.py, found none\n"), lost.stderr
    done = relgraph_process("evaluate", "../run", *flags(spelled), cwd=other, installed=False)
    assert done.returncode == 0, done.stderr
    (other / "labnets.py").write_text((other / "labnets.py").read_text() + "\n# another version\n")
    done = relgraph_process("evaluate", "../run", *flags(spelled), cwd=other, installed=False)
    assert done.returncode == 0 and "the code of the student" in done.stderr, done.stderr


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
    with pytest.raises(RelgraphError, match="unknown part of a run that is given again 'seed'"):
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
