"""Another kernel, scale or criterion in a published method: by formulas written out, in every form, by a subclass."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize, smooth_l1_loss

from relgraph.graph.criteria import Criterion, huber, mean_square
from relgraph.graph.kernels import Kernel, cosine, dot, euclidean, gaussian, linear, pearson
from relgraph.graph.pair import Form
from relgraph.graph.refine import Refinement
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_mean, raw
from relgraph.methods import CC, EGA, IRG, METHODS, NCE, PKT, RKD, SP, Batch, Method, Output, RunFacts, option
from relgraph.methods.own import Related
from relgraph.methods.relational import FixedParts, Relational
from relgraph.names import build_method
from relgraph.options import options_of
from tests.checks import assert_refused, case
from tests.methods.golden import nearest

N, D = 6, 4
RUN = RunFacts(D, D, D, ((2, 4, 4),), ((2, 4, 4),))
# One relation each; EGA's without its nodes.
RELATED: dict[str, Callable[..., Relational]] = {
    "ega": partial(EGA, 0.0, 1.0),
    "sp": partial(SP, nodes="embedding"),
    "cc": partial(CC, nodes="embedding"),
    "pkt": partial(PKT, nodes="embedding"),
    "related": partial(Related, Relation(), nodes="embedding"),
}
FORMS: tuple[Form, ...] = ("matrix", "factored", "blocked")


def nodes() -> tuple[Tensor, Tensor]:
    return torch.randn(N, D).double().requires_grad_(), torch.randn(N, D).double()


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]


def bell(x: Tensor) -> Tensor:
    """Return `exp(-0.4 |x_i - x_j|^2)` of unit vectors."""
    unit = normalize(x)
    return (-0.4 * (unit.unsqueeze(0) - unit.unsqueeze(1)).square().sum(-1)).exp()


def test_the_chosen_parts_take_the_place_of_the_published_ones() -> None:
    """All three of them, so that all methods are one: on all pairs, and on the sparse graph of all others."""

    def expected(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = bell(student), bell(teacher)
        return smooth_l1_loss(s / s.mean(), t / t.mean())

    given, parts = nodes(), {"kernel": gaussian(0.4), "scale": by_mean, "criterion": huber}
    ways: tuple[dict[str, Any], ...] = {}, {"form": "blocked"}, {"graph": "knn", "k": N - 1}
    for (name, make), way in product(RELATED.items(), ways):
        if (name, "graph" in way) != ("ega", True):  # its sparse graph has no edge of a node to itself
            with case(name, way):
                found = with_gradient(make(**parts, **way), *given)
                torch.testing.assert_close(found, with_gradient(expected, *given))


def test_a_single_part_leaves_the_others() -> None:
    given = nodes()
    for options, relation in (
        ({"kernel": linear}, Relation(linear)),
        ({"scale": by_mean}, Relation(pearson, scale=by_mean)),
        ({"criterion": mean_square}, Relation(pearson, criterion=mean_square)),
        ({"scale": raw}, Relation()),
    ):
        for name in ("ega", "related"):
            found, expected = RELATED[name](**options), relation
            torch.testing.assert_close(found(*given), expected(*given), rtol=0, atol=0)


def test_functions_stand_for_scales_and_criteria() -> None:
    student, teacher = nodes()
    loss = SP(nodes="embedding", kernel=cosine, scale=lambda w: w - w.mean(-1, keepdim=True),
              criterion=lambda s, t: (s - t).abs().amax(-1))  # fmt: skip
    s, t = (normalize(x) @ normalize(x).T for x in (student, teacher))
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    torch.testing.assert_close(loss(student, teacher), difference.abs().max(1).values.mean())


@pytest.mark.parametrize("form", FORMS)
def test_ega_matches_nodes_by_the_same_kernel(form: Form) -> None:
    def expected(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = normalize(student), normalize(teacher)
        node, edge = s @ t.T - torch.eye(N), s @ s.T - t @ t.T
        return torch.stack([0.8 * vector_norm(node), 0.24 * vector_norm(edge)]).sum()

    given = nodes()
    torch.testing.assert_close(with_gradient(EGA(kernel=cosine, form=form), *given), with_gradient(expected, *given))


def test_ega_chooses_neighbours_by_the_same_kernel() -> None:
    student, teacher = nodes()
    edges = nearest(list(teacher), 2, lambda a, b: -float(a @ b))
    assert set(edges) != set(nearest(list(teacher), 2, lambda a, b: -float(pearson(torch.stack([a, b]))[0, 1])))
    node = [student[i] @ teacher[i] - 1 for i in range(N)] + [student[i] @ teacher[j] for j, i in edges]
    edge = [student[i] @ student[j] - teacher[i] @ teacher[j] for j, i in edges]
    for form in ("matrix", "blocked"):
        terms = EGA(graph="knn", k=2, kernel=linear, form=form).terms(student, teacher)
        expected = {"node": 0.8 * torch.stack(node).norm(), "edge": 0.24 * torch.stack(edge).norm()}
        torch.testing.assert_close(terms, expected)


def test_ega_s_refinement_moves_nodes_by_the_same_kernel_on_both_sides() -> None:
    refinement = Refinement("conv", D, D)
    for parameter in refinement.parameters():
        nn.init.normal_(parameter)
    student, teacher = nodes()
    method = EGA(kernel=linear, refinement=refinement).double()
    seen: list[Tensor] = []

    def classified(output: Output) -> Tensor:
        seen.append(output.embedding)
        return output.embedding.sum()

    batch, pair = Batch(torch.arange(N), torch.zeros(N)), method.pair(Output(student), Output(teacher))
    assert pair is not None
    method.teacher_terms(Output(student), Output(teacher), batch, classified)
    torch.testing.assert_close(seen[0], pair["teacher"].refined)
    apart = EGA(refinement=refinement).double().pair(Output(student), Output(teacher))
    assert apart is not None and not torch.allclose(seen[0], apart["teacher"].refined)


def test_the_forms_are_those_of_the_chosen_parts() -> None:
    blocked = "EGA has the forms auto, matrix, blocked, got 'factored'"
    absolute = Criterion(lambda s, t: (s - t).abs().sum(-1))
    assert_refused(
        (lambda: EGA(kernel=gaussian(0.4), form="factored"), blocked),
        (lambda: EGA(criterion=absolute, form="factored"), blocked),
        (lambda: EGA(scale=by_mean, form="factored"), blocked),
        (lambda: PKT(form="factored"), "PKT has the forms auto, matrix, blocked, got 'factored'"),
    )
    given = nodes()
    factored = PKT(nodes="embedding", kernel=cosine, scale=raw, criterion=mean_square, form="factored")
    torch.testing.assert_close(factored(*given), Relation(cosine, criterion=mean_square)(*given))


class ByCosine(EGA):
    kernel = cosine
    node_weight = 0.5


def doubled(weights: Tensor) -> Tensor:
    return 2 * weights


class FromByCosine(ByCosine):
    scale = staticmethod(doubled)


def test_what_a_subclass_sets_is_its_default() -> None:
    given = nodes()
    expected = EGA(0.5, kernel=cosine)(*given)
    assert torch.equal(ByCosine()(*given), expected)
    assert torch.equal(ByCosine(kernel=pearson, node_weight=0.8)(*given), EGA()(*given)), "and may be chosen"
    assert torch.equal(FromByCosine()(*given), EGA(0.5, 0.48, kernel=cosine)(*given))
    assert options_of(ByCosine)["node_weight"].default == 0.5 and options_of(EGA)["node_weight"].default == 0.8
    assert options_of(ByCosine)["node_weight"].term == "node" and options_of(ByCosine)["kernel"].default is cosine
    assert EGA().kernel is None


def test_parts_that_do_not_fit_are_refused() -> None:
    class Distances(EGA):
        kernel = euclidean

    class CosineRKD(RKD):
        kernel = cosine

    distance = (
        "EGA matches nodes by its kernel: expected a kernel that is largest where nodes are equal, or node_weight=0"
    )
    own = "compares by parts of its own, in place of which it takes no other, got a"
    kernel = "the kernel of a relation is a Kernel, such as pearson or gaussian(0.4), got"
    assert_refused(
        (lambda: EGA(kernel=euclidean), f"{distance}, got euclidean"),
        (Distances, f"{distance}, got euclidean"),
        (CosineRKD, f"CosineRKD {own} kernel"),
        (lambda: CC("consecutive", kernel=cosine, scale=raw), f"CC {own} kernel and a scale"),
        (lambda: EGA(kernel="cosine"), f"{kernel} 'cosine'"),
        (lambda: EGA(kernel=torch.cdist), f"{kernel} <function cdist…"),  # type: ignore[arg-type]
        (lambda: SP(criterion=cosine), "the criterion of a relation is a Criterion, such as huber, or a function…"),
    )
    assert Distances(node_weight=0.0)(*nodes()) > 0


def test_methods_that_are_their_parts_have_no_option_of_them() -> None:
    parts = {"kernel", "scale", "criterion"}
    with_parts = {name for name, cls in METHODS.items() if parts & options_of(cls).keys()}
    assert with_parts == {"ega", "sp", "cc", "pkt", "gram"}
    fixed = {name for name, cls in METHODS.items() if issubclass(cls, FixedParts)}
    assert fixed == {name for name, cls in METHODS.items() if issubclass(cls, Relational)} - with_parts
    for cls in (RKD, IRG, NCE):
        with pytest.raises(TypeError, match="kernel"):
            cls(kernel=cosine)  # type: ignore[call-arg]


class Stretched(nn.Module):
    """A criterion with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.factor * student - teacher).square().mean(-1)


