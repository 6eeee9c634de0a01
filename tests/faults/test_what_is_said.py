"""What is printed: one line where something is wrong, which says what it is, and no line that another has written."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from relgraph.analysis.export import FORMATS, write_graph
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.report import write_report
from relgraph.files import write_json, write_table, write_yaml
from relgraph.graph.pair import graph_pair
from relgraph.networks.files import save_network
from relgraph.training.checkpoint import save_checkpoint
from tests.checks import assert_refused_like


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that is written beside another be on a disk that is full."""

    def link(suffix: str, prefix: str, folder: Path) -> tuple[int, str]:
        path = folder / f"{prefix}{suffix}"
        path.symlink_to("/dev/full")
        return os.open(path, os.O_RDWR), str(path)

    monkeypatch.setattr(tempfile, "mkstemp", link)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_called_one(finished: Path, tmp_path: Path, full_disk: None) -> None:
    pair, layer = graph_pair(torch.eye(3), torch.eye(3)), torch.nn.Linear(2, 2)
    writers = {f"g.{name}": lambda path: write_graph(pair, path) for name in FORMATS} | {
        "last.ckpt": lambda path: save_checkpoint(path, {"objective": layer}),
        "student.safetensors": lambda path: save_network(path, layer, {}),
        "result.json": lambda path: write_json(path, {}),
        "recipe.yaml": lambda path: write_yaml(path, {}),
        "metrics.csv": lambda path: write_table(path, [{"loss": 1.0}]),
        "page.html": lambda path: write_report([finished], path, k=2),
        "learning_curve.png": lambda path: learning_curve(finished),
    }
    for name, write in writers.items():
        call = lambda write=write, name=name: write(tmp_path / name)  # noqa: E731
        assert_refused_like((call, rf"^cannot write [^\n]*{name}: No space left on device"))
    assert list(tmp_path.iterdir()) == []
