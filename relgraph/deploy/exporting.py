"""The student of a run for other programs: which kind of file, and the images on which it is compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgraph.deploy.exported_program import write_exported
from relgraph.deploy.onnx_file import write_onnx
from relgraph.deploy.weights_file import write_weights
from relgraph.errors import RelgraphError
from relgraph.names import dataset, load_student, own_spellings
from relgraph.networks.plain import PlainStudent
from relgraph.training.building import open_data
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory

COMPARED = 64  # images


def export_student(
    run: RunDirectory, path: Path, format: str, *, with_preprocessing: bool = False, licence: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Write the student of a run, and return how far its outputs are from the student's, and on how many images.

    Args:
        run: The run.
        path: The file, or the folder of `hub`, written whole or not at all.
        format: `onnx`, `pt2`, `safetensors` or `hub`.
        with_preprocessing: Whether a program takes uint8 images of any size.
        licence: Of the weights, for the model card.
        given: Code of one's own that the run names, given again.

    Raises:
        RelgraphError: if the run cannot be opened, an option does not fit the format, the student cannot be exported,
            or what was written cannot be written or gives other outputs.
    """
    if with_preprocessing and format not in ("onnx", "pt2"):
        raise RelgraphError(
            f"preprocessing can be inside of the formats onnx and pt2, got {format}, which has no graph"
        )
    if licence is not None and format != "hub":
        raise RelgraphError(f"a licence stands in the model card of the format hub, got the format {format}")
    given = given or {}
    recipe, own = run.recipe(given), given.get("student")
    student = load_student(run.student_file, student=own)
    if student.of_pixels and format not in ("onnx", "pt2"):
        raise RelgraphError(f"a student for classes of pixels is exported as onnx or pt2, got the format {format}")
    images = compared_images(recipe, student)
    match format:
        case "onnx":
            worst = write_onnx(student, path, with_preprocessing=with_preprocessing, images=images)
        case "pt2":
            worst = write_exported(student, path, with_preprocessing=with_preprocessing, images=images)
        case "safetensors":
            worst = write_weights(student, path, images=images)
        case _:
            from relgraph.deploy.hub import Made, write_hub

            worst = write_hub(student, path, Made(**_made(run, recipe, licence)), images=images, own=own)
    return worst, len(images)


def compared_images(recipe: Recipe, student: PlainStudent) -> Tensor:
    """Return the pixels `(N, 3, size, size)` uint8 of at most 64 test images of a run, of others where there are none.

    Raises:
        RelgraphError: if the data cannot be read.
    """
    data = open_data(recipe)
    split = next(each for each in (data.test, data.val, data.train) if len(each))
    (pixels,) = split.batches([torch.arange(min(COMPARED, len(split)))])
    return torch.stack([student.preprocess.pixels(image) for image in pixels])


def _made(run: RunDirectory, recipe: Recipe, licence: str | None) -> dict[str, Any]:
    """Return how a run's student was made, for a card that others read: without the folders of this machine."""
    teacher = _public(str(recipe.teacher)) if recipe.uses_teacher else "none"
    names = {"network": _public(str(recipe.student)), "method": _public(str(recipe.method)), "teacher": teacher}
    return {**names, "dataset": dataset(recipe.dataset).short_name, "result": run.result(), "licence": licence}


def _public(spec: str) -> str:
    """Return a spelling without folders.

    >>> _public("0.5*lab/losses.py:Mine+kd"), _public("checkpoint:runs/first"), _public("open_clip:ViT-B-32/openai")
    ('0.5*losses.py:Mine+kd', 'checkpoint:first', 'open_clip:ViT-B-32/openai')
    """
    for own in own_spellings(spec):
        spec = spec.replace(own, Path(own).name)
    source, colon, name = spec.partition(":")
    return f"{source}:{Path(name).name}" if colon and source in ("checkpoint", "vectors") else spec
