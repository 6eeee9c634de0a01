"""The Hub's cache of a machine without a network, and vision transformers of torchvision that are built in a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from torchvision.models import vision_transformer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that lays out a repository in the cache as the Hub's client does: the folder of its files."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def snapshot(repository: str) -> Path:
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        for folder in ("refs", f"snapshots/{'0' * 40}"):
            (root / folder).mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        return root / "snapshots" / ("0" * 40)

    return snapshot


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision build its vision transformers with one layer of 32 values: the real ones take seconds."""
    build = vision_transformer._vision_transformer
    tiny = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 32}
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **settings: build(**{**settings, **tiny}))
