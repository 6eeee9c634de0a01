"""A student as an ONNX file, for onnxruntime and whatever else reads ONNX."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from relgraph.deploy.comparing import Outputs, compared
from relgraph.deploy.exported_program import description, names_of_outputs, read_sides, traced
from relgraph.errors import RelgraphError
from relgraph.files import first_line, replacing
from relgraph.networks.plain import PlainStudent, VectorsAlone

QUIET = 3  # onnxruntime's level of errors


def write_onnx(student: PlainStudent, path: Path, *, with_preprocessing: bool = False, images: Tensor) -> float:
    """Write a student as ONNX, and return how far the file's outputs in onnxruntime are from the student's.

    The input is `images`, normalised float32 `(batch, C, size, size)`, the outputs are `embedding` `(batch, D)` and,
    where a classifier was trained, `logits` `(batch, classes)`; `batch` is any number. The metadata hold, as JSON a
    value, the opset, the input with its range, the preprocessing and the classes. Where pixels have classes, the input
    is `(batch, C, height, width)` of any sizes from those of the training images on, or of these alone if the network
    reads no others, and the logits, of each pixel, `(batch, classes, height, width)`.

    Args:
        student: The student.
        path: The file, which is written whole or not at all.
        with_preprocessing: Whether the input is uint8 images `(batch, 3, height, width)` of any size instead.
        images: uint8 images of the student's size, `(N, 3, size, size)` or grey, on which both are compared.

    Raises:
        RelgraphError: if a package is missing, the student cannot be exported, ONNX lacks an operator, the file cannot
            be written, or it gives other outputs.
    """
    with needing_onnx(path):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    # Without the `None` that stands for the logits where none are trained: torch would warn of it.
    program = traced(student, with_preprocessing, None if student.classes else VectorsAlone)
    model = _converted(program, student, with_preprocessing, path)
    told = {**description(student, with_preprocessing), "opset": model.opset_import[0].version}
    for name, value in told.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())
        session = Session(part)
        return compared(student, session, images, path, "onnxruntime", with_preprocessing=with_preprocessing)


class Session:
    """An ONNX file opened by onnxruntime on the CPU, with torch's threads: images to its outputs, in their order."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = QUIET, torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Outputs:
        """Return the outputs."""
        return [torch.from_numpy(x) for x in self.session.run(None, {"images": images.numpy()})]


@contextmanager
def needing_onnx(path: Path) -> Iterator[None]:
    """Say in one sentence which package is missing, where ONNX's are imported.

    Raises:
        RelgraphError: if one is missing or broken.
    """
    try:
        yield
    except Exception as error:  # a broken installation raises nearly anything
        told = "the packages onnx, onnxscript and onnxruntime, of which one is not installed or broken"
        raise RelgraphError(f"{path} needs {told} ({first_line(error)}): pip install 'relgraph[deploy]'") from error


def _converted(program: ExportedProgram, student: PlainStudent, with_preprocessing: bool, path: Path) -> Any:
    """Return a program as a model of onnx, without torch's notes on its source, paths of files among them."""
    sizes = {0: "batch", **({2: "height", 3: "width"} if with_preprocessing or read_sides(student) is None else {})}
    names: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": names_of_outputs(student),
        "dynamic_shapes": (sizes,),
    }
    try:
        model: Any = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
    except Exception as error:
        raise RelgraphError(f"{path} is not written: {_reason(error, program)}") from error
    found = model.model_proto
    graph = found.graph
    for each in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.ClearField("metadata_props")
    return found


def _reason(error: BaseException, program: ExportedProgram) -> str:
    """Return why torch could not convert a program: the operator that ONNX lacks and the module that calls it."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    told = re.search(r"translating node %(\w+)", "\n".join(map(str, causes)))
    nodes = {node.name: node for node in program.graph.nodes}
    if told is None or told[1] not in nodes:
        return first_line(causes[-1])
    node = nodes[told[1]]
    module, kind = list(node.meta.get("nn_module_stack", {"": ("", "")}).values())[-1]
    return (
        f"ONNX lacks the operator {node.target} of the module {module or 'itself'} ({kind}): {first_line(causes[-1])}"
    )
