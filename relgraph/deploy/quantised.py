"""A student in int8, as an ONNX file: static quantisation by onnxruntime, calibrated on training images.

Weights are symmetric int8, a scale for each output channel (of products of matrices one for all), activations uint8,
with the ranges that the calibration images have; nodes are written as pairs of QuantizeLinear and DequantizeLinear,
which onnxruntime and others fuse. torchao's quantisation by `torch.export` gives no file that other runtimes read.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relgraph.analysis.run_loading import BATCH, TrainedRun
from relgraph.data.images import ImageSet
from relgraph.data.views import Normalise
from relgraph.deploy.neighbours import IMAGES, nearest, neighbours_among, overlap
from relgraph.deploy.onnx_file import write_onnx
from relgraph.files import write_atomically
from relgraph.networks.plain import PlainStudent
from relgraph.seeding import generator
from relgraph.training.evaluation import accuracy

CALIBRATION = 256  # images


class Quantised(NamedTuple):
    """What was written.

    Attributes:
        bytes: Size of the file.
        float_bytes: That of the student in float32.
        share: Share of the numbers in the file that are int8.
    """

    bytes: int
    float_bytes: int
    share: float


def calibration_images(run: TrainedRun, count: int = CALIBRATION, seed: int = 0) -> Tensor:
    """Return so many training images of a run, drawn at random, `(N, C, H, W)` uint8."""
    images = run.images("train")
    drawn = torch.randperm(len(images), generator=generator("calibration", seed))[:count]
    return some_pixels(images.select(drawn.sort().values))


def some_pixels(images: ImageSet) -> Tensor:
    """Return all images of a small set, `(N, C, H, W)` uint8."""
    with closing(images.batches([torch.arange(len(images))])) as batches:
        return next(batches)


def write_int8(student: PlainStudent, path: Path, pixels: Tensor, *, keep: Path | None = None) -> Quantised:
    """Write a student with weights and activations in 8 bits, input and outputs as those of `write_onnx`.

    Args:
        student: In evaluation mode, on the CPU.
        path: The file, which is replaced.
        pixels: Images that calibrate, `(N, C, H, W)` uint8.
        keep: Where the file in float32 is written, of which this one is made; nowhere if not given.

    Raises:
        RelgraphError: if an optional package is missing, the student cannot be exported, or the file not written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(student, pixels)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    with TemporaryDirectory(prefix="relgraph-") as folder:
        prepared, small = Path(folder) / "prepared.onnx", Path(folder) / "small.onnx"
        whole = keep or Path(folder) / "whole.onnx"
        write_onnx(student, whole, images=pixels)
        # Batch norms are folded into convolutions, and shapes inferred.
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        model, told = onnx.load(small), {entry.key: entry.value for entry in onnx.load(whole).metadata_props}
        onnx.helper.set_model_props(model, told | {"weights": "int8"})
        write_atomically(path, model.SerializeToString())
        return Quantised(path.stat().st_size, whole.stat().st_size, int8_share(path))


def _batches(student: PlainStudent, pixels: Tensor) -> Iterator[dict[str, Any]]:
    prepare = Normalise(student.preprocess.mean, student.preprocess.std)
    for part in pixels.split(32):
        yield {"images": prepare(part).numpy()}


def int8_share(path: Path) -> float:
    """Return the share of the numbers in an ONNX file (weights, biases, scales) that are int8, 0 to 1."""
    import onnx

    sizes = [(tensor.data_type, int(np.prod(tensor.dims))) for tensor in onnx.load(path).graph.initializer]
    return sum(size for kind, size in sizes if kind == onnx.TensorProto.INT8) / sum(size for _, size in sizes)


def session_of(path: Path) -> Any:
    """Return onnxruntime's session of a file, on the CPU with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare_int8(run: TrainedRun, student: PlainStudent, before: Path, after: Path) -> dict[str, Any]:
    """Return what a student in float32 and in int8 gives for the test images of a run, or for the training images.

    For `before` and `after`: `top1` and `top5` in percent, where the images have labels and the student a classifier;
    `overlap` of the k nearest neighbours with the teacher's, in the space in which the method compared them, where
    there is a teacher. `kept`: overlap of both students' neighbours with each other. Beside them `k`, `split`, `images`.

    Raises:
        RelgraphError: if there are fewer than three images.
    """
    split = "test" if len(run.data.test) else "train"
    images = run.images(split, IMAGES)
    k, labels, teacher = neighbours_among(len(images)), images.true_labels, run.outputs(images)[1]
    found: dict[str, Any] = {"k": k, "split": split, "images": len(images)}
    tables = {}
    for name, path in (("before", before), ("after", after)):
        vectors, logits = outputs_of(path, student, images)
        tables[name] = nearest(vectors, k)
        known = logits is not None and bool((labels >= 0).all())
        found[name] = accuracy(logits, labels) if known else {}
        if teacher is not None:
            theirs = teacher.embedding if student.part == "embedding" else teacher.feature
            found[name]["overlap"] = overlap(tables[name], nearest(theirs, k))
    return found | {"kept": overlap(tables["before"], tables["after"])}


def outputs_of(path: Path, student: PlainStudent, images: ImageSet) -> tuple[Tensor, Tensor | None]:
    """Return the vectors `(N, D)` and logits `(N, classes)` that an ONNX file gives for images, by onnxruntime."""
    session, prepare = session_of(path), Normalise(student.preprocess.mean, student.preprocess.std)
    rows = []
    with closing(images.batches(torch.arange(len(images)).split(BATCH))) as batches:
        for batch in batches:
            rows.append(session.run(None, {"images": prepare(batch).numpy()}))
    vectors, *logits = (torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))
    return vectors, logits[0] if logits else None
