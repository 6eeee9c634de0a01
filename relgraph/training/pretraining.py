"""Pre-training without labels: SimCLR, MoCo v2 and SSKD's self-supervision head, from a recipe to a teacher's run."""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.graph.contrast import queue_contrast, view_contrast
from relgraph.graph.kernels import cosine
from relgraph.graph.memory import Queue
from relgraph.methods import Views
from relgraph.methods.sskd import views_to_images
from relgraph.names import build_backbone, student
from relgraph.networks.backbone import Backbone
from relgraph.networks.batch_norm import synchronised, without_statistics
from relgraph.networks.depthwise import depthwise_in_float32
from relgraph.networks.files import save_network, save_ss_head
from relgraph.networks.heads import Projector
from relgraph.outputs import Batch, Output, StepInputs
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import check_parts, load_data, on_device, open_fabric, open_teacher
from relgraph.training.callbacks import Callbacks
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.epochs import Job, Progress
from relgraph.training.feed import Feed, Online, TwoViews, input_of, make_plan
from relgraph.training.objective import Losses, Objective, Stage, losses_of
from relgraph.training.optimisers import new_optimiser
from relgraph.training.pretrain_recipe import PretrainRecipe, augmentation, resolve_pretraining
from relgraph.training.resuming import network_of
from relgraph.training.runs import RunDirectory
from relgraph.training.schedule import pretraining_schedule
from relgraph.training.spread import gathered
from relgraph.training.tasks import Neighbours, Retrieval, Task
from relgraph.training.trainer import run_job
from relgraph.training.trials import decided, trial_step

# The key encoder's batch norm reads the images of a step in shuffled groups: with those of the query, its statistics
# would reveal the pairs (He et al., 2019, section 3.3). The authors' groups are the 32 images of a batch of 256 that
# each of their 8 devices has. Here they are of that size, and at least four, on any number of devices.
GROUP, LEAST_GROUPS = 32, 4


class SimCLR(Objective):
    """Identify the other view of an image among all views of the batch: NT-Xent after a projection head.

    SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709). Its projection head has a batch norm.

    Args:
        backbone: The network to train.
        dim: Width of the vectors that are contrasted.
        hidden: Width of the projection head's middle; the backbone's if not given.
        temperature: > 0.
        processes: Those that hold a batch, whose loss spans all of it.
    """

    def __init__(
        self, backbone: Backbone, dim: int, hidden: int | None, temperature: float,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.width, dim, hidden, norm=True)
        self.temperature, self.processes = temperature, processes

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of two views `(N, C, H, W)` of the same images, the inputs' own and the extra one."""
        first, second = inputs.images, inputs.extra
        assert second is not None
        both = self.projector(self.backbone(torch.cat([first, second])))
        one, other = (self.processes.gather(view) for view in both.chunk(2))
        loss = view_contrast(one, other, self.temperature)
        return losses_of("nt_xent", loss, Output(both), self.processes)


class MoCo(Objective):
    """Identify the other view of an image, encoded by a momentum encoder, among a queue of earlier keys.

    MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., 2020, arXiv 2003.04297): InfoNCE, a momentum encoder
    that is updated before it computes the keys, a head of two layers. The authors shuffle a batch over several devices,
    whose batch norms each see the images of one, so that they do not reveal pairs. Here the key encoder reads the batch
    in shuffled groups, which several processes share out: each of them is given the second views of all images, as in
    the authors' code, and the groups, and so the keys, do not depend on their number. The running statistics of the key
    encoder, which nothing reads, stay as they begin.

    Args:
        backbone: The network to train.
        dim: Width of the vectors that are contrasted.
        hidden: Width of the projection head's middle; the backbone's if not given.
        temperature: > 0.
        queue: Number of keys.
        momentum: Share in [0, 1) of its weights that the key encoder keeps in each step.
        processes: Those that hold a batch; the queue of each holds the keys of all.
    """

    def __init__(
        self, backbone: Backbone, dim: int, hidden: int | None, temperature: float, queue: int, momentum: float,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.width, dim, hidden)
        keys = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(self.projector)).requires_grad_(False)
        self.keys = without_statistics(keys)
        self.queue = Queue(queue, dim)
        self.temperature, self.momentum, self.processes = temperature, momentum, processes

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of two views `(N, C, H, W)` of the same images; the extra one becomes the keys."""
        first, second = inputs.images, inputs.extra
        assert second is not None
        query, keys = self.projector(self.backbone(first)), self._key(second)
        loss = queue_contrast(query, keys.to(query), self.queue.keys, self.temperature)
        return losses_of("info_nce", loss, Output(query), self.processes)._replace(teacher=Output(keys))

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        self._follow()
        images = self.processes.gather(images)
        # On the CPU, so that every device shuffles in the same way; the first process's, since dropout in shares of the
        # groups that are not equal moves their generators apart.
        order = self.processes.collect(torch.randperm(len(images)).to(images.device, non_blocking=True))[: len(images)]
        groups = min(max(LEAST_GROUPS, len(images) // GROUP), max(1, len(images) // 2))  # batch norm needs two images
        own = order.tensor_split(groups)[self.processes.share(groups)]
        # Where there are more processes than groups, one has no key of its own to give.
        keys = torch.cat([images.new_empty(0, self.queue.keys.shape[1]), *(self.keys(images[part]) for part in own)])
        shuffled = self.processes.collect(keys)
        every = shuffled.new_empty(shuffled.shape).index_copy_(0, order, shuffled)
        return every[self.processes.rows(len(every))]

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the key encoder's weights towards the query's by the momentum; it has its own batch norm buffers."""
        slow: list[Tensor] = list(self.keys.parameters())
        torch._foreach_lerp_(slow, [*self.backbone.parameters(), *self.projector.parameters()], 1 - self.momentum)

    @torch.no_grad()
    def remember(self, losses: Losses, batch: Batch) -> None:
        """Put the keys of the batch into the queue."""
        if losses.teacher is not None:
            self.queue.remember(self.processes.gather(cosine.nodes(losses.teacher.embedding)))


