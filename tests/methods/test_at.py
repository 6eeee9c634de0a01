"""AT against the authors' number and a loop in Python's floats, and the laws that it keeps."""

import math
import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import Output
from relgraph.methods.at import AT, attention, attention_loss
from relgraph.methods.options import options_of
from tests.methods import golden

N = 4
SHAPES = ((2, 8, 8), (3, 8, 8), (4, 4, 4))
TEACHER = ((2, 8, 8), (5, 8, 8), (6, 4, 4), (7, 2, 2))


def output(shapes: tuple[tuple[int, int, int], ...] = SHAPES, n: int = N) -> Output:
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def learning(given: Output) -> list[Tensor]:
    return [stage.requires_grad_() for stage in given.maps]


def with_stem(stages: tuple[Tensor, ...]) -> Output:
    return Output(torch.zeros(len(stages[0]), 2), maps=(torch.randn(len(stages[0]), 2, 2, 2), *stages))


def looked(channels: list[list[float]]) -> list[float]:
    positions = [sum(value**2 for value in position) / len(channels) for position in zip(*channels, strict=True)]
    return [value / math.hypot(*positions) for value in positions]


def naive(student: Tensor, teacher: Tensor) -> float:
    """Return the loss of two maps, the larger of which has twice the other's height and width, or of one size."""
    if teacher.shape[-1] > student.shape[-1]:
        return naive(teacher, student)
    if student.shape[-1] > teacher.shape[-1]:
        student = sum(student[..., a::2, b::2] for a in (0, 1) for b in (0, 1)) / torch.tensor(4.0)
    total = 0.0
    for s, t in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(looked(s), looked(t), strict=True))
    return total / len(student) / student[0, 0].numel()


def test_official_value_and_gradient() -> None:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    golden.check("at_sum_fm1_fm2", lambda: attention_loss(*first) + attention_loss(*last), inputs)
    student, teacher = (with_stem((first[side], last[side])) for side in range(2))
    golden.check("at_sum_fm1_fm2", lambda: AT()(student, teacher), inputs)


def test_a_naive_loop_with_stages_paired_from_the_end() -> None:
    student, teacher = output(), output(TEACHER)
    expected = naive(student.maps[1], teacher.maps[2]) + naive(student.maps[2], teacher.maps[3])
    assert AT()(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert AT()(teacher, student).item() == pytest.approx(expected, rel=1e-10)


def test_by_hand() -> None:
    """Attention (1, 0) against (3, 4) / 5: the mean of 0.16 and 0.64."""
    student, teacher = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[3.0, 4.0]]]]).sqrt()
    assert attention_loss(student, teacher).item() == pytest.approx(0.4, rel=1e-6)


def test_sign_scale_and_order_of_the_channels_change_nothing() -> None:
    student, teacher = (torch.randn(N, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    moved = -student[:, [2, 0, 1]] * torch.rand(N, 1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(attention_loss(moved, teacher), attention_loss(student, teacher))
    assert attention_loss(moved, student) < 1e-28


def test_gradient_reaches_the_students_stages_and_nothing_else() -> None:
    student, teacher = output(), output(TEACHER)
    stem, *stages = learning(student)
    learning(teacher)
    torch.autograd.backward(AT()(student, teacher))
    assert stem.grad is None and all(stage.grad is None for stage in teacher.maps)
    assert all(stage.grad is not None and stage.grad.any() for stage in stages)
    small = [torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, small[1][..., :2, :2]), small[0].requires_grad_())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1e-6), (torch.float16, 1e4), (torch.bfloat16, 1e30)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, scale: float, autocast: bool) -> None:
    student = (torch.randn(N, 3, 4, 4) * scale).to(dtype).requires_grad_()
    teacher = (torch.randn(N, 3, 4, 4) * scale).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = attention_loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), attention_loss(student.double(), teacher.double()), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(value * scale, student)
    assert gradient.isfinite().all() and gradient.any()


def test_a_dead_image_has_attention_zero_and_no_gradient() -> None:
    student = torch.randn(2, 3, 4, 4)
    student[0] = 0
    teacher = torch.randn(2, 3, 4, 4)
    value = attention_loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert not attention(student)[0].any() and value.isfinite()
    assert not gradient[0].any() and gradient[1].any() and gradient.isfinite().all()
    assert attention_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)) == 0


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(), output()
    loss = AT()
    assert list(loss.terms(student, teacher)) == ["at"] and loss.reads == ("maps",) and loss.weight == 1000
    assert torch.equal(loss(student, teacher), loss(student, teacher))


def test_it_has_no_options() -> None:
    assert options_of(AT) == {}


def test_what_it_refuses() -> None:
    message = (
        "AT reads stage maps, the maps=(...) of an Output: "
        "expected at least 2 of student and teacher (stem and one stage), got 3 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        AT()(output(), torch.zeros(N, 2))
    with pytest.raises(
        RelgraphError, match=r"^stage maps must be \(N, C, H, W\).* got \(4, 2, 8, 8\) and \(3, 2, 8, 8\)$"
    ):
        AT()(output(), output(n=3))
