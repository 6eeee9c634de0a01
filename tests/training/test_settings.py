"""Optimiser, rate, clipping, moving average, patience: an epoch is a plain loop, and a run stops anywhere."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW

from relgraph.methods import Batch
from relgraph.names import open_student
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.epochs import Meter, step, steps, train_epoch
from relgraph.training.evaluation import accuracy
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import build_pretraining
from relgraph.training.runs import RunDirectory
from relgraph.training.tasks import Classes
from tests.checks import assert_refused_like, case
from tests.training.conftest import RecipeMaker, after_each_step, equal, in_pieces, outcome, result_of, states

STEPS = 5  # batches of an epoch in the tests' recipe
INDEX = torch.arange(12)
RATE: dict[str, Any] = {"schedule": "cosine", "schedule_by": "step", "warmup_epochs": 1, "min_lr": 1e-4}
EVERY: dict[str, Any] = {
    **RATE, "optimiser": "adamw", "decay_norm_and_bias": False, "weight_decay": 0.1, "clip_norm": 0.5, "ema": 0.8,
    "lr": 0.003, "teacher_lr": 0.01,
}  # fmt: skip


# Epochs


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_epoch_is_a_plain_loop_of_torch_and_timm(name: str, make: RecipeMaker) -> None:
    """Their groups, optimisers, schedule, clipping and average, stepped by hand on the same batches."""
    own: dict[str, Any] = {} if name == "adamw" else {"optimiser": "sgd", "nesterov": True, "lr": 0.05}
    recipe = make(**{**EVERY, "clip_norm": 2.2, **own}, method="none", epochs=4)
    job = build(recipe)
    student: Any = deepcopy(job.objective.student)
    groups, average = param_groups_weight_decay(student, recipe.weight_decay), ModelEmaV3(student, decay=0.8)
    optimiser: Any = AdamW(groups, recipe.lr) if name == "adamw" else SGD(groups, 0.05, 0.9, nesterov=True)
    schedule = CosineLRScheduler(
        optimiser, 3 * STEPS, lr_min=1e-4, warmup_t=STEPS, warmup_prefix=True, t_in_epochs=False
    )
    done, norms = 0, list[float]()
    for epoch in range(4):
        student.train()
        for index, images, views, *_ in steps(job, epoch):
            batch = Batch(index, job.data.train.labels[index])
            inputs = job.feed(images, batch, views)
            schedule.step_update(done)
            optimiser.zero_grad()
            torch.autograd.backward(cross_entropy(student(inputs.images).logits, batch.labels, ignore_index=-1))
            norms.append(float(clip_grad_norm_(student.parameters(), 2.2).detach()))
            optimiser.step()
            average.decay = min(0.8, (1 + done) / (10 + done))
            average.update(student)
            done += 1
        row, _ = train_epoch(job, epoch)
        assert row["lr"] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
    assert min(norms) < 2.2 < max(norms), "some are clipped and some are not"
    for found, expected in ((job.objective.student, student), (job.student, average.module)):
        torch.testing.assert_close(states(found), states(expected), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_clipped_of_all_but_the_teacher_s_side(make: RecipeMaker) -> None:
    """A step of SGD is then as long as the rate times the largest norm, the layers of a method included."""
    moved = {}
    for name, options in (("plain", {}), ("clipped", {"clip_norm": 0.03})):
        job = build(make(method="crd", method_args=("negatives=8",), momentum=0.0, weight_decay=0.0, **options))
        before = deepcopy(job.objective)
        step(job, job.data.train.pixels[INDEX], INDEX, torch.Generator().manual_seed(0), Meter())
        pairs = [*zip(job.objective.student_parameters(), before.student_parameters(), strict=True)]
        moved[name] = torch.cat([(now - was).flatten() for now, was in pairs]).detach(), job.objective.teacher_head
        assert len(pairs) > len([*job.objective.student.parameters()])
    (plain, heads), (clipped, other) = moved.values()
    assert float(clipped.norm()) == pytest.approx(0.01 * 0.03, rel=1e-3) and float(plain.norm()) > 0.01 * 0.1
    torch.testing.assert_close(clipped / clipped.norm(), plain / plain.norm(), rtol=1e-2, atol=1e-3)
    assert isinstance(heads, nn.Module) and isinstance(other, nn.Module) and equal(states(heads), states(other))


def test_a_pre_training_has_the_optimiser_and_its_clipping(images: Path) -> None:
    options: dict[str, Any] = {"dataset": f"folder:{images}", "network": "resnet8", "device": "cpu", "dim": 8}
    options |= {"epochs": 10, "batch_size": 12, "momentum": 0.0, "lr": 0.3, "precision": "32-true"}
    options |= {"clip_norm": 0.03, "decay_norm_and_bias": False, "weight_decay": 1e-9, "min_lr": 0.2}
    job = build_pretraining(resolve_pretraining(options))
    without, decaying = job.optimisers["optimiser"].param_groups
    assert (without["weight_decay"], decaying["weight_decay"]) == (0.0, 1e-9)
    assert {p.ndim for p in without["params"]} == {1} and min(p.ndim for p in decaying["params"]) > 1
    assert job.schedule.rate(10) == pytest.approx(0.2) and job.schedule.rate(1) == 0.3
    before = deepcopy(job.objective)
    step(job, job.data.train.pixels[INDEX], INDEX, torch.Generator().manual_seed(0), Meter())
    moved = [(a - b).detach().flatten() for a, b in zip(job.objective.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.3 * 0.03, rel=1e-3)


# The moving average


def test_the_results_are_those_of_the_stored_students_or_of_their_average(
    make: RecipeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = list[dict[str, Any]]()
    for ema in (0.0, 0.7):
        path, recipe = tmp_path / str(ema), make(method="none", lr=0.3, seed=2, ema=ema)
        result, data = train(recipe, path), build(recipe).data
        assert result_of(path) == result and (result["epochs"], result["seed"]) == (3, 2)
        assert result["images"] == {"train": 36, "labelled": 6, "val": 18, "test": 18}
        assert result["test"]["best"] != result["test"]["last"], "else this test could not tell them apart"
        kept, info = open_student(path)
        mean, std = (torch.tensor(info[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        found = {}
        for which in ("last", "best"):
            ends.append(load_checkpoint(path / f"{which}.ckpt"))
            raw = {name.removeprefix("student."): x for name, x in ends[-1]["objective"].items()}
            assert ("ema" in ends[-1]) == (ema > 0) and not equal(raw, ends[-1].get("ema", {}))
            judged = ends[-1].get("ema", raw)
            assert which == "last" or equal(states(kept), judged)
            kept.load_state_dict(judged)
            for split in (data.test, data.val):
                with torch.no_grad():
                    found[which, split.split] = accuracy(kept((split.pixels / 255 - mean) / std).logits, split.labels)
            assert result["test"][which] == pytest.approx(found[which, "test"])
            kept = open_student(path)[0]
        file = RunDirectory(path).student_file
        before = file.read_bytes()
        file.unlink()
        train(recipe, path, resume=True)
        assert file.read_bytes() == before, "one that is gone is written again"
        told = "written again from best.ckpt, without a rotation of relgraph align, if it had one\n"
        assert told in capsys.readouterr().out
        assert result["val_top1_of_best"] == pytest.approx(found["best", "val"]["top1"])
        assert RunDirectory(path).read_metrics()[-1]["val_top1"] == pytest.approx(found["last", "val"]["top1"])
    assert equal(ends[0]["objective"], ends[2]["objective"]), "the student itself goes on as without an average"


# Patience


def scored(patch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let each epoch's accuracy on the split that selects be the next of these."""
    left, original = iter(scores), Classes.evaluate

    def evaluate(self: Classes, network: Any, images: Any, **options: Any) -> dict[str, float]:
        found = original(self, network, images, **options)
        return found if images.split == "test" else {**found, "top1": next(left)}

    patch.setattr(Classes, "evaluate", evaluate)


