"""Kernels: functions of two embeddings that weigh the edge between them.

A kernel is a map of each node, then one product of all nodes with all others, then a map of each number:
`(..., N, D) x (..., M, D) -> (..., N, M)`. Leading dimensions are batches of graphs.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.graph.factored import for_rows
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

Map = Callable[[Tensor], Tensor]


identity: Map = torch.positive  # returns the tensor itself


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 or, if it is float64, unchanged: half precision loses small differences."""
    return x if x.dtype == torch.float64 else x.float()


def precision_of(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the type of a number that compares two tensors: theirs, float32 or wider, whatever it is computed in."""
    return torch.promote_types(torch.result_type(x, y), torch.float32)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """Return a context that disables autocast for operations on a tensor's device, if autocast is enabled."""
    on = not x.is_meta and torch.is_autocast_enabled(x.device.type)  # entering a context costs more than this check
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


@dataclass(frozen=True)
class Product:
    """A number for each pair of nodes, `(..., N, D) x (..., M, D) -> (..., N, M)`.

    Attributes:
        pairs: The function of all pairs.
        own: The exact number of a node with itself, if known, such as the distance 0; rounding would miss it.
        bilinear: Whether it is `x y'`, which the factored form requires (`relgraph.graph.factored`).
    """

    pairs: Callable[[Tensor, Tensor], Tensor]
    own: float | None = None
    bilinear: bool = False


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.mT


def squared_differences(x: Tensor, y: Tensor, least: float = 0.0, dtype: torch.dtype | None = None) -> Tensor:
    """Return `|x_i - y_j|^2`, at least `least`, `(..., N, D), (..., M, D) -> (..., N, M)`, in the type of `x`.

    It is 0 where it is below `D * 2.2e-16` of the sum of both nodes' squared distances from the mean of `y`: rounding
    does not tell such nodes from equal ones, and equal ones are at distance 0 whatever their scale and place. It is
    computed in float64, which the squares of any float32 fit; `dtype` is that of the result where they are to stay.
    """
    # The expansion |x|^2 + |y|^2 - 2 x y' cancels digits of near nodes, and of all if they lie far from the origin, as
    # features after a ReLU do: distances do not move with the origin, so the mean of `y` is subtracted first, and
    # float64 keeps the digits of all nodes that float32 can tell apart.
    origin = y.double().mean(-2, keepdim=True).detach()
    one, other = x.double() - origin, y.double() - origin
    size = one.square().sum(-1).unsqueeze(-1) + other.square().sum(-1).unsqueeze(-2)
    square = size - 2 * (one @ other.mT)
    rounding = x.shape[-1] * torch.finfo(torch.float64).eps * size
    return torch.where(square <= rounding, 0, square).clamp_min(least).to(x.dtype if dtype is None else dtype)


dot = Product(_dot, bilinear=True)
squared_distance = Product(squared_differences, own=0.0)


@dataclass(frozen=True)
class Kernel:
    """A weight of two embeddings, `finish(product(prepare(x), prepare(y)))`, always computed in float32 or wider.

    Attributes:
        name: Name, as used in the literature.
        prepare: Map of the nodes, `(..., N, D) -> (..., N, D)`, each by itself.
        product: `dot`, `squared_distance`, or a user-defined function, `(..., N, D) x (..., M, D) -> (..., N, M)`.
        finish: Map of each number of the matrix; none if not given.
        nearest_is_largest: Whether a larger number means nearer, as in a correlation, or farther, as in a distance.
        bounded: Whether prepared nodes are divided by the largest magnitude among all of them, down to a power of two,
            which rounds nothing: the result is scale-invariant, but without the division squares of its numbers would
            overflow, or vanish.
        centred: Whether the mean of all nodes is subtracted from each prepared node: with a dot product, the matrix K
            becomes `H K H` with `H = I - 1 1' / N` (see `centred`).

    >>> pearson(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    >>> from functools import partial
    >>> manhattan = Kernel("manhattan", identity, partial(torch.cdist, p=1.0), nearest_is_largest=False)
    >>> manhattan(torch.tensor([[0.0], [2.0]]))
    tensor([[0., 2.],
            [2., 0.]])
    """

    name: str
    prepare: Map
    product: Product | Callable[[Tensor, Tensor], Tensor]
    finish: Map | None = None
    nearest_is_largest: bool = True
    bounded: bool = False
    centred: bool = False

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the matrix of all pairs, `(..., N, M)`; of `x` with itself, `(..., N, N)`, if there is no `y`."""
        z = self.nodes(x)
        return self.matrix(z, z if y is None else self.nodes(y))

    def nodes(self, x: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> Tensor:
        """Return the prepared nodes, `(..., N, D)`, in float32 or wider; `x` may be one process's rows of a batch."""
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):  # the meta device has no autocast
            with full_precision(x):
                return self.nodes(x, processes)
        z = self.prepare(x if x.dtype == torch.float64 else x.float())
        if self.bounded:
            size = processes.maximum(largest(z).amax(-2, keepdim=True))
            size = size.masked_fill(size == 0, 1)
            z = z / (size / (2 * torch.frexp(size).mantissa))
        return _less_mean(z, processes) if self.centred else z

    def degenerate(self, nodes: Tensor) -> Tensor:
        """Return which *prepared* nodes are zero, `(..., N)`: for Pearson, those without variance.

        A product that is a dot product gives them weight 0 to every node.
        """
        nodes = nodes.detach()
        return (nodes.amax(-1) == 0) & (nodes.amin(-1) == 0)

    def matrix(self, x: Tensor, y: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the weights of all pairs of *prepared* nodes, `(..., N, M)`.

        The exact weight of a node with itself stands where `own` is true; if not given, in the diagonal of one tensor's
        weights with itself.
        """
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):  # the meta device has no autocast
            with full_precision(x):
                return self.matrix(x, y, own)
        if x.dtype != y.dtype:
            wider = torch.promote_types(x.dtype, y.dtype)
            x, y = x.to(wider), y.to(wider)
        product = self._product
        found = product.pairs(x, y)
        if product.own is not None and (x is y or own is not None):
            own = torch.eye(found.shape[-1], dtype=torch.bool, device=found.device) if own is None else own
            found = found.masked_fill(own, product.own)
        return found if self.finish is None else self.finish(found)

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the weight of each *prepared* node with the node in its place, `(..., N, D), (..., N, D) -> (..., N)`.

        Of two networks' nodes these are the own edges of the cross graph, without its other N^2 - N.

        >>> cosine.paired(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([1., 0.])
        """
        return self.matrix(x.unsqueeze(-2), y.unsqueeze(-2)).flatten(-3)

    def rows(self, x: Tensor, anchors: slice, y: Tensor | None = None) -> Tensor:
        """Return those rows of `matrix(x, y)` that belong to some anchors, `(N, D) x (M, D) -> (A, M)`.

        Without `y` they are of one graph, with exact weights of a node with itself.
        """
        if y is not None and y is not x:
            return self.matrix(x[anchors], y)
        return self.matrix(x[anchors], x, None if self._product.own is None else own_places(x, anchors))

    @cached_property
    def _product(self) -> Product:
        return self.product if isinstance(self.product, Product) else Product(self.product)

    @property
    def bilinear(self) -> bool:
        """Whether weights are dot products of prepared nodes and nothing more."""
        return self._product.bilinear and self.finish is None

    @property
    def of_prepared(self) -> "Kernel":
        """The same kernel for nodes that are already prepared."""
        return replace(self, prepare=identity, bounded=False, centred=False)


def _less_mean(z: Tensor, processes: ProcessGroup) -> Tensor:
    """Return nodes less the mean of those of all processes, `(..., N, D)`; equal nodes become exactly 0."""
    z = z - processes.maximum(z.amax(-2, keepdim=True))  # or rounding would leave a direction to equal nodes
    total = for_rows(processes.sum(z.sum(-2, keepdim=True)), processes)
    return z - total / (processes.count * z.shape[-2])


def own_places(x: Tensor, anchors: slice) -> Tensor:
    """Return the mask of the anchors' own columns in their rows, `(A, N)`.

    >>> own_places(torch.zeros(3, 1), slice(1, 3)).int().tolist()
    [[0, 1, 0], [0, 0, 1]]
    """
    place = torch.arange(len(x), device=x.device)
    return place[anchors].unsqueeze(-1) == place


def largest(x: Tensor) -> Tensor:
    """Return each row's largest magnitude, a constant for the gradient, `(..., N, D) -> (..., N, 1)`.

    >>> largest(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
    tensor([[2.],
            [0.]])
    """
    x = x.detach()
    return torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))  # abs would copy the tensor (N, D)


