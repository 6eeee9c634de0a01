"""A method made of a bare relation, and methods as users write and give them, in no table of the package."""

import pickle
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from relgraph.analysis.diagnostics import diagnose
from relgraph.analysis.method_info import method_info
from relgraph.graph.criteria import huber, mean_square
from relgraph.graph.kernels import cosine, euclidean, gaussian
from relgraph.graph.pair import STUDENT, Form
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_mean
from relgraph.graph.topology import ALL_PAIRS, AllPairs, Edges, Nearest, WithOwn
from relgraph.methods import EGA, KD, METHODS, PKT, RKD, SP, Batch, Output, RunFacts, Sum
from relgraph.methods.own import Related
from relgraph.names import Named, build, build_method, parse_methods
from relgraph.training.checkpoint import load_checkpoint, save_checkpoint
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.spread import Spread
from tests.checks import assert_refused
from tests.methods.golden import random_output
from tests.training.outside import Echo

N = 8
RUN = RunFacts(4, 5, 6, ((2, 4, 4),), ((2, 4, 4),), images=N)
BATCH = Batch(torch.arange(N), torch.arange(N) % 3)
DISTANCES = Relation(euclidean, scale=by_mean, criterion=huber)
NEAR = Relation(cosine, Nearest(3), criterion=mean_square)


def ring(student: Tensor, teacher: Tensor, kernel: object) -> Edges:
    node = torch.arange(len(teacher))
    return Edges(torch.stack([node.roll(1), node]), len(node), degree=1)


def outputs() -> tuple[Output, Output]:
    student, teacher = (
        random_output(N, 4, 3, width)._replace(extra=random_output(3 * N, 4, 3, width)) for width in (5, 6)
    )
    return student, teacher


def vectors(part: str = "feature") -> tuple[tuple[Output, Output], tuple[Tensor, Tensor]]:
    given = outputs()
    return given, (getattr(given[0], part), getattr(given[1], part))


def test_a_copied_or_pickled_relation_takes_the_chosen_graph_as_the_first_does() -> None:
    _, (student, teacher) = vectors()
    assert Relation(cosine, AllPairs()) == Relation(cosine)
    for topology in (ALL_PAIRS, AllPairs()):
        relation = Relation(cosine, topology, criterion=mean_square)
        expected = Related(relation, graph="knn", k=3)(student, teacher)
        for copied in (deepcopy(relation), pickle.loads(pickle.dumps(relation))):
            torch.testing.assert_close(Related(copied, graph="knn", k=3)(student, teacher), expected)
            assert not Related(copied).has_edges
    learned = Relation(cosine, scale=torch.nn.Softplus())
    built = build_method(learned, RUN, {"graph": "knn", "k": 3})
    assert built is not None and bool(built(student, teacher) > 0)


def test_a_relation_as_a_method_is_the_relation() -> None:
    """On the nodes that are chosen, whatever its topology; on a chosen graph with the edge of each node to itself."""
    for relation in (
        DISTANCES,
        NEAR,
        Relation(cosine, ring),
        Relation(form="factored"),
        Relation(DISTANCES.kernel, form="blocked"),
    ):
        for part in ("feature", "embedding"):
            given, nodes = vectors(part)
            terms = Related(relation, nodes=part).terms(*given)
            assert list(terms) == ["related"]
            torch.testing.assert_close(terms["related"], relation(*nodes))
    given, nodes = vectors()
    for options, rule in (
        ({"graph": "knn", "k": 2}, Nearest(2)),
        ({"graph": Nearest(3, "union")}, Nearest(3, "union")),
    ):
        expected = Relation(euclidean, WithOwn(rule), by_mean, huber)(*nodes)
        torch.testing.assert_close(Related(DISTANCES, **options)(*given), expected)


def test_its_parts_form_and_refinement_are_chosen_like_a_published_method_s() -> None:
    given, nodes = vectors()
    other = Related(DISTANCES, kernel=gaussian(0.4), criterion=mean_square)
    torch.testing.assert_close(other(*given), Relation(gaussian(0.4), scale=by_mean, criterion=mean_square)(*nodes))
    forms: tuple[tuple[Related, Form], ...] = (
        (Related(Relation(form="blocked")), "blocked"),
        (Related(Relation(form="blocked"), form="matrix"), "matrix"),
        (Related(Relation(), form="factored"), "factored"),
    )
    for method, form in forms:
        pair = method.pair(*given)
        assert pair is not None and pair.form == form
    moved = Related(NEAR, refinement=Refinement("smooth", 5, 6))
    torch.testing.assert_close(moved(*given), NEAR(*moved.vectors(*given)))
    assert moved.vectors(*given)[0].ne(nodes[0]).any()


