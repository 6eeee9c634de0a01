"""The objective against a hand-written formula, and who receives gradient from which term."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.graph.refine import Refinement, SignedConv
from relgraph.methods import EGA, KD, SP, Batch, Method, Output, Sum, Views
from relgraph.names import build_backbone
from relgraph.networks.heads import Head, Student
from relgraph.outputs import StepInputs, bare, of_views
from relgraph.training.objective import Distiller, Losses, Stage

N, DIM, CLASSES, WIDTH = 8, 6, 4, 5
LABELS = torch.tensor([0, 1, 2, 3, -1, 0, -1, 2])
METHODS: dict[str, Callable[[], Method]] = {
    "dense": EGA,
    "smooth": lambda: EGA(refinement=Refinement("smooth", DIM)),
    "conv": lambda: EGA(refinement=Refinement("conv", DIM)),
    "knn-conv": lambda: EGA(graph="knn", k=3, refinement=Refinement("conv", DIM)),
    "kd": lambda: KD(2.0),
    "sum-conv": lambda: Sum(
        {"ega": (0.5, EGA(refinement=Refinement("conv", DIM))), "sp": (3.0, SP()), "kd": (0.9, KD(2.0))}
    ),
}


def distiller(method: Method | None, *, teacher: bool = True, alpha: float = 0.0, **weights: Any) -> Distiller:
    """Return a small one in float64, its refinements moved away from the identity at which they start."""
    student = Student(build_backbone("resnet8", 1), DIM, CLASSES)
    head = Head(WIDTH, DIM, CLASSES) if teacher else None
    module = Distiller(student, head, method, alpha=alpha, head_fixed=False, **weights).double()
    if method is not None:
        for parameter in method.parameters():
            nn.init.normal_(parameter, std=0.5)
    return module


def teacher_head(module: Distiller) -> Head:
    assert module.teacher_head is not None
    return module.teacher_head


def inputs(labels: Tensor = LABELS) -> StepInputs:
    """Return images, the outputs of a teacher of two stages for them, and the batch."""
    images, feature = torch.randn(N, 1, 8, 8, dtype=torch.float64), torch.randn(N, WIDTH, dtype=torch.float64)
    maps = tuple(torch.randn(N, 3, side, side, dtype=torch.float64) for side in (4, 2))
    return StepInputs(images, Batch(torch.arange(N), labels), bare(feature)._replace(maps=maps))


def feature_of(given: StepInputs) -> Tensor:
    """Return the teacher's feature."""
    assert given.teacher is not None and given.teacher.feature is not None
    return given.teacher.feature


def mean_log_loss(logits: Tensor) -> Tensor:
    """Return the cross-entropy over the images that have a label, image by image."""
    known = [i for i in range(N) if LABELS[i] >= 0]
    return torch.stack([logits[i].exp().sum().log() - logits[i, LABELS[i]] for i in known]).sum() / len(known)


def correlations(x: Tensor, y: Tensor) -> Tensor:
    return torch.corrcoef(torch.cat([x, y]))[:N, N:]


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Return the gradient for each parameter, 0 where there is none."""
    return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)


def first_of(module: Distiller) -> nn.Parameter:
    """Return the first parameter of the student's backbone."""
    return next(module.student.backbone.parameters())


