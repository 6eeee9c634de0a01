"""Pre-training without labels: from a recipe to a run whose network is a teacher."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from relgraph.data.datasets import DataSet
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.methods import Views
from relgraph.names import build_backbone
from relgraph.networks.files import save_network, save_ss_head
from relgraph.outputs import StepInputs
from relgraph.processes import ProcessGroup
from relgraph.training.building import load_data, on_device, open_fabric, open_teacher
from relgraph.training.epochs import Job, Progress
from relgraph.training.feed import Feed, Online, TwoViews, input_of, make_plan
from relgraph.training.objective import Losses, Objective
from relgraph.training.pretrain_recipe import PretrainRecipe, augmentation, resolve_pretraining
from relgraph.training.runs import Run
from relgraph.training.schedule import pretraining_schedule
from relgraph.training.self_supervision import MoCo, SelfSupervisionHead, SimCLR
from relgraph.training.tasks import Neighbours, Task
from relgraph.training.threads import choose_threads, trial_step
from relgraph.training.trainer import run_job


@dataclass(eq=False)
class Pretraining(Job):
    """A training without labels, which a network's k-NN accuracy follows and never selects."""

    recipe: PretrainRecipe

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the run's figures."""
        recipe, data = self.recipe, self.data
        return {
            "objective": recipe.objective,
            "network": recipe.network,
            "teacher": recipe.teacher,
            "test": {},
            "test_untrained": {},
            "loss": progress.rows[-1]["loss"],
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            **super().result(run, progress),
        }


@dataclass(eq=False)
class NetworkPretraining(Pretraining):
    """The training of a network by SimCLR or MoCo."""

    objective: SimCLR | MoCo

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the k-NN accuracy of the network's features on the evaluated split, in the epochs that have one."""
        if (epoch + 1) % self.recipe.eval_every and epoch + 1 != self.recipe.epochs:
            return {}
        return self.task.evaluate(self.objective, self.selecting)

    def keep(self, run: Run) -> None:
        """Write the network as a teacher."""
        part = nn.ModuleDict({"backbone": self.objective.backbone, "projector": self.objective.projector})
        save_network(run.network_file, part, self.description())

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the network again, as it is stored beside its weights."""
        recipe, network = self.recipe, self.objective
        hidden = network.backbone.width if recipe.hidden is None else recipe.hidden
        return {
            "objective": recipe.objective,
            "backbone": recipe.network,
            **super().description(),
            "projector": {"dim": recipe.dim, "hidden": hidden, "norm": isinstance(network, SimCLR)},
        }

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the run's figures: the test split is read here, at the end, by the network of the last epoch."""
        untrained = new_network(self.recipe, self.data).to(self.fabric.device)
        networks = {"test": self.objective, "test_untrained": untrained}
        found = {name: self.task.evaluate(network, self.data.test, probe=True) for name, network in networks.items()}
        return {**super().result(run, progress), **found}


@dataclass(eq=False)
class HeadPretraining(Pretraining):
    """The training of the self-supervision head that SSKD reads of a frozen teacher."""

    objective: SelfSupervisionHead
    feed: Online

    def keep(self, run: Run) -> None:
        """Write the head."""
        teacher = self.feed.teacher
        save_ss_head(run.ss_head_file, self.objective.projector, teacher=teacher.name,
                     fingerprint=teacher.fingerprint(), transformations=self.recipe.transformations)  # fmt: skip


