"""A run of one epoch on digits, which tests read and do not change."""

from pathlib import Path

import pytest

import relgraph


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deploy") / "digits"
    relgraph.train(student="resnet8", epochs=1, device="cpu", out=path)
    return path
