"""A student in int8, as an ONNX file: static quantisation by onnxruntime, calibrated on training images.

Weights are symmetric int8 of 7 bits, -64 to 64, a scale for each output channel (of products of matrices one for all),
activations uint8, with the ranges that the calibration images have; nodes are written as pairs of QuantizeLinear and
DequantizeLinear, which onnxruntime and others fuse. With the eighth bit, sums of two products overflow in the
instructions of x86 processors without VNNI (Intel before Cascade Lake, AMD before Zen 4): vectors of a ResNet-8 that
are 1.7 % off if computed exactly were 15 % off there, with 7 bits they are 2.9 % off in both ways. torchao's
quantisation by `torch.export` gives no file that other runtimes read.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.images import ImageSet
from relgraph.deploy.comparing import normalised
from relgraph.deploy.neighbours import IMAGES, nearest, neighbours_among, overlap
from relgraph.deploy.onnx_file import Session, needing_onnx, write_onnx
from relgraph.deploy.speed import BATCH, images_per_second
from relgraph.files import write_atomically
from relgraph.networks.plain import PlainStudent
from relgraph.seeding import generator
from relgraph.training.evaluation import accuracy

CALIBRATION = 256  # images
COMPARED = 64  # images on which the file in float32 is compared with the student
AT_ONCE = 32  # images
# Norms that no convolution takes in have numbers of very different sizes, and no runtime computes them in int8.
IN_FLOAT = {"BatchNormalization", "InstanceNormalization", "LayerNormalization"}


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


def write_int8(
    student: PlainStudent, path: Path, pixels: Tensor, *, with_preprocessing: bool = False, keep: Path | None = None
) -> Quantised:
    """Write a student with weights and activations in 8 bits, input and outputs as those of `write_onnx`.

    Args:
        student: In evaluation mode, on the CPU.
        path: The file, which is replaced.
        pixels: Images that calibrate, `(N, C, size, size)` uint8.
        with_preprocessing: Whether the input is uint8 images of any size instead.
        keep: Where the file in float32 is written, of which this one is made; nowhere if not given.

    Raises:
        RelgraphError: if an optional package is missing, the student cannot be exported, or the file not written.
    """
    with needing_onnx(path):
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.registry import QDQRegistry
        from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(torch.split(pixels, AT_ONCE))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": fed(student, part, with_preprocessing).numpy()}

    with TemporaryDirectory(prefix="relgraph-") as folder:
        prepared, small = Path(folder) / "prepared.onnx", Path(folder) / "small.onnx"
        whole = keep or Path(folder) / "whole.onnx"
        write_onnx(student, whole, with_preprocessing=with_preprocessing, images=pixels[:COMPARED])
        # Batch norms are folded into convolutions, and shapes inferred.
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=sorted(QDQRegistry.keys() - IN_FLOAT),
            # Vectors and logits of 256 levels would have ties.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )  # fmt: skip
        model, told = onnx.load(small), {entry.key: entry.value for entry in onnx.load(whole).metadata_props}
        onnx.helper.set_model_props(model, told | {"weights": json.dumps("int8")})
        write_atomically(path, model.SerializeToString())
        return Quantised(path.stat().st_size, whole.stat().st_size, int8_share(path))


def fed(student: PlainStudent, pixels: Tensor, with_preprocessing: bool) -> Tensor:
    """Return what a file of a student reads of uint8 images of its size."""
    return pixels.expand(-1, 3, -1, -1).contiguous() if with_preprocessing else normalised(student, pixels)


def int8_share(path: Path) -> float:
    """Return the share of the numbers in an ONNX file (weights, biases, scales) that are int8, 0 to 1."""
    import onnx

    sizes = [(tensor.data_type, int(np.prod(tensor.dims))) for tensor in onnx.load(path).graph.initializer]
    return sum(size for kind, size in sizes if kind == onnx.TensorProto.INT8) / sum(size for _, size in sizes)


def export_int8(
    run: TrainedRun, student: PlainStudent, path: Path, *, with_preprocessing: bool = False
) -> dict[str, Any]:
    """Write the student of a run in int8, calibrated on its training images, and return what that changed.

    `bytes`, `float_bytes`, `share` of `Quantised`, and what `compare_int8` returns; where that fails, no file is left.

    Raises:
        RelgraphError: as `write_int8` and `compare_int8` do.
    """
    with TemporaryDirectory(prefix="relgraph-") as folder:
        whole = Path(folder) / "student.onnx"
        calibration = calibration_images(run)
        written = write_int8(student, path, calibration, with_preprocessing=with_preprocessing, keep=whole)
        try:
            return written._asdict() | compare_int8(run, student, whole, path, with_preprocessing=with_preprocessing)
        except BaseException:  # an interrupt as well
            path.unlink(missing_ok=True)
            raise


def compare_int8(
    run: TrainedRun, student: PlainStudent, before: Path, after: Path, *, with_preprocessing: bool = False
) -> dict[str, Any]:
    """Return what a student in float32 and in int8 gives for the test images of a run, or for the training images.

    For `before` and `after`: `images_per_second` in onnxruntime, in batches of `batch` on so many `threads`. Beside
    them `split`, `images`, and what `_kept_neighbours` returns; of a student for classes of pixels `pixels`, the share
    of pixels whose class stays.

    Raises:
        RelgraphError: if there are fewer than three images.
    """
    split = "test" if len(run.data.test) else "train"
    images = run.images(split, IMAGES)
    batch = fed(student, some_pixels(images.select(torch.arange(min(BATCH, len(images))))), with_preprocessing)
    found: dict[str, Any] = {"split": split, "images": len(images), "batch": len(batch)}
    sessions = {"before": Session(before), "after": Session(after)}
    parts = (fed(student, part, with_preprocessing) for part in _parts(images))
    outputs = ([session(x) for session in sessions.values()] for x in parts)
    told: dict[str, Any]
    if student.of_pixels and student.classes:
        logits = (list(zip(*pair, strict=True))[1] for pair in outputs)
        same = [(one.argmax(1) == other.argmax(1)).float().mean((1, 2)) for one, other in logits]
        told = {"before": {}, "after": {}, "pixels": float(torch.cat(same).mean())}
    else:
        both = [[torch.cat(each) for each in zip(*one, strict=True)] for one in zip(*outputs, strict=True)]
        told = _kept_neighbours(run, student, images, dict(zip(sessions, both, strict=True)))
    for name, session in sessions.items():
        told[name]["images_per_second"] = images_per_second(partial(session, batch), len(batch))
    return found | told | {"threads": torch.get_num_threads()}


def _kept_neighbours(
    run: TrainedRun, student: PlainStudent, images: ImageSet, outputs: dict[str, list[Tensor]]
) -> dict[str, Any]:
    """Return by the name of two students' outputs on images, vectors and logits if there are any, how good they are.

    `top1` and `top5` in percent, where the images have labels and the student a classifier; `overlap` of the k nearest
    neighbours with the teacher's, in the space in which the method compared them, where there is a teacher. Beside them
    `k`, and `kept`: overlap of both students' neighbours with each other.
    """
    k, labels, teacher = neighbours_among(len(images)), images.true_labels, run.outputs(images)[1]
    theirs = None if teacher is None else teacher.embedding if student.part == "embedding" else teacher.feature
    found: dict[str, Any] = {"k": k}
    tables = {name: nearest(vectors, k) for name, (vectors, *_) in outputs.items()}
    for name, (_, *logits) in outputs.items():
        found[name] = {}
        if logits and bool((labels >= 0).all()) and images.classes == run.data.train.classes:
            found[name] |= accuracy(logits[0], labels)
        if theirs is not None:
            found[name]["overlap"] = overlap(tables[name], nearest(theirs, k))
    return found | {"kept": overlap(*tables.values())}


def _parts(images: ImageSet) -> Iterator[Tensor]:
    with closing(images.batches(torch.split(torch.arange(len(images)), AT_ONCE))) as batches:
        yield from batches


def told_int8(found: dict[str, Any]) -> list[str]:
    """Return the figures of `export_int8` in lines."""
    share, sizes = 100 * found["share"], (found["bytes"] / 1e6, found["float_bytes"] / 1e6)
    lines = [f"int8: {share:.1f} % of the numbers, {sizes[0]:.2f} MB for {sizes[1]:.2f} MB in float32"]
    both, words = (found["before"], found["after"]), []
    if all("top1" in each for each in both):
        words.append(f"top-1 {both[0]['top1']:.2f} -> {both[1]['top1']:.2f} %")
    if "pixels" in found:
        words.append(f"{100 * found['pixels']:.2f} % of the pixels have their class in float32")
    else:
        near = f"{found['k']} nearest neighbours"
        if all("overlap" in each for each in both):
            words.append(f"{near} as the teacher's {100 * both[0]['overlap']:.1f} -> {100 * both[1]['overlap']:.1f} %")
        words.append(f"{near} as in float32 {100 * found['kept']:.1f} %")
    lines.append(f"{', '.join(words)} ({found['images']:,} images of the split {found['split']})")
    speeds = " -> ".join(f"{each['images_per_second']:,.0f}" for each in both)
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return [*lines, f"images/s in onnxruntime {speeds} (batches of {found['batch']}, {threads})"]