def excess(x: Tensor) -> Tensor:
    """Return what to divide each row by so that sums of its fourth powers are finite, `(..., D) -> (..., 1)`: mostly 1.

    The fourth root of the largest number is 4e9 in float32, the type of narrower ones, and 1e77 in float64.
    """
    size = at_least_float32(largest(x))
    most: float = torch.finfo(size.dtype).max ** 0.25
    return (size / most).clamp_min(1)


def excess_of_all(x: Tensor) -> Tensor:
    """Return the largest `excess` of all rows of a batch, `(..., D) -> (1,)`."""
    return excess(x).amax().view(1)  # in one dimension, so that a tensor of half precision is divided in float32


def bounded(x: Tensor) -> Tensor:
    """Divide each row by its largest magnitude, `(..., N, D) -> (..., N, D)`.

    Sums and squares then neither overflow nor vanish: a bfloat16 row reaches 1e38. The operations that follow must not
    depend on a row's scale, because the divisor is a constant for the gradient.
    """
    size = largest(x)
    return x / size.masked_fill(size == 0, 1)


def unit(x: Tensor) -> Tensor:
    """Divide each row by its length, `(..., N, D) -> (..., N, D)`; a row of zeros stays 0 and gets no gradient."""
    steps = _Direction.forward if torch.compiler.is_compiling() else _Direction.apply
    direction: Tensor = steps(x, False)[0]
    return direction


