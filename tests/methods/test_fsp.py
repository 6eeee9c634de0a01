"""FSP against the authors' number and its formula."""

import pytest
import torch
from torch import Tensor

from relgraph.methods import Output
from relgraph.methods.base import Shapes
from relgraph.methods.fsp import FSP, flow
from tests.checks import assert_refused
from tests.methods.golden import check, halved, maps, output_of_maps

N = 3
STUDENT: Shapes = ((2, 4, 4), (3, 4, 4), (4, 2, 2))
TEACHER: Shapes = ((5, 8, 8), (2, 8, 8), (3, 8, 8), (4, 2, 2))


def gram(f: Tensor, g: Tensor) -> Tensor:
    """Return the mean products of the channels of one image, both maps of one size."""
    return f.flatten(1) @ g.flatten(1).T / f[0].numel()


def formula(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    images = zip(*student, *teacher, strict=True)
    return torch.stack([(gram(f_s, g_s) - gram(f_t, g_t)).square() for f_s, g_s, f_t, g_t in images]).mean()


def test_official_value_and_gradient() -> None:
    first, last = maps(8, 4, 8, 8, phase=0), maps(8, 8, 4, 4, phase=0.5)
    inputs = {"fm1": first[0], "fm2": last[0]}
    student, teacher = (Output(torch.zeros(8, 2), maps=(first[side], last[side])) for side in range(2))
    check("fsp_fm1_fm2", lambda: FSP()(student, teacher), inputs)


def test_the_formula_with_stages_paired_from_the_end() -> None:
    student, teacher = output_of_maps(STUDENT), output_of_maps(TEACHER)
    s, (_, *t) = student.maps, teacher.maps
    expected = formula((s[0], s[1]), (t[0], t[1]))
    expected += formula((halved(s[1]), s[2]), (halved(halved(t[1])), t[2]))
    assert FSP()(student, teacher).item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_larger_of_two_maps_is_averaged_whichever_comes_first() -> None:
    large, small = torch.randn(N, 2, 4, 4), torch.randn(N, 3, 2, 2)
    expected = torch.stack([gram(f, g) for f, g in zip(halved(large), small, strict=True)])
    torch.testing.assert_close(flow(large, small), expected)
    torch.testing.assert_close(flow(small, large), expected.mT)


def test_what_it_refuses() -> None:
    wide: Shapes = ((2, 4, 4), (3, 4, 4), (8, 2, 2))
    expected = "FSP compares channel with channel: expected stage maps with as many channels in student and teacher"
    assert_refused(
        (lambda: FSP(STUDENT, wide), f"{expected}, got 2, 3, 4 and 2, 3, 8"),
        (lambda: FSP()(output_of_maps(STUDENT), output_of_maps(wide)), f"{expected}, got 2, 3, 4 and 2, 3, 8"),
    )
    FSP(STUDENT, TEACHER)  # the stem that has no counterpart may have other channels
    FSP(STUDENT)  # one side's shapes say nothing
