"""What every test starts from: the same random numbers, and one thread.

The tests' networks are tiny: more threads gain nothing, and cost minutes where another program uses the cores.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the programs that tests start
torch.set_num_threads(1)


def pytest_configure() -> None:
    """Write into the file RELGRAPH_SUMMING which tests sum over the edges of anchors, each on a line.

    They alone can differ with torch_scatter, and `.ci/run` repeats them once it is there. What a test compiles or calls
    in other processes is not seen.
    """
    if "RELGRAPH_SUMMING" in os.environ:
        from relgraph.graph import segments, topology

        original, known = segments.segment_sum, {""}

        def segment_sum(*given: Any) -> torch.Tensor:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            if test not in known and not torch.compiler.is_compiling():
                known.add(test)
                with Path(os.environ["RELGRAPH_SUMMING"]).open("a") as file:
                    file.write(f"{test}\n")
            return original(*given)

        for module in (segments, topology):
            pytest.MonkeyPatch().setattr(module, "segment_sum", segment_sum)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seed torch's generators, so that a test draws the same numbers alone and among others."""
    torch.manual_seed(0)