def nearly_unit(epsilon: float, constant: bool = False) -> Map:
    """Return the map that divides each row by its length plus epsilon; a row of zeros stays 0 and gets no gradient.

    With `constant` the length is a constant for the gradient.
    """
    return partial(_nearly_unit, epsilon, constant)


def _nearly_unit(epsilon: float, constant: bool, x: Tensor) -> Tensor:
    size = largest(x)
    x = bounded(x)
    length = torch.linalg.vector_norm(x.detach() if constant else x, dim=-1, keepdim=True)
    return x / torch.where(length > 0, length + epsilon / size, float("inf"))


def standardise(x: Tensor) -> Tensor:
    """Subtract each row's mean and divide by its length, `(..., N, D) -> (..., N, D)`; 0 without variance.

    Only a row of equal numbers has no variance, and gets no gradient. Of a row whose numbers have one sign the nearest
    to zero is subtracted first, so that neither the mean nor a division rounds small differences of large numbers.
    """
    steps = _Direction.forward if torch.compiler.is_compiling() else _Direction.apply
    direction: Tensor = steps(x, True)[0]
    return direction


class _Direction(torch.autograd.Function):
    """Rows, or their deviations from their means, divided by their lengths: `u = d / |d|`, `d = x / size - mean`.

    The size is the largest magnitude of the row; of a row that is centred, after the number nearest to zero is
    subtracted if all have one sign.

    As one function it saves only u for the gradient, `(g - u <u, g>) / |d| / size` less its mean, because memory limits
    the largest batches. `1 / |d|` is an output so that the gradient can itself be differentiated. The result must not
    be changed in place. torch.compile, which does not support functions with a jvp, traces the plain `forward` instead.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
        constant = x.detach()
        most, least = constant.amax(-1, keepdim=True), constant.amin(-1, keepdim=True)
        if centred:
            nearest = least.clamp_min(0) + most.clamp_max(0)
            size = torch.maximum(most - nearest, nearest - least)
            size = size.masked_fill(size == 0, 1)
            direction = (x - nearest).div_(size)
            direction -= direction.mean(-1, keepdim=True)
        else:
            size = torch.maximum(most, -least)
            size = size.masked_fill(size == 0, 1)
            direction = x / size
        length = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        length = length.masked_fill(length == 0, float("inf"))
        return direction / length, length.reciprocal(), size

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.centred = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_inverse: Tensor, _: Tensor) -> tuple[Tensor, None]:
        direction, inverse, size = ctx.saved_tensors
        along = (gradient * direction).sum(-1, keepdim=True)
        gradient = torch.addcmul(gradient, direction, -along - of_inverse * inverse).mul_(inverse)
        if ctx.centred:
            gradient -= gradient.mean(-1, keepdim=True)
        return gradient.div_(size), None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
        direction, inverse, size = ctx.saved_tensors
        change = change / size
        if ctx.centred:
            change = change - change.mean(-1, keepdim=True)
        along = (change * direction).sum(-1, keepdim=True)
        return (change - direction * along) * inverse, -along * inverse * inverse, None


def quotient(x: Tensor, total: Tensor) -> Tensor:
    """Return `x / total`, and 0 with gradient 0 where the total is not positive."""
    return x / total.masked_fill(total <= 0, float("inf"))


def where_positive(function: Map, x: Tensor) -> Tensor:
    """Return a function of the positive numbers, and 0 with gradient 0 (not infinity, and then NaN) for the others.

    What is no number stays none.
    """
    positive = ~(x <= 0)
    return torch.where(positive, function(torch.where(positive, x, 1)), 0)


safe_sqrt = partial(where_positive, torch.sqrt)


def gaussian(gamma: float) -> Kernel:
    """Return the kernel `exp(-gamma |x - y|^2)` on unit vectors (CC; Peng et al., 2019, arXiv 1904.01802).

    Raises:
        RelgraphError: if `gamma` is not positive.

    >>> gaussian(0.4)(torch.eye(2))
    tensor([[1.0000, 0.4493],
            [0.4493, 1.0000]])
    """
    check_positive("gamma", gamma)
    return Kernel("gaussian", unit, squared_distance, partial(_bell, gamma))


def _bell(gamma: float, square: Tensor) -> Tensor:
    return torch.exp(-gamma * square)


def gaussian_taylor(gamma: float, order: int) -> Kernel:
    """Return the Taylor polynomial of `gaussian(gamma)` in the dot product of unit vectors.

    `sum_p exp(-2 gamma) (2 gamma)^p / p! (x.y)^p`, summed over orders 0 to `order`: the form of correlation
    congruence (Peng et al., 2019, arXiv 1904.01802), whose known implementations use gamma 0.4 and order 2.

    Raises:
        RelgraphError: if `gamma` is not positive or `order` is negative.
    """
    check_positive("gamma", gamma)
    if order < 0:
        raise RelgraphError(f"the order of a Taylor polynomial must be at least 0, got {order}")
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    return Kernel("gaussian (Taylor)", unit, dot, partial(_polynomial, factors))


def _polynomial(factors: list[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, factors[-1])
    for factor in reversed(factors[:-1]):  # Horner's scheme
        total = total * x + factor
    return total


def damped_pearson(epsilon: float) -> Kernel:
    """Return the correlation with a number added to the product of lengths, `<x, y> / (|x| |y| + epsilon)`.

    x and y are nodes less their own means; DIST (Huang et al., 2022, arXiv 2205.10536) adds 1e-8. A node without
    variance has weight 0 to every node and gets no gradient, whatever epsilon is.

    Raises:
        RelgraphError: if epsilon is negative.

    >>> damped_pearson(6.0)(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    if not epsilon >= 0:
        raise RelgraphError(f"epsilon must be at least 0, got {epsilon}")
    return Kernel("pearson (damped)", deviations, partial(_over_lengths, epsilon))


def deviations(x: Tensor) -> Tensor:
    """Subtract each row's mean, `(..., N, D) -> (..., N, D)`; a row of equal numbers becomes exactly 0."""
    x = x - x.detach().amax(-1, keepdim=True)
    return x - x.mean(-1, keepdim=True)


def _over_lengths(epsilon: float, x: Tensor, y: Tensor) -> Tensor:
    one, other = x.double(), y.double()  # in which products of lengths of float32 neither overflow nor vanish
    lengths = one.norm(dim=-1).unsqueeze(-1) * other.norm(dim=-1).unsqueeze(-2)
    return (one @ other.mT / torch.where(lengths > 0, lengths + epsilon, torch.inf)).to(x.dtype)


def centred(kernel: Kernel) -> Kernel:
    """Return a dot kernel whose matrix K is centred over the nodes, `H K H` with `H = I - 1 1' / N`.

    Each row and each column of it has the mean 0 (CKA; Kornblith et al., 2019, arXiv 1905.00414). The mean that is
    subtracted is that of all prepared nodes, so that the factored form stays; over processes, of theirs together.

    Raises:
        RelgraphError: for a kernel whose weights are no dot products.

    >>> centred(linear)(torch.tensor([[1.0], [3.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    if not kernel.bilinear:
        expected = "the kernel of a centred graph is a dot product of nodes, such as linear or cosine"
        raise RelgraphError(f"{expected}, got {kernel.name}")
    return replace(kernel, name=f"centred {kernel.name}", centred=True)


def check_positive(name: str, value: float) -> None:
    """Raise RelgraphError unless a value is above 0."""
    if not value > 0:
        raise RelgraphError(f"{name} must be positive, got {value}")


linear = Kernel("linear", identity, dot)
cosine = Kernel("cosine", unit, dot)
# Correlation of two embeddings over their D coordinates, in [-1, 1]; unchanged by x -> a x + b with a > 0 for each
# node by itself. A node without variance, of equal numbers, has correlation 0 with everything, itself included.
pearson = Kernel("pearson", standardise, dot)
squared_euclidean = Kernel("squared euclidean", identity, squared_distance, nearest_is_largest=False)
euclidean = Kernel("euclidean", identity, squared_distance, safe_sqrt, nearest_is_largest=False)
