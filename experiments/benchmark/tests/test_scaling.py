"""What the loss takes as the batch grows: the table holds what was asked for, and the bytes are those really sent."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed

from benchmark import scaling
from benchmark.communication import gather_bytes, gradient_bytes, product_bytes
from benchmark.memory import in_own_process
from benchmark.scaling import (
    FORMS,
    Probe,
    ScalingSettings,
    build_loss,
    communication_rows,
    exponents,
    forms_to_measure,
    measure_scaling,
    take_step,
)
from benchmark.scaling_fit import draw_scaling
from relgraph.analysis.colours import TEN, rgb
from relgraph.errors import RelgraphError
from relgraph.graph.pair import has_weights
from relgraph.methods import EGA, Batch, Output
from relgraph.processes import ProcessGroup
from relgraph.training.spread import Spread
from tests.processes import run_on

SMALL = ScalingSettings(dim=8, sizes=(16, 32, 64, 128), rounds=2, steps=2, device="cpu", memory=False)
HUGE = 10**15


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return measure_scaling(SMALL)


def test_every_form_has_every_size(report: dict[str, Any]) -> None:
    assert [(row["form"], row["n"]) for row in report["rows"]] == [(f, n) for f in FORMS for n in SMALL.sizes]
    for row in report["rows"]:
        assert len(row["seconds"]) == 2 and 0 < min(row["seconds"]) == row["time"]["min"] <= row["time"]["max"]
        assert row["bytes"] is row["resident"] is None
    assert report["stopped"] == [] and list(report["exponents"]) == list(FORMS)
    assert json.loads(json.dumps(report))["rows"] == report["rows"]


def test_each_form_is_computed_so() -> None:
    for form in FORMS:
        pair = build_loss(SMALL, form).pair(Output(torch.randn(32, 8)), Output(torch.randn(32, 8)))
        assert pair is not None
        assert pair.form == ("blocked" if form == "knn" else form)
        assert (pair.graph == "sparse") == (form == "knn") and has_weights(pair) == (form in ("matrix", "knn"))


def test_the_power_is_that_of_the_larger_half() -> None:
    rows = [{"n": n, "time": {"median": 7.0 if n < 64 else 3e-6 * n**1.5}, "bytes": 5 * n} for n in (8, 16, 64, 128)]
    assert exponents(rows) == {"time": 1.5, "memory": 1.0}
    assert exponents(rows[:1]) == {"time": None, "memory": None}


@pytest.mark.parametrize(
    ("probe", "last", "why"),
    [
        (Probe(2.0, 0), 64, "some 32 s, at most 10 are allowed"),
        (Probe(0.1, 2**30), 64, "some 16 GiB, at most 8 are allowed"),
        (Probe(0.6, 2**29), 128, None),
    ],
)
def test_a_form_ends_where_the_next_step_would_not_keep_within_bounds(
    probe: Probe, last: int, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is measured, the first size takes the probe; each doubling four times as much of both."""

    def grown(settings: ScalingSettings, form: str, n: int) -> Probe:
        assert probe.bytes is not None
        return Probe(probe.seconds * (n / 32) ** 2, round(probe.bytes * (n / 32) ** 2))

    monkeypatch.setattr(scaling, "in_own_process", lambda function, *arguments: grown(*arguments))
    settings = ScalingSettings(
        dim=2, sizes=(32, 64, 128), forms=("matrix",), rounds=1, steps=1, device="cpu", max_bytes=8 * 2**30
    )
    found = measure_scaling(settings)
    assert [row["n"] for row in found["rows"]] == [n for n in settings.sizes if n <= last]
    if why is None:
        assert found["stopped"] == []
    else:
        (stop,) = found["stopped"]
        assert (stop["form"], stop["n"]) == ("matrix", 2 * last) and why in stop["why"]


def test_memory_is_that_of_the_step() -> None:
    """In a process of its own: matrices of 2,048 nodes hold 16 MiB each, and the loss several."""
    settings = ScalingSettings(dim=4, sizes=(2048,), device="cpu", threads=1)
    found = in_own_process(take_step, settings, "matrix", 2048)
    if found.resident is not None:
        assert 3 * 2**24 < found.bytes < 20 * 2**24 and found.resident > found.bytes


