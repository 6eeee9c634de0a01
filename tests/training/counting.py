"""A job of one weight, which writes down what it is asked for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD

from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.outputs import Batch, Output, StepInputs
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.epochs import Job, Progress
from relgraph.training.feed import Feed, make_plan
from relgraph.training.objective import Losses, Objective, Stage
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.runs import RunDirectory
from relgraph.training.schedule import Schedule
from relgraph.training.tasks import Neighbours
from relgraph.training.trainer import run_job

RECIPE = resolve_pretraining({"epochs": 4, "batch_size": 4})
SOME: list[dict[str, float]] = [{}, {"knn": 90.0}, {}, {"knn": 30.0}]
STEPS = 3  # 13 images, 4 a batch


class Weight(Objective):
    """One weight, whose loss is its product with the mean of the images; it writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.asked: list[str] = []

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        self.asked.append(stage)
        if diagnostics is not None:
            diagnostics.steps.append(diagnostics.step)
            diagnostics.found.append({"overlap": torch.tensor([1.0 + diagnostics.step, 4.0])})
        output = Output(inputs.images.flatten(1), torch.eye(len(inputs.images), 2))
        return Losses({"product": self.weight * inputs.images.mean()}, output, None, torch.tensor(0), {})

    def remember(self, losses: Losses, batch: Batch) -> None:
        gradient = self.weight.grad
        assert gradient is not None and not losses.student.embedding.requires_grad
        self.asked.append(f"remember {self.weight.item():.6f} {gradient.item():.6f}")


@dataclass(eq=False)
class Counting(Job):
    """A job that writes down what it is asked for; `found` is what its evaluations find, by epoch."""

    objective: Weight
    found: list[dict[str, float]] = field(default_factory=list)
    picked: str | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def score(self) -> str | None:
        return self.picked

    def stage(self, epoch: int) -> Stage:
        return "method" if epoch == 0 else "both"

    def begin(self, run: RunDirectory) -> None:
        assert run.recipe_file.is_file()
        self.asked.append("begin")

    def average(self) -> None:
        self.asked.append("average")

    def evaluate(self, epoch: int) -> dict[str, float]:
        self.asked.append(f"evaluate {epoch}")
        return self.found[epoch]

    def keep(self, run: RunDirectory) -> None:
        self.asked.append(f"keep {len(run.read_metrics()) if run.metrics_file.exists() else 0}")

    def result(self, run: RunDirectory, progress: Progress) -> dict[str, Any]:
        best = progress.best_epoch, progress.best_score
        return {"best": list(best), "rows": len(progress.rows), **super().result(run, progress)}


def images(count: int, labels: Tensor, split: str) -> ImageSet:
    random = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=random, dtype=torch.uint8)
    return ImageSet(pixels, labels, ("a", "b"), split, torch.arange(count))


def counting(
    found: list[dict[str, float]] = SOME, picked: str | None = None, *, by_epoch: bool = True, task: Any = Neighbours
) -> Counting:
    none = images(0, torch.zeros(0, dtype=torch.long), "test")
    data = DataSet("tiny", images(13, torch.arange(13) % 2, "train"), none, none, (0.5,), (0.5,), 1, True)
    fabric, objective = Fabric(accelerator="cpu", devices=1), Weight()
    optimiser = SGD(objective.parameters(), lr=99.0)
    feed = Feed(make_plan("crop", data, None), lambda x: x / 255)
    schedule = Schedule(0.5, "cosine", 4, by_epoch=by_epoch)
    of_device = task(data, feed.student_input, torch.device("cpu"))
    return Counting(RECIPE, fabric, of_device, feed, objective, {"optimiser": optimiser}, schedule,
                    note="counting", diagnose_every=2, found=found, picked=picked)  # fmt: skip


def run(job: Counting, path: Path, resume: bool = False) -> dict[str, Any]:
    return run_job(lambda: job, RECIPE, path, resume=resume)