def test_what_a_relation_does_not_take_is_refused() -> None:
    topology = "the relation has a topology of its own, beside which no graph is chosen, got"
    assert_refused(
        (lambda: Related(NEAR, graph="knn"), f"{topology} 'knn', k = None and neighbours = 'teacher'"),
        (lambda: Related(NEAR, neighbours="union"), f"{topology} 'dense', k = None and neighbours = 'union'"),
        (lambda: Related(cosine), "Related compares by a Relation, got Kernel(…"),  # type: ignore[arg-type]
        (lambda: Related(NEAR, form="factored"), "Related on a sparse graph has the forms auto, matrix, blocked, got…"),
        (lambda: build_method(NEAR, RUN, {"graph": "knn"}), f"{topology} 'knn', …"),
    )


def test_options_of_a_run_reach_a_relation_in_a_sum() -> None:
    given, nodes = vectors()
    loss = build_method([(2.0, DISTANCES), "0.5*kd"], RUN, {"graph": "knn", "k": 3, "kernel": "cosine", "nodes": None})
    assert isinstance(loss, Sum) and loss.weights == {"related": 2.0, "kd": 0.5}
    terms = loss.terms(*given, BATCH)
    expected = Relation(cosine, WithOwn(Nearest(3)), by_mean, huber)(*nodes)
    torch.testing.assert_close(terms["related"], 2 * expected)
    torch.testing.assert_close(terms["kd"], 0.5 * KD()(*given))
    alone = build_method(DISTANCES, RUN)
    assert isinstance(alone, Sum) and alone.weights == {"related": 1.0}
    smooth = build_method([NEAR, DISTANCES], RUN, {"refine": "smooth"}, ["related_2.nodes=embedding"])
    assert isinstance(smooth, Sum) and list(smooth.terms(*given)) == ["related", "related_2_related"]
    assert [method.refinement.dim for _, method in smooth.each()] == [5, 4]


def test_the_graphs_of_a_relation_are_measured() -> None:
    student, teacher = outputs()
    spread, some = Spread(Related(NEAR)), Diagnostics(every=1, k=3)
    _, pairs = spread.compare(student, teacher, BATCH)
    some.next_step()
    some.add(spread, pairs, student, teacher, BATCH.labels)
    assert len(pairs) == 1 and pairs[0][1] is cosine and pairs[0][0][STUDENT].edge_index.shape == (2, 3 * N)
    assert some.found[0].keys() == diagnose(pairs[0][0], cosine, 3, BATCH.labels).keys()


def test_methods_are_given_as_classes_instances_and_relations() -> None:
    made, known = RKD(angle_weight=0.0), {"ega": EGA}
    assert parse_methods(EGA) == [Named("ega", EGA)] == parse_methods("ega", known=known)
    assert parse_methods(made) == [Named("rkd", RKD, None, made)]
    assert parse_methods(NEAR, 3.0) == [Named("related", Related, 3.0, None, {"relation": NEAR})]
    several = parse_methods([Echo, (0.5, made), EGA(), (3, "kd"), "2*sp", (1.0, EGA), EGA])
    assert [(item.name, item.weight) for item in several] == [
        ("echo", None), ("rkd", 0.5), ("ega", None), ("kd", 3.0), ("sp", 2.0), ("ega_2", 1.0), ("ega_3", None)
    ]  # fmt: skip
    kd = KD()
    named = [Named("near", RKD, 0.5, made), Named("kd", KD, 2.0, kd)]
    assert parse_methods(Sum({"near": (0.5, made), "kd": (2.0, kd)})) == named


def test_an_instance_is_used_with_its_options() -> None:
    made = RKD(angle_weight=0.0, graph="knn", k=2)
    loss = build_method(made, RUN, {"graph": "dense", "kernel": "cosine", "refine": "smooth"})
    assert isinstance(loss, Sum) and loss.weights == {"rkd": 1.0}
    assert loss.parts["rkd"] is not made and repr(loss.parts["rkd"]) == repr(made), "a copy is trained"
    pkt = build_method(PKT(), RUN)
    assert pkt is not None and pkt.weights == {"pkt": 30000.0}, "the published weight"
    (item,) = parse_methods(made)
    assert not item.options and not item.shared()
    told = "rkd was given as an instance, which takes no options, got 'k'"
    assert_refused((lambda: build_method(made, RUN, {}, ["k=3"]), told))


