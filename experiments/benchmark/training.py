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

from benchmark.loops import (
    BARE,
    KD,
    KNN,
    ONLINE,
    ORIGINAL,
    STORED,
    STUDENT_ALONE,
    BenchmarkLoop,
    LoopBuilder,
    Settings,
)
from benchmark.memory import in_own_process, peak_resident
from benchmark.timing import Start, Times, in_turn, spread
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.training.hardware import processor

MEMORY_STEPS = 2  # from the second on gradients and momentum are there

Progress = Callable[[str], None]


def measure_training(settings: Settings, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Return times of steps and loops, every sample and the ratios within each round, and peak memory, ready for JSON.

    `steps` are compared with the step of cross-entropy alone in the same precision, not compiled; `loops` with the
    original's. `memory` is empty where the settings leave it out. On a GPU a window of time ends when the GPU is
    done, and a compiled student has no CUDA graph.

    Raises:
        RelgraphError: if a name is unknown, a number does not fit, there is no such device, or nothing to compile with.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with TemporaryDirectory() as folder:
        builder = LoopBuilder(settings, Path(folder))
        steps = step_rows(builder, progress)
        loops = loop_rows(builder, progress)
        memory = memory_rows(builder, progress) if settings.memory else []
        return {
            "measurement": "training",
            "settings": asdict(settings),
            "machine": {**machine_of(builder, load), "teacher_size": builder.teacher.input_size},
            "steps": steps,
            "loops": loops,
            "memory": memory,
        }


def machine_of(builder: LoopBuilder, load: float | None) -> dict[str, Any]:
    """Return what was measured on, and when."""
    cuda = builder.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(builder.device) if cuda else processor(),
        "type": builder.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": builder.precision,
        "load_before": load,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def step_rows(builder: LoopBuilder, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the times of a training step of each loop, and in float32 as well where the default is another.

    A step with the teacher in float32 is left out: it takes long, and `loop_rows` has it.
    """
    loops = [
        replace(loop, precision=precision)
        for precision in dict.fromkeys((builder.precision, "32-true"))
        for loop in (STUDENT_ALONE, BARE, STORED, KNN, KD)
    ]
    loops.append(replace(ONLINE, precision=builder.precision))
    if builder.settings.compile:
        loops += [replace(loop, precision=builder.precision, compile=True) for loop in (STUDENT_ALONE, STORED)]
    times = _timed(builder, loops, builder.steps, progress)
    return [
        _row(loop)
        | _seconds(times[loop])
        | {"ratio": ratio_of(times[loop], times[replace(STUDENT_ALONE, precision=loop.precision)])}
        for loop in loops
    ]


def loop_rows(builder: LoopBuilder, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the images a second of each loop, data and metrics included, and how often it is the original's speed."""
    loops = _loops(builder)
    times = _timed(builder, loops, builder.epoch, progress)
    size = builder.settings.batch_size
    return [
        _row(loop)
        | _seconds(times[loop])
        | {"images_per_s": spread([size / seconds for seconds in times[loop].samples])}
        | {"ratio": ratio_of(times[ORIGINAL], times[loop])}
        for loop in loops
    ]


def memory_rows(builder: LoopBuilder, progress: Progress = lambda text: None) -> list[dict[str, Any]]:
    """Return the peak memory of each loop, measured in a process of its own."""
    rows = []
    for loop in _loops(builder):
        progress(f"memory: {loop.label}")
        rows.append(_row(loop) | {"bytes": in_own_process(peak_memory, builder.settings, loop)})
    return rows


def peak_memory(settings: Settings, loop: BenchmarkLoop) -> int | None:
    """Return the most memory in bytes that this process has held, after some batches of a loop.

    On a GPU that is what torch allocated there; else the memory resident in this process since its start, Python and
    all libraries included, loader processes not. None where the system does not report it.
    """
    with TemporaryDirectory() as folder:
        builder = LoopBuilder(replace(settings, steps=MEMORY_STEPS), Path(folder))
        for _ in builder.epoch(loop)(MEMORY_STEPS):
            pass
        return torch.cuda.max_memory_allocated(builder.device) if builder.device.type == "cuda" else peak_resident()


def _loops(builder: LoopBuilder) -> list[BenchmarkLoop]:
    online = [replace(ONLINE, precision=precision) for precision in dict.fromkeys(("32-true", builder.precision))]
    return [ORIGINAL, *online, *(replace(loop, precision=builder.precision) for loop in (STORED, STUDENT_ALONE))]


def _timed(
    builder: LoopBuilder, loops: Sequence[BenchmarkLoop], build: Callable[[BenchmarkLoop], Start], progress: Progress
) -> dict[BenchmarkLoop, Times]:
    progress("building")
    settings, starts = builder.settings, {loop.label: build(loop) for loop in loops}
    try:
        times = in_turn(
            starts, rounds=settings.rounds, repetitions=settings.steps, device=builder.device, progress=progress
        )
    except torch._dynamo.exc.TorchDynamoException as error:
        raise RelgraphError(f"torch.compile does not work here: {first_line(error)}") from error
    return {loop: times[loop.label] for loop in loops}


def _row(loop: BenchmarkLoop) -> dict[str, Any]:
    return {"name": loop.name, "precision": loop.precision, "compiled": loop.compile}


def _seconds(times: Times) -> dict[str, Any]:
    return {"seconds": times.samples, "first_seconds": times.first}


def ratio_of(above: Times, below: Times) -> dict[str, float]:
    """Return median, least and greatest ratio of two tasks' times, within each round."""
    return spread([a / b for a, b in zip(above.samples, below.samples, strict=True)])
