"""Finished runs of one epoch on digits, and the analysis of one, which tests read and do not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from relgraph.analysis.analysis import Analysis, analyse
from relgraph.analysis.run_loading import TrainedRun
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe

Runs = Callable[[str], Path]
FIRST, K = 60, 4


def assert_same_pair(found: HeteroData, expected: HeteroData, tolerance: float | None = None) -> None:
    """Check that nodes and edges of two pairs are the same; how they were computed may differ."""
    stores = found.to_dict(), expected.to_dict()
    for store in stores:
        del store["_global_store"]
    torch.testing.assert_close(*stores, rtol=tolerance, atol=tolerance)


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


@pytest.fixture(scope="session")
def opened(runs: Runs) -> TrainedRun:
    return TrainedRun(runs("few"))


@pytest.fixture(scope="session")
def found(opened: TrainedRun) -> Analysis:
    """Return the analysis of some images, the teacher's projected to the student's width, so that nodes match."""
    return analyse(opened, k=K, first=FIRST, source="projection")
