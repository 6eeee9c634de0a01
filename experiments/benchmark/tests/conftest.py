"""One thread and the same random numbers, as in tests/; tests and examples of the benchmark are in the slow stage."""

from pathlib import Path

import pytest

from tests.conftest import _seed as _seed

BENCHMARK = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if BENCHMARK in item.path.parents:
            item.add_marker(pytest.mark.slow)
