"""What reads a graph pair: a relation, which is kernel, topology, scale and criterion, and the matching of nodes.

Matching measures the distance of the cross graph from the identity, which joins each student node to its teacher node.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.blocks import learns, sum_of_blocks
from relgraph.graph.criteria import Criterion, as_criterion, frobenius
from relgraph.graph.factored import Squares, factored_square, squares
from relgraph.graph.kernels import Kernel, own_places, pearson
from relgraph.graph.pair import (
    AGAINST,
    MATCHES,
    TEACHER,
    Form,
    Pair,
    PairBuilder,
    across,
    anchors_of,
    check_form,
    check_nodes,
    check_one,
    relations,
    topology_of,
)
from relgraph.graph.positions import mean_of_graphs
from relgraph.graph.scales import Scale, as_scale, raw
from relgraph.graph.topology import ALL_PAIRS, Graph, Rule, Topology, make_rule

EXPECTED = {
    "kernel": "Kernel, such as pearson or gaussian(0.4)",
    "topology": "Rule, such as Nearest(8), an edge_index, or a function of both matrices and the kernel",
    "scale": "Scale, such as by_mean, or a function of the weights of one anchor",
    "criterion": "Criterion, such as huber, or a function of the weights of one anchor in both networks",
}


Against = Literal["own", "teacher"]


def _check_part(name: str, part: object, *kinds: type) -> None:
    """Raise RelgraphError unless a part is of one of these kinds, or a function where one may stand for it."""
    function = name != "kernel" and callable(part) and not isinstance(part, Kernel | Scale | Criterion | Rule | type)
    if not (function or isinstance(part, kinds)):
        raise RelgraphError(f"the {name} of a relation is a {EXPECTED[name]}, got {part!r}")


@dataclass(frozen=True, init=False)
class Relation:
    """The weights of two networks' graphs of one batch, compared: `criterion(scale(w_s), scale(w_t))`.

    Each part may be user-defined. A criterion given as a function of the weights of one anchor, `(..., M) x (..., M)
    -> (...)`, is averaged over anchors (`Criterion`); a scale may be a function `(..., M) -> (..., M)`, a topology one
    of both matrices. `form` selects how the relation is computed, with the same value and gradient
    (`relgraph.graph.pair`): "matrix", "factored", "blocked", or "auto", chosen by the number of nodes. Only the
    matrix can be differentiated twice.

    A relation is a function of two tensors and passes gradient to both: in a distillation, hand it the teacher's nodes
    without gradient (`teacher.detach()`). A method, `Related` of this relation as well, detaches the teacher itself.

    With `against="teacher"` the student's nodes are related to the teacher's, not to each other: `w_s(i, j) =
    kernel(s_i, t_j)` is compared with `w_t(i, j) = kernel(t_i, t_j)`. Both networks then need one width, and what the
    student learns are the teacher's own coordinates: a graph of its own alone is blind to a rotation.

    Raises:
        RelgraphError: for an unknown form, or one that this relation does not support.

    >>> from relgraph.graph.criteria import mean_square
    >>> from relgraph.graph.kernels import linear
    >>> from relgraph.graph.scales import by_anchor_norm
    >>> similarity_preserving = Relation(linear, scale=by_anchor_norm, criterion=mean_square)
    >>> similarity_preserving(torch.eye(3), torch.eye(3))
    tensor(0.)
    >>> Relation(criterion=lambda student, teacher: (student - teacher).abs().amax(-1)).forms()
    ('matrix', 'blocked')
    >>> turned = torch.eye(3).roll(1, 0)  # an own graph as before, and no node near its own teacher node
    >>> Relation(linear)(turned, torch.eye(3)), Relation(linear, against="teacher")(turned, torch.eye(3))
    (tensor(0.), tensor(2.4495))
    """

    kernel: Kernel
    topology: Rule
    scale: Scale
    criterion: Criterion
    form: Form
    against: Against

    def __init__(
        self,
        kernel: Kernel = pearson,
        topology: Graph = ALL_PAIRS,
        scale: Scale | Callable[[Tensor], Tensor] = raw,
        criterion: Criterion | Callable[[Tensor, Tensor], Tensor] = frobenius,
        form: Form = "auto",
        against: Against = "own",
    ) -> None:
        _check_part("kernel", kernel, Kernel)
        _check_part("topology", topology, Rule, str, Tensor)
        _check_part("scale", scale, Scale)
        _check_part("criterion", criterion, Criterion)
        if against not in get_args(Against):
            raise unknown("graph against which the student's nodes are related", against, get_args(Against))
        parts = (kernel, make_rule(topology), as_scale(scale), as_criterion(criterion), form, against)
        vars(self).update(zip((*EXPECTED, "form", "against"), parts, strict=True))  # frozen: its own fields, set once
        check_form(form, self.builder.known_forms, f"the relation of {kernel.name} weights")

    def forms(self) -> tuple[Form, ...]:
        """Return the forms that this relation supports on all pairs, except "auto"; its parts determine them."""
        factored = self.kernel.bilinear and self.scale.factors is not None and self.criterion.square
        found: tuple[Form, ...] = ("matrix", "factored") if factored else ("matrix",)
        blocked = self.scale.divisor is None or self.scale.divisor_in_blocks is not None  # scaled without other rows
        blocked = blocked and not learns(self.kernel.product, self.kernel.finish, self.scale, self.criterion)
        return (*found, "blocked") if blocked else found

    @property
    def anchored(self) -> bool:
        """Whether an anchor's weights depend on its own edges alone, neither scaled nor centred by a whole graph."""
        return self.scale.divisor is None and not self.kernel.centred

    @property
    def builder(self) -> PairBuilder:
        """The builder of the pair that this relation reads."""
        forms, crossing, teacher = self.forms(), self.scale.crossing, self.against == "teacher"
        return PairBuilder(self.topology, self.kernel, None, teacher, self.form, forms, crossing, not teacher)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the scalar for embeddings `(N, D_s)` and `(N, D_t)` of the same N images; the widths may differ.

        Of a batch of graphs, `(..., N, D)`, it is the mean over the graphs, such as those of the positions of images.

        Raises:
            RelgraphError: if the two do not hold the same number of nodes.

        >>> Relation(topology="knn")(torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 5)).shape
        torch.Size([])
        """
        if student.ndim > 2:
            check_nodes(student, teacher, self.against == "teacher", AGAINST)
            student, teacher = student.flatten(0, -3), teacher.flatten(0, -3)
            each = replace(self, form=self.builder.form_of(student, teacher))
            return mean_of_graphs(each, student, teacher, mapped=each.builder.mapped)
        return self.of_pair(self.builder(student, teacher))

    def of_pair(self, pair: Pair) -> Tensor:
        """Return the scalar for the two graphs of a pair, which was built with this relation's kernel.

        Raises:
            RelgraphError: for a batch of pairs.
        """
        own = self.against == "own"
        if pair.edge_types:  # else it holds nodes alone
            topology = ALL_PAIRS if pair.graph == "dense" else topology_of(pair)
            student, teacher = relations(pair) if own else (across(pair), *relations(pair, TEACHER))
            return self.compare(student, teacher, topology)
        check_one(pair)
        student, teacher = pair["student"].prepared, pair["teacher"].prepared
        if pair.form == "blocked":
            return self.in_blocks(student, teacher)
        assert self.scale.factors is not None
        processes = pair.held_by
        s = self.scale.factors(student, student if own else teacher, processes)
        t = self.scale.factors(teacher, teacher, processes)
        plain = s[0] is s[1] is student and t[0] is t[1] is teacher and student.shape == teacher.shape
        square = squares_of(pair).within if plain else factored_square(s, t, processes)
        return self.criterion.of_blocks(square, processes.count * len(student)).to(torch.result_type(student, teacher))

    def compare(self, student: Tensor, teacher: Tensor, topology: Topology = ALL_PAIRS) -> Tensor:
        """Return the scalar for the weights of the same edges, of a graph pair or of a matrix.

        Raises:
            RelgraphError: if the two have other shapes.
        """
        if student.shape != teacher.shape:
            shapes = f"{tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher"
            raise RelgraphError(f"a relation compares the weights of the same edges, got {shapes}")
        if not self.scale.plain:
            student, teacher = self.scale(student, topology), self.scale(teacher, topology)
        return self.criterion(student, teacher, topology)

    def in_blocks(self, student: Tensor, teacher: Tensor, block: int | None = None) -> Tensor:
        """Return the scalar of all pairs of *prepared* nodes, `block` rows of their weights at a time.

        >>> from relgraph.graph.criteria import mean_square
        >>> from relgraph.graph.kernels import linear
        >>> Relation(linear, criterion=mean_square).in_blocks(torch.eye(2), torch.zeros(2, 3), block=1)
        tensor(0.5000)
        """
        kernel, scale, count, own = self.kernel, self.scale, len(student), self.against == "own"
        find, other = scale.divisor_in_blocks, student if own else teacher
        shared = [] if find is None else [find(kernel, *ends, block) for ends in ((student, other), (teacher, teacher))]

        def term(anchors: slice, s: Tensor, t: Tensor, *shared: Tensor) -> Tensor:
            rows = kernel.rows(s, anchors, s if own else t), kernel.rows(t, anchors)
            of_each = shared or (None, None)
            scaled = (scale(row, ALL_PAIRS, divisor) for row, divisor in zip(rows, of_each, strict=True))
            return self.criterion.of_block(*scaled)

        total = sum_of_blocks(term, (student, teacher, *shared), count, block)
        return self.criterion.of_blocks(total, count).to(torch.result_type(student, teacher))


def matching(pair: Pair, kernel: Kernel) -> Tensor:
    """Return `|kernel(s_i, t_j) - 1[i = j]|`, the Frobenius norm over the edges of the cross graph: a scalar.

    The node term of EGA (Ma, Chen, Akata, 2022, arXiv 2211.13264), computed in the form of the pair; the factored form
    needs a dot kernel.

    >>> from relgraph.graph.kernels import pearson
    >>> from relgraph.graph.pair import graph_pair
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    >>> matching(graph_pair(x, x), pearson)  # nodes agree, but two images are correlated by -1/2
    tensor(0.7071)
    """
    if MATCHES in pair.edge_types:
        (found,) = relations(pair, MATCHES)
        if pair.graph == "dense":
            return frobenius(found, torch.eye(*found.shape, dtype=found.dtype, device=found.device))
        return frobenius(found, torch.eq(*pair[MATCHES].edge_index).to(found.dtype))
    check_one(pair)
    student, teacher = pair["student"].prepared, pair["teacher"].prepared
    if pair.form == "factored":
        across = squares_of(pair).across
        return frobenius.of_blocks(across, len(student)).to(torch.result_type(student, teacher))

    def term(anchors: slice, student: Tensor, teacher: Tensor) -> Tensor:
        found = kernel.matrix(student[anchors], teacher)
        return frobenius.of_block(found, own_places(teacher, anchors).to(found.dtype))

    total = sum_of_blocks(term, (student, teacher), len(student))
    return frobenius.of_blocks(total, len(student)).to(torch.result_type(student, teacher))


def own_matching(pair: Pair, kernel: Kernel) -> Tensor:
    """Return `sqrt(sum_i (kernel(s_i, t_i) - 1)^2)`: each anchor's student node with its own teacher node, a scalar.

    >>> from relgraph.graph.kernels import pearson
    >>> from relgraph.graph.pair import graph_pair
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    >>> own_matching(graph_pair(x, x), pearson), own_matching(graph_pair(x, x.flip(0)), pearson)
    (tensor(0.), tensor(2.1213))
    """
    if MATCHES in pair.edge_types:
        (found,) = relations(pair, MATCHES)
        own = found.diagonal() if pair.graph == "dense" else found[: anchors_of(pair)]
    else:
        check_one(pair)
        own = kernel.paired(pair["student"].prepared, pair["teacher"].prepared)
    total = frobenius.of_block(own.unsqueeze(-1), torch.ones_like(own).unsqueeze(-1))
    total = pair.held_by.sum(total) if pair.form == "factored" else total
    return frobenius.of_blocks(total, len(own)).to(own.dtype)


def squares_of(pair: Pair) -> Squares:
    """Return the squared differences of a factored pair of one width, computed once and stored in the pair."""
    if "squares" not in pair:
        pair.squares = squares(pair["student"].prepared, pair["teacher"].prepared, pair.held_by)
    found: Squares = pair.squares
    return found
