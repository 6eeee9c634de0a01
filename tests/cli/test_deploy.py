"""`relgraph evaluate --cost` and `relgraph export --int8`: what they print and write."""

import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from tests.cli.conftest import Failing, Program


@pytest.mark.slow
def test_the_cost_is_a_table_and_a_sentence(program: Program, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*given: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    told = program("evaluate", run, "--cost").stdout
    assert told.index("network  top-1 %") < told.index("cost here") < told.index("of the teacher's time")
    rows = {line.split("  ")[0]: line.split()[2:] for line in told.splitlines() if re.match("student,|teacher,", line)}
    assert list(rows) == [f"student, {form}" for form in ("torch", "compiled", "onnx", "int8")] + ["teacher, torch"]
    monkeypatch.setattr("relgraph.deploy.cost.FORMS", ("torch", "onnx"))
    found = json.loads(program("evaluate", run, "--cost", "--json").stdout)["cost"]
    student = found["student"]
    size = student["forms"]["onnx"]["bytes"]
    assert rows["student, onnx"][:3] == [
        f"{student['parameters']:,}", f"{student['macs'] / 1e6:.2f}", f"{size / 1e6:.2f}"
    ]  # fmt: skip
    assert rows["student, compiled"][2:] == ["-", "-"] and "\ncompiled was skipped: no compiler\n" in told
    near = f"{100 * found['neighbours']['overlap']:.0f} % of its 10 nearest neighbours (355 images of the split test)"
    assert near in found["sentence"] and told.endswith(f"{near}\n")


def test_a_run_without_a_teacher_tells_its_own_cost(
    program: Program, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relgraph.deploy.cost.FORMS", ("torch",))
    found = json.loads(program("evaluate", alone, "--cost", "--json").stdout)["cost"]
    assert found.keys() == {"batch", "threads", "device", "student", "sentence"}
    assert re.fullmatch(r"0\.\d\d M parameters", found["sentence"])


@pytest.mark.slow
def test_export_in_int8_tells_what_it_changes(program: Program, failure: Failing, run: Path) -> None:
    told = program("export", run, "-o", "phone.onnx", "--int8").stdout.splitlines()
    assert told[0] == "phone.onnx:" and len(told) == 4
    assert re.fullmatch(r"int8: 9\d\.\d % of the numbers, 0\.\d\d MB for 0\.\d\d MB in float32", told[1])
    assert re.match(r"top-1 [\d.]+ -> [\d.]+ %, 10 nearest neighbours as the teacher's [\d.]+ -> [\d.]+ %", told[2])
    assert re.match(r"images/s in onnxruntime [\d,]+ -> [\d,]+ \(batches of 64, 1 thread\)", told[3])
    assert [each.name for each in onnxruntime.InferenceSession("phone.onnx").get_outputs()] == ["embedding", "logits"]
    for place, format in (("phone.pt2", "pt2"), ("hub/", "hub")):
        assert f"int8 is of the format onnx, got {format}" in failure("export", run, "-o", place, "--int8")
    licensed = failure("export", run, "-o", "other.onnx", "--int8", "--licence", "mit")
    assert "a licence is of the format hub, got mit for onnx" in licensed
    assert sorted(path.name for path in Path().iterdir()) == ["phone.onnx"]
