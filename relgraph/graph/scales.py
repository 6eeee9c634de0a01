"""Scales: maps that make the weights w of two networks comparable before a criterion reads them.

| scale | weights become | of |
|---|---|---|
| `raw` | themselves | EGA, CC |
| `by_anchor_norm` | each anchor's divided by their Euclidean length; 0 of a length of 0 (float32: below 1e-17) | SP |
| `by_anchor_sum` | each anchor's divided by their sum, which makes probabilities of weights >= 0 | PKT |
| `softmax(T)` | `w / T - log sum exp(w / T)` over each anchor's edges | NCE, SEED |
| `by_mean` | all divided by the mean of the positive ones; 0 if there are none | RKD's distances |
| `by_max` | all divided by the largest, with gradient through it (in blocks, through the first of several) | IRG |
| `by_norm` | all divided by their Frobenius norm; 0 of a norm of 0 | CKA |
| `by_constant_max` | the same, with the largest a constant for the gradient | IRG's code |

Sources: SP (Tung and Mori, 2019, arXiv 1907.09682), PKT (Passalis and Tefas, 2018, arXiv 1803.10837), RKD (Park et al.,
2019, arXiv 1904.05068), IRG (Liu et al., CVPR 2019), CKA (Kornblith et al., 2019, arXiv 1905.00414).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from relgraph.graph.blocks import rows_at_once, sum_of_blocks
from relgraph.graph.factored import for_rows, gram
from relgraph.graph.kernels import Kernel, check_positive, quotient, safe_sqrt, where_positive
from relgraph.graph.topology import ALL_PAIRS, Topology
from relgraph.processes import ProcessGroup


@dataclass(frozen=True)
class Scale:
    """Makes the weights of one network's edges comparable with another's, in the same shape: of each anchor, or of all.

    Attributes:
        name: Name, as used in the literature; empty for unscaled weights.
        anchors: Maps the weights of all anchors, given their topology, to the scaled weights; each anchor is scaled by
            its own weights.
        factors: Of prepared nodes X and Y whose weights are `X Y'`, the same nodes twice for the weights of one graph,
            and the processes that hold their rows: the two factors of the scaled weights, `(N, D)` each, if they exist.
            The factored form requires them.
        crossing: Number of nodes per column above which that form is cheaper.
        divisor: Computes from all weights of a graph, as `anchors` maps them where it is given too, the number by which
            they are divided; if it is not positive, the scaled weights are 0.
        divisor_in_blocks: The same for a kernel's weights between all pairs of prepared nodes X and Y, `block` rows at
            a time. Without it such a scale has no blocked form.
    """

    name: str
    anchors: Callable[[Tensor, Topology], Tensor] | None = None
    factors: Callable[[Tensor, Tensor, ProcessGroup], tuple[Tensor, Tensor]] | None = None
    crossing: int = 3
    divisor: Callable[[Tensor], Tensor] | None = None
    divisor_in_blocks: Callable[[Kernel, Tensor, Tensor, int | None], Tensor] | None = None

    def __call__(self, weights: Tensor, topology: Topology = ALL_PAIRS, divisor: Tensor | None = None) -> Tensor:
        """Return the scaled weights, those of a batch of graphs each graph by itself.

        For some rows of a graph, the whole graph's `divisor` is given.
        """
        if self.anchors is not None:
            weights = self.anchors(weights, topology)
        if weights.numel() == 0 or self.divisor is None:  # mutual neighbours, or a threshold, may leave no edge
            return weights
        if divisor is None and weights.ndim <= topology.dims:
            divisor = self.divisor(weights)
        elif divisor is None:  # of each graph of a batch
            graphs = torch.vmap(self.divisor)(weights.flatten(0, -topology.dims - 1))
            divisor = graphs.view(*weights.shape[: -topology.dims], *topology.dims * (1,)).to(weights.dtype)
        return weights / divisor.masked_fill(divisor <= 0, float("inf"))

    @cached_property
    def plain(self) -> bool:
        """Whether weights remain as they are."""
        return self.anchors is None and self.divisor is None


def as_scale(scale: Scale | Callable[[Tensor], Tensor]) -> Scale:
    """Return a scale; a function of the weights of one anchor, `(..., M) -> (..., M)`, becomes one.

    >>> as_scale(lambda weights: weights - weights.mean(-1, keepdim=True))(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.,  1.]])
    """
    if isinstance(scale, Scale):
        return scale
    return Scale(getattr(scale, "__name__", "own"), partial(_each_row, scale))


def _each_row(row: Callable[[Tensor], Tensor], weights: Tensor, topology: Topology) -> Tensor:
    return topology.each_row(row, weights)


def _nodes_themselves(x: Tensor, y: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    return x, y


def _sum_to_one(weights: Tensor, topology: Topology) -> Tensor:
    return quotient(weights, topology.sum(weights))


def _log_softmax(temperature: float, weights: Tensor, topology: Topology) -> Tensor:
    return topology.log_softmax(weights / temperature)


def _unit_anchors(weights: Tensor, topology: Topology) -> Tensor:
    total = topology.sum(weights.square())
    # Of squares that nearly vanish the gradient would overflow. A quotient, since that of rsqrt holds its cube.
    return quotient(weights, safe_sqrt(total.masked_fill(total < 1e3 * torch.finfo(total.dtype).tiny, 0)))


def _unit_factors(x: Tensor, y: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return A and Y `(N, D)`, float64, such that `A Y'` is the matrix `x y'` with rows of length 1, or 0.

    The squared length of row i of `x y'` is `x_i' (y'y) x_i`. A common factor of all nodes, which cancels in the rows,
    is divided out: two networks' Y are then equal where their graphs are.
    """
    wide = y.double()
    product = gram(wide, wide, processes)
    size = torch.linalg.matrix_norm(product.detach()).sqrt()
    factor = torch.where(size > 0, size, 1)
    wide, product = wide / factor, product / factor.square()
    rows = wide if x is y else x.double() / factor
    square = (rows @ for_rows(product, processes) * rows).sum(-1, keepdim=True)
    return rows * where_positive(torch.rsqrt, square), wide