def test_the_forms_are_those_of_the_method_and_misuse_is_named() -> None:
    assert forms_to_measure(SMALL) == FORMS
    assert forms_to_measure(ScalingSettings(method="pkt", sizes=(16,))) == ("matrix", "blocked", "knn")
    for settings, message in (
        ({"forms": ("factorised",)}, "unknown form 'factorised'"),
        ({"method": "pkt", "forms": ("factored",)}, "has the forms auto, matrix, blocked"),
        ({"method": "kd"}, "a method over the graphs of a batch, got kd"),
        ({"method": "egaa"}, "unknown method 'egaa'"),
        ({"sizes": (32, 16)}, "sizes must ascend from 2 or more, got 32, 16"),
        ({"sizes": ()}, "got none"),
        ({"sizes": (8, 16)}, "8 neighbours of each need more nodes than that, got 8"),
    ):
        with pytest.raises(RelgraphError, match=message):
            forms_to_measure(ScalingSettings(**settings))


def sent(processes: ProcessGroup, form: str, rows: int, dim: int, width: int) -> float:
    """Return what this process receives in one step of EGA, and DDP's mean of its gradients, by counting."""
    received: list[float] = []
    all_gather, all_reduce = distributed.all_gather, distributed.all_reduce

    def counting_gather(parts: list[torch.Tensor], own: torch.Tensor) -> Any:
        received.append(sum(part.nbytes for part in parts) - own.nbytes)
        return all_gather(parts, own)

    def counting_reduce(x: torch.Tensor) -> Any:
        received.append(2 * (processes.count - 1) / processes.count * x.nbytes)
        return all_reduce(x)

    patch = pytest.MonkeyPatch()
    patch.setattr(distributed, "all_gather", counting_gather)
    patch.setattr(distributed, "all_reduce", counting_reduce)
    loss, head = EGA(form=form), torch.nn.Linear(width, dim, bias=False)
    spread = Spread(loss, processes)  # as the trainer has it; `spread_over` sends what must be alike as well
    batch = Batch(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    torch.autograd.backward(spread(Output(head(torch.randn(rows, width))), Output(torch.randn(rows, dim)), batch))
    for parameter in head.parameters():
        assert parameter.grad is not None
        processes.mean_(parameter.grad)
    patch.undo()
    return sum(received)


def sent_in_each_form(processes: ProcessGroup, rows: int, dim: int, width: int) -> list[float]:
    return [sent(processes, form, rows, dim, width) for form in ("matrix", "blocked", "factored")]


def test_what_is_sent_is_what_the_formulas_say(tmp_path: Path) -> None:
    rows, dim, width = 6, 5, 7
    for count in (2, 3):
        gathered, summed = gather_bytes(rows, dim, count), product_bytes(dim, count)
        expected = [loss + gradient_bytes(dim * width, count) for loss in (gathered, gathered, summed)]
        for found in run_on(count, sent_in_each_form, tmp_path, rows, dim, width):
            assert found == pytest.approx(expected)


def test_one_process_sends_nothing_and_the_sums_do_not_grow_with_the_batch() -> None:
    small, large = communication_rows(64, 256, parameters=HUGE), communication_rows(128, 256, parameters=HUGE)
    assert [small[0][kind] for kind in ("gathered", "summed", "gradients")] == [0, 0, 0]
    assert [row["summed"] for row in small] == [row["summed"] for row in large]
    assert [2 * row["gathered"] for row in small] == [row["gathered"] for row in large]


def test_the_picture_has_a_half_for_each_figure(report: dict[str, Any], tmp_path: Path) -> None:
    for memory in (False, True):
        look_at_picture(memory, report, tmp_path)


def look_at_picture(memory: bool, report: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "bytes": 1000 * row["n"] if memory else None} for row in report["rows"]]
    file = tmp_path / "scaling.png"
    draw_scaling({**report, "rows": rows}, file)
    with Image.open(io.BytesIO(file.read_bytes())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == (1260 if memory else 660) and (pixels[0, 0] == 255).all()
    for colour in map(rgb, TEN[:4]):
        found = abs(pixels - colour).max(-1) < 20
        assert found[:, : pixels.shape[1] // (2 if memory else 1)].sum() > 10
