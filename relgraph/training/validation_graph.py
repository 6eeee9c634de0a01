"""Graphs of a fixed sample of the images that are evaluated after each epoch: the student's beside the teacher's own.

What a loss reads is the graph of a batch of the training, other images in each step, often of what both networks
learned to compare. This is always the same graph: that of the frozen teacher's vectors, which are computed once.
"""

import torch
from torch import Tensor

from relgraph.analysis.neighbourhoods import homophily, neighbour_overlap
from relgraph.data.images import ImageSet
from relgraph.graph.search import nearest_in_blocks
from relgraph.methods.against import Against
from relgraph.methods.contrastive import Contrastive
from relgraph.names import read_arguments
from relgraph.networks.plain import PlainStudent, VectorsAlone
from relgraph.networks.teachers import Teacher
from relgraph.networks.vectors import VectorTeacher
from relgraph.training.evaluation import embed
from relgraph.training.feed import input_of
from relgraph.training.recipe import Recipe
from relgraph.training.tasks import LAST, Task

SAMPLE = 1_000  # images: their search takes milliseconds, and both networks read no more than that
NEIGHBOURS = 8  # as those of a batch
OVERLAP = f"overlap@{NEIGHBOURS}"
FEWEST = 2 * NEIGHBOURS + 1  # of fewer images most are neighbours of each other, whatever a network does
BATCH = 256
SHARE = f"the share of the teacher's {NEIGHBOURS} nearest neighbours that are the student's too"
SELECTED = {
    "val": f"best epoch picked by {SHARE}, on at most {SAMPLE:,} images of a validation split held out from the "
    "training set; the test split was only read at the end",
    "test": f"best epoch picked by {SHARE}, on at most {SAMPLE:,} images of the test split itself: the figure of the "
    "best epoch is optimistic",
    "last": LAST,
}


class ValidationGraph:
    """The teacher's graph of at most 1,000 evenly spaced images, and how near a student's graph of them is.

    Each of several processes measures all of the images, so that their number changes nothing.

    Args:
        task: What the student learns.
        images: A split; of a `VectorTeacher` its vectors are those of these images.
        teacher: The frozen teacher.
        selects: Whether `overlap@8` picks the best epoch.

    Attributes:
        images: The sample.
        teacher: The teacher's own vectors of it, `(N, D)`.
        selects: As above.
    """

    def __init__(self, task: Task, images: ImageSet, teacher: Teacher, *, selects: bool = False) -> None:
        self.selects = selects
        kept = min(len(images), SAMPLE)
        places = torch.arange(kept) * len(images) // kept
        self.task, self.images = task, images.select(places)
        if isinstance(teacher, VectorTeacher):
            self.teacher = teacher.rows(places)
        else:
            self.teacher = embed(teacher, self.images, input_of(teacher), BATCH, task.device, "teacher", task.workers)
        self.neighbours = nearest_in_blocks(self.teacher, NEIGHBOURS)[0]

    def vectors(self, student: PlainStudent) -> Tensor:
        """Return the nodes of a student's graph, `(N, D)`."""
        return embed(
            VectorsAlone(student), self.images, self.task.student_input, BATCH, self.task.device, None,
            self.task.workers,
        )  # fmt: skip

    def measure(self, student: PlainStudent) -> dict[str, float]:
        """Return the measures of a student, in percent.

        `overlap@8`: share of the teacher's 8 nearest neighbours that are the student's too; `homophily_student`,
        `homophily_teacher`: share of neighbours of one class, of those whose both ends have a label.
        """
        found = nearest_in_blocks(self.vectors(student), NEIGHBOURS)[0]
        measured = {OVERLAP: 100 * float(neighbour_overlap(found, self.neighbours).mean())}
        labels = self.images.true_labels.cpu()
        if bool((labels >= 0).any()):
            for side, neighbours in (("student", found), ("teacher", self.neighbours)):
                measured[f"homophily_{side}"] = 100 * homophily(neighbours, labels)
        return measured


def compares_features(recipe: Recipe) -> bool:
    """Return whether no label trains a run's projections, and its method compares features with the teacher's own.

    The nodes of the student's graph are then what its loss compared, behind the layers of the method; else they are its
    embeddings.
    """
    methods = recipe.methods
    if len(methods) != 1 or not issubclass(methods[0].cls, Contrastive | Against) or recipe.learns_labels:
        return False
    chosen = read_arguments(methods, recipe.method_args)[methods[0].name]
    return chosen.get("nodes", recipe.chosen_nodes) in (None, "feature")
