"""How fast training is, and what memory it takes: its step against the student alone, its loop against the original's.

The steps and the loops are those of `relgraph.training.loop`; `original` is the one they are compared with.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from relgraph.analysis.benchmark_loops import KD, KNN, ONLINE, ORIGINAL, STUDENT_ALONE, STORED, Settings, Way, Workshop
from relgraph.analysis.memory import in_own_process, peak_resident
from relgraph.analysis.timing import Start, Times, in_turn, spread
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.training.hardware import processor

MEMORY_STEPS = 2  # from the second on gradients and momentum are there

Progress = Callable[[str], None]


def measure_training(settings: Settings, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Return times of steps and loops, every sample and the ratios within each round, and peak memory, ready for JSON.

    `steps` are compared with the step of cross-entropy alone in the same precision, not compiled; `loops` with the
    original's way. `memory` is empty where the settings leave it out. On a GPU a window of time ends when the GPU is
    done, and a compiled student has no CUDA graph.

    Raises:
        RelgraphError: if a name is unknown, a number does not fit, there is no such device, or nothing to compile with.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with TemporaryDirectory() as folder:
        shop = Workshop(settings, Path(folder))
        steps = step_rows(shop, progress)
        loops = loop_rows(shop, progress)
        memory = memory_rows(shop, progress) if settings.memory else []
        return {
            "measurement": "training",
            "settings": asdict(settings),
            "machine": _machine(shop, load),
            "steps": steps,
            "loops": loops,
            "memory": memory,
        }


def _machine(shop: Workshop, load: float | None) -> dict[str, Any]:
    cuda = shop.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(shop.device) if cuda else processor(),
        "type": shop.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": shop.precision,
        "teacher_size": shop.teacher.input_size,
        "load_before": load,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def step_rows(shop: Workshop, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the times of a training step in each way, and in float32 as well where the default is another.

    A step with the teacher in float32 is left out: it takes long, and `loop_rows` has it.
    """
    ways = [
        replace(way, precision=precision)
        for precision in dict.fromkeys((shop.precision, "32-true"))
        for way in (STUDENT_ALONE, STORED, KNN, KD)
    ]
    ways.append(replace(ONLINE, precision=shop.precision))
    if shop.settings.compile:
        ways += [replace(way, precision=shop.precision, compile=True) for way in (STUDENT_ALONE, STORED)]
    times = _timed(shop, ways, shop.steps, progress)
    return [
        _row(way)
        | _seconds(times[way])
        | {"ratio": _ratio(times[way], times[replace(STUDENT_ALONE, precision=way.precision)])}
        for way in ways
    ]


def loop_rows(shop: Workshop, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the images a second of each loop, data and metrics included, and how often it is the original's speed."""
    ways = _loops(shop)
    times = _timed(shop, ways, shop.loop, progress)
    size = shop.settings.batch_size
    return [
        _row(way)
        | _seconds(times[way])
        | {"images_per_s": spread([size / seconds for seconds in times[way].samples])}
        | {"ratio": _ratio(times[ORIGINAL], times[way])}
        for way in ways
    ]


def memory_rows(shop: Workshop, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the peak memory of each loop, measured in a process of its own."""
    rows = []
    for way in _loops(shop):
        progress(f"memory: {way.label}")
        rows.append(_row(way) | {"bytes": in_own_process(peak_memory, shop.settings, way)})
    return rows


def peak_memory(settings: Settings, way: Way) -> int | None:
    """Return the most memory in bytes that this process has held, after some batches of the way.

    On a GPU that is what torch allocated there; else the memory resident in this process since its start, Python and
    all libraries included, loader processes not. None where the system does not tell.
    """
    with TemporaryDirectory() as folder:
        shop = Workshop(replace(settings, steps=MEMORY_STEPS), Path(folder))
        for _ in shop.loop(way)(MEMORY_STEPS):
            pass
        return torch.cuda.max_memory_allocated(shop.device) if shop.device.type == "cuda" else peak_resident()


def _loops(shop: Workshop) -> list[Way]:
    online = [replace(ONLINE, precision=precision) for precision in dict.fromkeys(("32-true", shop.precision))]
    return [ORIGINAL, *online, *(replace(way, precision=shop.precision) for way in (STORED, STUDENT_ALONE))]


def _timed(shop: Workshop, ways: Sequence[Way], build: Callable[[Way], Start], progress: Progress) -> dict[Way, Times]:
    progress("building")
    settings, starts = shop.settings, {way.label: build(way) for way in ways}
    try:
        times = in_turn(
            starts, rounds=settings.rounds, repetitions=settings.steps, device=shop.device, progress=progress
        )
    except torch._dynamo.exc.TorchDynamoException as error:
        raise RelgraphError(f"torch.compile does not work here: {first_line(error)}") from error
    return {way: times[way.label] for way in ways}


def _row(way: Way) -> dict[str, Any]:
    return {"name": way.name, "precision": way.precision, "compiled": way.compile}


def _seconds(times: Times) -> dict[str, Any]:
    return {"seconds": times.samples, "first_seconds": times.first}


def _ratio(above: Times, below: Times) -> dict[str, float]:
    return spread([a / b for a, b in zip(above.samples, below.samples, strict=True)])
