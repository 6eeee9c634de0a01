"""The label map's order of runs, its choice of weights, table and figure, of made-up figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from label_map import NOISY, NOISY_SEEDS, SEEDS, TRIALS, Run, chosen, draw, markdown, remaining, summary

METHODS, SHARES = ["alone", "EGA"], [1.0, 0.1]


def made_up(run: Run) -> dict[str, Any]:
    """Validation finds a third of EGA's weight best and the student's own rate; the test finds the opposite."""
    best = 0.3 if run.name == "EGA" else 1.0
    value = 50.0 + run.seed + 10 * (run.factor == best)
    return {"val_top1": value, "test_top1": 100 - value, "curve": [1.0, value], "teacher_probe": 70.0}


def test_every_run_once_and_the_weight_by_validation(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    order: list[Run] = []
    while todo := remaining(found, METHODS, SHARES, 1):
        order.append(todo[0])
        found[todo[0].key] = made_up(todo[0])
    assert len(order) == len({run.key for run in order})
    published = sum(SEEDS[share] for share in SHARES) * len(METHODS)
    kinds = [(run.factor != 1, run.noise > 0) for run in order]
    assert kinds[:published] == [(False, False)] * published
    assert chosen(found, METHODS) == {"alone": 1.0, "EGA": 0.3}
    more = [run for run in order[published + 2 * len(TRIALS) :] if not run.noise]
    assert {run.name for run in more} == {"EGA"} and {run.factor for run in more} == {0.3}
    assert len(more) == sum(SEEDS[share] for share in SHARES) - 1  # one of them was a trial
    assert kinds[-len(NOISY) * NOISY_SEEDS :] == [(False, True)] * len(NOISY) * NOISY_SEEDS

    table = summary(found, METHODS, SHARES, chosen(found, METHODS))
    assert table["EGA"]["chosen"]["0.1"] == {"mean": 39.0, "n": 3, "deviation": 1.0}
    assert table["SSKD"]["0.3 of the labels wrong"]["0.1"]["n"] == NOISY_SEEDS
    report = json.loads(json.dumps({"shares": SHARES, "runs": found, "summary": table}))
    assert "| EGA | chosen x 0.3 | 39.5 +- 0.7 (2) | 39.0 +- 1.0 (3) |" in markdown(report).splitlines()
    table["EGA"]["chosen"]["1"] |= {"n": 1, "deviation": None}
    assert "| EGA | chosen x 0.3 | 39.5 (1) | 39.0 +- 1.0 (3) |" in markdown(report | {"summary": table}).splitlines()
    draw(report, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_options_of_runs() -> None:
    given = {"epochs": 40, "lr": 0.1, "student": "resnet8"}
    assert Run("alone", 0.1, 1, 3.0).options(given, 4)["lr"] == pytest.approx(0.3)
    near = Run("EGA, 8 of the data set", 1.0, 0, 0.3).options(given, 4)
    assert near["epochs"] == 4 and near["beta"] == 0.3 and near["scope"] == "dataset"
    wrong = Run("SSKD", 0.1, 2, noise=0.3).options(given, 4)
    assert (wrong["epochs"], wrong["label_noise"], wrong["label_fraction"], wrong["seed"]) == (4, 0.3, 0.1, 2)
