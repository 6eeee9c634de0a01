"""Names of refinements: this package's, graph convolutions of PyTorch Geometric, and modules of one's own."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from relgraph import own_code
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.refine import (
    REFINERS,
    Convolution,
    NodeRefinement,
    Refiner,
    attributes,
    magnitudes,
    raw,
    signed,
    unweighted,
)
from relgraph.graph.topology import Edges
from relgraph.names.own import check_permitted, find_own
from relgraph.names.parts import kernel
from relgraph.networks.files import load_strictly
from relgraph.networks.plain import FindRefinement
from relgraph.own_code import Own, telling


class Form(NamedTuple):
    """What a convolution of PyTorch Geometric is told of the edges' weights, and its arguments beside the widths."""

    weights: Callable[[Tensor, Edges], Mapping[str, Tensor]]
    arguments: Mapping[str, Any] = {}


EDGE = {"edge_dim": 1}
# Those of `torch_geometric.nn` that need no more than the widths. One that divides by a sum of weights is told
# magnitudes: signed ones sum to something near 0. TAGConv and ARMAConv divide a node without any weight by 0.
CONVOLUTIONS = {
    "GraphConv": Form(signed), "LEConv": Form(signed), "GCNConv": Form(magnitudes), "SGConv": Form(magnitudes),
    "GATConv": Form(attributes, EDGE),
    "GATv2Conv": Form(attributes, EDGE), "TransformerConv": Form(attributes, EDGE),
    "ResGatedGraphConv": Form(attributes, EDGE), "GeneralConv": Form(attributes, {"in_edge_channels": 1}),
    "SAGEConv": Form(unweighted), "ClusterGCNConv": Form(unweighted), "FeaStConv": Form(unweighted),
}  # fmt: skip


def refiner(spec: str | Own) -> Refiner:
    """Return what builds the refinement that a spelling or an object stands for.

    Args:
        spec: `smooth` or `conv`; the name of a graph convolution of PyTorch Geometric; or a module of one's own, or
            what returns one for the width D, which is called with nodes `(N, D)`, `edge_index` (2, E), neighbour above
            anchor, and their correlations (E,) as `edge_weight`, and returns the refined nodes.

    Raises:
        RelgraphError: for an unknown name, or code of one's own that cannot be imported.

    >>> refiner("GATv2Conv")(8).conv
    GATv2Conv(8, 8, heads=1)
    """
    if isinstance(spec, str) and spec in REFINERS:
        return REFINERS[spec]
    if isinstance(spec, str) and spec in CONVOLUTIONS:
        return Refiner(spec, partial(_convolution, spec))
    own = find_own("refinements", spec)
    if own is None:
        raise unknown("refinement", str(spec), [*REFINERS, *CONVOLUTIONS, *own_code.registered("refinements")])
    return Refiner(own[1], partial(_own, *own))


def refinement_in_file(file: str | Path, given: Any = None) -> FindRefinement:
    """Return the function that builds the refinement of one network which a student's file describes.

    `given` is code of one's own that it names, given again. The function raises RelgraphError for such code that was
    not permitted, or cannot be found, and for tensors that do not fit.
    """

    def find(told: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> NodeRefinement:
        for name in (told["name"], told["kernel"]) if given is None else ():
            check_permitted(name, str(file))
        module = load_strictly(refiner(told["name"] if given is None else given)(width), tensors, file).eval()
        chosen = kernel(told["kernel"])
        assert chosen is not None
        return NodeRefinement(module, told["part"], told["k"], chosen)

    return find


def _convolution(name: str, dim: int) -> Convolution:
    from relgraph.graph.pyg import convolutions

    form = CONVOLUTIONS[name]
    return Convolution(getattr(convolutions, name)(dim, dim, **form.arguments), form.weights)


def _own(target: Any, name: str, dim: int) -> Convolution:
    with telling(f"the refinement {name} cannot be built for width {dim}"):
        found = deepcopy(target) if isinstance(target, nn.Module) else target(dim)
    if not isinstance(found, nn.Module):
        raise RelgraphError(f"the refinement {name} must be an nn.Module or return one, got {type(found).__name__}")
    return Convolution(found, raw, skip=False)
