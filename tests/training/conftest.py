"""A folder of tiny images, and runs on it that several tests read and none changes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relgraph.training.loop import train
from relgraph.training.recipe import Recipe

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": 12, "val": 5, "test": 6}

RecipeMaker = Callable[..., Recipe]
Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8 x 8 images: noise around a colour of the class."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 40
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def make(images: Path) -> RecipeMaker:
    """Return a function from options to a recipe that trains in a moment: 6 labelled images of 36, 5 batches of 12."""

    def recipe(**options: Any) -> Recipe:
        quick: dict[str, Any] = {
            "dataset": f"folder:{images}",
            "labels_per_class": 2,
            "student": "resnet8",
            "dim": 16,
            "epochs": 3,
            "batch_size": 12,
            "lr": 0.01,
            "device": "cpu",
            "precision": "32-true",  # the same figures on processors with and without bf16
        }
        return Recipe(**{**quick, **options})

    return recipe


VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "knn-conv": {"graph": "knn", "k": 3, "refine": "conv", "alpha": 0.5, "views": "independent"},
    "none": {"method": "none"},
    "kd": {"method": "kd", "schedule": "cosine"},
    "memory-maps": {"method": "crd+0.5*sp+0.9*kd", "method_args": ("negatives=8",)},
    "early": {"method": "sp", "init_epochs": 1},
    "select-test": {"select": "test", "epochs": 2},
}


@pytest.fixture(scope="session")
def finished(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from a variant's name to its finished run, trained once; read it, do not change it."""
    root = tmp_path_factory.mktemp("runs")

    def run(variant: str) -> Path:
        path = root / variant
        if not path.exists():
            train(make(**VARIANTS[variant]), path)
        return path

    return run


@pytest.fixture
def copied(finished: Runs, tmp_path: Path) -> Runs:
    """Return a function from a variant's name to a copy of its finished run that a test may spoil."""

    def run(variant: str) -> Path:
        return Path(shutil.copytree(finished(variant), tmp_path / variant))

    return run
