"""Linear maps of whole sets of vectors, in closed form: the transform of an index, and the rotation into another space.

Vectors are read in blocks, of which only counts, means and products `(D, D)` are held, in float64.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from relgraph.errors import RelgraphError
from relgraph.graph.search import Rows, fitting

BLOCK, NUMBERS = 2**14, 2**19  # rows and numbers that are read at a time, at most
COMPARED = "directions"  # by an index, and so told in files, which of earlier versions say nothing of it
SPECTRUM = 1e-10  # of the largest variance; what is below it is rounding in float32, and no direction


class Moments:
    """Counts, means and centred products of two sets of vectors of the same images, summed over blocks.

    The products are `sum_i (s_i - mean(s)) (t_i - mean(t))'`. Blocks are put together by the update of Chan, Golub and
    LeVeque (1983), which loses no digits to a large mean. Of one set, the student's and the teacher's are the same.

    Attributes:
        count: Number of images.
        means: `(Ds,)` and `(Dt,)` float64.
        products: `(Ds, Dt)` float64.
        energy: `sum_i |s_i - mean(s)|^2`, a scalar in float64.
    """

    def __init__(self, student_width: int, teacher_width: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        numbers: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.means = torch.zeros(student_width, **numbers), torch.zeros(teacher_width, **numbers)
        self.products, self.energy = torch.zeros(student_width, teacher_width, **numbers), torch.zeros((), **numbers)

    @torch.no_grad()
    def add(self, student: Tensor, teacher: Tensor) -> Self:
        """Add a block of images, `(B, Ds)` and `(B, Dt)`, and return the moments themselves.

        Raises:
            RelgraphError: for other shapes, or what is no finite number.
        """
        for vectors, mean in zip((student, teacher), self.means, strict=True):
            if vectors.ndim != 2 or vectors.shape[1] != len(mean) or len(vectors) != len(student):
                expected = f"vectors (N, {len(self.means[0])}) and (N, {len(self.means[1])})"
                raise RelgraphError(f"expected {expected}, got {tuple(student.shape)} and {tuple(teacher.shape)}")
            if not bool(vectors.isfinite().all()):
                raise RelgraphError("expected vectors of finite numbers, got NaN or infinity")
        if len(student) == 0:
            return self
        wide = [vectors.to(mean) for vectors, mean in zip((student, teacher), self.means, strict=True)]
        here = [vectors.mean(0) for vectors in wide]
        s, t = (vectors - mean for vectors, mean in zip(wide, here, strict=True))
        moved = [new - old for new, old in zip(here, self.means, strict=True)]
        total = self.count + len(student)
        weight = self.count * len(student) / total
        self.products += s.T @ t + weight * torch.outer(*moved)
        self.energy += s.square().sum() + weight * moved[0].square().sum()
        for mean, change in zip(self.means, moved, strict=True):
            mean += change * (len(student) / total)
        self.count = total
        return self

    def about(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return the products `(Ds, Dt)` and the student's energy, about the means or about 0.

        Raises:
            RelgraphError: for fewer vectors than that needs: two about their means, one about 0.
        """
        least = 2 if centred else 1
        if self.count < least:
            raise RelgraphError(f"expected at least {least} vectors to fit a map to, got {self.count}")
        if centred:
            return self.products, self.energy
        s, t = self.means
        return self.products + self.count * torch.outer(s, t), self.energy + self.count * s.square().sum()


def rotation(moments: Moments, *, centred: bool = True, scaled: bool = False, dtype: Any = torch.float32) -> nn.Linear:
    """Return the rotation that brings the student's vectors nearest to the teacher's: see `procrustes`.

    Raises:
        RelgraphError: for a single vector that would be centred, or none.
    """
    products, energy = moments.about(centred=centred)
    u, sigma, v = torch.linalg.svd(products, full_matrices=False)
    weight = (u @ v).T
    if scaled and bool(energy > 0):
        weight = weight * (sigma.sum() / energy)
    student, teacher = moments.means
    bias = teacher - weight @ student if centred else torch.zeros_like(teacher)
    found = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype, device=weight.device)
    found.load_state_dict({"weight": weight, "bias": bias})
    return found.requires_grad_(False)


