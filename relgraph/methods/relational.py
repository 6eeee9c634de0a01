"""Base class of methods over the graphs of a batch: nodes, topology and refinement."""

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.blocks import layers_of
from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import Kernel, pearson, precision_of
from relgraph.graph.pair import Form, Pair, PairBuilder, batch_of, check_form, graph_pair, messages_of
from relgraph.graph.positions import Pooling, mean_of_graphs, on_grid, pooled, positions_of
from relgraph.graph.refine import Refined, Refinement, Refiner
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale
from relgraph.graph.topology import AllPairs, Chooser, Graph, make_rule
from relgraph.methods.base import (
    Batch,
    Loss,
    Method,
    Output,
    Part,
    RunFacts,
    Terms,
    chosen_nodes,
    nodes_of,
    option,
)
from relgraph.methods.stages import last_maps
from relgraph.options import options_of
from relgraph.outputs import BatchEdges, bare

# What an option of a part takes: the part itself, or where a text is read (`relgraph.names`) its name.
KernelOption = str | Kernel | None
ScaleOption = str | Scale | Callable[[Tensor], Tensor] | None
CriterionOption = str | Criterion | Callable[[Tensor, Tensor], Tensor] | None
PARTS = ("kernel", "scale", "criterion")


class Relational(Method):
    """A method that compares the student's graph of a batch with the teacher's: by one relation, or by `compare_pair`.

    On a sparse graph (k nearest neighbours or given edges) both networks weigh the same edges, chosen by the method's
    own kernel, and each node's edge to itself, which the published sums over all pairs include; with k = N - 1 it is
    the dense form, in value and gradient. With a refinement, the nodes are first moved by their neighbours in the graph
    of Pearson correlations, each network's by its own.

    With the nodes "positions" each image has a graph of its own, whose nodes are the C channels at each position of the
    last stage map, and the loss is the mean over images. A teacher's map of another grid is resized to the student's
    (bilinear). The images pass through `torch.vmap`, or through a loop where the number of edges depends on the data
    or edges are found in blocks.

    Topology: all pairs

    Args:
        graph: "dense", "knn" (k nearest neighbours), an `edge_index` (2, E) over the N images of every batch with the
            neighbours in row 0, or a rule such as `Nearest(k)`.
        k: Neighbours of each node, 1..N-1, for "knn"; 8 if not given.
        neighbours: Whose weights choose them: "teacher", "student", their "union" or their "mutual" part.
        nodes: The nodes: the projected "embedding", the pooled "feature" below it, or the last stage "map",
            flattened; or the "positions" of that map, in one graph an image.
        pool: With the nodes "positions": share of the height and width of both maps that is pooled to one position,
            above 0 and at most 1, by the largest of `floor(share * size)` numbers; none if not given.
        refinement: Moves the nodes before they are compared; built for their widths.
        form: How the comparison is computed, with the same value and gradient: through the "matrix" of all pairs, from
            "factored" products, or "blocked", a block of rows at a time; "auto" chooses by the number of nodes (see
            `relgraph.graph.pair`). Not every method supports every form; a refinement needs the matrix.
        kernel: A kernel in place of the published one, such as `cosine` of `relgraph.graph.kernels`; on the command
            line and in `relgraph.train` a name: pearson, cosine, linear, euclidean, squared_euclidean, gaussian:GAMMA,
            gaussian_taylor:GAMMA:ORDER or damped_pearson:EPSILON.
        scale: A scale in place of the published one, such as `by_mean` of `relgraph.graph.scales`, or a function of the
            weights of one anchor; on the command line and in `relgraph.train` a name: raw, by_mean, by_max,
            by_constant_max, by_norm, by_anchor_norm, by_anchor_sum or softmax:TEMPERATURE.
        criterion: A criterion in place of the published one, such as `huber` of `relgraph.graph.criteria`, or a
            function of the weights of one anchor in both networks; on the command line and in `relgraph.train` a name:
            frobenius, mean_square, sum_square, anchor_square, half_square, huber, kl (of probabilities), cross_entropy
            or log_kl (of log-probabilities).

    Raises:
        RelgraphError: for unknown names, a form that the method, its parts or the graph do not support, a learned
            refinement of maps, which no classifier of the teacher reads, a refinement of positions, positions of a
            method whose graph joins images, or a part in place of that of a relation where there is none.
    """

    of_positions: ClassVar[bool] = True  # whether its nodes may be positions: memories, labels and logits are of images
    most_positions: ClassVar[int | None] = None
    resize: ClassVar[str] = "bilinear"
    pooling: ClassVar[Pooling] = "max"
    form_option: ClassVar[str] = "form"  # name of the option of the form
    beside_nodes: ClassVar[tuple[str, ...]] = ()  # what the method reads besides its nodes
    fixed: ClassVar[bool] = False  # whether the method is defined by its kernel, scale and criterion
    graph: Graph = option(default="dense", kw_only=True)
    k: int | None = option(default=None, kw_only=True)
    neighbours: Chooser = option(default="teacher", kw_only=True)
    nodes: Part = option(default="feature", kw_only=True)
    pool: float | None = option(default=None, above=0, most=1, kw_only=True)
    refinement: Refinement | None = field(default=None, kw_only=True)
    form: Form = option(default="auto", kw_only=True)
    kernel: KernelOption = option(default=None, kw_only=True)
    scale: ScaleOption = option(default=None, kw_only=True)
    criterion: CriterionOption = option(default=None, kw_only=True)
    relation: Relation | None = field(default=None, init=False)
    paired: bool = field(default=True, init=False)  # whether the loss reads a graph pair of the batch
    by_edges: ClassVar[bool] = True  # whether `compare_pair` reads the pair's edges, and else its anchors alone

    def __post_init__(self) -> None:
        """Build the relation, and the builder of the pair that it reads."""
        super().__post_init__()
        check_refinement(self.nodes, self.refinement)
        check_positions(self)
        self.rule = make_rule(self.graph, self.k, self.neighbours)
        self.reads = ("map" if self.nodes == "positions" else self.nodes, *self.beside_nodes)
        self.relation = self._with_chosen_parts(self.make_relation())
        held = set(self.modules())
        learned = [part for part in dict.fromkeys(layers_of(self.relation)) if part not in held]
        if learned:
            self.learned = nn.ModuleList(learned)
        builder = self.make_builder()
        refined, form = self.refinement is not None, getattr(self, self.form_option)
        sparse = "" if self.rule.dense else " on a sparse graph"
        known = ("matrix",) if refined else builder.known_forms
        check_form(form, known, f"{type(self).__name__}{' with a refinement' if refined else sparse}")
        self.builder = replace(builder, form="matrix" if refined else form)
        self.paired = type(self).compare is Relational.compare and self.nodes != "positions"
        if self.nodes == "positions":
            self.pointwise = True

    @classmethod
    def for_run(cls, run: RunFacts, refine: str | Refiner | None = None, **options: Any) -> Self:
        """Return the method with a refinement, by name or from what builds it, for the widths that its nodes have."""
        if refine is not None:
            part = chosen_nodes(cls, options)
            if part == "map":  # a learned one has as many parameters as a flat map has numbers, squared
                check_refinement(part, Refinement(refine, 1))
            options["refinement"] = Refinement(refine, *run.widths(part))
        return cls(**options)

    def make_relation(self) -> Relation | None:
        """Return the relation of the method, from its options; `None` for a method that overrides `compare_pair`."""
        return None

    def _with_chosen_parts(self, relation: Relation | None) -> Relation | None:
        """Return the relation with the chosen kernel, scale and criterion in place of its own."""
        chosen = {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}
        if chosen and (relation is None or self.fixed):
            told = "compares by parts of its own, in place of which it takes no other"
            raise RelgraphError(f"{type(self).__name__} {told}, got a {' and a '.join(chosen)}")
        return replace(relation, **chosen) if relation is not None and chosen else relation

    @property
    def anchored(self) -> bool:
        """Whether the loss is a sum over anchors, each of which contributes by its own edges."""
        return self.paired and self.by_edges and (self.relation is None or self.relation.anchored)

    @property
    def moving_kernel(self) -> Kernel:
        """The kernel of the graph in which a refinement moves nodes."""
        return pearson

    def make_builder(self) -> PairBuilder:
        """Return the builder of the pair that the loss reads: here with each node's edge to itself."""
        if self.relation is None:
            return PairBuilder(self.rule.with_own(), match=False)
        own = self.relation.topology
        if not isinstance(own, AllPairs) and own is not self.rule:
            told = "takes its graph from the option graph, expected a relation without a topology of its own"
            raise RelgraphError(f"{type(self).__name__} {told}, got {type(own).__name__}")
        return replace(self.relation.builder, topology=self.rule.with_own())

    def vectors(self, student: Output, teacher: Output, edges: BatchEdges | None = None) -> tuple[Tensor, Tensor]:
        """Return the nodes `(N, D_s)` and `(N, D_t)` of the two graphs, refined if there is a refinement.

        They are refined over the messages of the edges that a batch brings, if it does.
        """
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        if self.refinement is None:
            return s, t
        rule = self.rule if edges is None else messages_of(edges, len(s))
        pair = graph_pair(s, t, topology=rule, refinement=self.refinement, match=False)
        return pair["student"].refined, pair["teacher"].refined

    def pair(self, student: Output, teacher: Output, batch: Batch | None = None) -> Pair | None:
        """Return the graph pair of a batch that the loss reads, if it reads one; see `relgraph.graph_pair`.

        A batch's own edges take the place of those that the method would find. Of positions it is a PyG `Batch` of the
        pairs of all images, as the loss compares them one by one.
        """
        if self.nodes == "positions":
            return batch_of(self.builder.pairs(*self.positions(student, teacher)))
        edges = None if batch is None else batch.edges
        return self.builder(*self.vectors(student, teacher, edges), edges=edges) if self.paired else None

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms of a batch: its outputs become a graph pair, or one an image, which is compared."""
        if self.nodes == "positions":
            s, t = self.positions(student, teacher)
            builder = self.builder.of_graphs(s, t)
            return mean_of_graphs(partial(self._of_image, builder), s, t, mapped=self.mapped(builder))
        return self.compare_pair(self.pair(student, teacher, batch), student, teacher, batch)

    def positions(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the nodes of each image's graphs, `(B, P, C_s)` and `(B, P, C_t)`: positions of the last stage maps.

        Raises:
            RelgraphError: for outputs without maps, or more positions than the method compares.
        """
        name = type(self).__name__
        s, t = last_maps(student, teacher, name)
        if self.pool is not None:
            s, t = (pooled(x, self.pool, self.pooling) for x in (s, t))
        count, most = s.shape[-2:].numel(), self.most_positions
        if most is not None and count > most:
            raise RelgraphError(f"{name} compares at most {most} positions of an image, got {count}: expected a pool")
        return positions_of(s), positions_of(on_grid(t, s.shape[-2:], self.resize))

    def mapped(self, builder: PairBuilder) -> bool:
        """Return whether `torch.vmap` maps the comparison over the graphs of images, which this builder builds."""
        return builder.mapped

    def _of_image(self, builder: PairBuilder, student: Tensor, teacher: Tensor) -> Terms:
        """Return the terms of the positions of one image, `(P, C_s)` and `(P, C_t)`."""
        return self.compare_pair(builder(student, teacher), bare(student), bare(teacher), None)

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms without their weights; the term of the relation is named after the method."""
        if self.relation is None:
            raise NotImplementedError(f"{type(self).__name__} needs make_relation, or a compare_pair of its own")
        return {type(self).__name__.lower(): related(self.relation, pair)}

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> Terms:
        """Return the teacher's cross-entropy on its refined nodes, `refined`, if that refinement has parameters."""
        if self.refinement is None or not self.refinement.learns:
            return {}
        s, t = (nodes_of(output, self.nodes, type(self).__name__) for output in (student, teacher))
        kernel = self.moving_kernel
        matrices = kernel(s.detach()), kernel(t)
        edges = self.rule(*matrices, kernel) if batch.edges is None else messages_of(batch.edges, len(t))
        weights = edges.of_teacher(edges.pick(matrices[1]))
        moved = self.refinement.refine(self.refinement.teacher, t, weights, edges)
        refined = Output(moved) if self.nodes == "embedding" else Output(teacher.embedding, feature=moved)
        return {"refined": cross_entropy(refined)}

    def refined(self) -> Refined | None:
        """Return the refinement, its nodes, and the kernel of the graph in which it moves them."""
        if self.refinement is None or self.nodes == "positions":
            return None
        return Refined(self.refinement, self.nodes, self.moving_kernel)

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the teacher's side of the refinement."""
        return () if self.refinement is None else tuple(self.refinement.teacher.parameters())


