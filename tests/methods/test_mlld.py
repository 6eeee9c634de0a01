"""MLLD against the authors' numbers for one view and for the sums of the release, and against loops."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from relgraph.methods import KD, MLLD
from relgraph.methods.mlld import PRODUCTS
from tests.methods.golden import check, logits, of_logits, values

WEIGHTS = ("instance", "batch", "class")


def only(term: str, weight: float = 1.0, temperature: float = 4.0, **options: bool) -> MLLD:
    """Return the method with one of its terms alone."""
    weights: dict[str, Any] = {f"{name}_weight": weight * (name == term) for name in WEIGHTS}
    return MLLD(temperature, **weights, **{"several": False, **options})


def loss_of(method: MLLD, pair: tuple[Tensor, Tensor]) -> Tensor:
    value: Tensor = method(*map(of_logits, pair))
    return value


def released(
    weak: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor], weight: float, first: float, standardise: bool
) -> dict[str, Tensor]:
    """Return the sums of the release, of its two views: masks are factors of 1/2, and two temperatures are mistaken."""
    labels = torch.arange(len(weak[0])) % 4
    given = (strong, first), (strong, 3.0), (strong, 5.0), (weak, 2.0), (weak, 6.0)
    instance = [loss_of(only("instance", 1.0, t, standardise=standardise), pair) for pair, t in given]

    def of_weak(term: str) -> Tensor:
        own = weight * getattr(MLLD(), f"{term}_weight")
        return loss_of(only(term, own, first, several=True, standardise=standardise), weak)

    return {
        "ce": 0.1 * (cross_entropy(weak[0], labels) + cross_entropy(strong[0], labels)),
        "kd": of_weak("instance") + weight * torch.stack(instance).sum(),
        "cc": of_weak("class"),
        "bc": of_weak("batch"),
    }


@pytest.mark.parametrize(
    "key",
    [
        "mlld_released_loss_ce", "mlld_released_loss_kd", "mlld_released_loss_cc", "mlld_released_loss_bc",
        "mlld_released_total", "lskd_mlkd_released_total",
    ],
)  # fmt: skip
def test_the_sums_of_the_release(key: str) -> None:
    weak, strong = logits(), logits(phase=0.5)

    def loss() -> Tensor:
        sums = released(weak, strong, *((9.0, 2.0, True) if "lskd" in key else (0.9, 4.0, False)))
        return torch.stack(list(sums.values())).sum() if key.endswith("total") else sums[key.rpartition("_")[2]]

    check(key, loss, {"weak": weak[0], "strong": strong[0]})


def test_a_loop_over_images_classes_and_temperatures() -> None:
    student, teacher = torch.randn(2, 5, 3).double()
    expected = dict.fromkeys(WEIGHTS, 0.0)
    for temperature in (1.5, 3, 5, 2, 6):
        s, t = ((z / temperature).softmax(1).tolist() for z in (student, teacher))
        for name, (a, b) in {"batch": (s, t), "class": (list(zip(*s)), list(zip(*t)))}.items():  # noqa: B905
            products = [[[sum(x * y for x, y in zip(p, q, strict=True)) for q in m] for p in m] for m in (a, b)]
            squares = [(x - y) ** 2 for p, q in zip(*products, strict=True) for x, y in zip(p, q, strict=True)]
            expected[name] += sum(squares) / len(a)
        expected["instance"] += KD(temperature)(of_logits(student), of_logits(teacher)).item()
    assert values(MLLD(1.5, 1, 1, 1).terms(of_logits(student), of_logits(teacher))) == pytest.approx(
        expected, rel=1e-10
    )


def test_many_images_are_compared_by_factors() -> None:
    """Of 40 images and 3 classes no matrix of images is built, with the same value."""
    pair = tuple(torch.randn(2, 40, 3).double())
    assert PRODUCTS.builder.form_of(*pair) == "factored"
    s, t = ((z / 4).softmax(1) for z in pair)
    expected = (s @ s.T - t @ t.T).square().sum() / 40
    torch.testing.assert_close(loss_of(only("batch"), (pair[0], pair[1])), expected, rtol=1e-10, atol=0)
