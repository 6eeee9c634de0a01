"""The cost of the loss alone as the batch grows, in each of its forms: time, memory, and how fast they grow."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from benchmark.communication import gather_bytes, gradient_bytes, product_bytes
from benchmark.memory import in_own_process, peak_resident
from benchmark.timing import Start, in_turn, spread
from relgraph.errors import RelgraphError, unknown
from relgraph.methods import Method, RunFacts
from relgraph.methods.relational import Relational
from relgraph.names import parse_methods, shared_options
from relgraph.training.hardware import processor

FORMS = ("matrix", "factored", "blocked", "knn")
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
# The largest powers of N with which time and memory grow: no step is begun that would exceed its bounds.
TIME_EXPONENTS = {"matrix": 2, "factored": 1, "blocked": 2, "knn": 2}
MEMORY_EXPONENTS = {"matrix": 2, "factored": 1, "blocked": 1, "knn": 1}
WARM_UP_SIZE = 512  # nodes, at most, of a warm-up step, so that what libraries load and keep is not counted
ATTEMPTS = 3  # steps; the fastest counts, so that a disturbance by another program does not end a form
PROCESSES = (1, 2, 4, 8, 16, 32, 64)
IMAGES_PER_PROCESS = 64

Progress = Callable[[str], None]
Key = tuple[str, int]  # a form, and a number of nodes


@dataclass(frozen=True)
class ScalingSettings:
    """What is measured, and how far it may go.

    Attributes:
        method: A method over the graphs of a batch, by its name.
        dim: Width D of the embeddings.
        sizes: Numbers N of nodes, ascending.
        forms: Some of `FORMS`, all that the method has if None; "knn" is its graph of k nearest neighbours, in blocks.
        k: Neighbours of each node, for "knn".
        rounds: Samples of each time.
        steps: Steps in a window of time, at most.
        device: "auto", "cpu" or "cuda".
        threads: Threads of the processor; what torch chooses if None.
        memory: Whether memory is measured, each step in a process of its own.
        max_seconds: What a step may take: a form whose next size would take longer grows no further.
        max_bytes: What a step may hold, likewise.
    """

    method: str = "ega"
    dim: int = 256
    sizes: tuple[int, ...] = SIZES
    forms: tuple[str, ...] | None = None
    k: int = 8
    rounds: int = 5
    steps: int = 10
    device: str = "auto"
    threads: int | None = None
    memory: bool = True
    max_seconds: float = 10.0
    max_bytes: int = 4 * 2**30


@dataclass(frozen=True)
class Probe:
    """The cost of one step: seconds; bytes at its peak beside its inputs; and all that its process had resident."""

    seconds: float
    bytes: int | None = None
    resident: int | None = None


def measure_scaling(settings: ScalingSettings, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Return time and memory of one forward and backward of the loss against N, and their exponents, for JSON.

    Embeddings are random, in float32, and the student's have a gradient. `rows` hold one form at one N each; `stopped`
    lists the forms that grew no further, and why; `exponents` are those of a power of N, fitted to the larger half of a
    form's sizes; `communication`, for EGA, are the bytes that a process receives in a step
    (`benchmark.communication`).

    Raises:
        RelgraphError: for an unknown name, a form that the method has not, sizes that do not ascend or do not exceed k,
            or no such device.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    forms, device = forms_to_measure(settings), _prepare(settings)
    probes, stopped = _probes(settings, forms, progress)
    tasks = {_label(*key): _start(settings, *key) for key in probes}
    times = in_turn(tasks, rounds=settings.rounds, repetitions=settings.steps, device=device, progress=progress)
    rows = [
        {"form": form, "n": n, "bytes": probe.bytes, "resident": probe.resident}
        | {"seconds": times[_label(form, n)].samples, "time": spread(times[_label(form, n)].samples)}
        for (form, n), probe in probes.items()
    ]
    return {
        "measurement": "scaling",
        "settings": asdict(settings),
        "machine": _machine(device, load),
        "rows": rows,
        "stopped": stopped,
        "exponents": {form: exponents([row for row in rows if row["form"] == form]) for form in forms},
        "communication": communication_rows(IMAGES_PER_PROCESS, settings.dim) if settings.method == "ega" else [],
    }


def forms_to_measure(settings: ScalingSettings) -> tuple[str, ...]:
    """Return the forms that are asked for, or that the method has.

    Raises:
        RelgraphError: if names or sizes do not fit.
    """
    sizes, forms = settings.sizes, settings.forms
    if not sizes or sizes[0] < 2 or list(sizes) != sorted(set(sizes)):
        raise RelgraphError(f"sizes must ascend from 2 or more, got {', '.join(map(str, sizes)) or 'none'}")
    if forms is None:
        known = (*build_loss(settings, "matrix").builder.known_forms, "knn")
        forms = tuple(form for form in FORMS if form in known)
    for form in forms:
        build_loss(settings, form)
    if "knn" in forms and sizes[0] <= settings.k:
        raise RelgraphError(f"{settings.k} neighbours of each need more nodes than that, got {sizes[0]}")
    return forms


def build_loss(settings: ScalingSettings, form: str) -> Relational:
    """Return the method in a form.

    Raises:
        RelgraphError: if it has no graph of a batch, or not this form of it.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    facts = RunFacts(settings.dim, settings.dim, settings.dim)
    graph: dict[str, Any] = (
        {"graph": "knn", "k": settings.k, "form": "blocked"} if form == "knn" else {"graph": "dense", "form": form}
    )
    named = parse_methods(settings.method)
    cls = named[0].cls if len(named) == 1 else Method
    if not issubclass(cls, Relational):
        raise RelgraphError(f"forms are those of a method over the graphs of a batch, got {settings.method}")
    return cls.for_run(
        facts, **{name: graph[of_run] for name, of_run in shared_options(cls).items() if of_run in graph}
    )


