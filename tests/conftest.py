"""What every test starts from: the same random numbers."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seed torch's generators, so that a test draws the same numbers alone and among others."""
    torch.manual_seed(0)
