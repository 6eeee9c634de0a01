"""Whether another runtime computes what the student does, from identical pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.plain import PlainStudent

TOLERANCE = 1e-4  # of the largest magnitude of an output; float32 sums in another order differ by some 1e-6
AT_ONCE = 16  # images; 64 of 224 pixels would take gigabytes in a large network
Outputs = Sequence[Tensor]


def normalised(student: PlainStudent, images: Tensor) -> Tensor:
    """Return what the student reads of uint8 images of its size, `(N, 3, size, size)` or grey ones."""
    prepare = Normalise(student.preprocess.mean, student.preprocess.std)
    return prepare(images).contiguous()


def colour(images: Tensor) -> Tensor:
    """Return uint8 images `(N, 3, H, W)` of those that may be grey."""
    return images.expand(-1, 3, -1, -1)


@torch.no_grad()
def outputs_of(student: PlainStudent, images: Tensor) -> Outputs:
    """Return vectors and, where there are any, logits of uint8 images of the student's size."""
    return _in_parts(lambda part: [x for x in student(normalised(student, part)) if x is not None], images)


def compared(
    student: PlainStudent, run: Callable[[Tensor], Outputs], images: Tensor, path: Path, runtime: str,
    expected: Callable[[PlainStudent, Tensor], Outputs] = outputs_of,
) -> float:  # fmt: skip
    """Return the largest relative difference between the outputs of another runtime and of the student.

    max |found - expected| / max |expected|, of each output by itself.

    Args:
        student: The student.
        run: What the runtime makes of uint8 images `(N, 3, size, size)`.
        images: Such images, or grey ones.
        path: The file that is compared, for messages.
        runtime: Name of the runtime, for messages.
        expected: What the student makes of the images.

    Raises:
        RelgraphError: if the runtime fails, or the difference is above `TOLERANCE`.
    """
    with refused(f"{path} cannot be run in {runtime}"), torch.no_grad():
        found = _in_parts(lambda part: run(colour(part)), images)
    worst = max(difference(*each) for each in zip(found, expected(student, images), strict=True))
    if not worst <= TOLERANCE:  # nor NaN
        told = f"expected outputs in {runtime} within {TOLERANCE:g} of the student's (relative), found {worst:.1e}"
        raise RelgraphError(f"{path} is not written: {told}")
    return worst


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


def _in_parts(function: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
    parts = [function(part) for part in torch.split(images, AT_ONCE)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]
