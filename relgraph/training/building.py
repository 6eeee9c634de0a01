"""From a recipe to its device, its data and its teacher, which are opened before anything is built."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel

from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet, load
from relgraph.errors import RelgraphError
from relgraph.files import is_plain, parse_yaml
from relgraph.graph.search import check_k
from relgraph.names import dataset, load_teacher, unseen_classes
from relgraph.networks.teachers import Teacher
from relgraph.printing import tell
from relgraph.processes import MEETING, ProcessGroup
from relgraph.training.hardware import native_bf16
from relgraph.training.recipe import FIRST, BaseRecipe, Recipe

LABELS = ("label_fraction", "label_noise", "labelled_images")  # of the options of a training, which `load` takes


def open_fabric(recipe: BaseRecipe) -> Any:
    """Return Lightning Fabric for the recipe's device and precision.

    If a launcher such as torchrun has started several processes, they are connected, and gradients are averaged.

    Raises:
        RelgraphError: if CUDA is requested but not available.
    """
    from lightning_fabric import Fabric

    cuda, precision = on_cuda(recipe.device), precision_of(recipe)
    if cuda:
        # The same seed gives the same numbers, but for sums over edges (k-NN with a refinement), atomic on CUDA.
        torch.backends.cudnn.deterministic = True
    accelerator, processes = "cuda" if cuda else "cpu", ProcessGroup.launched()
    if processes.count == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    return _connected(accelerator, precision, processes)


def on_cuda(device: str) -> bool:
    """Return whether networks compute on CUDA: "auto" is CUDA where there is one.

    Raises:
        RelgraphError: if CUDA is requested but not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RelgraphError("device cuda was asked for, but torch finds no CUDA device here: use --device cpu")
    return device != "cpu" and torch.cuda.is_available()


def precision_of(recipe: BaseRecipe) -> Literal["32-true", "bf16-mixed"]:
    """Return the precision in which a recipe's networks compute; auto is bfloat16 where the device is fast in it."""
    if recipe.precision != "auto":
        return recipe.precision
    cuda = recipe.device != "cpu" and torch.cuda.is_available()
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else native_bf16()
    return "bf16-mixed" if fast else "32-true"


def _connected(accelerator: str, precision: str, processes: ProcessGroup) -> Any:
    """Return Fabric for one of several processes, each with a device of its own."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))
    if accelerator == "cuda" and here > torch.cuda.device_count():
        raise RelgraphError(f"each process needs a GPU: expected {here} here, got {torch.cuda.device_count()}")
    if meeting := os.environ.get(MEETING):
        backend = "nccl" if accelerator == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, init_method=f"file://{meeting}", rank=processes.rank, world_size=processes.count
        )
    strategy = DDPStrategy(**ddp_options())
    fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=processes.count // here, strategy=strategy,
                    precision=precision, plugins=[TorchElasticEnvironment()])  # type: ignore[arg-type]  # fmt: skip
    fabric.launch()
    return fabric


def ddp_options() -> dict[str, Any]:
    """Return the options of torch's DDP: unused parameters have no gradient, and buffers are not broadcast.

    Queues and banks are already the same on all processes; running statistics are averaged once an epoch.
    """
    known = signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    return {"find_unused_parameters": True, buffers: False}


def load_data(recipe: BaseRecipe) -> DataSet:
    """Return the recipe's data set with its labels, as it is read (see `relgraph.data.datasets.load`).

    The first process says what is left out of a folder.
    """
    data = read_data(recipe, recipe.images)
    if ProcessGroup.launched().first:
        for line in data.left_out.lines(data.name):
            tell(line, stream=sys.stderr)  # what a command prints of its own can be read by programs
    return data


def read_data(recipe: BaseRecipe, mode: str) -> DataSet:
    """Return the recipe's data set in a mode, as `load_data` does, and say nothing."""
    labels = {name: getattr(recipe, name) for name in LABELS if isinstance(recipe, Recipe)}
    return load(dataset(recipe.dataset), root=Path(recipe.root), image_size=recipe.image_size, mode=mode,
                skip_bad=recipe.bad_images == "skip", val_fraction=recipe.val_fraction, seed=recipe.seed,
                labels_per_class=getattr(recipe, "labels_per_class", 0) or None, **labels,
                test_fraction=recipe.test_fraction, split_seed=recipe.split_seed, ignore=recipe.ignore,
                unlabelled=None if recipe.unlabelled is None else Path(recipe.unlabelled),
                unseen=None if recipe.holdout_classes is None else unseen_classes(recipe.holdout_classes))  # fmt: skip


