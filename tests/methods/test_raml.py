"""RAML against the numbers of the published code, and a double loop."""

import torch
from torch import Tensor

from relgraph.methods import RAML
from tests.checks import case
from tests.methods.golden import graphs_with_edges, value_and_gradient, vectors

N, D = 7, 5


def test_terms_are_those_of_a_double_loop() -> None:
    student, teacher = vectors(N, D, D)

    def loop(edges: list[tuple[int, int]]) -> dict[str, Tensor]:
        s, t = (x / x.norm(dim=1, keepdim=True) for x in (student, teacher))
        others = [(j, i) for j, i in edges if j != i]
        across = [(s[i] @ t[j] - t[i] @ t[j] + 1e-6) ** 2 for j, i in others]
        within = [(s[i] @ s[j] - t[i] @ t[j] + 1e-6) ** 2 for j, i in others]
        node = torch.stack([(1 - s[i] @ t[i] + 1e-6) ** 2 for i in range(N)]).mean()
        return {"node": node, "across": torch.stack(across).mean(), "within": torch.stack(within).mean()}

    for graph, edges in graphs_with_edges(list(teacher), lambda a, b: -float(a @ b / (a.norm() * b.norm()))):
        for form in ("matrix", "blocked"):
            loss = RAML(across_weight=1.0, within_weight=1.0, graph=graph, form=form)
            with case(graph, form):
                expected = loop(edges)
                torch.testing.assert_close(loss.terms(student, teacher), expected, rtol=1e-10, atol=1e-14)
                total = torch.stack([*expected.values()]).sum()
                _, gradient = value_and_gradient(loss, student, teacher)
                torch.testing.assert_close(gradient, torch.autograd.grad(total, student)[0], rtol=1e-9, atol=1e-12)


def test_an_image_alone_is_a_regression_of_its_vector() -> None:
    student, teacher = vectors(1, D, D)
    terms = RAML().terms(student, teacher)
    assert terms["across"] == terms["within"] == 0 and terms["node"] > 0


def test_official_takes_one_weight_for_both() -> None:
    assert RAML(official=True).term_weights == {"across": 0.7482, "within": 0.7482}
    assert RAML(official=True, across_weight=0.3).term_weights == {"across": 0.3, "within": 0.3}
    assert RAML().term_weights == {"across": 0.7482, "within": 0.6778}
