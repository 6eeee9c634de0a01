"""Reductions over the edges of one anchor, for edge lists: `(E,) values` and `(E,) anchors -> (N,)`.

torch_scatter is used if it is installed and works, else torch's own operations, with equal results.
"""

from torch import Tensor

from relgraph.graph.blocks import transformed

try:
    import torch_scatter  # type: ignore[import-not-found, unused-ignore]
except Exception:  # a wheel built for another torch fails with OSError, not ImportError
    torch_scatter = None

HAS_SCATTER = torch_scatter is not None


def segment_sum(values: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Return the sum of the values of each anchor, `(E,), (E,) -> (count,)`; 0 for an anchor without edges.

    >>> import torch
    >>> segment_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 2]), 3)
    tensor([1., 0., 5.])
    """
    if torch_scatter is not None and not transformed():  # it adds in place, which torch.vmap does not map
        total: Tensor = torch_scatter.scatter_add(values, anchors, dim=-1, dim_size=count)
        return total
    return values.new_zeros((*values.shape[:-1], count)).index_add(-1, anchors, values)


def segment_max(values: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Return the largest value of each anchor, `(E,), (E,) -> (count,)`, without gradient; 0 without edges."""
    values = values.detach()
    empty = values.new_zeros((*values.shape[:-1], count))
    return empty.scatter_reduce(-1, anchors.expand_as(values), values, "amax", include_self=False)


def segment_log_softmax(values: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Return `log(exp(v_e) / sum of exp over the edges of e's anchor)`, `(E,), (E,) -> (E,)`."""
    shifted = values - segment_max(values, anchors, count).index_select(-1, anchors)
    total = segment_sum(shifted.exp(), anchors, count).index_select(-1, anchors)
    return shifted - total.log()