class DirectionRotation(nn.Linear):
    """A map of directions to directions, `(N, Ds) -> (N, Dt)`: what `relgraph align` adds to a student.

    `y = x / |x| W' + b` is a linear map of directions, unlike that of `procrustes`, which reads vectors as they are.
    Its best scale draws y towards the mean m of the teacher's directions. The result is `m + a (y - m)` with the a > 0
    that gives it length 1, so that a program which brings vectors to length 1 and subtracts m finds what lies about m.

    Attributes:
        mean: m, `(Dt,)`.
    """

    mean: Tensor

    def __init__(self, student_width: int, teacher_width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(student_width, teacher_width, dtype=dtype)
        self.register_buffer("mean", torch.zeros(teacher_width, dtype=dtype))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the turned vectors."""
        away = normalize(super().forward(normalize(vectors, dim=-1)) - self.mean, dim=-1)
        along = (away * self.mean).sum(-1, keepdim=True)
        inside = (1 - self.mean.square().sum()).clamp_min(0)  # a mean of directions is no longer than they
        return self.mean + ((along.square() + inside).sqrt() - along) * away

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the map of a stored state.

        Raises:
            RelgraphError: if it is none of such a map.
        """
        weight, others = state.get("weight"), [state.get(name) for name in ("bias", "mean")]
        if weight is None or weight.ndim != 2 or any(x is None or x.shape != weight.shape[:1] for x in others):
            shapes = {name: tuple(values.shape) for name, values in state.items()}
            raise RelgraphError(f"expected a rotation, weight (Dt, Ds), bias (Dt,) and mean (Dt,), got {shapes}")
        found = cls(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        found.load_state_dict(dict(state))
        return found.requires_grad_(False)


@torch.no_grad()
def procrustes(student: Rows, teacher: Rows, *, centred: bool = True, scaled: bool = False) -> nn.Linear:
    """Return the rotation that brings the student's vectors nearest to the teacher's, `(N, Ds) -> (N, Dt)`.

    `W = argmin |S W - T|_F` over `W'W = I` (over `WW' = I` where Ds < Dt) is `W = U V'` of the thin singular value
    decomposition `S'T = U diag(sigma) V'` (Schoenemann, 1966). Where Ds > Dt this W has the largest `<S W, T>`, which
    is not the least distance: there `|S W|` depends on W. Centred, S and T are taken from their means, which the bias
    `mean(T) - mean(S) W` puts back. The map is detached: where W is optimal, the gradient of the residual with respect
    to S is the same. With fewer images than dimensions W is not unique, but S W is.

    Args:
        student: `(N, Ds)`, read in blocks.
        teacher: `(N, Dt)`.
        centred: Whether both are taken from their means.
        scaled: Whether the map also has the scale `sum sigma / |S|^2`, the best one where Ds <= Dt.

    Raises:
        RelgraphError: for other shapes, what is no finite number, or a single vector that would be centred.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> turned = student.flip(1) + 5
    >>> torch.allclose(procrustes(student, turned)(student), turned, atol=1e-5)
    True
    """
    if len(student.shape) != 2 or len(teacher.shape) != 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise RelgraphError(f"expected vectors (N, Ds) and (N, Dt) of the same images, got {shapes}")
    first = student[:0]
    moments = Moments(student.shape[1], teacher.shape[1], first.device)
    block = min(fitting(None, BLOCK, rows) for rows in (student, teacher))
    for start in range(0, len(student), block):
        moments.add(student[start : start + block], teacher[start : start + block])
    return rotation(moments, centred=centred, scaled=scaled, dtype=_type_of(first))


def _type_of(vectors: Tensor) -> torch.dtype:
    return torch.float64 if vectors.dtype == torch.float64 else torch.float32


class VectorTransform(nn.Module):
    """What an index does with a vector before it is compared, `(N, D) -> (N, d)`, for gallery and query alike.

    `(x / |x| - mean) C'`, divided by its length where it is normalised; C are the d principal directions, or all as
    they are. The inner product of two normalised results is their cosine. Of a vector its direction alone counts: a
    loss on cosines leaves the length of a student's vector free, and a mean cannot be taken off a vector of another
    scale.

    Attributes:
        mean: `(D,)`, of vectors of length 1; zeros where they are not centred.
        components: `(d, D)`, orthonormal rows; `None` for none.
        normalise: Whether results have length 1.
    """

    mean: Tensor
    components: Tensor | None

    def __init__(self, mean: Tensor, components: Tensor | None = None, normalise: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.normalise = normalise

    @property
    def width(self) -> int:
        """Length of a vector that it takes."""
        return len(self.mean)

    @property
    def dimensions(self) -> int:
        """Length of a vector that it gives."""
        return self.width if self.components is None else len(self.components)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors as the index compares them.

        Raises:
            RelgraphError: for vectors of another width.
        """
        if vectors.shape[-1] != self.width:
            raise RelgraphError(f"the index holds vectors of width {self.width}, got {vectors.shape[-1]}")
        found = normalize(vectors.to(self.mean.dtype), dim=-1) - self.mean  # a length can be beyond float16
        if self.components is not None:
            found = found @ self.components.T
        return normalize(found, dim=-1) if self.normalise else found

    def plain(self) -> dict[str, Any]:
        """Return what is not in its tensors, as JSON values: `like` takes it."""
        return {"normalise": self.normalise, "of": COMPARED}

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Self:
        """Return the transform of these tensors, by the names of its state.

        Raises:
            RelgraphError: if they are not those of one.
        """
        mean, components = tensors.get("mean"), tensors.get("components")
        if mean is None or mean.ndim != 1 or (components is not None and components.shape[1:] != mean.shape):
            shapes = {name: tuple(values.shape) for name, values in tensors.items()}
            raise RelgraphError(f"expected the transform of an index, mean (D,) and components (d, D), got {shapes}")
        return cls(mean, components, bool(plain.get("normalise", True)))

    @classmethod
    def fit(
        cls, vectors: Rows | Iterable[Tensor], *, pca: int | None = None, centre: bool = True, normalise: bool = True
    ) -> Self:
        """Return the transform of training vectors, `(N, D)` or blocks of them, read once: see `of_moments`."""
        given = vectors if not hasattr(vectors, "shape") else blocks_of(vectors)
        blocks = (normalize(block.to(_type_of(block)), dim=-1) for block in given)
        if pca is None:
            return cls._about_mean(blocks, centre, normalise)
        moments, dtype = None, torch.float32
        for block in blocks:
            if moments is None:
                moments, dtype = Moments(block.shape[-1], block.shape[-1], block.device), _type_of(block)
            moments.add(block, block)
        if moments is None:
            raise RelgraphError("expected vectors to fit a transform to, got none")
        return cls.of_moments(moments, pca=pca, centre=centre, normalise=normalise, dtype=dtype)

    @classmethod
    def _about_mean(cls, blocks: Iterable[Tensor], centre: bool, normalise: bool) -> Self:
        """Return the transform without directions, for which products `(D, D)` need not be held."""
        total, count, dtype = torch.zeros((), dtype=torch.float64), 0, torch.float32
        for block in blocks:
            if not bool(block.isfinite().all()):
                raise RelgraphError("expected vectors of finite numbers, got NaN or infinity")
            total = total.to(block.device) + block.sum(0, dtype=torch.float64)
            count, dtype = count + len(block), _type_of(block)
        if count == 0:
            raise RelgraphError("expected vectors to fit a transform to, got none")
        if count < 1 + int(centre):
            raise RelgraphError(f"expected at least {1 + int(centre)} vectors to fit a map to, got {count}")
        return cls((total / count if centre else torch.zeros_like(total)).to(dtype), None, normalise)

    @classmethod
    def of_moments(
        cls, moments: Moments, *, pca: int | None = None, centre: bool = True, normalise: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Self:  # fmt: skip
        """Return the transform for the moments of one set with itself.

        Args:
            moments: Of the training vectors, each of length 1.
            pca: Number of principal directions to keep, those of largest variance first, each with its largest entry
                positive; all as they are if not given.
            centre: Whether the mean is subtracted; without it, directions are those of the second moments about 0.
            normalise: Whether results have length 1.
            dtype: Of its numbers.

        Raises:
            RelgraphError: for a single vector, or more directions than vectors vary in.
        """
        products, _ = moments.about(centred=centre)
        mean = moments.means[1] if centre else torch.zeros_like(moments.means[1])
        return cls(mean.to(dtype), None if pca is None else _leading(products, pca).to(dtype), normalise)


def blocks_of(rows: Any) -> Iterable[Tensor]:
    """Yield vectors `(N, D)` in blocks."""
    block = max(1, min(BLOCK, NUMBERS // rows.shape[-1]))
    return (rows[start : start + block] for start in range(0, len(rows), block))


def principal_directions(products: Tensor) -> Tensor:
    """Return the eigenvectors of centred products `(D, D)`, those of the largest variance first, `(rank, D)`.

    Each has its largest entry positive. What varies by rounding alone is no direction.
    """
    values, vectors = torch.linalg.eigh(products)
    rank = int((values > SPECTRUM * values[-1]).sum()) if bool(values[-1] > 0) else 0
    found = vectors.T.flip(0)[:rank]
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    turned: Tensor = found * largest.sign()
    return turned


def _leading(products: Tensor, count: int) -> Tensor:
    """Return the first `count` principal directions, `(count, D)`."""
    found = principal_directions(products)
    if not 1 <= count <= len(found):
        raise RelgraphError(f"pca must keep 1 to {len(found)} directions, in which the vectors vary, got {count}")
    return found[:count]