def test_what_a_part_learns_is_trained_with_the_method() -> None:
    for learned in (Stretched(), Criterion(Stretched())):
        for method in (
            EGA(criterion=learned),
            SP(nodes="embedding", criterion=learned),
            Related(Relation(criterion=learned)),
        ):
            (parameter,) = method.parameters()
            method(*nodes()).backward()
            assert parameter.grad is not None and parameter.grad != 0
            parameter.grad = None
    prepare = nn.Linear(D, 3).double()
    assert [*Related(Relation(Kernel("learned", prepare, dot))).parameters()] == [*prepare.parameters()]
    assert [*EGA(kernel=cosine).modules()] and not [*EGA(kernel=cosine).parameters()]


def test_parts_of_a_run_reach_the_methods_that_take_them() -> None:
    shared = {"kernel": "cosine", "scale": None, "criterion": "huber"}
    built = build_method("ega+rkd+kd", RUN, shared, ["scale=softmax:0.5"])
    assert built is not None
    relation = built.parts["ega"].relation
    assert isinstance(relation, Relation) and isinstance(built.parts["rkd"], RKD)
    assert (relation.kernel, relation.criterion, relation.scale.name) == (cosine, huber, "softmax")
    mine = build_method("sp", RUN, {"kernel": "cosine"}, ["kernel=linear"])
    assert mine is not None and isinstance(mine.parts["sp"], SP)
    assert mine.parts["sp"].kernel is linear, "that of the method comes first"


def test_a_method_of_ones_own_may_have_a_part_of_another_name() -> None:
    class Two(Relational):
        """A second kernel.

        Args:
            other: The second kernel.
        """

        other: str | Kernel | None = option(default=None, kw_only=True)

        def make_relation(self) -> Relation:
            assert isinstance(self.other, Kernel)
            return Relation(self.other)

    built = build_method(Two, RUN, {}, ["other=gaussian:0.4"])
    assert built is not None
    (method,) = (part for part in built.parts.values() if isinstance(part, Method))
    assert isinstance(method, Two) and isinstance(method.other, Kernel) and method.other.name == "gaussian"
    assert method(*nodes()) > 0
