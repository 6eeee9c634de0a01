"""The training loop: one step, one epoch, one run."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.methods import Batch, Sum
from relgraph.networks.files import save_network
from relgraph.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from relgraph.training.evaluation import accuracy
from relgraph.training.head import train_head
from relgraph.training.meter import Meter
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run, check_free, write_json
from relgraph.training.schedule import learning_rate
from relgraph.training.setup import Setup, build

SELECTED_ON_VAL = (
    "best epoch picked on a validation split held out from the training set; the test split was only read at the end"
)
SELECTED_ON_TEST = (
    "best epoch picked on the test split itself, as the original code does: the figure of the best epoch is optimistic"
)


@dataclass
class Progress:
    """How far a run has come: everything about it that is not weights.

    Attributes:
        rows: One row of metrics an epoch.
        best_epoch: Epoch of the best accuracy on the split that selects, from 1; 0 before the first.
        best_top1: That accuracy, in percent.
    """

    rows: list[dict[str, float]]
    best_epoch: int = 0
    best_top1: float = -1.0


def train(recipe: Recipe, path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a student and return the content of `result.json`; the run directory at `path` then holds everything.

    A run that is stopped and resumed ends with the same weights and figures as one that was not.

    Raises:
        RelgraphError: if the recipe does not fit the data, or is not that of the run to resume, a file cannot be used,
            or a loss is not a number. What earlier epochs gave stays.
    """
    if resume:
        Run.open(path).check_recipe(recipe)
    else:
        check_free(path)
    setup = build(recipe)
    tqdm.write(setup.note)
    run = Run.open(path) if resume else Run.create(path, setup.recipe)
    progress = _restore(setup, run) if resume and run.last.exists() else Progress(rows=[])
    if setup.trains_head and not progress.rows:
        train_head(setup, run)
    logger = _tensorboard(run, len(progress.rows))
    for epoch in range(len(progress.rows), recipe.epochs):
        row = train_epoch(setup, epoch)
        _check_weights(setup, epoch)
        top = evaluate(setup, setup.data.val if recipe.select == "val" else setup.data.test)
        row |= {f"{recipe.select}_{name}": value for name, value in top.items()}
        progress.rows.append(row)
        logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch + 1)
        logger.save()
        _store(setup, run, progress)
        tqdm.write(_line(row, recipe))
    logger.finalize("success")
    result = _result(setup, run, progress)
    write_json(run.result_file, result)
    return result


def _store(setup: Setup, run: Run, progress: Progress) -> None:
    """Write the epoch to disk, `last.ckpt` at the end: what a stop before that leaves half done is done again."""
    newest = progress.rows[-1][f"{setup.recipe.select}_top1"]
    better = newest > progress.best_top1
    if better:
        progress.best_epoch, progress.best_top1 = len(progress.rows), newest
    state = {
        "distiller": setup.distiller,
        "student_optimiser": setup.student_optimiser,
        "teacher_optimiser": setup.teacher_optimiser,
        "progress": asdict(progress),
        "random": random_state(),
    }
    if better:
        save_checkpoint(setup.fabric, run.best, state)
        save_network(run.student_file, setup.student, setup.description())
    run.write_metrics(progress.rows)
    save_checkpoint(setup.fabric, run.last, state)


def _check_weights(setup: Setup, epoch: int) -> None:
    """Refuse to keep weights that are not numbers: no loss shows what an epoch's last step did to them."""
    for name, tensor in setup.distiller.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise RelgraphError(
                f"the weights are not a number after epoch {epoch + 1}: {name} first; a smaller learning rate may help"
            )


def _restore(setup: Setup, run: Run) -> Progress:
    """Put a run back to where its last checkpoint was written."""
    state = load_checkpoint(run.last)
    try:
        setup.distiller.load_state_dict(state["distiller"])
        setup.student_optimiser.load_state_dict(state["student_optimiser"])
        setup.teacher_optimiser.load_state_dict(state["teacher_optimiser"])
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{run.last} does not belong to this run's recipe: {reason}") from error


