"""Common parts of methods over stage maps: which maps are paired, at which size, and the layers between them."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import at_least_float32, excess_of_all
from relgraph.methods.base import Method, Output, RunFacts, Shapes, stage_maps

T = TypeVar("T")


class StageMethod(Method):
    """A method that compares stage maps, by layers that are built for the shapes of both networks' maps.

    Attributes:
        least: How many maps it needs of each network, the stem's included.
        needs_shapes: Whether it is built for shapes, or only checks them where they are given.
        facing: Which of the paired maps it compares; by default all but the stems'.

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first.
        teacher_maps: Those of the teacher.
    """

    least: ClassVar[int] = 2
    facing: ClassVar[slice] = slice(1, None)
    needs_shapes: ClassVar[bool] = True
    reads = ("maps",)
    student_maps: Shapes | None = None  # `()` for a network that returns no maps
    teacher_maps: Shapes | None = None

    def __post_init__(self) -> None:
        """Pair the shapes for which layers are built."""
        super().__post_init__()
        given = self.student_maps is not None and self.teacher_maps is not None
        student, teacher = self.student_maps or (), self.teacher_maps or ()
        if self.needs_shapes or given:
            check_stages(type(self).__name__, student, teacher, self.least)
        self.built = paired(student, teacher)[self.facing]

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the shapes of the run's maps."""
        return cls(run.student_maps, run.teacher_maps, **options)

    def pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of student and teacher that it compares, with the channels that its layers were built for."""
        found = map_pairs(student, teacher, type(self).__name__, self.least)[self.facing]
        expected = [(s[0], t[0]) for s, t in self.built]
        channels = [(s.shape[1], t.shape[1]) for s, t in found]
        if channels != expected:
            maps = f"stage maps with channels {expected} of student and teacher"
            raise RelgraphError(f"{type(self).__name__} was built for {maps}, got {channels}")
        return found


def paired(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Return the paired elements of two lists, deepest with deepest, as many as the shorter list has, in order.

    >>> paired(["s1", "s2"], ["t1", "t2", "t3"])
    [('s1', 't2'), ('s2', 't3')]
    """
    count = min(len(student), len(teacher))
    return list(zip(student[len(student) - count :], teacher[len(teacher) - count :], strict=True))


def check_stages(method: str, student: Sequence[object], teacher: Sequence[object], least: int = 2) -> None:
    """Raise RelgraphError unless both networks return at least `least` maps, or have as many shapes of maps."""
    given = [shapes if isinstance(shapes, Sequence) else (shapes,) for shapes in (student, teacher)]
    for shape in chain(*given):
        if not isinstance(shape, Tensor) and (not isinstance(shape, Sequence) or len(shape) != 3):
            raise RelgraphError(f"{method} is built for shapes (C, H, W) of stage maps, without the batch, got {shape}")
    if min(len(student), len(teacher)) < least:
        which = {1: "", 2: " (stem and one stage)"}.get(least, f" (stem and {least - 1} stages)")
        expected = f"expected at least {least} of student and teacher{which}, got {len(student)} and {len(teacher)}"
        raise RelgraphError(f"{method} reads stage maps, the maps=(...) of an Output: {expected}")


def map_pairs(student: Output, teacher: Output, method: str, least: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Return the paired maps of student and teacher; see `paired`. The first pair has a stem's map.

    Raises:
        RelgraphError: if there are fewer than `least` of one network, or they are not maps of the same images.
    """
    check_stages(method, student.maps, teacher.maps, least)
    pairs = paired(student.maps, teacher.maps)
    for pair in pairs:
        check_maps(*pair)
    return pairs


def last_maps(student: Output, teacher: Output, method: str) -> tuple[Tensor, Tensor]:
    """Return the last stage map of each network, `(N, C_s, H, W)` and `(N, C_t, h, w)`, in float32 or wider.

    Raises:
        RelgraphError: if a network returns none, or they are not maps of the same images.
    """
    s, t = (at_least_float32(stage_maps(output, method)[-1]) for output in (student, teacher))
    check_maps(s, t)
    return s, t


def check_maps(student: Tensor, teacher: Tensor) -> None:
    """Raise RelgraphError unless both are maps `(N, C, H, W)` of the same N images."""
    four = student.ndim == teacher.ndim == 4
    if not four or len(student) != len(teacher) or 0 in (student.numel(), teacher.numel()):
        expected = "stage maps must be (N, C, H, W), student and teacher of the same N images"
        raise RelgraphError(f"{expected}, got {tuple(student.shape)} and {tuple(teacher.shape)}")


def same_size(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger of two maps over space to the size of the smaller; both are returned in float32 or wider.

    `(N, C, H, W), (N, D, h, w) -> (N, C, h, w), (N, D, h, w)`, by adaptive average pooling; a map that is higher but
    narrower than the other is pooled along its height, and the other along its width.

    >>> import torch
    >>> same_size(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), torch.zeros(1, 1, 1, 1))[0].flatten()
    tensor([4.])
    """
    size = min(x.shape[-2], y.shape[-2]), min(x.shape[-1], y.shape[-1])
    x, y = (at_least_float32(maps) for maps in (x, y))
    one, other = (maps if maps.shape[-2:] == size else _pooled(maps, size) for maps in (x, y))
    return one, other


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    factor = excess_of_all(maps)  # a sum of the largest numbers overflows, their mean does not
    return adaptive_avg_pool2d(maps / factor, size) * factor


def through(layers: nn.Module, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of layers for maps, in float32 or wider, and the factor by which it is too small, mostly 1.

    Maps of numbers above 4e9 (in float64 1e77) are divided by that factor, so that a variance does not overflow: batch
    norm behind a convolution takes it out again, and beside such numbers a bias is none. Under autocast the layers
    compute in its type.
    """
    factor = excess_of_all(maps)
    return at_least_float32(layers((maps / factor).to(next(layers.parameters()).dtype))), factor


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm over the current batch, without running statistics, so that the loss is stateless."""
    return nn.BatchNorm2d(channels, track_running_stats=False)
