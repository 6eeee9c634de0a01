"""Every check that needs a GPU, in one command.

    python experiments/gpu_check.py --out gpu.json

Official values and gradients, k nearest neighbours with k = N - 1 against all pairs, every form of a loss against its
matrix, steps that never wait for the GPU, equal runs of equal seeds, and then the tables of `bench.py` and
`bench.py scaling`. One line a check; exit status 1 if one fails.
`--device cpu` runs on the processor what means something there.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor

from benchmark.loops import KNN, ONLINE, STORED, BenchmarkLoop, LoopBuilder, Settings
from relgraph import EGA
from relgraph.analysis.method_info import SMALL_RUN
from relgraph.errors import RelgraphError
from relgraph.graph.criteria import huber, mean_square
from relgraph.graph.kernels import cosine, euclidean, gaussian, gaussian_taylor, linear, squared_euclidean
from relgraph.graph.pair import Form
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm, by_max, by_mean
from relgraph.methods import KD, METHODS, PKT, SP, Batch, Output
from relgraph.names import build_method
from relgraph.training.epochs import Meter, step
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import build_pretraining

BENCH = Path(__file__).with_name("bench.py")
GOLDEN = Path(__file__).parents[1] / "tests" / "golden.json"
# Relative to the value and to the gradient's norm; float32 products of D = 256 round to some 1e-6.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

Loss = Callable[[Tensor, Tensor], Tensor]
Check = Callable[[], tuple[bool, str]]
SMALL = Settings(student="resnet8", batch_size=16, teacher="timm:test_vit", steps=4, classes=10)


def kd(temperature: float) -> Loss:
    return lambda student, teacher: KD(temperature)(Output(student, student), Output(teacher, teacher))


# Name in golden.json -> the loss, and the side that its gradient is of.
EMBEDDING_LOSSES: dict[str, Loss] = {
    "ega_node": EGA(1, 0),
    "ega_edge": EGA(0, 1),
    "ega_total_node0.8_edge0.24": EGA(),
    "ega_paper_lambda0.3 (L_node+0.3*L_edge)": EGA(1, 0.3),
    "ega_seq_node0.8_edge0.3": EGA(0.8, 0.3),
    "hint_mse": lambda student, teacher: mean_square(student, teacher),
    "sp": Relation(linear, scale=by_anchor_norm, criterion=mean_square),
    "rkd_distance": Relation(euclidean, scale=by_mean, criterion=huber),
    **{f"cc_rbf_taylor_g0.4_P{p}": Relation(gaussian_taylor(0.4, p), criterion=mean_square) for p in (1, 2, 3, 5)},
    "cc_rbf_exact_g0.4 (P->inf)": Relation(gaussian(0.4), criterion=mean_square),
    "cc_bilinear_raw": Relation(linear, criterion=mean_square),
    "cc_bilinear_l2normalised": Relation(cosine, criterion=mean_square),
    "irg_edge_feat_only_mse": Relation(squared_euclidean, scale=by_max, criterion=mean_square),
}
SIZES = ((4, 5), (64, 256), (128, 64))
TERMS = {"total_node0.8_edge0.24": (0.8, 0.24), "node": (1.0, 0.0), "edge": (0.0, 1.0)}


def outer(rows: int, first: int, columns: int, start: int) -> Tensor:
    """Return `(i + first)(j + start)`."""
    i = torch.arange(rows, dtype=torch.float64) + first
    return i[:, None] * (torch.arange(columns, dtype=torch.float64) + start)


def embeddings(n: int = 8, dim: int = 16) -> tuple[Tensor, Tensor]:
    return torch.cos(0.07 * outer(n, 2, dim, 1)), torch.sin(0.1 * outer(n, 1, dim, 1))


def logits(n: int = 8, classes: int = 10) -> tuple[Tensor, Tensor]:
    return 2 * torch.cos(0.2 * outer(n, 1, classes, 2)), 2 * torch.sin(0.3 * outer(n, 1, classes, 1))


def official() -> Iterator[tuple[str, Loss, tuple[Tensor, Tensor], str]]:
    """Yield the name of an official value, the loss that should give it, its inputs, and whose gradient it has."""
    for key, loss in EMBEDDING_LOSSES.items():
        yield key, loss, embeddings(), "student"
    for temperature in (1, 4):
        yield f"kd_T{temperature}", kd(temperature), logits(), "student_logits"
    for n, dim in SIZES:
        for term, (node, edge) in TERMS.items():
            for loss in (EGA(node, edge), EGA(node, edge, graph="knn", k=n - 1)):
                yield f"ega_{term}_B{n}_D{dim}", loss, embeddings(n, dim), "student"


def golden(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Compare values, norms of gradients and their first elements with the official ones."""
    entries = json.loads(GOLDEN.read_text(encoding="utf-8"))["golden"]
    worst, worst_key, count = 0.0, "", 0
    for key, loss, inputs, side in official():
        student, teacher = (x.to(device, dtype) for x in inputs)
        value, gradient = value_and_gradient(loss, student, teacher)
        errors = [error(value, entries[key]["value"])]
        if "grad_fro" in entries[key]:
            norm = entries[key]["grad_fro"][side]
            errors.append(error(gradient.norm(), norm))
            # An element may be nearly zero: it is compared on the scale of the whole gradient.
            errors.append(abs(gradient.flatten()[0].item() - entries[key]["grad_first"][side]) / norm)
        count += len(errors)
        if max(errors) > worst:
            worst, worst_key = max(errors), key
    return worst <= TOLERANCE[dtype], f"{count} official numbers, largest relative error {worst:.1e} ({worst_key})"


