"""FSP against the authors' number and a loop over channels and positions, and the laws that it keeps."""

import re

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import Output, RunFacts
from relgraph.methods.base import Shapes
from relgraph.methods.fsp import FSP, flow, flow_loss
from tests.methods import golden

N = 3
STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((5, 8, 8), (2, 8, 8), (3, 8, 8), (4, 2, 2))


def output(shapes: Shapes = STUDENT, n: int = N) -> Output:
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def halved(maps: Tensor) -> Tensor:
    """Return the means over windows of 2 x 2."""
    return torch.stack([maps[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]).mean(0)


def gram(f: Tensor, g: Tensor) -> list[list[float]]:
    """Return the mean products of the channels of one image, both maps of one size."""
    return [
        [sum(x * y for x, y in zip(a, b, strict=True)) / len(a) for b in g.flatten(1).tolist()]
        for a in f.flatten(1).tolist()
    ]


def naive(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> float:
    total, count = 0.0, 0
    for f_s, g_s, f_t, g_t in zip(*student, *teacher, strict=True):
        for row_s, row_t in zip(gram(f_s, g_s), gram(f_t, g_t), strict=True):
            total += sum((a - b) ** 2 for a, b in zip(row_s, row_t, strict=True))
            count += len(row_s)
    return total / count


def test_official_value_and_gradient() -> None:
    first, last = golden.maps(8, 4, 8, 8, phase=0), golden.maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    golden.check("fsp_fm1_fm2", lambda: flow_loss((first[0], last[0]), (first[1], last[1])), inputs)
    student, teacher = (Output(torch.zeros(8, 2), maps=(first[side], last[side])) for side in range(2))
    golden.check("fsp_fm1_fm2", lambda: FSP()(student, teacher), inputs)


def test_a_naive_loop_with_stages_paired_from_the_end() -> None:
    student, teacher = output(), output(TEACHER)
    s, (_, *t) = student.maps, teacher.maps
    expected = naive((s[0], s[1]), (t[0], t[1]))
    expected += naive((halved(s[1]), s[2]), (halved(halved(t[1])), t[2]))
    assert FSP()(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_the_larger_of_two_maps_is_averaged_whichever_comes_first() -> None:
    large, small = torch.randn(N, 2, 4, 4), torch.randn(N, 3, 2, 2)
    expected = torch.tensor([gram(f, g) for f, g in zip(halved(large), small, strict=True)])
    torch.testing.assert_close(flow(large, small), expected)
    torch.testing.assert_close(flow(small, large), expected.mT)


def test_gradient_reaches_the_students_maps_and_nothing_else() -> None:
    student, teacher = output(), output(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    torch.autograd.backward(FSP(STUDENT, TEACHER)(student, teacher))
    assert all(stage.grad is None for stage in teacher.maps)
    assert all(stage.grad is not None and stage.grad.any() for stage in student.maps)
    f, g = torch.randn(2, 2, 4, 4).double(), torch.randn(2, 3, 2, 2).double()
    target = torch.randn(2, 2, 4, 4).double(), torch.randn(2, 3, 2, 2).double()
    leaves = f.requires_grad_(), g.requires_grad_()
    assert torch.autograd.gradcheck(lambda *maps: flow_loss((maps[0], maps[1]), target), leaves)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (
        Output(torch.zeros(N, 2), maps=tuple((stage * 300).to(dtype) for stage in output().maps)) for _ in range(2)
    )
    leaves = [stage.requires_grad_() for stage in student.maps]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = FSP()(student, teacher)
    assert value.dtype == torch.float32
    expected = FSP()(*(side._replace(maps=tuple(m.double() for m in side.maps)) for side in (student, teacher)))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value * 1e-4, leaves))


def test_maps_of_zeros_and_one_image_are_finite() -> None:
    student, teacher = output(n=1), output(n=1)
    dead = student._replace(maps=tuple(torch.zeros_like(stage).requires_grad_() for stage in student.maps))
    value = FSP()(dead, teacher)
    assert value.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(value, dead.maps))
    assert FSP()(teacher, teacher) == 0


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(), output()
    loss = FSP()
    assert list(loss.terms(student, teacher)) == ["fsp"] and loss.reads == ("maps",) and loss.weight == 50
    assert round(270 * loss.init_share) == 30
    assert torch.equal(loss(student, teacher), loss(student, teacher))


def test_what_it_refuses() -> None:
    wide: Shapes = ((2, 4, 4), (3, 4, 4), (8, 2, 2))
    sentence = (
        "FSP compares channel with channel: expected stage maps with as many channels in student and teacher, "
        "got 2, 3, 4 and 2, 3, 8"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(sentence)}$"):
        FSP(STUDENT, wide)
    with pytest.raises(RelgraphError, match=f"^{re.escape(sentence)}$"):
        FSP()(output(), output(wide))
    message = (
        "FSP reads stage maps, the maps=(...) of an Output: "
        "expected at least 2 of student and teacher (stem and one stage), got 3 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FSP(STUDENT, ())
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FSP()(output(), torch.zeros(N, 2))
    FSP(STUDENT, TEACHER)  # the stem that has no counterpart may have other channels
    FSP(STUDENT)  # one side's shapes say nothing


def test_a_run_without_maps_is_refused_before_its_first_batch() -> None:
    for student, found in (((), 0), (STUDENT, 3)):
        with pytest.raises(RelgraphError, match=rf"\(stem and one stage\), got {found} and 0$"):
            FSP.for_run(RunFacts(4, 3, 3, student, ()))
