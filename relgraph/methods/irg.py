"""The instance relationship graph (Liu et al., CVPR 2019)."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import half_square, mean_square, sum_square
from relgraph.graph.kernels import at_least_float32, excess_of_all, precision_of, squared_euclidean
from relgraph.graph.pair import Form as GraphForm
from relgraph.graph.pair import Pair, topology_of
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_constant_max, by_max
from relgraph.methods.base import Batch, Output, Terms, logits_of, option, stage_maps
from relgraph.methods.relational import FixedParts, overflowed, related

Form = Literal["max", "caffe", "literal"]

# Of vertices, edges and transitions; for the paper's own form none are known.
WEIGHTS = {"max": (0.1, 5.0, 5.0), "caffe": (0.0, 0.005, 0.005), "literal": (0.0, 0.0, 0.0)}
RELATIVE = replace(squared_euclidean, bounded=True)  # divided by a maximum
FORMS: dict[Form, Relation] = {
    "max": Relation(RELATIVE, scale=by_max, criterion=mean_square),
    "caffe": Relation(RELATIVE, scale=by_constant_max, criterion=half_square),
    # In float64, where it is infinite, or fits: the difference of two infinite distances is not a number.
    "literal": Relation(replace(squared_euclidean, prepare=Tensor.double), criterion=sum_square),
}


class IRG(FixedParts):
    """Match the teacher's distances among the images of a batch, per level, and each image's between two levels.

    With the values `x_l` of one network on level l, `A_l(i, j) = |x_l,i - x_l,j|^2` and, of the last two stage maps,
    `T(i) = |x_1,i - x_2,i|^2`, each divided by its maximum over the batch,

        L_vertex = mean of (z^s - z^t)^2      over the logits
        L_edge = mean over levels of 1 / N^2 * sum_ij (A^s_l(i, j) - A^t_l(i, j))^2
        L_transition = 1 / N * sum_i (T^s(i) - T^t(i))^2
        Theta = 1 / N^2 * sum_ij (A_1(i, j) - A_2(i, j))^2       L_edge_transition = (Theta^s - Theta^t)^2
        L = vertex_weight * L_vertex + relation_weight * L_edge + transition_weight * L_transition
            + edge_transition_weight * L_edge_transition

    The levels are the nodes, by default the pooled feature, then the last stage map, then the one before. For T, the
    earlier map is averaged over space to the size of the later one, and the later one's channels in neighbouring
    groups, pairs where it has twice as many, to the number of the earlier one. On a sparse graph the edges are chosen
    on the level of the nodes and read on all, with each node's edge to itself; means and maxima are those of the edges.
    A refinement moves the nodes, not the maps. A term of weight 0 reads nothing: without vertex and transition, and
    with `levels=1`, the method reads bare vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; else outputs.
    Returns a scalar >= 0, which is infinite where logits differ by 2e19 or more and, with `form="literal"`, a fourth
    power of all numbers, from about 4e9 on.

    Paper, official code and this one: `form="literal"` is the paper's, without maxima and with sums in place of all
    means, over levels as well; its weights are not known. `form="caffe"` is that of the authors' Caffe layers:
    the maxima are constants for the gradient, edges cost `sum / (2 N)` and transitions `sum / 2`, levels are summed,
    the logits' term is `sum / (2 N)` but in none of their published networks, and the weights there are 0.005 (those of
    `--method-args form=caffe`). Their hand-written backward pass propagates through one end of each edge only, which
    gives exactly half of the gradient of that loss; here the gradient is complete. They read maps pooled to one
    position, one level (`levels=1`) and no transition, or the transitions between first and last block of each stage
    and no edge; blocks inside a stage are not available here. The default `form="max"`, with its groups of channels and
    weights, is a third party's, in PyTorch. "one-to-many" is the paper's for networks that differ: the teacher's nodes
    supervise every level of the student. The transitions of edges, which the paper defines and drops as costly, have
    weight 0 here; vertices below the logits, which need equal widths, are not here.

    Paper: Knowledge Distillation via Instance Relationship Graph (Liu et al., CVPR 2019)
    Differs: the paper has no maxima and sums; the code divides by constant maxima, with weights 0.005, no logits
        and half the gradient; the default is a third party's PyTorch form, whose maxima pass gradient
    Topology: all pairs; stages

    Args:
        vertex_weight: Weight of the logits' term; the form's if not given: 0.1 of "max", 0 of "caffe".
        relation_weight: Weight of the edges' term; the form's if not given: 5 and 0.005.
        transition_weight: Weight of the transitions' term; the form's if not given: 5 and 0.005.
        form: "max", "caffe" or "literal".
        layers: "one-to-one": each level of the teacher supervises the student's; "one-to-many": its nodes do all.
        levels: Number of levels, at least 1.
        edge_transition_weight: Weight of the term of the edges' transitions.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`. With the nodes "map", the level below them is the map before the last.
        refinement: See `Relational`.
        graph_form: The option `form` of `Relational`: how the graphs are compared.

    Raises:
        RelgraphError: for unknown names, numbers out of range, no weight above 0, outputs without the nodes, maps or
            logits that it reads, or channels of the last map that are no multiple of those of the one before.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [2.0], [2.0]])
    >>> IRG(0, 1, 0, levels=1)(student, teacher)  # 1/4, 1, 1/4 and 1, 1, 0, each twice: 2 * (9 + 1) / 16 / 9
    tensor(0.1389)
    """

    of_positions: ClassVar[bool] = False
    form_option: ClassVar[str] = "graph_form"
    by_edges: ClassVar[bool] = False  # logits and transitions are those of the whole batch
    vertex_weight: float | None = option(default=None, least=0, term="vertex")
    relation_weight: float | None = option(default=None, least=0, term="edge")
    transition_weight: float | None = option(default=None, least=0, term="transition")
    form: Form = option(default="max", kw_only=True)  # type: ignore[assignment]
    layers: Literal["one-to-one", "one-to-many"] = option(default="one-to-one")
    levels: int = option(default=3, least=1)
    edge_transition_weight: float = option(default=0.0, least=0, term="edge_transition")
    graph_form: GraphForm = option(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        """Take the form's weights where none are given."""
        super().__post_init__()
        names = ("vertex_weight", "relation_weight", "transition_weight")
        for name, published in zip(names, WEIGHTS[self.form], strict=True):
            if getattr(self, name) is None:
                setattr(self, name, published)
        if not any(self.term_weights.values()):
            hint = "(the form 'literal' has no published weights)"
            raise RelgraphError(f"IRG needs a weight above 0, got 0 for vertices, edges and transitions alike {hint}")
        weight = self.term_weights
        self.paired = weight["edge"] + weight["edge_transition"] > 0
        lower = weight["edge"] > 0 and self.levels > 1
        both = weight["transition"] + weight["edge_transition"] > 0 or (lower and self.layers == "one-to-one")
        maps = ["maps"] if both else ["student's maps"] if lower else []
        self.reads = (self.nodes, *maps, *(["logits"] if weight["vertex"] > 0 else []))

    def make_relation(self) -> Relation:
        """Return the relation of the form."""
        return FORMS[self.form]

    def compare_pair(self, pair: Pair | None, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return those of `vertex`, `edge`, `transition` and `edge_transition` whose weight is above 0."""
        # In the order of the options of their weights.
        compare = (self.vertices, self.edges, self.transitions, self.edge_transitions)
        weighed = zip(self.term_weights.items(), compare, strict=True)
        return {name: term(pair, student, teacher) for (name, weight), term in weighed if weight > 0}

    def vertices(self, pair: Pair | None, student: Output, teacher: Output) -> Tensor:
        """Return the difference of the logits by the form's criterion, a scalar without its weight."""
        s, t = (at_least_float32(logits) for logits in logits_of(student, teacher, "IRG"))
        return FORMS[self.form].criterion(s, t)

    def edges(self, pair: Pair, student: Output, teacher: Output) -> Tensor:
        """Return the difference of the graphs of all levels, a scalar without its weight."""
        s = self._lower(student)
        t = self._lower(teacher) if self.layers == "one-to-one" else [pair["teacher"].x] * len(s)
        lower = [self._on_edges(pair, *level) for level in zip(s, t, strict=True)]
        found = torch.stack([related(FORMS[self.form], pair), *lower])
        return found.mean() if self.form == "max" else found.sum()

    def transitions(self, pair: Pair | None, student: Output, teacher: Output) -> Tensor:
        """Return the difference of the transitions between the last two stage maps, a scalar without its weight."""
        s, t = (self._moved(*stage_maps(output, "IRG", least=2)[-2:]) for output in (student, teacher))
        value = FORMS[self.form].compare(s, t).to(precision_of(student.maps[-1], teacher.maps[-1]))
        return overflowed(value, *student.maps[-2:], *teacher.maps[-2:])

    def _moved(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Return the transitions between two maps in float64, where the squares of any float32 fit."""
        one, other = earlier.double(), later.double()
        if self.form != "literal":  # divided by a maximum, so that the scale makes no difference
            factor = torch.maximum(excess_of_all(one), excess_of_all(other))
            one, other = one / factor, other / factor
        return transition(one, other)

    def edge_transitions(self, pair: Pair, student: Output, teacher: Output) -> Tensor:
        """Return the squared difference of how much the edges change between the last two stage maps, unweighted."""
        levels = (stage_maps(output, "IRG", least=2)[-2:] for output in (student, teacher))
        # Theta = criterion(A_1, A_2) of each network
        s, t = (self._on_edges(pair, one.flatten(1), other.flatten(1)) for one, other in levels)
        return (s - t).square()

    def _on_edges(self, pair: Pair, one: Tensor, other: Tensor) -> Tensor:
        """Return the relation of other nodes `(N, D)` on the edges of a pair, in its form: a scalar."""
        build = replace(self.builder, topology=topology_of(pair), form=pair.form)
        return related(FORMS[self.form], build(one, other))

    def _lower(self, output: Output) -> list[Tensor]:
        """Return the nodes on the levels below the first, of the last map first."""
        skip, count = int(self.nodes == "map"), self.levels - 1
        maps = stage_maps(output, "IRG", least=skip + count)[::-1][skip : skip + count] if count else ()
        return [stage.flatten(1) for stage in maps]


def transition(earlier: Tensor, later: Tensor) -> Tensor:
    """Return how far each image moves from one stage map to the next, its squared distance `(N,)`.

    The earlier map is averaged over space to the size of the later, `(N, C, H, W) -> (N, C, h, w)`, and the later one
    over neighbouring channels to the number of the earlier's, `(N, g * C, h, w) -> (N, C, h, w)`.

    Raises:
        RelgraphError: if the later map's channels are no multiple of the earlier's.

    >>> transition(torch.ones(1, 1, 2, 2), torch.tensor([1.0, 5.0]).view(1, 2, 1, 1))  # (1 - (1 + 5) / 2)^2
    tensor([4.])
    """
    channels, (more, height, width) = earlier.shape[1], later.shape[1:]
    if more % channels:
        expected = "transitions need a last stage map whose channels are a multiple of those of the map before"
        raise RelgraphError(f"{expected}, got {more} after {channels} (without them: transition_weight=0)")
    pooled: Tensor = adaptive_avg_pool2d(at_least_float32(earlier), (height, width))
    grouped = at_least_float32(later).reshape(len(later), channels, more // channels, height, width).mean(2)
    return (pooled - grouped).square().flatten(1).sum(1)