@pytest.mark.slow
def test_a_run_ends_after_epochs_without_a_better_score(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a first stage, whose method teaches no classifier, are not counted."""
    cases: tuple[tuple[str, dict[str, Any], list[float], int | None, int], ...] = (
        ("ended", {}, [10, 5, 30, 20, 30], 5, 3),
        ("after a stage", {"method": "sp", "init_epochs": 3}, [30, 10, 10, 20, 20], 5, 1),
        ("at the end", {"epochs": 4}, [10, 30, 20, 30], None, 2),
    )
    for name, given, scores, ended, best in cases:
        path, options = tmp_path / name, {"epochs": 6, "patience": 2, **given}
        with case(name), monkeypatch.context() as patch:
            scored(patch, scores)
            result = train(make(**options), path)
            assert (
                result["epochs"] == len(RunDirectory(path).read_metrics()) == len(scores)
                and result["best_epoch"] == best
            )
            told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ended ")]
            why = f"2 epochs without a better val_top1 than {scores[best - 1]:.2f} % of epoch {best}"
            assert told == ([f"ended after epoch {ended} of 6: {why}"] if ended else [])
            assert result["ended_early"] == result_of(path)["ended_early"] == (why if ended else None)
            before = outcome(path)
            train(make(**options), path, resume=True)  # no epoch more, for which there is no score
            assert outcome(path) == before and capsys.readouterr().out.count("ended after") == bool(ended)


def test_patience_needs_a_score(make: RecipeMaker, tmp_path: Path) -> None:
    seed: dict[str, Any] = {"method": "seed", "method_args": ("queue=40",), "batch_size": 7}
    cases: tuple[dict[str, Any], ...] = (
        {"dataset": "unlabelled", "method": "infonce"},
        {**seed, "dataset": "digits", "val_fraction": 0.0},
    )
    for options in cases:
        told = r"^patience needs a score, from images with labels in training and val split, got \S+ without them"
        assert_refused_like((partial(train, make(**options, patience=1), tmp_path / "run"), told))
        assert not (tmp_path / "run").exists()
    assert isinstance(build(make(**seed, patience=1)), Distillation)


# Stops


@pytest.mark.slow
def test_a_run_with_every_option_stops_anywhere_and_ends_as_if_it_had_not(make: RecipeMaker, tmp_path: Path) -> None:
    """After each step, before each write, and with a head that is trained first; its patience ends it."""
    options = {**EVERY, "patience": 1, "epochs": 8, "graph": "knn", "k": 3, "refine": "conv"}
    sequential = {**options, "teacher_head": "sequential", "head_epochs": 1}
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train(make(**sequential), whole)["ended_early"] is not None
    assert in_pieces(lambda resume: train(make(**sequential), pieces, resume=resume), pieces) > 5
    assert everything(pieces) == everything(whole)

    recipe = make(**options, checkpoint_minutes=1e-9)
    train(recipe, tmp_path / "steps")
    stopped = tmp_path / "stopped"
    stops = after_each_step(lambda resume: train(recipe, stopped, resume=resume), stopped)
    rows = len(RunDirectory(stopped).read_metrics())
    assert rows < 8 and stops == STEPS * rows - 1, "after each step but the last"
    assert everything(stopped) == everything(tmp_path / "steps")


def everything(path: Path) -> dict[str, Any]:
    """Return the outcome of a run, and the moving average and the optimisers' states of its checkpoints."""
    found = outcome(path)
    for file in path.glob("*.ckpt"):
        state = load_checkpoint(file)
        own = {name: part for name, part in state.items() if name not in ("objective", "progress", "random")}
        found[f"{file.name} besides"] = {name: str(plain(part)) for name, part in own.items()}
    return found


def plain(part: Any) -> Any:
    """Return a state with the bytes of its tensors in their place."""
    if isinstance(part, torch.Tensor):
        return part.numpy().tobytes()
    if isinstance(part, dict):
        return {name: plain(value) for name, value in part.items()}
    return [plain(value) for value in part] if isinstance(part, list) else part
