"""Zero-shot classes: images by vectors of their classes' names, of the text side of a run's open_clip teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph import names
from relgraph.analysis.run_loading import TrainedRun
from relgraph.errors import RelgraphError, unknown
from relgraph.files import reading
from relgraph.networks.open_clip_source import OpenClipSource
from relgraph.training.evaluation import accuracy


def evaluate_zero_shot(run: TrainedRun, file: Path, split: str = "test") -> dict[str, Any]:
    """Return the accuracies of student and teacher by classes that are known by their names alone, in percent.

    An image is of the class whose vector has the largest cosine with its own: the vectors are those of
    `OpenClipSource.class_vectors`. The student, trained with target_space teacher, stands in the same space as they.

    Args:
        run: The run, of a teacher of open_clip.
        file: A class a line, `NAME` or `NAME: words for the prompts`; the classes of the split must be among them, and
            others are further ones to choose from.
        split: Whose images are classified.

    Returns:
        `images`, `classes`, the number of lines, and for student and teacher `top1` and `top5`.

    Raises:
        RelgraphError: if the run has another teacher or compared in another space, the file cannot be read, lacks a
            class or has one twice, or images have no labels.
    """
    source = names.teacher(run.recipe.teacher) if run.recipe.uses_teacher else None
    if not isinstance(source, OpenClipSource):
        raise RelgraphError(f"zero-shot classes need a text side: expected an open_clip teacher, got {_teacher(run)}")
    if run.recipe.target_space != "teacher":
        told = "zero-shot classes stand in the teacher's own space: expected a run with --target-space teacher"
        raise RelgraphError(f"{told}, got {run.recipe.target_space!r}")
    words, images = read_classes(file), run.images(split)
    labels = _numbered(images.true_labels.cpu(), images.classes, words, file)
    weights = None if run.recipe.teacher_weights is None else Path(run.recipe.teacher_weights)
    classes = source.class_vectors(weights, list(words.values()))
    report: dict[str, Any] = {"split": split, "images": len(images), "classes": len(words)}
    for name, vectors in zip(("student", "teacher"), run.vectors(images), strict=True):
        assert vectors is not None, "its teacher is a network"
        report[name] = accuracy(normalize(vectors) @ classes.T, labels)
    return report


def _teacher(run: TrainedRun) -> object:
    return run.recipe.teacher if run.recipe.uses_teacher else "none"


def read_classes(file: Path) -> dict[str, str]:
    """Return the words of each class of a file, which are its name with spaces for `_` where it has no others.

    Raises:
        RelgraphError: if the file cannot be read or holds no class, or one twice.
    """
    try:
        with reading(file):
            lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RelgraphError(f"{file}: expected a class a line in UTF-8, found other bytes") from error
    found: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, _, words = (part.strip() for part in line.partition(":"))
        if name in found:
            raise RelgraphError(f"{file}: expected each class once, found {name!r} twice")
        found[name] = words or name.replace("_", " ")
    if not found:
        raise RelgraphError(f"{file}: expected a class a line, found none")
    return found


def _numbered(labels: Tensor, classes: Sequence[str], words: Mapping[str, str], file: Path) -> Tensor:
    """Return the labels of images as lines of the file number their classes."""
    if len(labels) == 0 or bool((labels < 0).any()):
        raise RelgraphError("zero-shot accuracy needs a label of each image, found images without one")
    position = {name: number for number, name in enumerate(words)}
    for name in classes:
        if name not in position:
            raise unknown(f"class of the images, which {file} must list,", name, position)
    return torch.tensor([position[name] for name in classes])[labels]