def take_step(settings: ScalingSettings, form: str, n: int) -> Probe:
    """Return the cost of a step in this process, which must be a new one for its memory to be meaningful."""
    device, loss = _prepare(settings), build_loss(settings, form)
    _step(loss, *_draw_nodes(settings, max(min(n // 4, WARM_UP_SIZE), settings.k + 1), device))
    nodes = _draw_nodes(settings, n, device)
    before = _peak_bytes(device)
    seconds = min(_seconds_of_step(loss, *nodes) for _ in range(ATTEMPTS))
    peak = _peak_bytes(device)
    beside = None if before is None or peak is None else peak - before
    return Probe(seconds, beside, None if device.type == "cuda" else peak)


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the powers of N that `time` and `memory` of a form grow with: least squares in logarithms.

    Fitted to the larger half of the sizes; None where fewer than two of them have a figure above 0.

    >>> rows = [{"n": n, "time": {"median": n**2 / 8}, "bytes": None} for n in (1, 2, 4, 8)]
    >>> exponents(rows)
    {'time': 2.0, 'memory': None}
    """
    larger = sorted(rows, key=lambda row: row["n"])[len(rows) // 2 :]
    return {
        "time": _power([(row["n"], row["time"]["median"]) for row in larger]),
        "memory": _power([(row["n"], row["bytes"]) for row in larger if row["bytes"]]),
    }


def communication_rows(images: int, dim: int, parameters: int | None = None) -> list[dict[str, float]]:
    """Return the bytes that one of W processes receives in a step: gathering, the factored form, and the gradients.

    Args:
        images: Images of each process.
        dim: Width of the embeddings.
        parameters: Of the student; those of resnet8x4 if not given.
    """
    parameters = parameters_of_resnet8x4(dim) if parameters is None else parameters
    return [
        {"processes": w, "gathered": gather_bytes(images, dim, w), "summed": product_bytes(dim, w)}
        | {"gradients": gradient_bytes(parameters, w)}
        for w in PROCESSES
    ]


def parameters_of_resnet8x4(dim: int) -> int:
    """Return how many parameters this student has, its head of 100 classes included."""
    from relgraph.names import build_backbone
    from relgraph.networks.heads import Student

    return sum(p.numel() for p in Student(build_backbone("resnet8x4", 3, image_size=32), dim, 100).parameters())


def _probes(settings: ScalingSettings, forms: Sequence[str], progress: Progress) -> tuple[dict[Key, Probe], list[Any]]:
    """Return one step of each form at each size, as far as the bounds allow, and where each form stopped."""
    found: dict[Key, Probe] = {}
    stopped = []
    for form in forms:
        last: tuple[int, Probe] | None = None
        for n in settings.sizes:
            why = None if last is None else _reason_to_stop(settings, form, n, *last)
            if why is not None:
                stopped.append({"form": form, "n": n, "why": why})
                break
            progress(f"one step: {_label(form, n)}")
            found[form, n] = _probe(settings, form, n)
            last = n, found[form, n]
    return found, stopped


def _probe(settings: ScalingSettings, form: str, n: int) -> Probe:
    if not settings.memory:
        return Probe(take_step(settings, form, n).seconds)
    probe: Probe = in_own_process(take_step, settings, form, n)
    return probe


def _reason_to_stop(settings: ScalingSettings, form: str, n: int, before: int, probe: Probe) -> str | None:
    """Return why a step of n nodes is not begun after one of `before` nodes, None if it is."""
    seconds = probe.seconds * (n / before) ** TIME_EXPONENTS[form]
    if seconds > settings.max_seconds:
        return f"a step would take some {seconds:.0f} s, at most {settings.max_seconds:g} are allowed"
    held = (probe.bytes or 0) * (n / before) ** MEMORY_EXPONENTS[form]
    if held > settings.max_bytes:
        return f"a step would hold some {held / 2**30:.0f} GiB, at most {settings.max_bytes / 2**30:g} are allowed"
    return None


def _prepare(settings: ScalingSettings) -> torch.device:
    """Return the device, after setting threads."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise RelgraphError("device cuda was asked for, but torch finds no CUDA device here: use --device cpu")
    return torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")


def _draw_nodes(settings: ScalingSettings, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student = torch.randn(n, settings.dim, device=device, requires_grad=True)
    return student, torch.randn(n, settings.dim, device=device)


def _seconds_of_step(loss: Relational, student: Tensor, teacher: Tensor) -> float:
    begin = time.perf_counter()
    _step(loss, student, teacher)
    return time.perf_counter() - begin


def _step(loss: Relational, student: Tensor, teacher: Tensor) -> None:
    """Go forward and backward, to the end also on a GPU."""
    student.grad = None
    torch.autograd.backward(loss(student, teacher))
    if student.is_cuda:
        torch.cuda.synchronize(student.device)


def _start(settings: ScalingSettings, form: str, n: int) -> Start:
    """Return steps of one form, for `timing`."""
    loss = build_loss(settings, form)

    def start(count: int) -> Iterator[None]:
        nodes = _draw_nodes(settings, n, _prepare(settings))
        yield
        for _ in range(count):
            _step(loss, *nodes)

    return start


def _peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes held so far: on a GPU what torch allocated there, else what was resident."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()


def _power(points: Sequence[tuple[int, float]]) -> float | None:
    if len(points) < 2:
        return None
    x, y = torch.tensor(points, dtype=torch.float64).log().unbind(1)
    x = x - x.mean()
    return round(float(x @ y / (x @ x)), 3)


def _label(form: str, n: int) -> str:
    return f"{form}, N = {n:,}"


def _machine(device: torch.device, load: float | None) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "type": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": load,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
