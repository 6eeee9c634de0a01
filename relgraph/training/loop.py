"""The training loop: one step, one epoch, one run."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.data.images import ImageSet
from relgraph.methods import Batch
from relgraph.networks.batch_norm import average_statistics
from relgraph.networks.files import save_network
from relgraph.processes import ProcessGroup
from relgraph.training.accumulation import forward_and_backward
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.epochs import Progress, run_epochs
from relgraph.training.evaluation import accuracy
from relgraph.training.head import train_head
from relgraph.training.meter import Meter
from relgraph.training.neighbours import judge_features
from relgraph.training.objective import Stage
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.schedule import learning_rate
from relgraph.training.setup import Setup, build

SELECTED_ON_VAL = (
    "best epoch picked on a validation split held out from the training set; the test split was only read at the end"
)
SELECTED_ON_TEST = (
    "best epoch picked on the test split itself, as the original code does: the figure of the best epoch is optimistic"
)
SELECTED_BY_NEIGHBOURS = (
    "best epoch picked by the k-NN accuracy of the features on a validation split held out from the training set: it "
    "reads labels, by which no classifier of the student was taught; the test split was only read at the end"
)
SELECTED_BY_NEIGHBOURS_ON_TEST = (
    "best epoch picked by the k-NN accuracy of the features on the test split itself: the figure of the best epoch is "
    "optimistic"
)
SELECTED_LAST = "there are no labelled images to pick the best epoch by: it is the last"


@dataclass(frozen=True, eq=False)
class Distillation:
    """The training of a student with or without a teacher, as a job for `run_epochs`."""

    setup: Setup

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.setup.recipe

    @property
    def epochs(self) -> int:
        """Passes over the training set."""
        return self.setup.recipe.epochs

    @property
    def processes(self) -> ProcessGroup:
        """The processes over which each batch is spread."""
        return self.setup.processes

    @property
    def note(self) -> str:
        """Where the teacher's embeddings come from."""
        return self.setup.note

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        setup = self.setup
        return {
            "distiller": setup.distiller,
            "student_optimiser": setup.student_optimiser,
            "teacher_optimiser": setup.teacher_optimiser,
        }

    @property
    def score(self) -> str:
        """The metric by which the best epoch is selected."""
        return "top1" if self.recipe.learns_labels else "knn"

    def begin(self, run: Run) -> None:
        """Train the teacher's head, if the recipe trains it first."""
        if self.setup.trains_head:
            train_head(self.setup, run)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch."""
        return train_epoch(self.setup, epoch)

    def diagnostics(self) -> list[dict[str, float]]:
        """Return the diagnostics of the last epoch, a row for each measured step."""
        return [] if self.setup.diagnostics is None else self.setup.diagnostics.read()

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the student's metrics on the split that selects."""
        return evaluate(self.setup, self.setup.data.val if self.recipe.select == "val" else self.setup.data.test)

    def keep(self, run: Run) -> None:
        """Write the student."""
        save_network(run.student_file, self.setup.student, self.setup.description())

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the run's figures: the test split is read here, at the end, for the last epoch and for the best."""
        setup, recipe, data, method = self.setup, self.recipe, self.setup.data, self.setup.objective.method
        last = evaluate(setup, data.test, probe=True)
        setup.distiller.load_state_dict(load_checkpoint(run.best)["distiller"])
        best = evaluate(setup, data.test, probe=True)
        return {
            "method": recipe.method,
            "weights": {} if method is None else method.weights,
            "graph": recipe.graph_in_use,
            "test": {"last": last, "best": best},
            "best_epoch": progress.best_epoch,
            "epochs": recipe.epochs,
            "selected_on": recipe.select,
            **self._selection(progress),
            "images": {"train": len(data.train), "labelled": int((data.train.labels >= 0).sum()),
                       "val": len(data.val), "test": len(data.test)},
            "images_per_s": median(row["images_per_s"] for row in progress.rows),
            "seed": recipe.seed,
            "device": str(setup.fabric.device),
            "processes": setup.processes.count,
            "precision": str(setup.fabric.strategy.precision.precision),
        }  # fmt: skip

    def _selection(self, progress: Progress) -> dict[str, Any]:
        """Return the score of the best epoch on the split that selects, and a sentence on how it was selected."""
        select, score = self.recipe.select, f"{self.recipe.select}_{self.score}"
        if not any(score in row for row in progress.rows):
            return {"note": SELECTED_LAST}
        by_neighbours = self.score == "knn"
        notes = {
            "val": SELECTED_BY_NEIGHBOURS if by_neighbours else SELECTED_ON_VAL,
            "test": SELECTED_BY_NEIGHBOURS_ON_TEST if by_neighbours else SELECTED_ON_TEST,
        }
        return {f"{score}_of_best": progress.best_top1, "note": notes[select]}


