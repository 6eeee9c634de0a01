"""A job and one epoch of it: steps, their learning rate, and their sums."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from math import log
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.data.neighbour_batches import ImageGraph, neighbour_batches
from relgraph.errors import RelgraphError
from relgraph.networks.batch_norm import average_statistics
from relgraph.outputs import Batch, BatchEdges, Output
from relgraph.printing import Lines, no_bar
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.seeding import generator
from relgraph.training.callbacks import Callbacks, StepEnd
from relgraph.training.diagnostics import NEIGHBOURS, Diagnostics
from relgraph.training.feed import Feed
from relgraph.training.moving_average import MovingAverage
from relgraph.training.objective import Losses, Objective, Stage
from relgraph.training.runs import AnyRecipe, RunDirectory
from relgraph.training.schedule import Schedule
from relgraph.training.tasks import Labels, Task

if TYPE_CHECKING:
    from relgraph.training.trainer import Amid

# What a row of metrics has beside the terms of a method and the figures of splits: no term may be called so.
FIGURES = {"epoch", "step", "lr", "loss", "degenerate", "images_per_s", "cross_entropy", "kd_of_logits", "teacher_head"}
MINUTE = 60.0  # seconds between two lines of an epoch where there is no progress bar
PAUSE = 0.5  # seconds between two readings: often enough for a progress bar, rare enough to cost nothing


@dataclass
class Progress:
    """The progress of a run: its state except the weights.

    Attributes:
        rows: One row of metrics an epoch.
        diagnostics: The diagnostics of some steps, with their `epoch` and their `step`, of the whole run, from 0.
        best_epoch: Epoch of the best score on the split that selects, from 1; 0 before the first.
        best_score: That score, in percent.
        within: The state amid an epoch, where a checkpoint was written there (see `train_epoch`).
        steps: Number of steps of each epoch that was begun; of neighbourhoods no two epochs need have as many.
        best_lost: Whether the weights of the best epoch are in no file any more.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    within: dict[str, Any] | None = None
    steps: list[int] = field(default_factory=list)
    best_lost: bool = False

    def begin(self, epoch: int, steps: int) -> int:
        """Note how many steps an epoch has, counted from 0, and return the number in the whole run of its first one."""
        if len(self.steps) < epoch:  # of a version that took each epoch for as long as the one at hand
            known = max((int(row["step"]) for row in self.diagnostics), default=-1)
            self.steps = [max(epoch * steps, known + 1), *[0] * (epoch - 1)]
        self.steps[epoch:] = [steps]
        return sum(self.steps[:epoch])

    def forget_best(self) -> None:
        """Let the next epoch be the best, whatever its score: its first try, which was lost, replaced the best one."""
        self.best_lost = True

    def add(
        self, row: dict[str, float], diagnostics: Sequence[dict[str, float]] = (), score: float | None = None
    ) -> bool:
        """Add an epoch, and return whether it is the best so far; without a score, the latest is."""
        self.rows.append(row)
        self.diagnostics += diagnostics
        self.within = None
        better = score is None or self.best_lost or score > self.best_score
        self.best_lost = False
        if better:
            self.best_epoch, self.best_score = len(self.rows), self.best_score if score is None else score
        return better


