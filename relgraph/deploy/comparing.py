"""Whether another runtime computes what the student does, from identical pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf, isnan
from pathlib import Path

import torch
from torch import Tensor

from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.plain import PlainStudent

TOLERANCE = 1e-4  # of the largest magnitude of an output; float32 sums in another order differ by some 1e-6
AT_ONCE = 16  # images; 64 of 224 pixels would take gigabytes in a large network
Outputs = Sequence[Tensor | None]
Function = Callable[[Tensor], Outputs]


def normalised(student: PlainStudent, images: Tensor) -> Tensor:
    """Return what the student reads of uint8 images of its size, `(N, 3, size, size)` or grey ones."""
    prepare = Normalise(student.preprocess.mean, student.preprocess.std)
    return prepare(images).contiguous()


def compared(
    student: PlainStudent, run: Function, images: Tensor, path: Path, runtime: str, *, with_preprocessing: bool = False,
    reference: Function | None = None,
) -> float:  # fmt: skip
    """Return the largest relative difference between the outputs of another runtime and of the student.

    max |found - expected| / max |expected|, of each output by itself; what is `None` is none.

    Args:
        student: The student.
        run: What the runtime makes of normalised images, or of uint8 ones `(N, 3, size, size)` with preprocessing.
        images: uint8 images of the student's size, `(N, 3, size, size)` or grey.
        path: The file that is compared, for messages.
        runtime: Name of the runtime, for messages.
        with_preprocessing: What `run` takes.
        reference: What gives the expected outputs of normalised images, in place of the student.

    Raises:
        RelgraphError: if the runtime fails, or the difference is above `TOLERANCE`.
    """
    worst = 0.0
    for pixels in torch.split(images, AT_ONCE):
        batch = normalised(student, pixels)
        with torch.no_grad():
            expected = _present((reference or student)(batch))
            with refused(f"{path} is not written: it cannot be run in {runtime}"):
                found = _present(run(pixels.expand(-1, 3, -1, -1) if with_preprocessing else batch))
        worst = max([worst, *(difference(*each) for each in zip(found, expected, strict=True))], key=_nan_last)
    if not worst <= TOLERANCE:  # nor NaN
        told = f"expected outputs in {runtime} within {TOLERANCE:g} of the student's (relative), found {worst:.1e}"
        raise RelgraphError(f"{path} is not written: {told}")
    return worst


def _present(outputs: Outputs) -> list[Tensor]:
    return [x for x in outputs if x is not None]


def _nan_last(number: float) -> float:
    return inf if isnan(number) else number


def difference(found: Tensor, expected: Tensor) -> float:
    """Return max |found - expected| / max |expected|.

    >>> difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    0.25
    """
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


@contextmanager
def refused(told: str) -> Iterator[None]:
    """Turn any exception of another library, or of a user's own code, into one sentence.

    Raises:
        RelgraphError: if anything was raised inside.
    """
    try:
        yield
    except RelgraphError:
        raise
    except Exception as error:
        raise RelgraphError(f"{told}: {first_line(error)[:300]}") from error
