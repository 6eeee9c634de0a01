"""A batch that goes through the student in parts has the loss and the gradient of the batch in one part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.outputs import StepInputs, of_views
from relgraph.training.accumulation import in_parts
from relgraph.training.objective import Distiller, Losses, Stage
from relgraph.training.spread import labelled_cross_entropy
from tests.checks import case
from tests.training.test_over_processes import CASES, N, batches, distiller

Change = Callable[[nn.Module], nn.Module | None]


def replaced(module: nn.Module, change: Change) -> None:
    """Put other layers in the place of those that a function changes."""
    for name, child in module.named_children():
        new = change(child)
        if new is None:
            replaced(child, change)
        else:
            setattr(module, name, new)


def group_norm(layer: nn.Module) -> nn.Module | None:
    return nn.GroupNorm(1, layer.num_features).double() if isinstance(layer, nn.BatchNorm2d) else None


def made(name: str, change: Change = group_norm) -> Distiller:
    """Return a distiller in training mode whose student has no batch norm, unless another change is made."""
    module = distiller(CASES[name])
    replaced(module.student, change)
    return module.train()


def alone(given: StepInputs) -> StepInputs:
    """Return the inputs without their extra views."""
    assert given.teacher is not None
    return given._replace(extra=None, teacher=given.teacher._replace(extra=None))


def backward_in_parts(module: Distiller, given: StepInputs, parts: int, stage: Stage = "both") -> Losses:
    losses = module.losses(in_parts(module.student, given.images, given.extra, parts), given, stage)
    torch.autograd.backward(losses.total)
    return losses


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_the_graph_spans_all_parts() -> None:
    for name in CASES:
        with case(name):
            check(name)


def check(name: str) -> None:
    one = made(name)
    torch.manual_seed(4)
    expected: Losses = one(next(batches()))
    torch.autograd.backward(expected.total)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in gradients(one).values())
    for parts in (3, *((2, N) if name in ("sum", "sskd") else ())):
        other = made(name)
        torch.manual_seed(4)
        found = backward_in_parts(other, next(batches()), parts)
        torch.testing.assert_close({**found.terms, **found.teacher_terms}, {**expected.terms, **expected.teacher_terms})
        torch.testing.assert_close(found.student.embedding, expected.student.embedding)
        torch.testing.assert_close(found.student.extra, expected.student.extra)
        assert gradients(other).keys() == gradients(one).keys()
        for parameter, gradient in gradients(one).items():
            scale = max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(gradients(other)[parameter], gradient, rtol=1e-9, atol=1e-11 * scale)


def test_what_is_random_is_drawn_alike_both_times() -> None:
    def dropout(layer: nn.Module) -> nn.Module | None:
        return nn.Dropout(0.5) if isinstance(layer, nn.BatchNorm2d) else None

    def loss(*given: Any) -> Tensor:
        return labelled_cross_entropy(*given) * torch.rand(())

    one, other, given = made("ega", dropout), made("ega", dropout), alone(next(batches()))
    for module in (one, other):
        module.label_loss = loss
    torch.manual_seed(5)
    outputs = [of_views(one.student, images, None) for images in given.images.chunk(3)]
    joined = outputs[0].filled(map(torch.cat, zip(*(output.tensors() for output in outputs), strict=True)))
    expected = one.losses(joined, given)
    torch.autograd.backward(expected.total)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    found = backward_in_parts(other, given, 3)
    torch.testing.assert_close(found.total, expected.total)
    torch.testing.assert_close(gradients(other), gradients(one), rtol=1e-9, atol=1e-11)
    assert torch.equal(torch.get_rng_state(), after), "as if the student had spoken once"


def test_running_statistics_see_each_part_once() -> None:
    one, other, given = made("ega", lambda layer: None), made("ega", lambda layer: None), next(batches())
    with torch.no_grad():
        for images in given.images.chunk(4):
            one.student(images)
    backward_in_parts(other, alone(given), 4)
    torch.testing.assert_close(dict(other.student.named_buffers()), dict(one.student.named_buffers()))


def test_what_nothing_teaches_has_no_gradient() -> None:
    """A method in its own stage does not teach the classifier."""
    module = made("rkd")
    backward_in_parts(module, next(batches()), 2, "method")
    assert "student.backbone.layers.0.0.weight" in gradients(module)
    assert not {"student.head.project.weight", "student.head.classify.weight"} & gradients(module).keys()
