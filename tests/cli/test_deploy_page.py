"""The commands of docs/deploy.md, in their order, on a few small images and with networks that need no download."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from tests.checks import case
from tests.cli.conftest import ended
from tests.pictures import write_folder

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
SMALLER = {
    "--teacher timm:vit_small_patch14_dinov2.lvd142m --teacher-size 224": "--teacher embedded:digits",
    "--image-size 224": "--image-size 32",
    "timm:mobilenetv3_small_050.lamb_in1k": "resnet8",
    "--epochs 30": "--epochs 1 --batch-size 8",
}


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_their_order(command: click.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*given: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)  # it takes a minute
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall("^    (relgraph .*)$", text.split("\n## ")[0], re.MULTILINE)
    assert len(lines) == 10
    for long, small in SMALLER.items():
        assert any(long in line for line in lines), f"{long} is no longer on the page"
        lines = [line.replace(long, small) for line in lines]
    write_folder(Path("photos"), {"cat": 12, "dog": 12}, [""], (40, 32))
    write_folder(Path("new"), {"": 4}, [""], (32, 50))
    for line in lines:
        with case(line):
            ended(command, 0, *shlex.split(line)[1:])
    written = "student.onnx phone.onnx student.pt2 student.safetensors config.json student/README.md"
    for name in written.split():
        assert Path(name).is_file(), name
    (code,) = re.findall("^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    check = "import sys; assert not {'torch', 'relgraph'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert re.fullmatch(r"\(1, 256\) (cat|dog)\n", run.stdout), run.stderr
