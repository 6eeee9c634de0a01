"""What must be alike on all processes: one sentence on each of them, in place of a call that aborts."""

from pathlib import Path

import torch

from relgraph import spread_over
from relgraph.errors import RelgraphError
from relgraph.methods import EGA, RKD, Batch
from relgraph.processes import ProcessGroup
from tests.processes import run_on


def told(processes: ProcessGroup, case: str) -> str:
    """Return the sentence with which a call is refused on one process."""
    other = processes.rank == 1
    rows, width, kind = 5 + 2 * (other and case == "rows"), 4 + (other and case == "width"), torch.float32
    if other and case == "type":
        kind = torch.float64
    method = EGA(node_weight=0.5 if other and case == "option" else 0.8)
    compared = spread_over(RKD() if other and case == "method" else method)
    student, teacher = torch.randn(rows, width, dtype=kind, requires_grad=True), torch.randn(rows, width, dtype=kind)
    batch = None if other and case == "labels" else Batch(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    try:
        compared(student, teacher, batch)
    except RelgraphError as error:
        return str(error)
    return "no error"


def all_cases(processes: ProcessGroup) -> dict[str, str]:
    return {case: told(processes, case) for case in ("rows", "width", "type", "method", "option", "labels", "alike")}


def test_what_differs_is_told_on_all_processes(tmp_path: Path) -> None:
    one, other = run_on(2, all_cases, tmp_path)
    assert one == other
    assert one["rows"] == "all processes must have the same number of the student's rows, got 5 and 7"
    assert one["width"] == "all processes must have the same width of the student's embedding, got 4 and 5"
    assert one["type"] == "all processes must have the same types and shapes of the student's outputs, got others"
    assert one["method"] == one["option"] == "all processes must have the same method, got others"
    assert one["labels"] == "all processes must have the same images and labels, got others"
    assert one["alike"] == "no error"