def related(relation: Relation, pair: Pair) -> Tensor:
    """Return a relation's scalar for a pair in the precision of its nodes: some kernels compute in float64.

    It is infinite where weights of finite nodes overflow: infinity less infinity would be no number.
    """
    nodes = pair["student"].x, pair["teacher"].x
    value = relation.of_pair(pair).to(precision_of(*nodes))
    return value if relation.kernel.bounded else overflowed(value, *nodes)


def overflowed(value: Tensor, *inputs: Tensor) -> Tensor:
    """Return a scalar of finite numbers, infinite in place of no number; that of inputs with NaN stays what it is."""
    finite = torch.stack([x.isfinite().all() for x in inputs]).all()
    return torch.where(value.isnan() & finite, torch.inf, value)


def check_positions(method: Relational) -> None:
    """Raise RelgraphError where the nodes of a method cannot be positions, or a pool has no positions."""
    name = type(method).__name__
    if method.nodes != "positions":
        if method.pool not in (None, options_of(type(method))["pool"].default):
            raise RelgraphError(f"{name} pools positions: expected the nodes 'positions', got {method.nodes!r}")
    elif not method.of_positions:
        raise RelgraphError(f"{name} relates images, not the positions of one: expected other nodes than 'positions'")
    elif method.refinement is not None:
        raise RelgraphError(f"a refinement moves images, not positions: expected {name} without one, or other nodes")


class FixedParts(Relational):
    """A method that is defined by its kernel, scale and criterion, so that they are no options of it."""

    fixed: ClassVar[bool] = True
    kernel: KernelOption = field(default=None, init=False)
    scale: ScaleOption = field(default=None, init=False)
    criterion: CriterionOption = field(default=None, init=False)


def check_refinement(nodes: Part, refinement: Refinement | None) -> None:
    """Raise RelgraphError for a learned refinement of maps, which no classifier of the teacher reads."""
    if nodes == "map" and refinement is not None and refinement.learns:
        expected = "which reads the nodes 'embedding' or 'feature', got 'map'"
        raise RelgraphError(f"a learned refinement trains the teacher's side by its classifier, {expected}")