class SelfSupervisionHead(Objective):
    """A head on a frozen teacher's feature that finds the original of a transformed image: stage 2 of SSKD's teacher.

    Cross-entropy of the cosines of each transformed image with all originals of the batch (Xu, Liu, Li, Loy, ECCV 2020,
    arXiv 2006.07114), at the temperature 1 as in the official code, where the paper leaves one to choose.

    Args:
        width: Width of the teacher's feature, and of the head's output.
        temperature: > 0.
        processes: Those that hold a batch, whose loss spans all of it.
    """

    def __init__(self, width: int, temperature: float, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        super().__init__()
        self.projector = Projector(width, width)
        self.temperature, self.processes = temperature, processes

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of the teacher's features of N images and their extra views, `(N, width)`, `(V N, width)`."""
        assert inputs.teacher is not None and inputs.teacher.extra is not None
        images, views = (self.projector(output.embedding) for output in (inputs.teacher, inputs.teacher.extra))
        every = gathered(Output(images, extra=Output(views)), ("embedding",), self.processes)
        assert every.extra is not None
        loss = views_to_images(every.extra.embedding, every.embedding, self.temperature)
        return losses_of("views_to_images", loss, Output(images), self.processes)


@dataclass(eq=False)
class Pretraining(Job):
    """A training without labels, which a network's k-NN accuracy follows and never selects."""

    recipe: PretrainRecipe

    def result(self, run: RunDirectory, progress: Progress) -> dict[str, Any]:
        """Return the run's figures."""
        recipe, data = self.recipe, self.data
        return {
            "objective": recipe.objective,
            "network": str(recipe.network),
            "teacher": str(recipe.teacher) if recipe.teacher else None,
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

    def keep(self, run: RunDirectory) -> None:
        """Write the network as a teacher."""
        part = nn.ModuleDict({"backbone": self.objective.backbone, "projector": self.objective.projector})
        save_network(run.network_file, part, self.description())

    def kept(self, run: RunDirectory) -> Path:
        """Return the network's file."""
        return run.network_file

    def description(self) -> dict[str, Any]:
        """Return what is needed to build and feed the network again, as it is stored beside its weights."""
        recipe, network = self.recipe, self.objective
        hidden = network.backbone.width if recipe.hidden is None else recipe.hidden
        return {
            "objective": recipe.objective,
            "backbone": str(recipe.network),
            **super().description(),
            "projector": {"dim": recipe.dim, "hidden": hidden, "norm": isinstance(network, SimCLR)},
        }

    def result(self, run: RunDirectory, progress: Progress) -> dict[str, Any]:
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

    def keep(self, run: RunDirectory) -> None:
        """Write the head."""
        teacher = self.feed.teacher
        save_ss_head(run.ss_head_file, self.objective.projector, teacher=teacher.name,
                     fingerprint=teacher.fingerprint(), transformations=self.recipe.transformations)  # fmt: skip

    def kept(self, run: RunDirectory) -> Path:
        """Return the head's file."""
        return run.ss_head_file


def pretrain(recipe: PretrainRecipe, path: Path, *, resume: bool = False, callbacks: Callbacks = ()) -> dict[str, Any]:
    """Pre-train a network and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not. The network of the
    last epoch is kept, whatever its k-NN accuracy: nothing is chosen by labels. What the recipe leaves to its objective
    is filled in first, as by `resolve_pretraining`.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. The results of earlier epochs are kept.
    """
    recipe = resolve_pretraining(vars(recipe))
    if resume:
        recipe = RunDirectory.open(path).decided(recipe)
    return run_job(lambda: build_pretraining(recipe), recipe, path, resume=resume, callbacks=callbacks)


def build_pretraining(recipe: PretrainRecipe) -> Pretraining:
    """Return the job of a recipe; the weights are drawn from its seed.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    fabric = open_fabric(recipe)
    data, processes = on_device(open_images(recipe), fabric.device), ProcessGroup.current()
    kind: type[Task] = Retrieval if data.unseen else Neighbours
    task = kind(data, Normalise(data.mean, data.std), fabric.device, recipe.processes, processes)
    seen = augmentation(recipe, data.train.images.shape[-1])
    note = f"{len(data.train)} images without their labels, views: {seen}"
    if recipe.objective == "moco" and recipe.queue >= len(data.train):
        note += f"; the queue holds an image more than once: --queue should be below {len(data.train)}"
    make, objective, feed = _parts(recipe, fabric, task, seen)
    assert recipe.batch_size is not None and recipe.epochs is not None

    def squares(network: nn.Module, inputs: StepInputs) -> Tensor:  # needs no other process
        seen = inputs.images if inputs.teacher is None else inputs.teacher.embedding
        if isinstance(objective, SimCLR) and inputs.extra is not None:
            seen = torch.cat([seen, inputs.extra])
        loss: Tensor = network(seen).square().mean()
        return loss

    network = objective.backbone if isinstance(objective, SimCLR | MoCo) else objective.projector
    trial = partial(trial_step, fabric, network, squares, feed, data.train, recipe.batch_size // processes.count)
    steps = recipe.epochs * max(1, len(data.train) // recipe.batch_size)
    recipe, line = decided(recipe, trial, steps, processes)
    if recipe.batch_norm == "sync" and isinstance(objective, SimCLR | MoCo):
        synchronised(nn.ModuleList([objective.backbone, objective.projector]), processes)  # not MoCo's keys
    assert recipe.lr is not None
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimisers = {"optimiser": new_optimiser(recipe, objective, trained, recipe.lr)}
    frozen = {"teacher": network_of(feed.teacher)} if isinstance(feed, Online) else {}
    job = make(recipe, fabric, task, feed, objective, optimisers, pretraining_schedule(recipe), note + line,
               frozen=frozen, clip_norm=recipe.clip_norm)  # fmt: skip
    if recipe.compile and isinstance(objective, SimCLR | MoCo):
        objective.backbone.compile()
    return job


def _parts(
    recipe: PretrainRecipe, fabric: Any, task: Task, seen: str
) -> tuple[type[Pretraining], SimCLR | MoCo | SelfSupervisionHead, Feed]:
    """Return the kind of job, what it trains and where its inputs come from: a network, or a head on a teacher."""
    data, student_input, processes = task.data, task.student_input, task.processes
    if recipe.teacher is None:
        feed = TwoViews(make_plan(seen, data, None, processes), student_input)
        return NetworkPretraining, new_network(recipe, data, processes), feed
    teacher = open_teacher(recipe).to(fabric.device).hold(str(fabric.strategy.precision.precision))
    torch.manual_seed(recipe.seed)
    assert recipe.temperature is not None
    head = SelfSupervisionHead(teacher.width, recipe.temperature, processes)
    views = Views("rotations", 3) if recipe.transformations == "rotations" else Views("transformations", 4)
    plan = make_plan(seen, data, views, processes)
    return HeadPretraining, head, Online(plan, student_input, teacher, input_of(teacher))


def open_images(recipe: PretrainRecipe) -> DataSet:
    """Return the recipe's data set, with the true labels by which features are evaluated.

    Raises:
        RelgraphError: if it cannot be read, holds fewer than two training images, or its batches cannot be split.
    """
    data = load_data(recipe)
    count = len(data.train)
    if count < 2:
        raise RelgraphError(f"a contrast needs two images: the training set must hold at least 2, got {count}")
    assert recipe.batch_size is not None
    check_parts(epoch_batches(data.train.labels, batch_size=recipe.batch_size, labelled_share=1.0, seed=recipe.seed,
                              epoch=0, by_label=False, drop_last=recipe.drop_last).sizes)  # fmt: skip
    return data


def new_network(recipe: PretrainRecipe, data: DataSet, processes: ProcessGroup = SINGLE_PROCESS) -> SimCLR | MoCo:
    """Return the recipe's network in its objective, with weights that are drawn from its seed."""
    torch.manual_seed(recipe.seed)
    assert recipe.temperature is not None
    channels, _, side = data.train.images.shape[1:]
    if student(recipe.network).published:
        raise RelgraphError(f"pretrain begins with random weights: expected a name without them, got {recipe.network}")
    backbone = build_backbone(recipe.network, channels, image_size=side).to(memory_format=torch.channels_last)
    backbone = depthwise_in_float32(backbone)
    if recipe.objective == "moco":
        return MoCo(backbone, recipe.dim, recipe.hidden, recipe.temperature, recipe.queue, recipe.key_momentum,
                    processes)  # fmt: skip
    return SimCLR(backbone, recipe.dim, recipe.hidden, recipe.temperature, processes)
