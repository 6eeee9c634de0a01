"""A folder of tiny images and finished runs on it, of which each test damages a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe

QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 8, "epochs": 2, "batch_size": 9, "lr": 0.01, "device": "cpu", "precision": "32-true",
    "teacher": "embedded:digits", "diagnose_every": 1, "threads": 1, "workers": 0,
}  # fmt: skip
Make = Callable[..., Recipe]


def write_images(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """Write noise of 8 x 8 pixels around a colour of each class, and return the folder."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 40
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images that no test changes."""
    return write_images(tmp_path_factory.mktemp("data") / "images", {"train": 9, "val": 4, "test": 5})


@pytest.fixture(scope="session")
def make(images: Path) -> Make:
    """Return a function from options to a recipe of a quick run."""
    return lambda **options: Recipe(**{"dataset": f"folder:{images}", **QUICK, **options})


@pytest.fixture(scope="session")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run that no test changes."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make(), path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")
