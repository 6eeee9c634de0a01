import os
from pathlib import Path

import pytest

from relgraph.analysis.memory import in_own_process, peak_resident


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    before = peak_resident()
    assert before is not None
    block = bytearray(before)  # twice what there was, written and let go
    del block
    after = peak_resident()
    assert after is not None and after >= 1.5 * before


def test_another_process_runs_it() -> None:
    assert in_own_process(os.getpid) != os.getpid()