@dataclass(eq=False)
class Job:
    """What is trained: an objective with its optimisers, its data, and what is done with the result.

    Attributes:
        recipe: The recipe of the run.
        fabric: Lightning Fabric, which places and wraps the objective.
        task: What labels are, and how the network is evaluated.
        feed: Where the inputs of a step come from.
        objective: The module that is trained.
        optimisers: By name, as a checkpoint holds them.
        schedule: The learning rate of the first optimiser; the others keep theirs.
        note: A line for the user before the first epoch.
        labelled_share: Share of labelled images in a batch where some have none.
        diagnose_every: Steps from one diagnostics to the next; 0 for none.
        frozen: Name and fingerprint of each frozen network that the training reads, such as its `teacher`.
        clip_norm: The largest norm of the gradient of what the first optimiser trains; `None` for any.
        ema: The moving average of the student, if there is one.
        graph: The data set's graph of whose neighbourhoods batches are made; `None` for batches of any images.
        data: The task's data set, on the device.
        selecting: The split that selects.
        processes: The task's, over which each batch is spread: all run every part of it, and the first one writes.
        module: Fabric's wrapper of the objective, which a step calls.
    """

    recipe: AnyRecipe
    fabric: Any
    task: Task
    feed: Feed
    objective: Objective
    optimisers: Mapping[str, Optimizer]
    schedule: Schedule
    note: str = ""
    labelled_share: float = 1.0
    diagnose_every: int = 0
    frozen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clip_norm: float | None = None
    ema: MovingAverage | None = None
    graph: ImageGraph | None = None

    title: ClassVar[str] = "epoch"  # of its progress bar
    stream: ClassVar[str] = ""  # before the purposes of its random streams, which no other job shares

    def __post_init__(self) -> None:
        """Place the objective and its optimisers on the device."""
        self.data, self.processes = self.task.data, self.task.processes
        self.selecting = self.data.val if self.recipe.measured == "val" else self.data.test
        self.module, *placed = self.fabric.setup(self.objective, *self.optimisers.values())
        self.optimisers = dict(zip(self.optimisers, placed, strict=True))

    @property
    def score(self) -> str | None:
        """The metric by which the best epoch is picked; `None` if it is always the last."""
        return None

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        return {**self.networks, **self.optimisers}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules whose weights a checkpoint holds, by name."""
        return {"objective": self.module} if self.ema is None else {"objective": self.module, "ema": self.ema.student}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the weights of a checkpoint's networks."""
        for name, network in self.networks.items():
            network.load_state_dict(checkpoint[name])

    def stage(self, epoch: int) -> Stage:
        """Return the stage of the training in an epoch, counted from 0."""
        return "both"

    def begin(self, run: RunDirectory) -> None:
        """Run the preparations before the first epoch."""

    def average(self) -> None:
        """Make one, at the end of an epoch, the statistics of batch norms that each saw the images of one process."""
        if self.recipe.batch_norm == "local":
            for network in self.networks.values():
                average_statistics(network, self.processes)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the split that selects after an epoch, by name."""
        return {}

    def keep(self, run: RunDirectory) -> None:
        """Write the network, the best so far, to the run."""

    def kept(self, run: RunDirectory) -> Path | None:
        """Return the file that `keep` writes, if it writes one."""
        return None

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the network again, as it is stored beside its weights."""
        data, shape = self.data, self.data.train.images.shape
        return {
            "in_channels": shape[1],
            "image_size": shape[-1],
            **({} if shape[-2] == shape[-1] else {"height": shape[-2]}),
            "mean": list(data.mean),
            "std": list(data.std),
            "dataset": str(self.recipe.dataset),
        }

    def ending(self, progress: Progress) -> str | None:
        """Return why the training is over before its last epoch; `None` while it is not."""
        return None

    def line(self, row: Mapping[str, float]) -> str | None:
        """Return a line for the user after an epoch, if it has one."""
        select = self.recipe.measured
        words = {self.task.accuracy: "train", f"{select}_top1": select, f"{select}_knn": f"{select} k-NN",
                 f"{select}_mAP": f"{select} mAP", f"{select}_miou": f"{select} mIoU"}  # fmt: skip
        figures = [f"{word} {row[name]:.2f} %" for name, word in words.items() if name in row]
        near = next((name for name in (f"{select}_overlap@{NEIGHBOURS}", "batch_overlap") if name in row), None)
        if near is not None:
            figures.append(f"{near.replace('_', ' ')} {row[near]:.1f} %")
        start = f"epoch {row['epoch']:>3}/{self.schedule.epochs}", f"loss {row['loss']:.4f}"
        return "  ".join([*start, *figures, f"{row['images_per_s']:.0f} images/s", *self._doubts(row)])

    def _doubts(self, row: Mapping[str, float]) -> list[str]:
        """Return what the student's loss does not show: a teacher's head that diverges leaves it without a teacher."""
        head, chance = row.get("teacher_head", 0.0), log(max(2, len(self.data.train.classes)))
        told = f"teacher's head diverges: cross-entropy {head:.3g}, by chance {chance:.2f}; see --teacher-lr"
        return [told] if head > 2 * chance else []

    def result(self, run: RunDirectory, progress: Progress) -> dict[str, Any]:
        """Return the content of `result.json`, here what all jobs tell."""
        return {
            "epochs": len(progress.rows),
            "images_per_s": median(row["images_per_s"] for row in progress.rows),
            "seed": self.recipe.seed,
            "device": str(self.fabric.device),
            "processes": self.processes.count,
            "precision": str(self.fabric.strategy.precision.precision),
        }