close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def test_the_official_loss() -> None:
    """gamma * CE + alpha * KD + beta * (0.8 L_node + 0.24 L_edge), written out once more."""
    gamma, alpha, beta, temperature = 0.7, 0.9, 1.3, 3.0
    module = distiller(Sum({"ega": (beta, EGA())}), gamma=gamma, alpha=alpha, temperature=temperature)
    given = inputs()
    losses = module(given)
    s, z = losses.student.embedding, losses.student.logits
    t, w = teacher_head(module)(feature_of(given))
    node = (correlations(s, t) - torch.eye(N)).square().sum().sqrt()
    edge = (correlations(s, s) - correlations(t, t)).square().sum().sqrt()
    p, q = (w / temperature).softmax(1), (z / temperature).softmax(1)
    kd = temperature**2 * (p * (p / q).log()).sum() / N
    expected = {
        "cross_entropy": gamma * mean_log_loss(z),
        "kd_of_logits": alpha * kd,
        "node": beta * 0.8 * node,
        "edge": beta * 0.24 * edge,
    }
    of_teacher = mean_log_loss(w)
    assert list(losses.terms) == list(expected) and list(losses.teacher_terms) == ["teacher_head"]
    for name, value in expected.items():
        torch.testing.assert_close(losses.terms[name], value, rtol=1e-10, atol=0)
    torch.testing.assert_close(losses.teacher_terms["teacher_head"], of_teacher, rtol=1e-10, atol=0)
    total = torch.stack([*expected.values(), of_teacher]).sum()
    torch.testing.assert_close(losses.total, total, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_each_parameter_learns_from_the_terms_of_its_side_alone(name: str) -> None:
    """The teacher's by its own cross-entropy, written out, the student's by its own terms, and none by both."""
    module, given = distiller(METHODS[name](), alpha=0.5), inputs()
    losses = module(given)
    student, own, head = module.student_parameters(), list(module.teacher_parameters()), teacher_head(module)
    ids = [id(parameter) for parameter in [*student, *own]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in module.parameters()}
    assert {id(p) for p in module.student.parameters()} <= {id(p) for p in student}
    embedding, logits = head(feature_of(given))
    loss = cross_entropy(logits, LABELS, ignore_index=-1)
    if "conv" in name:
        # The teacher's nodes, moved by hand: own + neighbours of the signed mean over the chosen edges.
        method = module.method.parts["ega"] if isinstance(module.method, Sum) else module.method
        assert isinstance(method, EGA) and method.refinement is not None
        conv = method.refinement.teacher
        assert isinstance(conv, SignedConv)
        weights = correlations(embedding, embedding) - torch.eye(N)
        if name == "knn-conv":
            chosen = weights.masked_fill(torch.eye(N, dtype=torch.bool), -2).topk(3).indices
            weights = weights * torch.zeros(N, N).scatter(1, chosen, 1)
        around = (weights / weights.abs().sum(1, keepdim=True)) @ embedding
        moved = head.classify(conv.own(embedding) + conv.neighbours(around))
        loss = loss + cross_entropy(moved, LABELS, ignore_index=-1)
    names = {"conv": ["teacher_refined"], "knn-conv": ["teacher_refined"], "sum-conv": ["teacher_ega_refined"]}
    assert list(losses.teacher_terms) == ["teacher_head", *names.get(name, [])]
    assert all(g.any() for g in gradients(loss, own))
    close(gradients(losses.total, own), gradients(loss, own))
    close(gradients(losses.total, student), gradients(torch.stack(list(losses.terms.values())).sum(), student))
    assert all(g.isfinite().all() for g in gradients(losses.total, student))
    assert all(gradients(term, [first_of(module)])[0].any() for term in losses.terms.values())
    for terms, others in ((losses.terms, own), (losses.teacher_terms, student)):
        assert not any(g.any() for term in terms.values() for g in gradients(term, others))


def test_a_batch_without_any_label() -> None:
    """What is learned from labels is 0 and sends no gradient; the method learns as ever."""
    for make in METHODS.values():
        module = distiller(make())
        losses = module(inputs(torch.full((N,), -1)))
        assert losses.terms["cross_entropy"] == 0 and losses.total.isfinite()
        assert all(term == 0 for term in losses.teacher_terms.values())
        of_first, *of_head = gradients(losses.total, [first_of(module), *teacher_head(module).parameters()])
        assert of_first.any() and not any(gradient.any() for gradient in of_head)
        assert all(gradient.isfinite().all() for gradient in gradients(losses.total, [*module.parameters()]))


def test_without_a_teacher_there_is_cross_entropy_alone_and_kd_may_stand_beside_no_method() -> None:
    module, given = distiller(None, teacher=False, gamma=2.0), inputs()
    losses = module(given._replace(teacher=None))
    assert list(losses.terms) == ["cross_entropy"] and losses.teacher is None and not losses.teacher_terms
    torch.testing.assert_close(losses.total, 2.0 * mean_log_loss(losses.student.logits), rtol=1e-10, atol=0)
    assert list(module.teacher_parameters()) == []
    losses = distiller(None, alpha=1.0)(given)
    assert list(losses.terms) == ["cross_entropy", "kd_of_logits"] and list(losses.teacher_terms) == ["teacher_head"]


def test_stages_part_what_the_student_learns_from() -> None:
    """A gradient of 0 would let momentum and weight decay move the classifier while the method trains alone."""
    given, stages, order = inputs(), dict[Stage, Losses](), tuple[Stage, ...](("both", "method", "labels"))
    start = distiller(SP(), alpha=0.5)
    for stage in order:
        module = deepcopy(start)
        stages[stage] = module(given, stage)
        torch.autograd.backward(stages[stage].total)
        assert all((parameter.grad is None) == (stage == "method") for parameter in module.student.head.parameters())
        gradient = first_of(module).grad
        assert gradient is not None and gradient.any()
        assert all(parameter.grad is not None for parameter in module.teacher_parameters())
    both, method, labels = stages.values()
    assert list(both.terms) == list(method.terms) == ["cross_entropy", "kd_of_logits", "sp"]
    zero = torch.zeros((), dtype=torch.float64)
    assert method.terms == {"cross_entropy": zero, "kd_of_logits": zero, "sp": both.terms["sp"]}
    assert labels.terms == {name: both.terms[name] for name in ("cross_entropy", "kd_of_logits")}
    assert both.teacher_terms == method.teacher_terms == labels.teacher_terms


def test_a_method_is_computed_in_its_stages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 times infinity is not a number: after its stage the teacher's maps may be infinite."""
    module, given = distiller(SP(), alpha=0.5), inputs()
    assert list(module(given, "method").terms) == ["cross_entropy", "kd_of_logits", "sp"]
    assert given.teacher is not None
    far = given._replace(teacher=given.teacher._replace(maps=tuple(stage * math.inf for stage in given.teacher.maps)))
    with monkeypatch.context() as patch:
        patch.setattr(SP, "compare_pair", lambda *_: pytest.fail("computed after its stage"))
        losses = module(far, "labels")
    assert list(losses.terms) == ["cross_entropy", "kd_of_logits"]
    torch.autograd.backward(losses.total)
    assert losses.terms["cross_entropy"] > 0 and losses.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert not module(far, "both").total.isfinite(), "else this test could not fail"


def test_degenerate_nodes_of_both_sides_are_counted() -> None:
    module, given = distiller(EGA()), inputs()
    assert module(given).degenerate.item() == 0
    with torch.no_grad():
        teacher_head(module).get_parameter("project.bias").zero_()
        feature_of(given)[:3] = 0  # a projection to a constant row
    assert module(given).degenerate.item() == 3


V = 2  # extra views of each image


class Asking(Method):
    """Keeps what it was given, of a method that asks for extra views."""

    views = Views("patches", V)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        self.given = student, teacher
        assert student.extra is not None and teacher.extra is not None
        return {"asking": (student.extra.embedding - teacher.extra.embedding).square().mean()}


def with_views(given: StepInputs, views: int, side: int) -> tuple[StepInputs, Tensor]:
    """Return inputs with extra views of all images, and the teacher's feature for these."""
    feature = torch.randn(views * N, WIDTH, dtype=torch.float64)
    extra = torch.randn(views * N, 1, side, side, dtype=torch.float64)
    assert given.teacher is not None
    return given._replace(extra=extra, teacher=given.teacher._replace(extra=bare(feature))), feature


@pytest.mark.parametrize("side", [8, 4])
def test_extra_views_teach_the_student_and_not_the_teacher(side: int) -> None:
    """Both sides have their outputs, the teacher's with those of its head, and no maps of them leave the loss."""
    method = Asking()
    module, (given, feature) = distiller(method), with_views(inputs(), V, side)
    expected = of_views(deepcopy(module.student), given.images, given.extra)
    losses = module(given)
    student, teacher = method.given
    assert expected.extra is not None and student.extra is not None and teacher.extra is not None
    close(student, expected)
    embedding, logits = teacher_head(module)(feature)
    torch.testing.assert_close(teacher.extra, Output(embedding, logits, feature))
    torch.testing.assert_close(teacher.embedding, teacher_head(module)(feature_of(given))[0])
    assert given.teacher is not None
    torch.testing.assert_close(teacher.maps, given.teacher.maps, rtol=0, atol=0)
    asking = (expected.extra.embedding - embedding).square().mean()
    torch.testing.assert_close(losses.terms["asking"], asking, rtol=1e-10, atol=0)
    assert expected.logits is not None
    by_labels = mean_log_loss(expected.logits)
    torch.testing.assert_close(losses.terms["cross_entropy"], by_labels, rtol=1e-10, atol=0)
    for kept, shown in ((losses.student, student.extra), (losses.teacher, teacher.extra)):
        assert kept.maps == kept.extra.maps == () and torch.equal(kept.extra.embedding, shown.embedding)
        assert not kept.embedding.requires_grad and not kept.extra.embedding.requires_grad
    assert gradients(losses.terms["asking"], [first_of(module)])[0].any()
    assert not any(g.any() for g in gradients(losses.terms["asking"], list(module.teacher_parameters())))
    alone = cross_entropy(teacher_head(module)(feature_of(given))[1], LABELS, ignore_index=-1)
    torch.testing.assert_close(losses.teacher_terms, {"teacher_head": alone}, rtol=1e-10, atol=0)


class Looking(Asking):
    views: Any = None
    reads = ("embedding", "image")

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        assert batch is not None and batch.images is not None
        return {"looking": (student.embedding - batch.images.flatten(1)[:, :DIM]).square().mean()}


def test_a_method_that_reads_images_is_shown_those_that_the_student_reads() -> None:
    module, given = distiller(Looking()), inputs()
    losses = module(given)
    expected = (losses.student.embedding - given.images.flatten(1)[:, :DIM]).square().mean()
    torch.testing.assert_close(losses.terms["looking"].detach(), expected)
    assert given.batch.images is None and not distiller(EGA()).shows_images


def test_labels_of_no_weight_have_no_part() -> None:
    """No gradient of 0 either, by which weight decay would move the classifier, nor 0 times infinity."""
    module, given = distiller(EGA(), gamma=0.0), inputs()
    with torch.no_grad():
        module.student.head.classify.weight[0] = math.inf
    losses = module(given)
    assert losses.terms["cross_entropy"] == 0 < losses.terms["node"] and losses.total.isfinite()
    torch.autograd.backward(losses.total)
    assert all(parameter.grad is None for parameter in module.student.head.classify.parameters())
    gradient = first_of(module).grad
    assert gradient is not None and gradient.any() and gradient.isfinite().all()