def pretrain(recipe: PretrainRecipe, path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Pre-train a network and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not. The network of the
    last epoch is kept, whatever its k-NN accuracy: nothing is chosen by labels. What the recipe leaves to its objective
    is filled in first, as by `resolve_pretraining`.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    recipe = resolve_pretraining(vars(recipe))
    return run_job(lambda: build_pretraining(recipe), recipe, path, resume=resume)


def build_pretraining(recipe: PretrainRecipe) -> Pretraining:
    """Return the job of a recipe; the weights are drawn from its seed.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    count = ProcessGroup.launched().count
    if count > 1:
        raise RelgraphError(f"pretrain runs in one process, got {count}: train alone takes several")
    fabric = open_fabric(recipe)
    data = on_device(open_images(recipe), fabric.device)
    task = Neighbours(data, Normalise(data.mean, data.std), fabric.device, recipe.processes)
    seen = augmentation(recipe, data.train.images.shape[-1])
    note = f"{len(data.train)} images without their labels, views: {seen}"
    if recipe.objective == "moco" and recipe.queue >= len(data.train):
        note += f"; the queue holds an image more than once: --queue should be below {len(data.train)}"
    kind, objective, feed = _parts(recipe, fabric, task, seen)
    assert recipe.batch_size is not None
    trial = trial_step(fabric, objective, _total, feed, data.train, recipe.batch_size)
    threads, line = choose_threads(recipe.threads, trial)
    recipe = replace(recipe, threads=threads if recipe.threads == "auto" else recipe.threads)
    optimisers, note = {"optimiser": new_optimiser(recipe, objective)}, note if line is None else f"{note}\n{line}"
    job = kind(recipe, fabric, task, feed, objective, optimisers, pretraining_schedule(recipe), note)
    if recipe.compile and isinstance(objective, SimCLR | MoCo):
        objective.backbone.compile()
    return job


def _total(objective: nn.Module, inputs: StepInputs) -> Tensor:
    """Return the loss for a trial of threads."""
    losses: Losses = objective(inputs)
    return losses.total


def _parts(recipe: PretrainRecipe, fabric: Any, task: Task, seen: str) -> tuple[type[Pretraining], Objective, Feed]:
    """Return the kind of job, what it trains and where its inputs come from: a network, or a head on a teacher."""
    data, student_input = task.data, task.student_input
    if recipe.teacher is None:
        return NetworkPretraining, new_network(recipe, data), TwoViews(make_plan(seen, data, None), student_input)
    teacher = open_teacher(recipe).to(fabric.device).hold(str(fabric.strategy.precision.precision))
    torch.manual_seed(recipe.seed)
    assert recipe.temperature is not None
    head = SelfSupervisionHead(teacher.width, recipe.temperature)
    views = Views("rotations", 3) if recipe.transformations == "rotations" else Views("transformations", 4)
    return HeadPretraining, head, Online(make_plan(seen, data, views), student_input, teacher, input_of(teacher))


def open_images(recipe: PretrainRecipe) -> DataSet:
    """Return the recipe's data set, with the true labels by which features are evaluated.

    Raises:
        RelgraphError: if it cannot be read, or holds fewer than two training images.
    """
    data = load_data(recipe)
    count = len(data.train)
    if count < 2:
        raise RelgraphError(f"a contrast needs two images: the training set must hold at least 2, got {count}")
    return data


def new_network(recipe: PretrainRecipe, data: DataSet) -> SimCLR | MoCo:
    """Return the recipe's network in its objective, with weights that are drawn from its seed."""
    torch.manual_seed(recipe.seed)
    assert recipe.temperature is not None
    channels, _, side = data.train.images.shape[1:]
    backbone = build_backbone(recipe.network, channels, image_size=side).to(memory_format=torch.channels_last)
    if recipe.objective == "moco":
        return MoCo(backbone, recipe.dim, recipe.hidden, recipe.temperature, recipe.queue, recipe.key_momentum)
    return SimCLR(backbone, recipe.dim, recipe.hidden, recipe.temperature)


def new_optimiser(recipe: PretrainRecipe, objective: Objective) -> Optimizer:
    """Return the recipe's optimiser of what an objective trains."""
    assert recipe.lr is not None and recipe.weight_decay is not None
    parameters = [p for p in objective.parameters() if p.requires_grad]
    if recipe.optimiser == "adamw":
        return AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