class Meter:
    """Sums the losses and counts the hits of an epoch, on each of the processes what it has.

    Args:
        processes: Those that hold the batches.
        at: From labels and logits to the labels that these are compared with, if not all; see `Task.at`.
        accuracy: What the share of hits is called.
    """

    def __init__(
        self, processes: ProcessGroup = SINGLE_PROCESS, at: Labels | None = None, accuracy: str = "train_top1"
    ) -> None:
        self.processes, self.at, self.accuracy = processes, at, accuracy
        self.names: list[str] = []
        self.of_student, self.steps = 0, 0
        self.sums, self.culprit = torch.zeros(()), torch.zeros(())
        self.last = time.perf_counter()

    @property
    def state(self) -> dict[str, Any]:
        """What was added, as a checkpoint holds it."""
        return {name: getattr(self, name) for name in ("names", "of_student", "steps", "sums", "culprit")}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on with what was added before."""
        vars(self).update(state)

    @torch.no_grad()
    def add(self, losses: Losses, labels: Tensor, teacher: Output | None = None) -> None:
        """Add one batch, for which the teacher's own outputs were `teacher`."""
        named = {**losses.terms, **losses.teacher_terms}
        terms = torch.stack([term.double() for term in named.values()])
        logits = losses.student.logits
        if self.at is not None and logits is not None:
            labels = self.at(labels, logits)
        right = labels.new_zeros(()) if logits is None else (logits.argmax(1) == labels).sum()
        counts = torch.stack([right, (labels >= 0).sum(), losses.degenerate])
        given = () if teacher is None else (teacher.embedding, *teacher.maps)
        fine = torch.stack([terms.new_ones((), dtype=torch.bool), *(x.isfinite().all() for x in given)]).all()
        flags = torch.cat([terms.isinf() + 2 * terms.isnan(), 2 * ~fine[None]])  # 1 is infinite, 2 not a number
        row = torch.cat([terms, counts])
        if self.steps == 0:
            self.names, self.of_student, self.sums, self.culprit = list(named), len(losses.terms), row, flags
        else:
            self.sums = self.sums + row
            # A bad step spoils the weights, and then every later term: only what was not finite in the first bad step
            # is to blame.
            self.culprit = torch.where(self.culprit.any(), self.culprit, flags)
        self.steps += 1

    def due(self) -> bool:
        """Return whether the progress bar is due for an update."""
        return time.perf_counter() - self.last > PAUSE

    def read(self, epoch: int, *, whole: bool = True) -> dict[str, float]:
        """Return the means so far: the student's `loss`, its terms, the accuracy in percent, and `degenerate` nodes.

        The accuracy, `train_top1` of images, is that where labels are known; it is left out where none are. The figures
        are those of all processes, which must read at the same time, or of this one if not `whole`.

        Raises:
            RelgraphError: if a term overflowed, or was not a number; the message says which, and names it.
        """
        sums, culprit = self.sums, self.culprit
        if whole:
            sums, culprit = self.processes.mean_(sums.clone()), self.processes.maximum(culprit.int())
        if bool(culprit.any()):
            *spoilt, by_teacher = culprit.tolist()
            if by_teacher:
                told = f"the teacher's outputs are not a number in epoch {epoch + 1}"
                raise RelgraphError(f"{told}: they overflow in its precision, or the stored ones are damaged")
            bad = [name for name, one in zip(self.names, spoilt, strict=True) if one]
            told = "the loss is not a number" if 2 in spoilt else "the loss overflowed, it is infinite"
            raise RelgraphError(
                f"{told} in epoch {epoch + 1}: {', '.join(bad)} first; a smaller learning rate or weight may help"
            )
        *terms, hits, labelled, degenerate = sums.tolist()
        means = {name: term / self.steps for name, term in zip(self.names, terms, strict=True)}
        loss = sum(term / self.steps for term in terms[: self.of_student])
        self.last = time.perf_counter()
        accuracy = {self.accuracy: 100 * hits / labelled} if labelled else {}
        return {"loss": loss, **means, **accuracy, "degenerate": degenerate}


