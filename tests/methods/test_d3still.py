"""D3still against the numbers of the published code, and a loop over images and pairs of others."""

import torch
from torch import Tensor

from relgraph.methods import D3still
from tests.checks import case
from tests.methods.golden import value_and_gradient, vectors

N, D = 6, 4


def weighted(length: int, *weights: float, official: bool = False) -> D3still:
    names = ("feature_weight", "inconsistent_weight", "consistent_weight")
    return D3still(length=length, official=official, **dict(zip(names, weights, strict=True)))  # type: ignore[arg-type]


def loop(student: Tensor, teacher: Tensor, length: int, divisor: int) -> dict[str, Tensor]:
    s, t = (x / x.norm(dim=1, keepdim=True) for x in (student, teacher))
    rows: dict[int, list[Tensor]] = {-1: [], 1: []}
    for i in range(N):
        others = sorted((j for j in range(N) if j != i), key=lambda j: -(t[i] @ t[j]).item())[: length - 1]
        found: dict[int, list[Tensor]] = {-1: [torch.zeros(()).double()], 1: [torch.zeros(()).double()]}
        for m in others:
            for n in others:
                of_t, of_s = t[i] @ (t[n] - t[m]), s[i] @ (t[n] - t[m])
                if m != n and of_s != 0:
                    found[1 if of_s * of_t > 0 else -1].append((of_s - of_t) / (0.1 + of_t.abs()))
        for sign, errors in found.items():
            square = torch.stack(errors).square().sum()
            rows[sign].append(square.sqrt() if square > 0 else square)
    own = torch.stack([1 - s[i] @ t[i] for i in range(N)])
    means = {sign: torch.stack(row).mean() / divisor for sign, row in rows.items()}
    return {"feature": own.square().sum().sqrt() / N, "inconsistent": means[-1], "consistent": means[1]}


def test_terms_and_gradients_are_those_of_a_loop() -> None:
    student, teacher = vectors(N, D, D)
    for length, official, divisor in ((4, False, 3), (10, False, 5), (10, True, 9), (2, False, 1)):
        loss = weighted(length, 1, 1, 1, official=official)
        with case(length, official):
            expected = loop(student, teacher, length, divisor)
            torch.testing.assert_close(loss.terms(student, teacher), expected)
            total = torch.stack([*expected.values()]).sum()
            if total.requires_grad:
                found = value_and_gradient(loss, student, teacher)
                torch.testing.assert_close(found, (total, torch.autograd.grad(total, student)[0]))


def test_the_image_itself_is_left_out_even_if_another_equals_it() -> None:
    student, teacher = vectors(N, D, D)
    with torch.no_grad():
        teacher[0] = teacher[3]  # which comes first in the batch
    expected = loop(student, teacher, 4, 3)
    torch.testing.assert_close(weighted(4, 1, 1, 1).terms(student, teacher), expected)
    torch.testing.assert_close(weighted(4, 1, 1, 1, official=True).terms(student, teacher), expected)


def test_a_perfect_student_is_at_0_with_gradient_0() -> None:
    _, teacher = vectors(N, D, D)
    for terms in (D3still().terms(5 * teacher, teacher), D3still(graph="knn", k=3).terms(5 * teacher, teacher)):
        assert all(value < 1e-6 for value in terms.values())
    student = teacher.clone().requires_grad_()
    value, gradient = value_and_gradient(D3still(), student, teacher)
    assert value < 1e-6 and gradient.isfinite().all()