def _result(setup: Setup, run: Run, progress: Progress) -> dict[str, Any]:
    """Return the run's figures: the test split is read here, at the end, for the last epoch and for the best."""
    recipe, data, method = setup.recipe, setup.data, setup.objective.method
    last = evaluate(setup, data.test)
    setup.distiller.load_state_dict(load_checkpoint(run.best)["distiller"])
    best = evaluate(setup, data.test)
    return {
        "method": recipe.method,
        "weights": method.weights if isinstance(method, Sum) else dict.fromkeys((m.name for m in recipe.methods), 1.0),
        "graph": recipe.graph_in_use,
        "test": {"last": last, "best": best},
        "best_epoch": progress.best_epoch,
        "epochs": recipe.epochs,
        "selected_on": recipe.select,
        f"{recipe.select}_top1_of_best": progress.best_top1,
        "note": SELECTED_ON_TEST if recipe.select == "test" else SELECTED_ON_VAL,
        "images": {"train": len(data.train), "labelled": int((data.train.labels >= 0).sum()),
                   "val": len(data.val), "test": len(data.test)},
        "images_per_s": median(row["images_per_s"] for row in progress.rows),
        "seed": recipe.seed,
        "device": str(setup.fabric.device),
        "precision": str(setup.fabric.strategy.precision.precision),
    }  # fmt: skip


def _tensorboard(run: Run, epochs_done: int) -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    # Steps after the last checkpoint of a stopped run are hidden, since they are trained again.
    return TensorBoardLogger(
        run.path, name="tensorboard", version="", default_hp_metric=False, purge_step=epochs_done + 1
    )


def _line(row: dict[str, float], recipe: Recipe) -> str:
    split = recipe.select
    return (
        f"epoch {row['epoch']:>3}/{recipe.epochs}  loss {row['loss']:.4f}  train {row['train_top1']:.2f} %  "
        f"{split} {row[f'{split}_top1']:.2f} %  {row['images_per_s']:.0f} images/s"
    )


def train_epoch(setup: Setup, epoch: int) -> dict[str, float]:
    """Go once through the training set and return the epoch's row of metrics."""
    recipe, images = setup.recipe, setup.data.train
    for group in setup.student_optimiser.param_groups:
        group["lr"] = learning_rate(recipe, epoch)
    setup.distiller.train()
    setup.objective.stage = recipe.stage(epoch)
    meter = Meter()
    start, seen = time.perf_counter(), 0
    batches = epoch_batches(
        images.labels.cpu(),
        batch_size=recipe.batch_size,
        labelled_share=recipe.labelled_share,
        seed=recipe.seed,
        epoch=epoch,
    )
    views = setup.view_generator(epoch)
    bar = tqdm(batches, desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", leave=False, disable=None)
    for index, pixels in zip(bar, setup.batches(batches), strict=True):
        step(setup, pixels, index.to(pixels.device), views, meter)
        seen += len(index)
        if meter.due():
            sums = meter.read(epoch)
            speed = seen / (time.perf_counter() - start)
            bar.set_postfix_str(f"loss {sums['loss']:.3f}, accuracy {sums['train_top1']:.1f} %, {speed:.0f} images/s")
    sums = meter.read(epoch)
    return {
        "epoch": epoch + 1,
        "lr": learning_rate(recipe, epoch),
        **sums,
        "images_per_s": round(seen / (time.perf_counter() - start), 1),
    }


def step(setup: Setup, images: Tensor, index: Tensor, views: torch.Generator, meter: Meter) -> None:
    """Train on the uint8 images of the training set at `index` (N,).

    Views -> student, teacher -> graph pair -> losses -> backward -> step.
    """
    batch = Batch(index, setup.data.train.labels[index])
    view, seen = setup.feed(images, index, views)
    losses = setup.distiller(setup.student_input(view), seen, batch)
    setup.student_optimiser.zero_grad()
    setup.teacher_optimiser.zero_grad()
    setup.fabric.backward(losses.total)
    method = setup.distiller.method
    if method is not None and losses.teacher is not None:
        # Before the step, so that a method's own layers are those that the loss was computed with.
        method.remember(losses.student.detach(), losses.teacher.detach(), batch)
    setup.student_optimiser.step()
    setup.teacher_optimiser.step()
    meter.add(losses, batch.labels)


@torch.no_grad()
def evaluate(setup: Setup, images: ImageSet, batch_size: int = 512) -> dict[str, float]:
    """Return the student's accuracy on a split, `top1` and `top5` in percent, on its own head and in float32."""
    setup.student.eval()
    parts = torch.split(torch.arange(len(images)), batch_size)
    # `forward` itself, not the compiled call: that would be compiled anew for evaluation and for the last batch's size.
    logits = [setup.student.forward(setup.student_input(part)).logits for part in setup.batches(parts, images)]
    return accuracy(torch.cat([part for part in logits if part is not None]), images.labels)
