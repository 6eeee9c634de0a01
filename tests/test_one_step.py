"""One training step is what CONTRIBUTING shows on one page, and no longer than that."""

import sys
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import relgraph
from relgraph.training.distillation import build
from relgraph.training.epochs import Job, Meter, step
from relgraph.training.recipe import resolve

ROOT = Path(relgraph.__file__).parent
PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
GENERATOR = 0x20  # flag of a generator's code


class Calls:
    """The calls of functions of the package, each with those that it makes in turn; layers of networks left out."""

    def __init__(self, name: str = "") -> None:
        self.name, self.made = name, list[Calls]()

    def lines(self, depth: int = 0) -> list[str]:
        """Return the calls as an indented list; equal ones that follow each other stand once, with their number."""
        found: list[str] = []
        for (first, *rest), same in groupby(["    " * depth + call.name, *call.lines(depth + 1)] for call in self.made):
            times = len(list(same))
            found += [first if times == 1 else f"{first} x{times}", *rest]
        return found

    def all(self) -> list[str]:
        """Return the name of each call."""
        return [name for call in self.made for name in (call.name, *call.all())]


def watched(job: Job) -> Calls:
    """Return the calls of one step on the first batch."""
    index = torch.arange(64)
    images, views, meter = job.data.train.pixels[index], torch.Generator(), Meter()
    step(job, images, index, views, meter)  # what is made at first use
    root, stack = Calls(), dict[FrameType, Calls]()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        name = Path(code.co_filename)
        if event != "call" or ROOT not in name.parents or "networks" in name.parts or code.co_name.startswith("<"):
            return
        if code.co_flags & GENERATOR and frame.f_lasti > 0:
            return
        caller = frame.f_back
        while caller is not None and caller not in stack:
            caller = caller.f_back
        call = stack[frame] = Calls(f"{name.relative_to(ROOT).as_posix()}: {code.co_qualname}")
        (root if caller is None else stack[caller]).made.append(call)

    sys.setprofile(watch)
    try:
        step(job, images, index, views, meter)
    finally:
        sys.setprofile(None)
    return root


@pytest.fixture(scope="module")
def calls() -> dict[str, Calls]:
    return {m: watched(build(resolve({"method": m, "labels_per_class": 0}))) for m in ("ega", "rkd", "crd")}


def test_the_page_shows_the_step(calls: dict[str, Calls]) -> None:
    shown = PAGE.read_text().split("## One step, on one page")[1].split("```text\n")[1].split("```")[0]
    found = "\n".join(calls["ega"].lines()) + "\n"
    assert shown == found, f"CONTRIBUTING's step is not the code's, which is\n{found}"


@pytest.mark.parametrize(("method", "most", "files"), [("ega", 70, 12), ("rkd", 90, None), ("crd", 110, None)])
def test_a_step_stays_short(method: str, most: int, files: int | None, calls: dict[str, Calls]) -> None:
    names = calls[method].all()
    assert len(names) <= most
    assert files is None or len({name.split(":")[0] for name in names}) <= files
