"""The sequential strategy: the teacher's head is trained first, alone, and is then fixed."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from tqdm import tqdm

from relgraph.data.batches import epoch_batches
from relgraph.errors import RelgraphError
from relgraph.methods import Batch
from relgraph.training.accumulation import average_gradients
from relgraph.training.checkpoint import load_checkpoint, save_checkpoint
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.schedule import learning_rate
from relgraph.training.setup import Setup

# Keeps the crops of the head's epochs apart from those of the student's.
FIRST_EPOCH = 500_000


def train_head(setup: Setup, run: Run) -> None:
    """Train the teacher's projection and classifier by cross-entropy on the labelled images, then leave them fixed.

    This is the "sequential" strategy of EGA (Ma, Chen, Akata, 2022, arXiv 2211.13264): SGD at `teacher_lr`, whose decay
    steps are those of the student's schedule. (The "joint" head has a constant rate.) The official release does not
    run it: with a CLIP teacher it ignores the trained head. Every epoch is kept in `head.ckpt`, and a stopped run goes
    on after it.

    Raises:
        RelgraphError: if the loss is not a number, or `head.ckpt` is not of this run.
    """
    recipe = head_recipe(setup.recipe)
    head = setup.distiller.teacher_head
    optimiser = SGD(head.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    rows = _restore(run, head, optimiser) if run.head_checkpoint.exists() else []
    for epoch in range(len(rows), recipe.epochs):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        rows.append({"epoch": epoch + 1, "lr": learning_rate(recipe, epoch), **_epoch(setup, recipe, optimiser, epoch)})
        if setup.processes.first:
            run.write_metrics(rows, run.head_metrics_file)
            save_checkpoint(run.head_checkpoint, {"head": head, "optimiser": optimiser, "rows": rows})
        setup.processes.wait()
    head.requires_grad_(False)
    if rows and setup.processes.first:
        last = rows[-1]
        figures = f"loss {last['loss']:.4f}, train {last['train_top1']:.2f} %"
        tqdm.write(f"teacher's head: {len(rows)} epoch{'s' if len(rows) > 1 else ''}, {figures}, now fixed")


def head_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the head's own training: its epochs, its rate, steps in the student's proportion."""
    epochs = recipe.head_epochs or recipe.epochs
    milestones = recipe.milestones if epochs == recipe.epochs else None
    return replace(recipe, epochs=epochs, head_epochs=None, teacher_head="joint", lr=recipe.teacher_lr,
                   milestones=milestones, init_epochs=0)  # fmt: skip


def _epoch(setup: Setup, recipe: Recipe, optimiser: SGD, epoch: int) -> dict[str, float]:
    head, train = setup.distiller.teacher_head.requires_grad_(True), setup.data.train
    processes, number = setup.processes, FIRST_EPOCH + epoch
    batches = epoch_batches(
        train.labels,
        batch_size=recipe.batch_size,
        labelled_share=1.0,
        seed=recipe.seed,
        epoch=number,
        processes=processes,
    )
    generator = setup.view_generator(number)
    sums = torch.zeros(3, dtype=torch.float64, device=setup.fabric.device)
    hidden = None if processes.first else True
    bar = tqdm(batches, desc=f"teacher's head {epoch + 1}/{recipe.epochs}", unit="batch", leave=False, disable=hidden)
    for index, images in zip(bar, setup.batches(batches), strict=True):
        labels = train.labels[index.to(train.labels.device)]
        features = setup.feed(images, Batch(index, labels), generator).teacher
        assert features is not None
        _, logits = head(features.embedding)
        loss = cross_entropy(logits, labels)
        optimiser.zero_grad()
        setup.fabric.backward(loss)
        average_gradients(head, processes)
        optimiser.step()
        sums += _sums(loss, logits, labels)
    processes.mean_(sums)
    loss_sum, hits, count = sums.tolist()
    # No loss shows what the last step did to the weights.
    if not (loss_sum < float("inf") and all(bool(p.isfinite().all()) for p in head.parameters())):
        raise RelgraphError(
            f"the loss of the teacher's head is not a number in epoch {epoch + 1}: a smaller --teacher-lr may help"
        )
    return {"loss": loss_sum / len(batches), "train_top1": 100 * hits / count}


@torch.no_grad()
def _sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    hits = (logits.argmax(-1) == labels).sum()
    return torch.stack([loss.double(), hits.double(), torch.full_like(hits, len(labels), dtype=torch.float64)])


def _restore(run: Run, head: Any, optimiser: SGD) -> list[dict[str, float]]:
    state = load_checkpoint(run.head_checkpoint, "head")
    try:
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        rows: list[dict[str, float]] = state["rows"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RelgraphError(f"{run.head_checkpoint} does not belong to this run's recipe: {reason}") from error
    return rows
