"""One thread and the same random numbers, as in tests/."""

from tests.conftest import _seed as _seed
