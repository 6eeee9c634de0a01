"""Pre-training without labels, as a job by epochs: from a recipe to a run whose network is a teacher."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.methods import Batch, Views
from relgraph.names import build_backbone
from relgraph.networks.files import save_network, save_ss_head
from relgraph.networks.teachers import Teacher
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import check_alone, on_device, open_fabric, open_teacher
from relgraph.training.epochs import Progress, run_epochs
from relgraph.training.meter import Meter
from relgraph.training.neighbours import judge_features
from relgraph.training.pretrain_recipe import PretrainRecipe, augmentation, resolve_pretraining
from relgraph.training.runs import Run
from relgraph.training.self_supervision import MoCo, Objective, SelfSupervisionHead, SimCLR
from relgraph.training.setup import batches_on, network_input, view_generator
from relgraph.training.teacher_features import Online, Plan, make_plan


@dataclass(frozen=True, eq=False)
class Pretraining:
    """A pre-training as a job for `run_epochs`: data, the objective with its network, and its optimiser.

    `objective` is Fabric's wrapper of `module`. `views` draws the two views of SimCLR and MoCo; the transformations of
    the self-supervision head, and its teacher's features of them, come from `feed`.
    """

    recipe: PretrainRecipe
    fabric: Any
    data: DataSet
    views: Plan
    feed: Online | None
    objective: Any
    module: Objective
    optimiser: Optimizer

    @property
    def epochs(self) -> int:
        """Passes over the training set."""
        assert self.recipe.epochs is not None
        return self.recipe.epochs

    @property
    def note(self) -> str:
        """A description of the images and their augmentation."""
        seen = augmentation(self.recipe, self.data.train.images.shape[-1])
        note, count = f"{len(self.data.train)} images without their labels, views: {seen}", len(self.data.train)
        if self.recipe.objective == "moco" and self.recipe.queue >= count:
            note += f"; the queue holds an image more than once: --queue should be below {count}"
        return note

    @property
    def processes(self) -> ProcessGroup:
        """One: a pre-training is not spread."""
        return SINGLE_PROCESS

    @property
    def parts(self) -> Mapping[str, Any]:
        """What a checkpoint holds."""
        return {"objective": self.objective, "optimiser": self.optimiser}

    @property
    def score(self) -> None:
        """None: no epoch is selected, because that would use labels."""
        return None

    def begin(self, run: Run) -> None:
        """Do nothing before the first epoch."""

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch and return its row of metrics."""
        recipe, train = self.recipe, self.data.train
        assert recipe.batch_size is not None
        self.objective.train()
        size, seed = recipe.batch_size, recipe.seed
        batches = epoch_batches(
            train.labels, batch_size=size, labelled_share=1.0, seed=seed, epoch=epoch, by_label=False
        )
        generator, meter = view_generator(recipe.seed, epoch), Meter()
        loaded = batches_on(self.fabric.device, train, batches, recipe.processes)
        start, seen, rate = time.perf_counter(), 0, 0.0
        bar = tqdm(batches, desc=f"epoch {epoch + 1}/{self.epochs}", unit="batch", leave=False, disable=None)
        for number, (index, images) in enumerate(zip(bar, loaded, strict=True)):
            rate = self._set_rate(epoch + number / len(batches))
            self.step(images, index.to(images.device), generator, meter)
            seen += len(index)
            if meter.due():
                speed = seen / (time.perf_counter() - start)
                bar.set_postfix_str(f"loss {meter.read(epoch)['loss']:.3f}, {speed:.0f} images/s")
        sums = meter.read(epoch)
        sums.pop("train_top1", None)  # there is no classifier
        speed = round(seen / (time.perf_counter() - start), 1)
        return {"epoch": epoch + 1, "lr": rate, **sums, "images_per_s": speed}

    def step(self, images: Tensor, index: Tensor, generator: torch.Generator, meter: Meter) -> None:
        """Train on uint8 images `(N, C, H, W)` of the training set: views -> network -> loss -> backward -> step."""
        losses = self.objective(*self._inputs(images, index, generator))
        self.optimiser.zero_grad()
        self.fabric.backward(losses.total)
        self.module.remember()
        self.optimiser.step()
        meter.add(losses, self.data.train.labels[index])

    def _inputs(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.feed is None:
            first, second = (self._prepared(self.views.first(images, generator).apply(images)) for _ in range(2))
            return first, second
        inputs = self.feed(images, Batch(index, self.data.train.labels[index]), generator)
        assert inputs.teacher is not None and inputs.extra_teacher is not None
        return inputs.teacher.embedding, inputs.extra_teacher.embedding

    def _prepared(self, images: Tensor) -> Tensor:
        return network_input(images, self.data.mean, self.data.std)

    def _set_rate(self, epoch: float) -> float:
        rate = pretraining_rate(self.recipe, epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def diagnostics(self) -> list[dict[str, float]]:
        """Return nothing: there is no teacher to compare with."""
        return []

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the k-NN accuracy of the network's features on the evaluated split, in the epochs that have one."""
        due = (epoch + 1) % self.recipe.eval_every == 0 or epoch + 1 == self.recipe.epochs
        if not due:
            return {}
        return self.judge(self.data.val if self.recipe.select == "val" else self.data.test)

    def judge(self, images: ImageSet, *, probe: bool = False) -> dict[str, float]:
        """Return `knn` and, with `probe`, `linear` of the network's features on a split; `{}` for a head alone."""
        if isinstance(self.module, SelfSupervisionHead):
            return {}
        recipe, train = self.recipe, self.data.train
        return judge_features(
            self.module.backbone, self._prepared, self.fabric.device, train, images, recipe.processes, probe=probe
        )

    def _untrained(self) -> dict[str, float]:
        """Return the same figures of the network as it was before its training, with random weights."""
        module = _objective(self.recipe, self.data, None if self.feed is None else self.feed.teacher)
        return replace(self, module=module.to(self.fabric.device)).judge(self.data.test, probe=True)

    def keep(self, run: Run) -> None:
        """Write the network as a teacher, or the head for SSKD."""
        if isinstance(self.module, SelfSupervisionHead):
            assert self.feed is not None
            teacher = self.feed.teacher
            save_ss_head(run.ss_head_file, self.module.projector, teacher=teacher.name,
                         fingerprint=teacher.fingerprint(), transformations=self.recipe.transformations)  # fmt: skip
            return
        part = nn.ModuleDict({"backbone": self.module.backbone, "projector": self.module.projector})
        save_network(run.network_file, part, self._description(self.module))

    def _description(self, module: SimCLR | MoCo) -> dict[str, Any]:
        recipe, images = self.recipe, self.data.train.images
        hidden = module.backbone.width if recipe.hidden is None else recipe.hidden
        return {
            "objective": recipe.objective,
            "backbone": recipe.network,
            "in_channels": images.shape[1],
            "image_size": images.shape[-1],
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "dataset": recipe.dataset,
            "projector": {"dim": recipe.dim, "hidden": hidden, "norm": isinstance(module, SimCLR)},
        }

    def result(self, run: Run, progress: Progress) -> dict[str, Any]:
        """Return the run's figures: the test split is read here, at the end, by the network of the last epoch."""
        recipe, data = self.recipe, self.data
        return {
            "objective": recipe.objective,
            "network": recipe.network,
            "teacher": recipe.teacher,
            "test": self.judge(data.test, probe=True),
            "test_untrained": self._untrained(),
            "loss": progress.rows[-1]["loss"],
            "epochs": recipe.epochs,
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            "images_per_s": median(row["images_per_s"] for row in progress.rows),
            "seed": recipe.seed,
            "device": str(self.fabric.device),
            "precision": str(self.fabric.strategy.precision.precision),
        }


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
    return run_epochs(lambda: build_pretraining(recipe), recipe, path, resume=resume)


def build_pretraining(recipe: PretrainRecipe) -> Pretraining:
    """Return the job of a recipe; the weights are drawn from its seed.

    Raises:
        RelgraphError: for names that are not known, files that cannot be read, or values that do not fit the data.
    """
    check_alone("pretrain")
    fabric, data = open_fabric(recipe), _data(recipe)
    teacher = None if recipe.teacher is None else open_teacher(recipe).to(fabric.device)
    name = augmentation(recipe, data.train.images.shape[-1])
    asked = None if teacher is None else _asked(recipe)
    views = make_plan(name, data, asked)
    feed = None if teacher is None else Online(views, teacher, fabric, shared=True)
    module = _objective(recipe, data, teacher)
    optimiser = _optimiser(recipe, [p for p in module.parameters() if p.requires_grad])
    wrapped, optimiser = fabric.setup(module, optimiser)
    if recipe.compile and not isinstance(module, SelfSupervisionHead):
        module.backbone.compile()
    return Pretraining(recipe, fabric, on_device(data, fabric.device), views, feed, wrapped, module, optimiser)


def _asked(recipe: PretrainRecipe) -> Views:
    return Views("rotations", 3) if recipe.transformations == "rotations" else Views("transformations", 4)


def _data(recipe: PretrainRecipe) -> DataSet:
    data = load(
        recipe.dataset,
        root=Path(recipe.root),
        image_size=recipe.image_size,
        val_fraction=recipe.val_fraction,
        labels_per_class=None,
        mode=recipe.images,
        seed=recipe.seed,
    )
    if len(data.train) < 2:
        raise RelgraphError(
            f"a contrast needs two images: the training set must hold at least 2, got {len(data.train)}"
        )
    return data


def _objective(recipe: PretrainRecipe, data: DataSet, teacher: Teacher | None) -> Objective:
    torch.manual_seed(recipe.seed)
    assert recipe.temperature is not None
    if teacher is not None:
        return SelfSupervisionHead(teacher.width, recipe.temperature)
    channels, _, side = data.train.images.shape[1:]
    backbone = build_backbone(recipe.network, channels, image_size=side).to(memory_format=torch.channels_last)
    if recipe.objective == "moco":
        return MoCo(backbone, recipe.dim, recipe.hidden, recipe.temperature, recipe.queue, recipe.key_momentum)
    return SimCLR(backbone, recipe.dim, recipe.hidden, recipe.temperature)


def _optimiser(recipe: PretrainRecipe, parameters: list[nn.Parameter]) -> Optimizer:
    assert recipe.lr is not None and recipe.weight_decay is not None
    if recipe.optimiser == "adamw":
        return AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def pretraining_rate(recipe: PretrainRecipe, epoch: float) -> float:
    """Return the learning rate at a point of the training, in epochs and parts of them, from 0.

    It rises linearly from 0 during the warm-up, and then follows the schedule: a cosine to 0 at the end, x 0.1 after a
    half and again after three quarters of all epochs, or constant.
    """
    assert recipe.lr is not None and recipe.epochs is not None
    warmup = recipe.warmup_epochs or 0
    if epoch < warmup:
        return recipe.lr * epoch / warmup
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(epoch >= share * recipe.epochs for share in (0.5, 0.75))
    done = (epoch - warmup) / max(1e-9, recipe.epochs - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
