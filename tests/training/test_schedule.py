"""The learning rate against the official schedules."""

import math
from typing import Any

import pytest

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


def test_the_rate_of_each_step_of_a_pre_training() -> None:
    cases: tuple[tuple[dict[str, Any], dict[float, float]], ...] = (
        ({"warmup_epochs": 2}, {0: 0, 0.5: 0.25, 1.5: 0.75, 2: 1, 6: 0.5, 4: HALF, 10: 0}),
        ({"warmup_epochs": 0}, {0: 1, 2.5: HALF, 5: 0.5, 10: 0}),
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
