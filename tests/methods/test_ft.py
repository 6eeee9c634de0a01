"""FT against the authors' number and a loop in Python's floats; its paraphraser learns beside the student."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.methods import Batch, Output
from relgraph.methods.base import Shapes
from relgraph.methods.ft import FT, factor_loss
from tests.methods import golden

N = 3
STUDENT: Shapes = ((2, 8, 8), (3, 4, 4))
TEACHER: Shapes = ((2, 8, 8), (4, 4, 4), (6, 2, 2))
BATCH = Batch(torch.arange(N), torch.arange(N))


def output(shapes: Shapes, n: int = N) -> Output:
    return Output(torch.zeros(n, 2), maps=tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes))


def never(given: Output) -> Tensor:
    raise AssertionError("nothing is to be classified")


def looked(channels: list[list[float]]) -> list[float]:
    positions = [sum(value**2 for value in position) / len(channels) for position in zip(*channels, strict=True)]
    return [value / math.hypot(*positions) for value in positions]


def naive(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for s, t in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        total += sum(abs(a - b) for a, b in zip(looked(s), looked(t), strict=True))
    return total / len(student) / student[0, 0].numel()


def convolved(conv: nn.Module, maps: Tensor) -> Tensor:
    """Return a 3x3 convolution, as the sum of nine shifted maps; a transposed one reads its kernel the other way."""
    kernel: Tensor = conv.get_parameter("weight")
    if isinstance(conv, nn.ConvTranspose2d):
        kernel = kernel.transpose(0, 1).flip(-2, -1)
    height, width = maps.shape[-2:]
    padded = nn.functional.pad(maps, (1, 1, 1, 1))
    found = torch.zeros(1, dtype=maps.dtype)
    for a in range(3):
        for b in range(3):
            found = found + torch.einsum("oi,nihw->nohw", kernel[..., a, b], padded[..., a : a + height, b : b + width])
    return found if getattr(conv, "bias", None) is None else found + conv.get_parameter("bias").view(-1, 1, 1)


def passed(layers: nn.Module, maps: Tensor, normed: bool = False) -> Tensor:
    """Return what three convolutions make of maps, each with a leaky ReLU and, if it is normed, a batch norm before."""
    convolutions = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 3
    for convolution in convolutions:
        maps = convolved(convolution, maps)
        if normed:
            mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
            maps = (maps - mean) / (variance + 1e-5).sqrt()
        maps = torch.maximum(maps, 0.1 * maps)
    return maps


def test_official_value_and_gradient() -> None:
    student, teacher = golden.maps(8, 8, 4, 4, phase=0.5)
    golden.check("ft_fm2 (no paraphraser)", lambda: factor_loss(student, teacher), {"fm2": student})


def test_a_naive_loop() -> None:
    student, teacher = torch.randn(2, N, 4, 2, 3).double()
    assert factor_loss(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-10)


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 3), (0.1, 1), (1.0, 6)])
def test_translator_and_paraphraser(rate: float, channels: int) -> None:
    student, teacher = output(STUDENT), output(TEACHER)
    loss = FT(STUDENT, TEACHER, rate).double()
    factor = passed(loss.encoder, teacher.maps[-1])
    translated = passed(loss.translator, student.maps[-1], normed=True)
    assert factor.shape == (N, channels, 2, 2) and translated.shape == (N, channels, 4, 4)
    averaged = torch.stack([translated[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]).mean(0)
    assert loss(student, teacher).item() == pytest.approx(naive(averaged, factor), rel=1e-10)
    found = loss.teacher_terms(student, teacher, BATCH, never)
    assert list(found) == ["paraphraser"]
    reconstructed = passed(loss.decoder, factor)
    expected = (reconstructed - teacher.maps[-1]).square().mean()
    assert found["paraphraser"].item() == pytest.approx(expected.item(), rel=1e-10)


def test_each_loss_trains_its_own_side_alone() -> None:
    student, teacher = output(STUDENT), output(TEACHER)
    for stage in (*student.maps, *teacher.maps):
        stage.requires_grad_()
    loss = FT(STUDENT, TEACHER).double()
    paraphraser = list(loss.teacher_parameters())
    others = [p for p in loss.parameters() if all(p is not q for q in paraphraser)]
    assert len(paraphraser) == 12 and len(others) == 9 == len(list(loss.translator.parameters()))
    torch.autograd.backward(loss(student, teacher))
    assert all(p.grad is None for p in [*paraphraser, *teacher.maps, student.maps[0]])
    assert all(p.grad is not None and p.grad.any() for p in [*others, student.maps[-1]])
    for p in [*others, student.maps[-1]]:
        p.grad = None
    torch.autograd.backward(loss.teacher_terms(student, teacher, BATCH, never)["paraphraser"])
    assert all(p.grad is None for p in [*others, *student.maps, *teacher.maps])
    assert all(p.grad is not None and p.grad.any() for p in paraphraser)


def test_the_paraphraser_learns_to_reconstruct() -> None:
    student, teacher = output(STUDENT), output(((4, 4, 4),))
    teacher = teacher._replace(maps=(teacher.maps[0].relu(),))
    loss = FT(STUDENT, ((4, 4, 4),), paraphrase_rate=1.0).double()
    optimiser = torch.optim.Adam(loss.teacher_parameters(), lr=0.01)
    errors = []
    for _ in range(60):
        optimiser.zero_grad()
        error = loss.teacher_terms(student, teacher, BATCH, never)["paraphraser"]
        torch.autograd.backward(error)
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def test_gradcheck() -> None:
    shapes: Shapes = ((2, 2, 2),)
    loss, teacher = FT(shapes, shapes).double(), output(shapes)

    def value(stage: Tensor) -> Tensor:
        found: Tensor = loss(Output(torch.zeros(N, 2), maps=(stage,)), teacher)
        return found

    assert torch.autograd.gradcheck(value, torch.randn(N, 2, 2, 2).double().requires_grad_())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (
        given._replace(maps=tuple(stage.to(dtype) for stage in given.maps))
        for given in (output(STUDENT), output(TEACHER))
    )
    leaf = student.maps[-1].requires_grad_()
    loss = FT(STUDENT, TEACHER)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
        error = loss.teacher_terms(student, teacher, BATCH, never)["paraphraser"]
    assert value.dtype == error.dtype == torch.float32
    # In this order: the step before must not have left cast weights behind that give the paraphraser no gradient.
    torch.autograd.backward(error)
    assert all(p.grad is not None and p.grad.any() for p in loss.teacher_parameters())
    assert torch.autograd.grad(value, leaf)[0].isfinite().all()
    expected = loss.double()(student, teacher), loss.teacher_terms(student, teacher, BATCH, never)["paraphraser"]
    tolerance = 0.05 if autocast else 1e-4
    for found, wanted in zip((value, error), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=0)


def test_maps_of_zeros_and_one_image_are_finite() -> None:
    loss = FT(STUDENT, TEACHER).double()
    dead = output(STUDENT, 1)._replace(maps=tuple(torch.zeros(1, *s).double().requires_grad_() for s in STUDENT))
    value = loss(dead, output(TEACHER, 1))
    (gradient,) = torch.autograd.grad(value, dead.maps[-1])
    assert value.isfinite() and gradient.isfinite().all()


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    student, teacher = output(STUDENT), output(TEACHER)
    loss = FT(STUDENT, TEACHER).double()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert list(loss.terms(student, teacher)) == ["ft"] and loss.reads == ("maps",) and loss.weight == 200
    assert torch.equal(loss(student, teacher), loss(student, teacher))
    assert all(torch.equal(value, state[name]) for name, value in loss.state_dict().items())


def test_its_layers_follow_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in FT(STUDENT, TEACHER).parameters()])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_what_it_refuses() -> None:
    message = (
        "FT reads stage maps, the maps=(...) of an Output: expected at least 1 of student and teacher, got 2 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FT(STUDENT, ())
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FT(STUDENT, TEACHER)(output(STUDENT), torch.zeros(N, 2))
    message = "FT was built for stage maps with channels [(3, 6)] of student and teacher, got [(6, 3)]"
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FT(STUDENT, TEACHER)(output(TEACHER), output(STUDENT))
    with pytest.raises(RelgraphError, match=r"^stage maps must be \(N, C, H, W\)"):
        FT(STUDENT, TEACHER)(output(STUDENT), output(TEACHER, 2))
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(RelgraphError, match=rf"^paraphrase_rate must be above 0 and at most 1, got {wrong}$"):
            FT(STUDENT, TEACHER, wrong)