def test_what_a_relation_learns_is_trained_as_a_copy() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(()))

        def forward(self, weights: Tensor) -> Tensor:
            return self.factor * weights

    scale = Scaled()
    for loss in (
        build_method(Relation(scale=scale), RUN),
        build_method("sp", RUN, {"scale": scale, "nodes": "feature"}),
    ):
        assert loss is not None and loss(*outputs(), BATCH).requires_grad
        (factor,) = loss.parameters()
        assert factor is not scale.factor


def test_what_is_no_method_is_refused() -> None:
    kinds = "a method of a sum is a name, a class derived from Method, an instance of one, or a Relation, got"
    beta, sum_of_two = "beta is the weight of one method: write the weights of the sum as in 25*rkd+0.9*kd", [EGA, KD]
    assert_refused(
        (lambda: parse_methods(3), f"{kinds} int"),  # type: ignore[arg-type]
        (lambda: parse_methods(dict), f"{kinds} dict"),  # type: ignore[arg-type]
        (lambda: parse_methods([EGA, None]), f"{kinds} NoneType"),  # type: ignore[list-item]
        (lambda: parse_methods([Sum({"kd": (1.0, KD())})]), f"{kinds} Sum"),
        (lambda: parse_methods([(-1.0, EGA)]), "the weight of ega must be at least 0 and finite, got -1.0"),
        (lambda: parse_methods([("2", EGA)]), "the weight of ega must be at least 0 and finite, got '2'"),  # type: ignore[list-item]
        (lambda: parse_methods([(2.0, "2*kd")]), "the weight of kd must be a number, got '2.0*2'"),
        (lambda: parse_methods([EGA(), "ega"]), "a sum names each method once, got ega more often in the sum"),
        (lambda: parse_methods(sum_of_two, 2.0), beta),
        (lambda: parse_methods([(1.0, EGA)], 2.0), beta),
        (lambda: parse_methods(["2*kd"], 2.0), beta),
        (lambda: parse_methods(Sum({"kd": (1.0, KD())}), 2.0), beta),
    )


def test_a_method_of_ones_own_is_built_summed_saved_and_explained(tmp_path: Path) -> None:
    """What it trains, what it remembers and what it teaches on the teacher's side."""
    assert "echo" not in METHODS
    (student, teacher), batch = outputs(), BATCH

    def made() -> Sum:
        torch.manual_seed(0)
        loss = build(
            parse_methods([Echo, (0.5, NEAR)]), RUN, {"graph": "dense"}, ["power=1.5", "related.nodes=embedding"]
        )
        assert isinstance(loss, Sum)
        return loss.double()

    loss, fresh = made(), made()
    assert loss.weights == {"echo": 2.0, "related": 0.5} and loss.views == Echo.views
    assert loss.reads == ("embedding", "feature") and len(loss.teacher_parameters()) == 2
    assert list(loss.terms(student, teacher, batch)) == ["echo", "echo_views", "related"]
    assert list(loss.teacher_terms(student, teacher, batch, lambda output: output.embedding.sum())) == ["echo_side"]
    before = loss(student, teacher, batch)
    loss.remember(student, teacher, batch)
    after = loss(student, teacher, batch)
    assert not torch.equal(before, after) and torch.equal(fresh(student, teacher, batch), before)
    save_checkpoint(tmp_path / "own.pt", {"objective": loss.state_dict()})
    fresh.load_state_dict(load_checkpoint(tmp_path / "own.pt")["objective"])
    assert torch.equal(fresh(student, teacher, batch), after)
    assert_refused(
        (lambda: build_method(Echo, RUN, {}, ["power=0"]), "power must be above 0, got 0.0"),
        (
            lambda: build_method(Echo, RUN, {}, ["powr=1"]),
            "unknown option of the method 'powr': did you mean 'power'?…",
        ),
    )


def test_the_page_of_a_method_of_ones_own_is_made_from_it() -> None:
    echo, near, made = method_info(Echo), method_info(NEAR), method_info(SP(kernel=gaussian(0.4)))
    assert (echo.name, echo.reads, echo.weight, echo.paper) == ("echo", ("feature",), 2.0, "-")
    assert echo.options == {"power": "2.0", "inertia": "0.5", "views_weight": "0.5"}
    assert echo.views == "crop, and 3 rotations of each image" and echo.doc.startswith("Follow the teacher's features")
    assert (near.name, near.kernel, near.criterion) == ("related", "cosine", "mean square")
    assert (made.name, made.kernel, made.options) == ("sp", "gaussian", {})
    assert_refused(
        (lambda: method_info("ega+kd"), "expected one method, got 'ega+kd'"),
        (lambda: method_info("none"), "expected one method, got 'none'"),
    )
