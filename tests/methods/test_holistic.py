"""Holistic and SKD against formulas written out once more: layers from their weights, norms by the SVD."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from relgraph.methods import KD, SKD, Batch, Holistic, Method, Output, Pairwise, Pixelwise, RunFacts, Sum
from relgraph.networks.discriminator import SelfAttention, SpectralConv
from relgraph.seeding import generator
from tests.checks import assert_refused, case
from tests.methods.golden import of_logits, standardised
from tests.methods.test_base import never

N, CLASSES, SIDE = 3, 4, 16
SHAPE = (CLASSES, SIDE, SIDE)
BATCH = Batch(torch.arange(N), torch.arange(N))


def scores(side: int = SIDE) -> Tensor:
    return torch.randn(N, CLASSES, side, side).double()


def new(iterations: int = 0, **options: Any) -> Holistic:
    """Return a method in float64 whose attention is not 0 and whose power iterations went so far."""
    loss = Holistic(SHAPE, width=8, **options).double()
    for layer in loss.discriminator.modules():
        if isinstance(layer, SelfAttention):
            nn.init.normal_(layer.gamma)
    for _ in range(iterations):
        loss.discriminator.iterate()
    return loss


def judged(loss: Holistic, maps: Tensor) -> Tensor:
    """Return the discriminator's scores from its weights: spectral norms by the SVD, attention position by position."""
    d = loss.discriminator
    x = standardised(maps) * d.scale.view(-1, 1, 1) + d.shift.view(-1, 1, 1)
    for layer in d.layers:
        if isinstance(layer, SpectralConv):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
            x = conv2d(x, layer.weight / largest, layer.bias, stride=2, padding=1)
        elif isinstance(layer, SelfAttention):
            x = torch.stack([attended(layer, image) for image in x])
        elif isinstance(layer, nn.Conv2d):
            x = conv2d(x, layer.weight, layer.bias)
        else:
            x = torch.maximum(x, 0.1 * x)
    return x


def attended(layer: SelfAttention, image: Tensor) -> Tensor:
    vectors = image.flatten(1).T
    layers = ((x.weight[:, :, 0, 0], x.bias) for x in (layer.query, layer.key, layer.value))
    query, key, value = (vectors @ weight.T + (0 if bias is None else bias) for weight, bias in layers)
    weights = [(key @ asked).exp() for asked in query]
    means = [(w[:, None] * value).sum(0) / w.sum() for w in weights]
    return image + layer.gamma * torch.stack(means, dim=1).view_as(image)


def test_the_formula_and_the_gradient_of_every_term() -> None:
    """With spectral norms that have converged: value, the student's gradient and the discriminator's."""
    student, teacher = scores().requires_grad_(), scores()
    for objective in ("wgan-gp", "hinge"):
        loss = new(2000, objective=objective, penalty=3.0)
        found = loss.compare(of_logits(student), of_logits(teacher), None)["holistic"]
        expected = -judged(loss, student).mean()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        gradients = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)
        terms = loss.teacher_terms(of_logits(student), of_logits(teacher), BATCH, never)
        fake, real = judged(loss, student.detach()).flatten(), judged(loss, teacher).flatten()
        if objective == "hinge":
            by_hand = {"discriminator": ((1 - real).clamp_min(0).sum() + (1 + fake).clamp_min(0).sum()) / N}
        else:
            by_hand = {"discriminator": fake.mean() - real.mean(), "penalty": penalised(loss, student, teacher)}
        assert list(terms) == list(by_hand)
        own = loss.teacher_parameters()
        for name, value in by_hand.items():
            with case(objective, name):
                torch.testing.assert_close(terms[name], 0.1 * value, rtol=1e-8, atol=1e-10)
                both = [
                    torch.autograd.grad(x, own, materialize_grads=True, allow_unused=True) for x in (terms[name], value)
                ]
                torch.testing.assert_close(both[0], tuple(0.1 * g for g in both[1]), rtol=1e-6, atol=1e-8)


