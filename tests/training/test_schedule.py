"""The learning rate against the official schedule."""

import math

import pytest

from relgraph.training.recipe import Recipe, resolve
from relgraph.training.schedule import learning_rate


def test_the_steps_of_the_official_schedule() -> None:
    """After 150, 180 and 210 of 240 epochs: the 151st is the first with a tenth of the rate. Here they count from 0."""
    recipe = resolve({"dataset": "cifar100", "teacher": "timm:resnet50"}, "ega")
    rates = [learning_rate(recipe, epoch) for epoch in range(240)]
    # As the official code has it, with epochs from 1: 0.05 * 0.1 ** (number of milestones below the epoch).
    official = [0.05 * 0.1 ** sum(epoch > m for m in (150, 180, 210)) for epoch in range(1, 241)]
    assert rates == pytest.approx(official, rel=1e-12)
    drops = [epoch for epoch in range(1, 240) if rates[epoch] != rates[epoch - 1]]
    assert drops == [150, 180, 210]
    assert [learning_rate(Recipe(), epoch) for epoch in range(240)] == rates, "the default milestones are the official"


def test_steps_in_proportion_and_as_given() -> None:
    short = Recipe(epochs=24, lr=1.0)
    assert [e for e in range(1, 24) if learning_rate(short, e) < learning_rate(short, e - 1)] == [15, 18, 21]
    given = Recipe(epochs=24, lr=1.0, milestones=(2, 3))
    assert [learning_rate(given, e) for e in range(5)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_the_schedule_begins_after_the_epochs_in_which_a_method_trains_alone() -> None:
    late = Recipe(epochs=27, init_epochs=3, lr=1.0)
    rates = [learning_rate(late, epoch) for epoch in range(27)]
    assert rates == [1.0] * 3 + [learning_rate(Recipe(epochs=24, lr=1.0), epoch) for epoch in range(24)]
    given = Recipe(epochs=27, init_epochs=3, lr=1.0, milestones=(2, 3))
    assert [learning_rate(given, e) for e in range(8)] == pytest.approx([1, 1, 0.1] + [0.01] * 5), "epochs of the run"
    cosine = Recipe(epochs=7, init_epochs=3, lr=2.0, schedule="cosine")
    rates = [learning_rate(cosine, epoch) for epoch in range(7)]
    assert rates == pytest.approx([2.0, 2.0, 2.0, 2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])


def test_cosine_and_constant() -> None:
    cosine = [learning_rate(Recipe(schedule="cosine", epochs=4, lr=2.0), epoch) for epoch in range(4)]
    assert cosine == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])
    assert {learning_rate(Recipe(schedule="constant", epochs=9, lr=0.3), epoch) for epoch in range(9)} == {0.3}
