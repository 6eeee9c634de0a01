"""Finished runs of one epoch on digits, which tests read and do not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from relgraph.training.distillation import train

from relgraph.training.recipe import Recipe

Runs = Callable[[str], Path]
VARIANTS: dict[str, dict[str, Any]] = {
    "few": {"labels_per_class": 3, "labelled_share": 0.5, "epochs": 2},
    "all": {"method": "kd"},
    "none": {"method": "none", "labels_per_class": 20},
    "memory": {  # one step; a checkpoint with memories and layers of the teacher's side
        "method": "crd+0.1*ft", "method_args": ("negatives=8",), "labels_per_class": 3, "labelled_share": 1.0,
        "batch_size": 30,
    },
    "seed": {"method": "seed", "method_args": ("queue=500",), "labels_per_class": 3, "batch_size": 128},
}  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from a variant's name to its run, trained once."""
    root = tmp_path_factory.mktemp("digits")

    def run(variant: str) -> Path:
        path = root / variant
        if not path.exists():
            options: dict[str, Any] = {"student": "resnet8", "dim": 32, "epochs": 1, "device": "cpu", "lr": 0.01}
            train(Recipe(**{**options, **VARIANTS[variant]}), path)
        return path

    return run
