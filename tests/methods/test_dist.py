"""DIST against the authors' numbers, and against numpy's correlations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.methods import DIST
from tests.checks import case
from tests.methods.golden import check, maps, of_logits, values


@pytest.mark.parametrize("height", [6, 4])
def test_pixels_as_rows_are_the_authors_dense_form(height: int) -> None:
    student, teacher = maps(2, 5, height, 6, phase=0)

    def loss() -> Tensor:
        rows = (2 * x.movedim(1, -1).flatten(0, -2) for x in (student, teacher))
        value: Tensor = DIST()(*map(of_logits, rows))
        return value

    check(f"dist_maps_{height}x6", loss, {"student": student})


def test_correlations_are_numpys() -> None:
    for tau in (0.5, 1.0, 3.0):
        student, teacher = torch.randn(2, 7, 5).double()
        s, t = ((z / tau).softmax(1) for z in (student, teacher))
        inter, intra = (
            np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one.numpy(), other.numpy(), strict=True)])
            for one, other in ((s, t), (s.T, t.T))
        )
        found = values(DIST(tau=tau, epsilon=0).terms(of_logits(student), of_logits(teacher)))
        with case(tau):
            assert found == pytest.approx({"inter": tau**2 * (1 - inter), "intra": tau**2 * (1 - intra)}, rel=1e-10)


def test_what_does_not_vary_has_no_correlation_and_no_gradient() -> None:
    """An untrained student, or one image, whose classes do not vary over the batch: the official gradient is 1e8."""
    student, teacher = torch.full((3, 4), 0.7, requires_grad=True), torch.randn(3, 4)
    terms = DIST().terms(of_logits(student), of_logits(teacher))
    assert values(terms) == {"inter": 1, "intra": 1}
    assert not torch.autograd.grad(terms["inter"] + terms["intra"], student)[0].any()
    one = torch.randn(1, 4, requires_grad=True)
    loss = DIST(inter_weight=0)(of_logits(one), of_logits(torch.randn(1, 4)))
    assert loss == 1 and not torch.autograd.grad(loss, one)[0].any()
