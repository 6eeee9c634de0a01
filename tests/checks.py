"""Loops inside one test that tell which case failed, tables of calls with the sentences that they raise, an attack."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relgraph.errors import RelgraphError
from relgraph.graph import blocks, factored, search

# What `diagnose` measures of a pair with labels, where both networks have one width.
MEASURES = (
    "overlap", "edge_rank", "match", "degenerate_student", "degenerate_teacher", "homophily_student",
    "homophily_teacher",
)  # fmt: skip
OF_BATCHES = (*(f"batch_{name}" for name in MEASURES), "batch_homophily_edges")  # their names in a run's files


@contextmanager
def case(*names: object) -> Iterator[None]:
    """Name the case of a loop in whatever fails within it."""
    try:
        yield
    except Exception as error:
        error.add_note("in the case " + ", ".join(map(str, names)))
        raise


def small_blocks(monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    """Let each form that computes in blocks need several of them for so few nodes."""
    monkeypatch.setattr(blocks, "LARGEST", 2 * nodes)
    monkeypatch.setattr(factored, "ROWS", 3)
    monkeypatch.setattr(search, "BLOCK", 3)
    monkeypatch.setattr(search, "CHUNK", 3)


def refusal(call: Callable[[], object]) -> str:
    """Return the sentence with which a call raises RelgraphError."""
    try:
        call()
    except RelgraphError as error:
        return str(error)
    return "no error"


def assert_refused(*cases: tuple[Callable[[], object], str]) -> None:
    """Check that each call raises RelgraphError with exactly this sentence; one that ends with "…" is its beginning."""
    for call, message in cases:
        found, begins = refusal(call), message.removesuffix("…")
        assert found.startswith(begins) if begins != message else found == message, f"{found!r} is not {message!r}"


def assert_refused_like(*cases: tuple[Callable[[], object], str]) -> None:
    """Check that each call raises RelgraphError with one line in which the pattern is found."""
    for call, pattern in cases:
        found = refusal(call)
        assert found != "no error" and re.search(pattern, found) and "\n" not in found, (
            f"{found!r} does not match {pattern!r}"
        )


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as YAML holds them, tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