def open_data(recipe: Recipe) -> DataSet:
    """Return the recipe's data set.

    Raises:
        RelgraphError: if it cannot be read, or its batches cannot be formed or are too small for the recipe's graph.
    """
    data = load_data(recipe)
    recipe.check_pixels(data.of_pixels)
    known = int((data.train.labels >= 0).sum())
    if known == 0 and recipe.learns_labels:
        raise RelgraphError(
            f"{recipe.dataset} has no labels, and method {recipe.method} learns from labels here: seed, moco, infonce "
            "and ntxent need none, nor do methods that read no logits with --gamma 0"
        )
    if known == 0 and recipe.teacher_head in FIRST:
        told = f"{recipe.dataset} has no labels, from which a {recipe.teacher_head} teacher_head learns"
        raise RelgraphError(f"{told}: use 'joint'")
    if recipe.learns_labels and recipe.select == "val" and len(data.val) == 0:
        share = "the share of validation classes in holdout_classes" if data.unseen else "val_fraction"
        told = f"picking the best epoch needs validation images: {share} must be above 0, got 0"
        raise RelgraphError(f"{told} (--select last picks none)")
    sizes = batch_sizes(recipe, data)
    check_parts(sizes, recipe.accumulate)
    if recipe.teacher_head == "sequential":
        of_head = batch_sizes(recipe, data, of_head=True)
        check_parts(of_head, what="every batch of labelled images, for the teacher's head,")
    nodes = min(sizes) // (ProcessGroup.launched().count if recipe.relation == "local" else 1)
    if nodes < 2:
        raise RelgraphError(f"a relation needs two images: the training set must hold at least 2, got {nodes}")
    if recipe.searches and recipe.chosen_nodes != "positions":  # whose number is that of the students' maps
        with telling_batch(min(sizes), sizes):
            check_k(recipe.neighbours_of_each, nodes)
    return data


def batch_sizes(recipe: Recipe, data: DataSet, of_head: bool = False) -> list[int]:
    """Return how many images a batch of an epoch holds, and the last one, where that is smaller.

    Of the student's training, or of that of a sequential head, whose images are the labelled ones.
    """
    if recipe.scope == "dataset":
        return [min(recipe.batch_size, len(data.train))]
    share, by_label = (1.0, True) if of_head else (recipe.labelled_share, recipe.learns_labels)
    return epoch_batches(data.train.labels, batch_size=recipe.batch_size, labelled_share=share, epoch=0,
                         seed=recipe.seed, by_label=by_label, drop_last=recipe.drop_last).sizes  # fmt: skip


@contextmanager
def telling_batch(images: int, sizes: list[int]) -> Iterator[None]:
    """Say of an error that it is the smaller last batch's, where there is one of this number of images."""
    try:
        yield
    except RelgraphError as error:
        if len(sizes) == 1 or images == sizes[0]:
            raise
        told = f"the last batch of an epoch, of {images} images: {error} (--drop-last leaves it out)"
        raise RelgraphError(told) from error


def check_parts(sizes: list[int], parts: int = 1, what: str = "every batch") -> None:
    """Raise RelgraphError unless each of these numbers of images can be split over all processes, and into parts."""
    processes = ProcessGroup.launched().count
    over = {"processes": processes, "parts": parts}
    words = " x ".join(f"{count} {name}" for name, count in over.items() if count > 1)
    choice = "choose another batch_size or number of " + ("processes" if processes > 1 else "parts")
    for images in sizes:
        if images % (processes * parts):
            last = " in the last (--drop-last leaves it out)" if images != sizes[0] else ""
            raise RelgraphError(f"{what} is split evenly over {words}: {choice}, got {images} images{last}")


def open_teacher(recipe: BaseRecipe, stages: tuple[str, ...] = ()) -> Teacher:
    """Return the recipe's frozen teacher, with the outputs of these parts of it as stage maps.

    Raises:
        RelgraphError: if it is unknown or its weights are not available.
    """
    assert recipe.teacher is not None
    return load_teacher(
        recipe.teacher, weights=None if recipe.teacher_weights is None else Path(recipe.teacher_weights),
        input_size=recipe.teacher_size, mean=recipe.teacher_mean, std=recipe.teacher_std,
        arguments=parse_arguments(recipe.teacher_args or ()), stages=stages,
    )  # fmt: skip


def parse_arguments(pairs: tuple[str, ...]) -> dict[str, str | int | float | bool]:
    """Return constructor arguments from `name=value` strings; values are read as YAML reads them.

    Raises:
        RelgraphError: if one has no `=`.

    >>> parse_arguments(("num_classes=1001", "pad_type=same"))
    {'num_classes': 1001, 'pad_type': 'same'}
    """
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise RelgraphError(f"teacher arguments must be name=value, got {pair!r}")
        told = f"the value of the teacher argument {name.strip()!r} is not valid: {value[:100]!r}"
        try:
            found[name.strip()] = parse_yaml(value)
        except ValueError as error:
            raise RelgraphError(told) from error
        if not is_plain(found[name.strip()]):
            raise RelgraphError(told)
    return found


def on_device(data: DataSet, device: torch.device) -> DataSet:
    """Return the data set with its images and labels on a device, where they stay as uint8."""
    return replace(data, train=data.train.to(device), val=data.val.to(device), test=data.test.to(device))