def _mean_positive(weights: Tensor) -> Tensor:
    positive = weights > 0
    return torch.where(positive, weights, 0).sum() / positive.sum().clamp_min(1)


def _mean_positive_in_blocks(kernel: Kernel, x: Tensor, y: Tensor, block: int | None) -> Tensor:
    def positive(anchors: slice, x: Tensor, y: Tensor | None = None) -> Tensor:
        weights = kernel.rows(x, anchors, y)
        above = weights > 0
        return torch.stack([torch.where(above, weights, 0).sum(), above.sum().to(weights.dtype)])

    found = sum_of_blocks(positive, (x,) if x is y else (x, y), len(x), block)
    return found[0] / found[1].clamp_min(1)


def _length(weights: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(weights, dtype=torch.float64)  # squares of float32 would overflow
    return length


def _length_in_blocks(kernel: Kernel, x: Tensor, y: Tensor, block: int | None) -> Tensor:
    def square(anchors: slice, x: Tensor, y: Tensor | None = None) -> Tensor:
        return kernel.rows(x, anchors, y).double().square().sum()

    return safe_sqrt(sum_of_blocks(square, (x,) if x is y else (x, y), len(x), block))


def _length_factors(x: Tensor, y: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return the nodes over the root of `|x y'|`, in float64, or 0; `|x y'|^2 = <x'x, y'y>`."""
    one, other = x.double(), y.double()
    products = [for_rows(gram(nodes, nodes, processes), processes) for nodes in ((one,) if x is y else (one, other))]
    length = safe_sqrt(safe_sqrt((products[0] * products[-1]).sum()))
    z = quotient(one, length)
    return z, z if x is y else quotient(other, length)


def _constant_max(weights: Tensor) -> Tensor:
    return weights.detach().max()


def _constant_max_in_blocks(kernel: Kernel, x: Tensor, y: Tensor, block: int | None) -> Tensor:
    one = x.detach()
    return _largest_in_blocks(kernel, one, one if x is y else y.detach(), block)


def _largest_in_blocks(kernel: Kernel, x: Tensor, y: Tensor, block: int | None) -> Tensor:
    """Return the largest weight of all pairs, with gradient through the two nodes that have it."""
    count, found = len(y), []
    block = rows_at_once(count, y.numel()) if block is None else block
    with torch.no_grad():
        for start in range(0, len(x), block):
            value, place = kernel.rows(x, slice(start, start + block), y).flatten().max(0)
            found.append((value, place + start * count))
        values, places = (torch.stack(column) for column in zip(*found, strict=True))
        place = places.gather(0, values.argmax().unsqueeze(0))
    one, other = x.index_select(0, place // count), y.index_select(0, place % count)
    return kernel.matrix(one, other).squeeze()


raw = Scale("", factors=_nodes_themselves)
by_anchor_norm = Scale("anchor norm", _unit_anchors, factors=_unit_factors, crossing=8)
by_anchor_sum = Scale("anchor sum", _sum_to_one)
by_mean = Scale("mean", divisor=_mean_positive, divisor_in_blocks=_mean_positive_in_blocks)
by_norm = Scale("norm", None, _length_factors, divisor=_length, divisor_in_blocks=_length_in_blocks)
by_max = Scale("max", divisor=torch.max, divisor_in_blocks=_largest_in_blocks)
by_constant_max = Scale("constant max", divisor=_constant_max, divisor_in_blocks=_constant_max_in_blocks)


def softmax(temperature: float) -> Scale:
    """Build the scale that makes log-probabilities of each anchor's edges, at a temperature.

    `w_ij / T - log sum_k exp(w_ik / T)` over the edges of anchor i.

    Raises:
        RelgraphError: if the temperature is not positive.

    >>> softmax(2.0)(torch.zeros(1, 2)).exp()
    tensor([[0.5000, 0.5000]])
    """
    check_positive("a temperature", temperature)
    return Scale("softmax", partial(_log_softmax, temperature))
