"""What a student costs to run, beside its teacher: parameters, multiply-accumulates, bytes, images per second here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from relgraph.analysis.run_loading import TrainedRun
from relgraph.deploy.comparing import normalised
from relgraph.deploy.neighbours import IMAGES, nearest, neighbours_among, overlap
from relgraph.deploy.onnx_file import Session, write_onnx
from relgraph.deploy.quantised import calibration_images, some_pixels, write_int8
from relgraph.deploy.speed import BATCH, images_per_second
from relgraph.files import first_line
from relgraph.networks.plain import PlainStudent
from relgraph.training.feed import input_of

FORMS = ("torch", "compiled", "onnx", "int8")


class Work(NamedTuple):
    """A call that computes a batch and waits for the result, the number of images in it, and the file's bytes."""

    call: Callable[[], object]
    images: int
    bytes: int


def multiply_accumulates(network: nn.Module, images: Tensor) -> int:
    """Return the multiply-accumulates of a network's matrix products and convolutions, half of torch's count of flops.

    Args:
        network: It is called once, in the mode that it is in.
        images: What it reads, `(N, C, H, W)`; of one image for the count of one.

    >>> multiply_accumulates(nn.Linear(3, 5), torch.zeros(1, 3))
    15
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter, fast = FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # attention in one kernel is not counted, its products are
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def run_cost(
    run: TrainedRun, student: PlainStudent, *, forms: Sequence[str] | None = None, batch_size: int = BATCH
) -> dict[str, Any]:
    """Return what the student of a run costs here, beside its teacher, and how many neighbours it has kept.

    - `batch`, `threads`, `device`: how images per second were measured; ONNX files run on the CPU.
    - `student`, `teacher`: `parameters`, `macs` (for one image), `image` (its shape), and by form `bytes` and
      `images_per_second`, or `skipped` with the reason.
    - `neighbours`: `overlap` of the student's nodes with the teacher's, as `analyse` has it, and `overlap_own` with the
      teacher's own vectors, before the head that the run trained; `k`, `split`, `images`.
    - `sentence`: for which people distil.

    Without a teacher its figures and the neighbours are left out.

    Args:
        run: The run, opened.
        student: Its student.
        forms: What is timed, of `FORMS`; all if not given.
        batch_size: Images of a timed call, at most.

    Raises:
        RelgraphError: if the run has too few images.
    """
    split = "test" if len(run.data.test) else "train"
    pixels = some_pixels(run.images(split, batch_size))
    found: dict[str, Any] = {"batch": len(pixels), "threads": torch.get_num_threads(), "device": str(run.device)}
    if run.teacher is not None:
        network, images = run.teacher, input_of(run.teacher)(pixels.to(run.device))
        found["teacher"] = _size(network, images) | {"forms": {"torch": _timed(lambda: _in_torch(network, images))}}
        found["neighbours"] = _neighbours(run, split)
    with TemporaryDirectory(prefix="relgraph-") as folder:
        found["student"] = _student(run, student, pixels, FORMS if forms is None else forms, Path(folder))
    return found | {"sentence": sentence(found)}


def _student(
    run: TrainedRun, student: PlainStudent, pixels: Tensor, forms: Sequence[str], folder: Path
) -> dict[str, Any]:
    images = normalised(student, pixels.to(run.device))
    student.to(run.device)

    def compiled() -> Work:
        return _in_torch(torch.compile(student), images)

    def onnx() -> Work:
        write_onnx(student.cpu(), folder / "student.onnx", images=pixels)
        return _in_onnxruntime(folder / "student.onnx", images)

    def int8() -> Work:
        write_int8(student.cpu(), folder / "int8.onnx", calibration_images(run))
        return _in_onnxruntime(folder / "int8.onnx", images)

    works = {"torch": lambda: _in_torch(student, images), "compiled": compiled, "onnx": onnx, "int8": int8}
    return _size(student, images) | {"forms": {form: _timed(works[form]) for form in FORMS if form in forms}}


def _in_torch(network: Any, images: Tensor) -> Work:
    def call() -> object:
        with torch.no_grad():
            found = network(images)
            return (found[0] if isinstance(found, tuple) else found).cpu()

    weights = {name: values.detach().cpu().contiguous().clone() for name, values in network.state_dict().items()}
    return Work(call, len(images), len(safetensors.torch.save(weights)))


def _in_onnxruntime(path: Path, images: Tensor) -> Work:
    session, given = Session(path), images.cpu()
    return Work(lambda: session(given), len(images), path.stat().st_size)


def _timed(make: Callable[[], Work]) -> dict[str, Any]:
    """Return size and speed of a form, or why it does not work here: a compiler or a package may be missing."""
    try:
        work = make()
        return {"bytes": work.bytes, "images_per_second": images_per_second(work.call, work.images)}
    except Exception as error:  # of torch's compiler and of onnxruntime, whose kinds are their own
        return {"skipped": first_line(error)}


def _size(network: nn.Module, images: Tensor) -> dict[str, Any]:
    parameters = sum(values.numel() for values in network.parameters())
    return {
        "parameters": parameters, "macs": multiply_accumulates(network, images[:1]), "image": list(images.shape[1:])
    }  # fmt: skip


def _neighbours(run: TrainedRun, split: str) -> dict[str, Any]:
    images = run.images(split, IMAGES)
    student, teacher = run.outputs(images)
    assert teacher is not None and teacher.feature is not None
    k = neighbours_among(len(images))
    near = nearest(student.embedding, k)
    return {
        "k": k, "split": split, "images": len(images), "overlap": overlap(near, nearest(teacher.embedding, k)),
        "overlap_own": overlap(near, nearest(teacher.feature, k)),
    }  # fmt: skip


def sentence(cost: dict[str, Any]) -> str:
    """Return the cost of a student in one line: its size, and its time and neighbours beside the teacher's.

    >>> cost = {"student": {"parameters": 310_000, "forms": {"torch": {"images_per_second": 5_000.0}}}}
    >>> sentence(cost)
    '0.31 M parameters'
    >>> cost["teacher"] = {"forms": {"torch": {"images_per_second": 100.0}}}
    >>> cost["neighbours"] = {"overlap": 0.94, "k": 10, "images": 355, "split": "test"}
    >>> sentence(cost)
    "0.31 M parameters, 1/50 of the teacher's time, 94 % of its 10 nearest neighbours (355 images of the split test)"
    """
    parts = [f"{cost['student']['parameters'] / 1e6:.2f} M parameters"]
    speeds = [cost.get(name, {}).get("forms", {}).get("torch", {}) for name in ("student", "teacher")]
    if all("images_per_second" in speed for speed in speeds):
        share = speeds[1]["images_per_second"] / speeds[0]["images_per_second"]
        parts.append(f"{f'1/{1 / share:.0f}' if share <= 0.5 else f'{share:.2f}'} of the teacher's time")
    if near := cost.get("neighbours"):
        among = f"{near['images']:,} images of the split {near['split']}"
        parts.append(f"{100 * near['overlap']:.0f} % of its {near['k']} nearest neighbours ({among})")
    return ", ".join(parts)