def penalised(loss: Holistic, student: Tensor, teacher: Tensor) -> Tensor:
    share = torch.rand(N, 1, 1, 1, generator=generator("mixtures", loss.seed, loss.steps)).double()
    mixed = (share * teacher + (1 - share) * student.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(judged(loss, mixed).sum(), mixed, create_graph=True)
    lengths = torch.stack([image.square().sum().sqrt() for image in slope])
    return 3.0 * ((lengths - 1) ** 2).mean()


def test_the_network_is_the_codes_and_smaller_for_small_maps() -> None:
    """65 x 65 positions of 19 classes: 64 to 512 channels, attention on 256 and 512, one number an image."""
    for side, widths, attention, left in (
        (65, [64, 128, 256, 512], [256, 512], 1), (33, [64, 128, 256], [128, 256], 1), (8, [64], [64], 1),
        (97, [64, 128, 256, 512], [256, 512], 3),
    ):  # fmt: skip
        with case(side):
            loss = Holistic((19, side, side))
            layers = [*loss.discriminator.layers]
            assert [layer.out_channels for layer in layers if isinstance(layer, SpectralConv)] == widths
            assert [x.value.in_channels for x in layers if isinstance(x, SelfAttention)] == attention
            with torch.no_grad():
                assert loss.discriminator(torch.randn(2, 19, side, side)).shape == (2, 1, left, left)
    count = sum(p.numel() for p in Holistic((19, 65, 65)).teacher_parameters())
    convolutions = sum(16 * a * b + b for a, b in ((19, 64), (64, 128), (128, 256), (256, 512), (512, 1)))
    assert count == 2 * 19 + convolutions + sum(2 * (c * c // 8 + c // 8) + c * c + c + 1 for c in (256, 512))


def test_remembering_alone_moves_its_state_and_the_draws() -> None:
    loss, outputs = new(), (of_logits(scores()), of_logits(scores()))
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    first, second = (loss.teacher_terms(*outputs, BATCH, never) for _ in range(2))
    assert first == second and all(torch.equal(x, before[name]) for name, x in loss.state_dict().items())
    loss.remember(*outputs, BATCH)
    moved = {name.split(".")[-1] for name, x in loss.state_dict().items() if not torch.equal(x, before[name])}
    assert moved == {"left", "right", "_extra_state"}
    third = loss.teacher_terms(*outputs, BATCH, never)
    assert not torch.isclose(first["penalty"], third["penalty"], rtol=1e-6)


def test_a_conditional_discriminator_sees_the_image() -> None:
    images, outputs = torch.rand(N, 2, 32, 48).double(), (of_logits(scores()), of_logits(scores(8)))
    loss = new(conditional=True, image_channels=2)
    assert loss.reads == ("logits", "image")
    value = loss(*outputs, BATCH._replace(images=images))
    seen = images.view(N, 2, 16, 2, 16, 3).mean((3, 5))
    assert outputs[0].logits is not None and outputs[1].logits is not None
    expected = -loss.discriminator(torch.cat([outputs[0].logits, seen], dim=1)).mean()
    torch.testing.assert_close(value, expected)
    assert not torch.isclose(loss(*outputs, BATCH._replace(images=images.flip(0))), value)
    found = loss.teacher_terms(*outputs, BATCH._replace(images=images), never)["discriminator"]
    resized = interpolate(outputs[1].logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    real = loss.discriminator(torch.cat([resized, seen], dim=1)).mean()
    torch.testing.assert_close(found, 0.1 * (-expected - real))


def test_structured_distillation_is_the_sum_of_its_parts() -> None:
    student, teacher = (
        Output(torch.zeros(N, 2), torch.randn(N, *SHAPE), maps=(torch.randn(N, 6, 4, 4),)) for _ in range(2)
    )
    pixel, pair = (method(student, teacher).item() for method in (Pixelwise(), Pairwise()))
    assert SKD()(student, teacher).item() == pytest.approx(pixel + 0.5 * pair, rel=1e-6)
    official = SKD(SHAPE, official=True)
    holistic = official.parts["holistic"]
    assert isinstance(holistic, Holistic) and official.weights == {"pixelwise": 10.0, "pairwise": 0.5, "holistic": 0.1}
    by_hand = 10 * Pixelwise(official=True)(student, teacher) + 0.5 * pair + 0.1 * holistic(student, teacher)
    assert official(student, teacher).item() == pytest.approx(by_hand.item(), rel=1e-6)
    parts = Sum({"skd": (2.0, official), "kd": (1.0, KD())}).summands()
    assert [(part.owner, part.weight, part.method.pointwise) for part in parts] == [
        ("skd_pixelwise", 20.0, False), ("skd_pairwise", 1.0, True), ("skd_holistic", 0.2, False), ("kd", 1.0, True)
    ]  # fmt: skip
    own = SKD(SHAPE, pixel_weight=2.0, pair_weight=0.0, holistic_weight=0.01)
    assert own.weights == {"pixelwise": 2.0, "holistic": 0.01}
    rates = Sum({"skd": (1.0, own)}).teacher_rates()
    assert {id(p) for p in rates} == {id(p) for p in own.teacher_parameters()} and {*rates.values()} == {4e-4}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_discriminator_of_half_precision(dtype: torch.dtype) -> None:
    loss, whole = new(iterations=3), [of_logits(scores()) for _ in range(2)]

    def terms(student: Output, teacher: Output) -> dict[str, Tensor]:
        return {**loss.terms(student, teacher), **loss.teacher_terms(student, teacher, BATCH, never)}

    expected = terms(*whole)
    loss.to(dtype)
    for student, teacher in (whole, [each.each(partial(Tensor.to, dtype=dtype)) for each in whole]):
        found = terms(student, teacher)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value.double(), expected[name], rtol=0.1, atol=0.05)
        gradients = torch.autograd.grad(found["penalty"], loss.teacher_parameters(), allow_unused=True)
        assert all(bool(each.isfinite().all()) for each in gradients if each is not None)


def test_what_they_refuse() -> None:
    run, x = RunFacts(2, 2, 2, scores=SHAPE, image=(3, 32, 32)), torch.randn(N, CLASSES)
    method: Method = Holistic.for_run(run, conditional=True)
    images = "a conditional Holistic sees the 3 images: expected Batch(..., images=(B, 3, h, w)) as the third argument"
    whole = "Holistic reads logits (B, classes, H, W): expected networks that segment, got logits (B, classes) of…"
    reads = "Holistic reads logits (N, classes, H, W) of student and teacher, got"
    maps = of_logits(scores())
    assert_refused(
        (partial(Holistic.for_run, RunFacts(2, 2, 2)), whole),
        (partial(SKD.for_run, RunFacts(2, 2, 2), holistic_weight=0.1), whole),
        (partial(new(), of_logits(x), of_logits(x)), f"{reads} (3, 4) and (3, 4)"),
        (partial(new(), maps, Output(torch.zeros(N, 2))), f"{reads} (3, 4, 16, 16) and none"),
        (partial(Holistic, (4, 16, 7)), "Holistic needs score maps of 8 x 8 positions or more, got (16, 7)"),
        (partial(Holistic, (4, 16)), "Holistic is built for score maps: expected (classes, h, w), got (4, 16)"),  # type: ignore[arg-type]
        (partial(new(), *(of_logits(scores()[:, :3]) for _ in range(2))),
         "Holistic was built for logits (B, 4, H, W), H and W at least 8, got (3, 3, 16, 16)"),
        (partial(Holistic, SHAPE, conditional=True),
         "a conditional Holistic sees images: expected image_channels, got 0"),
        (partial(method, maps, maps), f"{images}, got none"),
        (partial(method, maps, maps, BATCH._replace(images=x)), f"{images}, got (3, 4)"),
        (partial(SKD, pixel_weight=0.0, pair_weight=0.0), "a sum of methods needs at least one, got none"),
        (partial(SKD, pair_weight=math.nan), "pair_weight must be at least 0, got nan"),
    )  # fmt: skip
