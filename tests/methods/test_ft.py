"""FT against the authors' number and its formula; its paraphraser learns beside the student."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from relgraph.methods import Batch, Output
from relgraph.methods.base import Shapes
from relgraph.methods.ft import FT, factor_loss
from tests.checks import assert_refused
from tests.methods.golden import attended, check, halved, maps, output_of_maps, standardised
from tests.methods.test_base import never

N = 3
STUDENT: Shapes = ((2, 8, 8), (3, 4, 4))
TEACHER: Shapes = ((2, 8, 8), (4, 4, 4), (6, 2, 2))
BATCH = Batch(torch.arange(N), torch.arange(N))


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    return (attended(student) - attended(teacher)).abs().mean()


def passed(layers: nn.Module, maps: Tensor, normed: bool = False) -> Tensor:
    """Return what three convolutions make of maps, each with a leaky ReLU and, if it is normed, a batch norm before."""
    convolutions = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 3
    for convolution in convolutions:
        convolve = functional.conv_transpose2d if isinstance(convolution, nn.ConvTranspose2d) else functional.conv2d
        maps = convolve(maps, convolution.weight, convolution.bias, padding=1)
        maps = standardised(maps) if normed else maps
        maps = torch.maximum(maps, 0.1 * maps)
    return maps


def test_official_value_and_gradient() -> None:
    student, teacher = maps(8, 8, 4, 4, phase=0.5)
    check("ft_fm2 (no paraphraser)", lambda: factor_loss(student, teacher), {"fm2": student})


def test_the_formula() -> None:
    student, teacher = torch.randn(2, N, 4, 2, 3).double()
    assert factor_loss(student, teacher).item() == pytest.approx(formula(student, teacher).item(), rel=1e-10)


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 3), (0.1, 1), (1.0, 6)])
def test_translator_and_paraphraser(rate: float, channels: int) -> None:
    student, teacher = output_of_maps(STUDENT), output_of_maps(TEACHER)
    loss = FT(STUDENT, TEACHER, rate).double()
    factor = passed(loss.encoder, teacher.maps[-1])
    translated = passed(loss.translator, student.maps[-1], normed=True)
    assert factor.shape == (N, channels, 2, 2) and translated.shape == (N, channels, 4, 4)
    assert loss(student, teacher).item() == pytest.approx(formula(halved(translated), factor).item(), rel=1e-10)
    found = loss.teacher_terms(student, teacher, BATCH, never)
    assert list(found) == ["paraphraser"]
    reconstructed = passed(loss.decoder, factor)
    expected = (reconstructed - teacher.maps[-1]).square().mean()
    assert found["paraphraser"].item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_paraphraser_learns_from_half_precision_after_a_step_of_the_loss() -> None:
    """The step before must not have left cast weights behind that give the paraphraser no gradient."""
    for dtype, autocast in product((torch.float16, torch.bfloat16), (False, True)):
        student, teacher = (
            Output(torch.zeros(3, 2), maps=tuple(stage.to(dtype) for stage in output_of_maps(shapes).maps))
            for shapes in (STUDENT, TEACHER)
        )
        loss = FT(STUDENT, TEACHER)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss(student, teacher)
            error = loss.teacher_terms(student, teacher, BATCH, never)["paraphraser"]
        assert error.dtype == torch.float32
        torch.autograd.backward(error)
        assert all(p.grad is not None and p.grad.any() for p in loss.teacher_parameters())
        expected = loss.double().teacher_terms(student, teacher, BATCH, never)["paraphraser"]
        torch.testing.assert_close(error.double(), expected, rtol=0.05 if autocast else 1e-4, atol=0)


def test_what_it_refuses() -> None:
    loss, maps = FT(STUDENT, TEACHER), (output_of_maps(TEACHER), output_of_maps(STUDENT))
    built = "FT was built for stage maps with channels [(3, 6)] of student and teacher, got [(6, 3)]"
    assert_refused((partial(loss, *maps), built))
