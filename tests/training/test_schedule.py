"""The learning rate against the official schedules."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, PolynomialLR

from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.recipe import Recipe, resolve
from relgraph.training.schedule import pretraining_schedule, student_schedule

HALF = 0.5 * (1 + math.sqrt(0.5))  # of a cosine after a quarter


def rates(recipe: Recipe, count: int | None = None) -> list[float]:
    return [student_schedule(recipe).rate(epoch) for epoch in range(count or recipe.epochs)]


def test_the_steps_of_the_official_schedule() -> None:
    """After 150, 180 and 210 of 240 epochs: the 151st is the first with a tenth of the rate. Here they count from 0."""
    found = rates(resolve({"dataset": "cifar100", "teacher": "timm:resnet50"}, "ega"))
    # As the official code has it, with epochs from 1: 0.05 * 0.1 ** (number of milestones below the epoch).
    official = [0.05 * 0.1 ** sum(epoch > m for m in (150, 180, 210)) for epoch in range(1, 241)]
    assert found == pytest.approx(official, rel=1e-12) and len(set(found)) == 4
    assert rates(Recipe(), 240) == found, "the default milestones are the official"


def test_the_rate_of_each_epoch_of_a_student() -> None:
    """Epochs in which a method trains alone come before the schedule; given milestones are epochs of the run."""
    cases: tuple[tuple[dict[str, Any], list[float]], ...] = (
        ({"epochs": 24}, [1] * 15 + [0.1] * 3 + [0.01] * 3 + [0.001] * 3),
        ({"epochs": 24, "milestones": (2, 3)}, [1, 1, 0.1] + [0.01] * 21),
        ({"epochs": 27, "init_epochs": 3}, [1] * 18 + [0.1] * 3 + [0.01] * 3 + [0.001] * 3),
        ({"epochs": 27, "init_epochs": 3, "milestones": (2, 3)}, [1, 1, 0.1] + [0.01] * 24),
        ({"epochs": 7, "init_epochs": 3, "schedule": "cosine"}, [1, 1, 1, 1, HALF, 0.5, 1 - HALF]),
        ({"epochs": 4, "schedule": "cosine"}, [1, HALF, 0.5, 1 - HALF]),
        ({"epochs": 9, "schedule": "constant"}, [1] * 9),
    )
    for options, expected in cases:
        recipe = Recipe(lr=3.0, **options)
        assert rates(recipe) == pytest.approx([3 * share for share in expected])
        schedule = student_schedule(recipe)
        assert schedule.by_epoch and schedule.rate(2.9) == schedule.rate(2), "constant in each"


STEPS = 7  # an epoch


def optimiser() -> Any:
    return SGD(nn.Linear(1, 1).parameters(), lr=3.0)


def per_step(recipe: Recipe) -> list[float]:
    """Return the rate of each step."""
    return [
        student_schedule(recipe).rate(epoch + step / STEPS) for epoch in range(recipe.epochs) for step in range(STEPS)
    ]


def test_warm_up_and_cosine_by_step_are_those_of_timm() -> None:
    for epochs, warmup, least in ((6, 2, 0.5), (6, 0, 0.0), (3, 1, 0.0)):
        recipe = Recipe(
            lr=3.0, epochs=epochs, warmup_epochs=warmup, schedule="cosine", schedule_by="step", min_lr=least
        )
        of_timm: Any = CosineLRScheduler(
            held := optimiser(), (epochs - warmup) * STEPS, lr_min=least, warmup_t=warmup * STEPS, warmup_prefix=True,
            t_in_epochs=False,
        )  # fmt: skip
        expected = []
        for step in range(epochs * STEPS):
            of_timm.step_update(step)
            expected.append(held.param_groups[0]["lr"])
        assert per_step(recipe) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert student_schedule(recipe).rate(epochs) == pytest.approx(least)


def test_a_schedule_by_epoch_begins_after_a_warm_up_by_step() -> None:
    """The cosine is torch's over the epochs that are left, milestones are epochs of the whole run."""
    cases: tuple[tuple[Any, dict[str, Any], Callable[[SGD], Any]], ...] = (
        ("cosine", {"min_lr": 0.5}, lambda held: CosineAnnealingLR(held, 4, eta_min=0.5)),
        ("step", {"milestones": (3, 5)}, lambda held: MultiStepLR(held, [1, 3])),
        ("constant", {}, lambda held: MultiStepLR(held, [])),
    )
    for kind, options, scheduler in cases:
        found = per_step(Recipe(lr=3.0, epochs=6, warmup_epochs=2, schedule=kind, **options))
        assert found[: 2 * STEPS] == pytest.approx([3 * step / STEPS / 2 for step in range(2 * STEPS)])
        held = optimiser()
        of_torch, expected = scheduler(held), []
        for _ in range(4):
            expected += [held.param_groups[0]["lr"]] * STEPS
            held.step()
            of_torch.step()
        assert found[2 * STEPS :] == pytest.approx(expected)


def test_poly_is_torchs_by_step() -> None:
    of_torch, expected = PolynomialLR(held := optimiser(), 4 * STEPS, power=0.9), []
    for _ in range(4 * STEPS):
        expected.append(held.param_groups[0]["lr"])
        held.step()
        of_torch.step()
    assert per_step(Recipe(lr=3.0, epochs=4, schedule="poly")) == pytest.approx(expected)


def test_a_first_stage_has_the_full_rate_behind_the_warm_up() -> None:
    options: dict[str, Any] = {"lr": 3.0, "epochs": 7, "schedule": "cosine"}
    assert rates(Recipe(**options, init_epochs=3, warmup_epochs=2)) == pytest.approx(
        [3 * share for share in (0, 0.5, 1, 1, HALF, 0.5, 1 - HALF)]
    )
    assert rates(Recipe(**options, init_epochs=1, warmup_epochs=3)) == pytest.approx(
        [3 * share for share in (0, 1 / 3, 2 / 3, 1, HALF, 0.5, 1 - HALF)]
    )


def test_the_rate_of_each_step_of_a_pre_training() -> None:
    cases: tuple[tuple[dict[str, Any], dict[float, float]], ...] = (
        ({"warmup_epochs": 2}, {0: 0, 0.5: 0.25, 1.5: 0.75, 2: 1, 6: 0.5, 4: HALF, 10: 0}),
        ({"warmup_epochs": 0}, {0: 1, 2.5: HALF, 5: 0.5, 10: 0}),
        ({"warmup_epochs": 0, "min_lr": 1.5}, {0: 1, 5: 0.75, 10: 0.5}),
        ({"schedule": "step", "warmup_epochs": 0}, {0: 1, 4.99: 1, 5: 0.1, 7.49: 0.1, 7.5: 0.01, 9.99: 0.01}),
        ({"schedule": "constant", "warmup_epochs": 4}, {0: 0, 1: 0.25, 3.9: 0.975, 4: 1, 9.99: 1}),
    )
    for options, expected in cases:
        schedule = pretraining_schedule(resolve_pretraining({"epochs": 10, "lr": 3, **options}))
        assert [schedule.rate(epoch) / 3 for epoch in expected] == pytest.approx([*expected.values()], abs=1e-12)
        assert not schedule.by_epoch


def test_sskd_s_head_has_the_steps_of_its_official_code() -> None:
    schedule = pretraining_schedule(resolve_pretraining({"objective": "sskd-head", "teacher": "embedded:digits"}))
    assert [schedule.rate(epoch) for epoch in range(60)] == pytest.approx([0.05] * 30 + [0.005] * 15 + [0.0005] * 15)
