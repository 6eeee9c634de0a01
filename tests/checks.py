"""Loops inside one test that tell which case failed, and tables of calls with the sentences that they raise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relgraph.errors import RelgraphError


@contextmanager
def case(*names: object) -> Iterator[None]:
    """Name the case of a loop in whatever fails within it."""
    try:
        yield
    except Exception as error:
        error.add_note("in the case " + ", ".join(map(str, names)))
        raise


def assert_refused(*cases: tuple[Callable[[], object], str]) -> None:
    """Check that each call raises RelgraphError with exactly this sentence; one that ends with "…" is its beginning."""
    for call, message in cases:
        found = "no error"
        try:
            call()
        except RelgraphError as error:
            found = str(error)
        begins = message.removesuffix("…")
        assert found.startswith(begins) if begins != message else found == message, f"{found!r} is not {message!r}"
