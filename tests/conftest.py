"""What every test starts from: the same random numbers, and one thread.

The tests' networks are tiny: more threads gain nothing, and cost minutes where another program uses the cores.
"""

import os

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the programs that tests start
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seed torch's generators, so that a test draws the same numbers alone and among others."""
    torch.manual_seed(0)
