"""What a student starts from, weights of a library, of a file or of a run, and how its images are normalised."""

from dataclasses import replace
from pathlib import Path

from relgraph import names
from relgraph.data.datasets import DataSet
from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, choose_stages
from relgraph.networks.files import find_network, load_network, load_strictly, read_network
from relgraph.networks.sources import Preparation
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_teacher
from relgraph.training.recipe import Recipe


def start_of(recipe: Recipe) -> str | None:
    """Return the name of the weights, of a library or a file, that a student starts from; of a run's there is none."""
    if recipe.student_weights or recipe.init_from:
        return recipe.student_weights
    return str(recipe.student) if names.student(recipe.student).published else None


def new_backbone(recipe: Recipe, channels: int, side: int, *, restored: bool) -> Backbone:
    """Return a new student's backbone, with the weights that it starts from: a library's, a file's, an earlier run's.

    One that is `restored` gets its weights from a checkpoint, and needs no others.
    """
    source = names.student(recipe.student)
    if start_of(recipe) and not restored:
        weights = None if recipe.student_weights is None else Path(recipe.student_weights)
        backbone = source.start(weights, channels, side)
    else:
        backbone = source.build(channels, side)
    if recipe.init_from is not None and not restored:
        path = Path(recipe.init_from)
        found, info = load_network(path, names.student_in_file(path))
        if info["backbone"] != str(recipe.student):
            raise RelgraphError(f"{path} holds a {info['backbone']}: expected a {recipe.student}, the student")
        load_strictly(backbone, found.bare.state_dict(), path)
    choose_stages(backbone, recipe.student_stages, channels, side, f"student {recipe.student}")
    return backbone


def normalised(recipe: Recipe, teacher: Teacher | None, data: DataSet) -> tuple[Recipe, DataSet]:
    """Return the recipe with `normalise` decided, and the data with the statistics that it names."""
    channels, published = data.train.images.shape[1], names.student(recipe.student).published
    chosen = recipe.normalise
    if chosen == "auto":
        chosen = "student" if published and len(_prepared(recipe)[0]) == channels else "dataset"
    recipe = replace(recipe, normalise=chosen)
    if chosen == "dataset":
        return recipe, data
    if chosen == "student":
        (mean, std), owner = _prepared(recipe), recipe.student
    else:  # also for a student alone, so that it is compared on the same input
        teacher = teacher or open_teacher(recipe)
        mean, std, owner = teacher.mean, teacher.std, teacher.name
    if not len(mean) == len(std) == channels:
        raise RelgraphError(
            f"normalise {chosen!r} needs images with the {chosen}'s channels, got {channels} and {len(mean)} of "
            f"{owner}: use 'dataset', or another {chosen}"
        )
    return recipe, replace(data, mean=tuple(mean), std=tuple(std))


def _prepared(recipe: Recipe) -> Preparation:
    """Return mean and standard deviation of the images on which the weights were trained that a student starts from."""
    if recipe.init_from is None:
        return names.student(recipe.student).preparation()
    _, info = read_network(find_network(Path(recipe.init_from)))
    return info["mean"], info["std"]