def train(recipe: Recipe, path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a student and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    return run_epochs(lambda: Distillation(build(recipe)), recipe, path, resume=resume)


def train_epoch(setup: Setup, epoch: int) -> dict[str, float]:
    """Train for one pass over the training set and return the epoch's row of metrics."""
    recipe, images = setup.recipe, setup.data.train
    for group in setup.student_optimiser.param_groups:
        group["lr"] = learning_rate(recipe, epoch)
    setup.distiller.train()
    processes = setup.processes
    meter, diagnostics = Meter(processes), setup.new_diagnostics()
    start, done = time.perf_counter(), 0
    batches = epoch_batches(
        images.labels.cpu(),
        batch_size=recipe.batch_size,
        labelled_share=recipe.labelled_share,
        seed=recipe.seed,
        epoch=epoch,
        by_label=recipe.learns_labels,
        processes=processes,
    )
    views = setup.view_generator(epoch)
    hidden = None if processes.first else True
    bar = tqdm(batches, desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", leave=False, disable=hidden)
    for index, pixels in zip(bar, setup.batches(batches), strict=True):
        step(setup, pixels, index.to(pixels.device), views, meter, recipe.stage(epoch), diagnostics)
        done += len(index) * processes.count
        if processes.first and meter.due():
            sums = meter.read(epoch, whole=False)  # the others do not read at the same time
            speed = done / (time.perf_counter() - start)
            right = sums.get("train_top1") if recipe.learns_labels else None
            accuracy_so_far = "" if right is None else f", accuracy {right:.1f} %"
            agreed = diagnostics.means().get("overlap")
            overlap = "" if agreed is None else f", overlap {agreed:.2f}"
            bar.set_postfix_str(f"loss {sums['loss']:.3f}{accuracy_so_far}{overlap}, {speed:.0f} images/s")
    sums = meter.read(epoch)
    if recipe.batch_norm == "local":
        average_statistics(setup.objective, processes)
    if not recipe.learns_labels:
        sums.pop("train_top1", None)  # of a classifier that is not trained
    return {
        "epoch": epoch + 1,
        "lr": learning_rate(recipe, epoch),
        **sums,
        **diagnostics.means(),
        "images_per_s": round(done / (time.perf_counter() - start), 1),
    }


def step(
    setup: Setup,
    images: Tensor,
    index: Tensor,
    views: torch.Generator,
    meter: Meter,
    stage: Stage = "both",
    diagnostics: Diagnostics | None = None,
) -> None:
    """Train on the uint8 images of the training set at `index` (N,), of a batch over processes those of this one.

    Views -> student, teacher -> graph pair -> losses -> backward -> step. Some steps go to `diagnostics`, if given.
    """
    inputs = setup.feed(images, Batch(index, setup.data.train.labels[index]), views)
    extra = None if inputs.extra is None else setup.student_input(inputs.extra)
    inputs = inputs._replace(images=setup.student_input(inputs.images), extra=extra)
    setup.student_optimiser.zero_grad()
    setup.teacher_optimiser.zero_grad()
    measured = None if diagnostics is None else diagnostics.next_step()
    losses = forward_and_backward(setup, inputs, stage, measured)
    setup.objective.remember(losses, inputs.batch)
    setup.student_optimiser.step()
    setup.teacher_optimiser.step()
    meter.add(losses, inputs.batch.labels)


@torch.no_grad()
def evaluate(setup: Setup, images: ImageSet, batch_size: int = 512, *, probe: bool = False) -> dict[str, float]:
    """Return the student's accuracy on a split, in percent and in float32: `top1` and `top5` on its own head.

    For a student whose classifier is not trained it is `knn`, the vote of the nearest training images by features,
    and with `probe` also `linear`, a logistic regression on them; nothing where no image has a label.
    """
    setup.student.eval()
    if not setup.recipe.learns_labels:
        return judge_features(setup.student.backbone, setup.student_input, setup.fabric.device, setup.data.train,
                              images, setup.recipe.processes, probe=probe, processes=setup.processes)  # fmt: skip
    parts = torch.split(torch.arange(len(images))[setup.processes.share(len(images))], batch_size)
    # `forward` itself, not the compiled call: that would be compiled anew for evaluation and for the last batch's size.
    logits = [setup.student.forward(setup.student_input(part)).logits for part in setup.batches(parts, images)]
    found = [part for part in logits if part is not None]
    none = torch.zeros(0, len(images.classes), device=setup.fabric.device)  # more processes than images
    return accuracy(setup.processes.collect(torch.cat([none, *found])), images.labels)