def train_epoch(
    job: Job, epoch: int, progress: Progress | None = None, pauses: "Amid | None" = None, callbacks: Callbacks = ()
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Train for one pass over the training set, and return its row of metrics and the diagnostics of some steps.

    Where `pauses` asks for it, the state amid the epoch is saved after a step; from that state, `progress.within`, the
    epoch goes on with the next step, and ends bit for bit as it would have. Without `progress` steps of the run are
    numbered as if all epochs had as many.
    """
    progress = progress or Progress()
    within = progress.within
    meter = Meter(job.processes, job.task.at, job.task.accuracy)
    stage, shown = job.stage(epoch), job.processes.first
    diagnostics = Diagnostics(job.diagnose_every, processes=job.processes)
    start, done, rate, first, before, lines = time.perf_counter(), 0, 0.0, 0, 0, Lines(MINUTE)
    if within is not None:
        first, measures = within["step"], job.fabric.to_device(within["measures"])
        meter.resume(measures["meter"])
        diagnostics.resume(measures["diagnostics"])
    job.module.train()
    with closing(steps(job, epoch, first, None if within is None else within["views"])) as batches:
        for number, (index, images, views, bar, edges) in enumerate(batches, first):
            total = first + bar.total
            if number == first:
                before = progress.begin(epoch, total)
            if number == first or not job.schedule.by_epoch or epoch < job.schedule.warmup:
                rate = job.schedule.rate(epoch + number / total)
                for group in next(iter(job.optimisers.values())).param_groups:
                    group["lr"] = rate
            found = step(job, images, index, views, meter, stage, diagnostics if job.diagnose_every else None, edges)
            if job.ema is not None:
                job.ema.update(before + number)
            for callback in callbacks:
                callback.after_step(step_end(job, epoch, number, total, found, index))
            done += len(index) * job.processes.count
            if pauses is not None and number + 1 < total and pauses.due():
                measures = {"meter": meter.state, "diagnostics": diagnostics.state}
                pauses.save({"step": number + 1, "views": views.get_state(), "measures": measures})
            if shown and meter.due():
                means = job.task.figures(meter.read(epoch, whole=False)) | diagnostics.means()
                told = _so_far(means, done / (time.perf_counter() - start), meter.accuracy)
                bar.set_postfix_str(told)
                lines(bar, f"{job.title} {epoch + 1}/{job.schedule.epochs}, step {number + 1} of {total}  {told}")
    means = job.task.figures(meter.read(epoch)) | diagnostics.means()
    job.average()
    speed = round(done / (time.perf_counter() - start), 1)
    measured = [{"epoch": epoch + 1, **found, "step": before + found["step"]} for found in diagnostics.read()]
    return {"epoch": epoch + 1, "lr": rate, **means, "images_per_s": speed}, measured


def steps(
    job: Job, epoch: int, first: int = 0, state: Tensor | None = None
) -> Generator[tuple[Tensor, Tensor, torch.Generator, Any, BatchEdges | None], None, None]:
    """Yield for each step of an epoch the indices `(B,)` and uint8 images on the device, views' generator and bar.

    Last come the edges of a batch that is made of the data set's graph. All of them depend on the seed and the epoch
    alone; the generator is on the CPU, so that all devices have the same views. The epoch begins with the step `first`,
    for which the generator has the `state`.
    """
    recipe, train, device = job.recipe, job.data.train, job.fabric.device
    assert recipe.batch_size is not None, "a recipe's objective fills in what is not given"
    views = generator(f"{job.stream}views", recipe.seed, epoch)
    if state is not None:
        views.set_state(state)
    draw = epoch_batches if job.graph is None else partial(neighbour_batches, job.graph)
    batches: Any = draw(train.labels.cpu(), batch_size=recipe.batch_size, labelled_share=job.labelled_share,
                        seed=recipe.seed, epoch=epoch, by_label=job.task.by_label, processes=job.processes,
                        purpose=f"{job.stream}batches", drop_last=recipe.drop_last)  # fmt: skip
    left = [*batches][first:] if first else batches
    title = f"{job.title} {epoch + 1}/{job.schedule.epochs}"
    with (
        closing(train.batches(left, recipe.processes)) as loaded,  # ends its processes in any case
        tqdm(left, desc=title, unit="batch", leave=False, disable=no_bar(shown=job.processes.first)) as bar,
    ):
        for number, (index, images) in enumerate(zip(bar, loaded, strict=True), first):
            edges = None if job.graph is None else batches.edges(number).to(device)
            yield index.to(device, non_blocking=True), images.to(device, non_blocking=True), views, bar, edges


def step(
    job: Job, images: Tensor, index: Tensor, views: torch.Generator, meter: Meter, stage: Stage = "both",
    diagnostics: Diagnostics | None = None, edges: BatchEdges | None = None,
) -> Losses:  # fmt: skip
    """Train on the uint8 images of the training set at `index` (N,), of a batch over processes those of this one.

    Views -> student, teacher -> graph pair -> losses -> backward -> step. Some steps go to `diagnostics`, if given. A
    batch that was made of the data set's graph has its `edges`. The losses are returned.
    """
    inputs = job.feed(images, Batch(index, job.data.train.labels[index], edges), views)
    for optimiser in job.optimisers.values():
        optimiser.zero_grad()
    measured = None if diagnostics is None else diagnostics.next_step()
    losses: Losses = job.module(inputs, stage, measured)
    job.fabric.backward(losses.total)
    job.objective.remember(losses, inputs.batch)
    if job.clip_norm is not None:  # a norm that is no number makes the weights so, which the epoch's end tells
        first = next(iter(job.optimisers.values()))
        job.fabric.clip_gradients(job.module, first, max_norm=job.clip_norm, error_if_nonfinite=False)
    for optimiser in job.optimisers.values():
        optimiser.step()
    labels = inputs.batch.labels if edges is None else inputs.batch.learned(job.processes)
    meter.add(losses, labels, inputs.teacher)
    return losses


def step_end(job: Job, epoch: int, number: int, steps: int, losses: Losses, index: Tensor) -> StepEnd:
    """Return what callbacks read of a step; epoch and step are counted from 0."""
    terms = {name: term.detach() for name, term in losses.terms.items()}
    batch = Batch(index, job.data.train.labels[index])
    teacher = None if losses.teacher is None else losses.teacher.detach()
    return StepEnd(epoch + 1, number + 1, steps, terms, losses.student.detach(), teacher, batch)


def _so_far(means: Mapping[str, float], speed: float, accuracy: str) -> str:
    """Return the end of the progress bar."""
    accuracy = f", accuracy {means[accuracy]:.1f} %" if accuracy in means else ""
    overlap = f", batch overlap {means['batch_overlap']:.0f} %" if "batch_overlap" in means else ""
    return f"loss {means['loss']:.3f}{accuracy}{overlap}, {speed:.0f} images/s"
