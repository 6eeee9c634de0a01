"""A small student that knows two classes, and folders of new images."""

from pathlib import Path
from typing import Any

import pytest

import relgraph
from tests.pictures import write_folder, write_image

QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 6, "epochs": 1, "batch_size": 8, "device": "cpu", "precision": "32-true", "workers": 0,
    "teacher": "embedded:digits",
}  # fmt: skip


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training images and three test images of each of two classes."""
    return write_folder(tmp_path_factory.mktemp("deploy") / "photos", {"train": 10, "test": 3})


@pytest.fixture(scope="session")
def run(photos: Path) -> relgraph.Run:
    return relgraph.train(dataset=f"folder:{photos}", **QUICK, out=photos.parent / "run")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch on digits, which tests read and do not change."""
    path = tmp_path_factory.mktemp("deploy") / "digits"
    relgraph.train(student="resnet8", epochs=1, device="cpu", out=path)
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Five images of several sizes at several depths, a file that is none, and one of another format."""
    for seed, name in enumerate(("b.png", "a.png", "in/c.jpg", "in/deep/d.png", "in/deep/e.png")):
        write_image(tmp_path / "new" / name, (9 + seed, 16 - seed), seed)
    (tmp_path / "new" / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "new" / "notes.txt").touch()
    return tmp_path / "new"
