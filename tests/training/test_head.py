"""The sequential head: trained as a plain classifier, then fixed; a stop loses one epoch of it at most."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from relgraph.data.batches import epoch_batches
from relgraph.errors import RelgraphError
from relgraph.methods import Batch
from relgraph.training import head, loop
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.head import FIRST_EPOCH, head_recipe, train_head
from relgraph.training.loop import train
from relgraph.training.meter import Meter
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.schedule import learning_rate
from relgraph.training.setup import build

RecipeMaker = Callable[..., Recipe]
SEQUENTIAL: dict[str, Any] = {"teacher_head": "sequential", "head_epochs": 4, "epochs": 2}


def weights(path: Path) -> dict[str, Tensor]:
    prefix = "teacher_head."
    stored = load_checkpoint(path)["distiller"]
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def test_it_is_trained_as_a_plain_classifier_on_the_labelled_images(make: RecipeMaker, tmp_path: Path) -> None:
    """Against SGD with momentum and weight decay written out."""
    recipe = make(**SEQUENTIAL)
    setup = build(recipe)
    own = {name: p.detach().clone().requires_grad_() for name, p in setup.distiller.teacher_head.named_parameters()}
    speed = {name: torch.zeros_like(p) for name, p in own.items()}
    train_head(setup, Run.create(tmp_path / "run", recipe))
    for epoch in range(4):
        batches = epoch_batches(
            setup.data.train.labels, batch_size=12, labelled_share=1.0, seed=recipe.seed, epoch=FIRST_EPOCH + epoch
        )
        generator = setup.view_generator(FIRST_EPOCH + epoch)
        for index in batches:
            assert (setup.data.train.labels[index] >= 0).all()
            batch = Batch(index, setup.data.train.labels[index])
            seen = setup.feed(next(setup.batches([index])), batch, generator).teacher
            assert seen is not None
            embedding = seen.pooled @ own["project.weight"].T + own["project.bias"]
            logits = embedding @ own["classify.weight"].T + own["classify.bias"]
            loss = cross_entropy(logits, setup.data.train.labels[index])
            gradients = torch.autograd.grad(loss, list(own.values()))
            rate = recipe.teacher_lr * 0.1 ** sum(epoch >= step for step in (2, 3, 4))
            with torch.no_grad():
                for (name, p), gradient in zip(own.items(), gradients, strict=True):
                    speed[name] = recipe.momentum * speed[name] + gradient + recipe.weight_decay * p
                    p -= rate * speed[name]
    found = dict(setup.distiller.teacher_head.named_parameters())
    for name, p in own.items():
        torch.testing.assert_close(found[name].detach(), p.detach())


def test_it_stays_fixed_while_the_student_learns(make: RecipeMaker, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(make(**SEQUENTIAL), path)
    first = load_checkpoint(path / "head.ckpt", "head")["head"]
    for file in ("best.ckpt", "last.ckpt"):
        kept = weights(path / file)
        assert kept.keys() == first.keys() and all(torch.equal(kept[name], first[name]) for name in kept)
    assert len((path / "teacher_head.csv").read_text().splitlines()) == 1 + 4
    assert len(Run(path).read_metrics()) == 2


@pytest.mark.parametrize(("strategy", "moves"), [("joint", True), ("sequential", False)])
def test_who_learns_in_a_step(strategy: str, moves: bool, make: RecipeMaker) -> None:
    setup = build(make(teacher_head=strategy, graph="knn", k=3, refine="conv"))
    before = {name: tensor.clone() for name, tensor in setup.distiller.state_dict().items()}
    index = torch.arange(12)
    for _ in range(2):  # the refinement starts as the identity, where a first step may leave a part of it
        loop.step(setup, next(setup.batches([index])), index, torch.Generator(), Meter())
    moved = {name for name, tensor in setup.distiller.state_dict().items() if not torch.equal(before[name], tensor)}
    assert any(name.startswith("teacher_head.") for name in moved) == moves
    assert any(name.startswith("student.") for name in moved)
    assert any(name.startswith("method.") for name in moved), "the refinement of the teacher's side learns all the same"


@pytest.mark.parametrize("stopped_before", [1, 3, 5])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(
    stopped_before: int, make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth epoch is none of the head's four: the stop then comes in the student's first."""
    recipe, calls = make(**SEQUENTIAL), 0
    train(recipe, tmp_path / "whole")

    def stopping(original: Callable[..., Any]) -> Callable[..., Any]:
        def epoch(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stopped_before:
                raise KeyboardInterrupt
            return original(*args)

        return epoch

    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(head, "_epoch", stopping(head._epoch))
        patch.setattr(loop, "train_epoch", stopping(loop.train_epoch))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, path)
    train(recipe, path, resume=True)
    for file in ("student.safetensors", "teacher_head.csv"):
        assert (path / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_its_recipe(make: RecipeMaker) -> None:
    """240 epochs at 0.01 with the student's steps, as EGA's own script for it has them."""
    official = head_recipe(make(epochs=240, teacher_head="sequential", milestones=(150, 180, 210)))
    rates = [learning_rate(official, epoch) for epoch in (0, 149, 150, 180, 210)]
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-4, 1e-5])
    assert head_recipe(make(epochs=240, init_epochs=30, teacher_head="sequential", head_epochs=8)).initial_epochs == 0
    short = head_recipe(make(epochs=240, teacher_head="sequential", head_epochs=8, milestones=(150, 180, 210)))
    assert short.epochs == 8
    assert [e for e in range(1, 8) if learning_rate(short, e) < learning_rate(short, e - 1)] == [5, 6, 7]


def test_without_a_teacher_there_is_no_head(make: RecipeMaker, tmp_path: Path) -> None:
    train(make(method="none", teacher_head="sequential", epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "head.ckpt").exists()


def test_what_is_refused(make: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^head_epochs belongs to teacher_head 'sequential', got 'joint' and 3$"):
        make(head_epochs=3)
    with pytest.raises(RelgraphError, match=r"^the loss of the teacher's head is not a number in epoch 2"):
        train(make(**{**SEQUENTIAL, "teacher_lr": 1e38}), tmp_path / "diverged")
    path = tmp_path / "other"
    recipe = make(**SEQUENTIAL)
    setup = build(recipe)
    run = Run.create(path, recipe)
    torch.save({"head": {"a": torch.zeros(1)}, "optimiser": {}, "rows": []}, run.head_checkpoint)
    with pytest.raises(RelgraphError, match=r"head\.ckpt does not belong to this run's recipe"):
        train_head(setup, run)