def dense_is_knn(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Compare EGA on all pairs with EGA on N - 1 neighbours, in value and gradient."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    student, teacher = student.to(device, dtype), teacher.to(device, dtype)
    dense, knn = (value_and_gradient(loss, student, teacher) for loss in (EGA(), EGA(graph="knn", k=63)))
    worst = max(error(knn[0], dense[0].item()), ((knn[1] - dense[1]).norm() / dense[1].norm()).item())
    return worst <= TOLERANCE[dtype], f"64 nodes, largest relative difference {worst:.1e}"


def forms_agree(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Compare EGA, SP and PKT without matrices with what their matrices give, in value and gradient."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(700, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    student, teacher = student.to(device, dtype), teacher.to(device, dtype)
    worst = 0.0
    losses: tuple[Callable[[Form], Loss], ...] = (
        lambda form: EGA(form=form),
        lambda form: SP(nodes="feature", form=form),
        lambda form: PKT(form=form),
    )
    forms: tuple[tuple[Form, ...], ...] = (("factored", "blocked"), ("factored", "blocked"), ("blocked",))
    for build, others in zip(losses, forms, strict=True):
        value, gradient = value_and_gradient(build("matrix"), student, teacher)
        for form in others:
            found = value_and_gradient(build(form), student, teacher)
            errors = error(found[0], value.item()), ((found[1] - gradient).norm() / gradient.norm()).item()
            worst = max(worst, *errors)
    # In float32 it is the matrix that rounds more.
    return worst <= 10 * TOLERANCE[dtype], f"700 nodes, largest relative difference {worst:.1e}"


def as_on_the_cpu(device: torch.device, name: str) -> tuple[bool, str]:
    """Compare a method's value and gradient in float64 with those on the CPU, at its defaults; CRD on all images."""
    torch.manual_seed(0)
    labels = torch.arange(16) % 4
    run = replace(SMALL_RUN, images=16, labels=labels)
    method = build_method(name, run, {"graph": "dense"} if name == "crd" else {})
    assert method is not None
    method.double()
    maps = [[torch.randn(16, *shape).double() for shape in SMALL_RUN.student_maps] for _ in range(2)]
    # Each network outputs three vectors of the images and of three extra views, which SSKD reads.
    logits = SMALL_RUN.scores if name == "holistic" else (4,)
    sizes = ((16, 4), (16, *logits), (16, 4), (48, 4), (48, 4), (48, 4))
    parts = [[torch.randn(size).double() for size in sizes] for _ in range(2)]
    found = []
    for place in (torch.device("cpu"), device):
        s, t = ([x.to(place) for x in vectors] for vectors in parts)
        s_maps, t_maps = (tuple(stage.to(place) for stage in stages) for stages in maps)
        leaves = [x.clone().requires_grad_() for x in (*s, *s_maps)]
        student = Output(*leaves[:3], tuple(leaves[6:]), Output(*leaves[3:6]))
        teacher = Output(*t[:3], t_maps, Output(*t[3:]))
        value = method.to(place)(student, teacher, Batch(torch.arange(16, device=place), labels.to(place)))
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        found.append([value.detach().cpu(), *(g.cpu() for g in gradients if g is not None)])
    worst = max(float((b - a).norm() / a.norm().clamp_min(1e-12)) for a, b in zip(*found, strict=True))
    return worst <= TOLERANCE[torch.float64], f"value and gradient, largest relative difference {worst:.1e}"


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value, gradient


def error(found: Tensor, expected: float) -> float:
    return abs(found.item() - expected) / max(abs(expected), 1e-12)


def no_waiting(settings: Settings, loop: BenchmarkLoop) -> tuple[bool, str]:
    """Train some steps while CUDA refuses every operation that waits for the GPU."""
    with TemporaryDirectory() as folder:
        train(settings, loop, Path(folder), forbid_waiting=True)
    return True, f"{settings.steps - 1} steps without a synchronisation"


def equal_runs(settings: Settings, loop: BenchmarkLoop) -> tuple[bool, str]:
    """Train some steps twice from one seed and compare all weights bit for bit."""
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        runs = [train(settings, loop, Path(folder)) for folder in (first, second)]
    different = [name for name, tensor in runs[0].items() if not torch.equal(tensor, runs[1][name])]
    return not different, f"{settings.steps} steps, {len(different)} of {len(runs[0])} tensors differ"


def train(settings: Settings, loop: BenchmarkLoop, folder: Path, forbid_waiting: bool = False) -> dict[str, Tensor]:
    """Return the weights after some steps; the first may wait, since libraries choose their algorithms in it."""
    builder, size = LoopBuilder(settings, folder), settings.batch_size
    run = builder.run(loop)
    indices = [torch.arange(size, device=builder.device) + size * number for number in range(settings.steps)]
    batches = run.batches(indices)
    run.step(*batches[0])
    with waiting_is_an_error() if forbid_waiting else nullcontext():
        for index, images in batches[1:]:
            run.step(index, images)
    return {name: tensor.clone() for name, tensor in run.job.objective.state_dict().items()}


def pretraining(device: torch.device, objective: str, forbid_waiting: bool = False) -> dict[str, Tensor]:
    """Return the weights, and MoCo's queue, after four steps of a pre-training; the first may wait."""
    given = {"objective": objective, "network": "resnet8", "augment": "moco", "batch_size": 32}
    given |= {"queue": 80} if objective == "moco" else {}
    job = build_pretraining(resolve_pretraining({**given, "device": device.type, "precision": "32-true"}))
    job.module.train()
    generator, meter = torch.Generator().manual_seed(0), Meter()
    indices = [torch.arange(32, device=job.fabric.device) + 32 * number for number in range(4)]
    images = [batch.to(device) for batch in job.data.train.batches(indices)]
    step(job, images[0], indices[0], generator, meter)
    with waiting_is_an_error() if forbid_waiting else nullcontext():
        for index, batch in zip(indices[1:], images[1:], strict=True):
            step(job, batch, index, generator, meter)
    return {name: tensor.clone() for name, tensor in job.module.state_dict().items()}


def pretraining_never_waits(device: torch.device, objective: str) -> tuple[bool, str]:
    """Pre-train some steps while CUDA refuses every operation that waits for the GPU."""
    pretraining(device, objective, forbid_waiting=True)
    return True, "3 steps without a synchronisation"


def pretraining_repeats(device: torch.device, objective: str) -> tuple[bool, str]:
    """Pre-train some steps twice from one seed and compare all weights bit for bit."""
    first, second = (pretraining(device, objective) for _ in range(2))
    different = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    return not different, f"4 steps, {len(different)} of {len(first)} tensors differ"


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def checks(device: torch.device) -> dict[str, Check]:
    """Return the checks by name; none has run yet."""
    small = replace(SMALL, device=device.type)
    found: dict[str, Check] = {}
    for name, dtype in {"float64": torch.float64, "float32": torch.float32}.items():
        found[f"official values, {name}"] = partial(golden, device, dtype)
        found[f"dense = knn(N - 1), {name}"] = partial(dense_is_knn, device, dtype)
        found[f"forms of a loss, {name}"] = partial(forms_agree, device, dtype)
    if device.type != "cpu":
        for name in METHODS:
            found[f"{name} as on the CPU"] = partial(as_on_the_cpu, device, name)
    # FSP needs a teacher as wide as the student, the holistic term networks that segment.
    names = [name for name in METHODS if name not in ("ega", "fsp", "holistic")]
    others = [BenchmarkLoop(f"{name}, online teacher", name, teacher="online") for name in names]
    for loop in (STORED, KNN, ONLINE, *others):
        if device.type == "cuda":
            found[f"no waiting: {loop.name}"] = partial(no_waiting, small, loop)
        found[f"equal runs: {loop.name}"] = partial(equal_runs, small, loop)
    for objective in ("simclr", "moco"):
        if device.type == "cuda":
            found[f"no waiting: pre-training by {objective}"] = partial(pretraining_never_waits, device, objective)
        found[f"equal runs: pre-training by {objective}"] = partial(pretraining_repeats, device, objective)
    return found


def run_all(device: torch.device) -> list[dict[str, Any]]:
    """Run every check, print a line for each, and return them; one that raises has failed."""
    results = []
    for name, check in checks(device).items():
        try:
            passed, detail = check()
        except (RuntimeError, RelgraphError) as problem:
            passed, detail = False, " ".join(str(problem).split())[:200]
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {detail}", flush=True)
        results.append({"check": name, "passed": passed, "detail": detail})
    return results


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--bench/--no-bench", default=True, help="Whether to measure speed at the end.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(device: str, bench: bool, out: Path | None) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no CUDA device here: --device cpu runs what needs none")
    if device == "cuda":
        # As precise as float32 is: TensorFloat-32 keeps three digits.
        torch.backends.cuda.matmul.allow_tf32 = False
    # Lightning logs the precision that it was given.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "checks": run_all(torch.device(device))}
    if bench:
        report["bench"] = measure(device)
        sizes = ",".join(str(2**power) for power in range(6, 19)) if device == "cuda" else "256,1024"
        report["scaling"] = measure(device, "scaling", "--sizes", sizes)
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(check["passed"] for check in report["checks"]))


def measure(device: str, *what: str) -> dict[str, Any]:
    """Run `bench.py`, which prints its tables, compiled steps included on a GPU, and return what it measured."""
    more = list(what) or (["--compile", "--steps", "50"] if device == "cuda" else [])
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [sys.executable, str(BENCH), *more, "--device", device, "--json", str(file)]
        subprocess.run(command, check=True)
        measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return measured


if __name__ == "__main__":
    main()
