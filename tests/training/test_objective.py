"""The objective against a hand-written formula, and who receives gradient from which term."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.graph.refine import SignedConv
from relgraph.methods import EGA, KD, Batch, Method
from relgraph.networks.heads import Head
from relgraph.networks.students import build_backbone
from relgraph.training.objective import Distiller
from relgraph.training.student import Student

N, DIM, CLASSES, WIDTH = 8, 6, 4, 5
LABELS = torch.tensor([0, 1, 2, 3, -1, 0, -1, 2])
METHODS: dict[str, Callable[[], Method]] = {
    "dense": EGA,
    "smooth": lambda: EGA(refine="smooth", dim=DIM),
    "conv": lambda: EGA(refine="conv", dim=DIM),
    "knn-conv": lambda: EGA(graph="knn", k=3, refine="conv", dim=DIM),
    "kd": lambda: KD(2.0),
}


def distiller(method: Method | None, *, teacher: bool = True, alpha: float = 0.0, **weights: float) -> Distiller:
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


def inputs() -> tuple[Tensor, Tensor, Batch]:
    images, feature = torch.randn(N, 1, 8, 8, dtype=torch.float64), torch.randn(N, WIDTH, dtype=torch.float64)
    return images, feature, Batch(torch.arange(N), LABELS)


def mean_log_loss(logits: Tensor) -> Tensor:
    """Return the cross-entropy over the images that have a label, image by image."""
    known = [i for i in range(N) if LABELS[i] >= 0]
    return torch.stack([logits[i].exp().sum().log() - logits[i, LABELS[i]] for i in known]).sum() / len(known)


def correlations(x: Tensor, y: Tensor) -> Tensor:
    return torch.corrcoef(torch.cat([x, y]))[:N, N:]


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


def close(found: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    """Return whether all gradients are there and agree, to what a cross-entropy in float32 leaves."""
    return all(
        a is not None and b is not None and torch.allclose(a, b, rtol=1e-5, atol=1e-7)
        for a, b in zip(found, expected, strict=True)
    )


def test_the_official_loss() -> None:
    """gamma * CE + alpha * KD + beta * (0.8 L_node + 0.24 L_edge), written out once more."""
    gamma, alpha, beta, temperature = 0.7, 0.9, 1.3, 3.0
    module = distiller(EGA(), gamma=gamma, alpha=alpha, beta=beta, temperature=temperature)
    images, feature, batch = inputs()
    losses = module(images, feature, batch)
    s, z = losses.student.embedding, losses.student.logits
    t, w = teacher_head(module)(feature)
    node = (correlations(s, t) - torch.eye(N)).square().sum().sqrt()
    edge = (correlations(s, s) - correlations(t, t)).square().sum().sqrt()
    p, q = (w / temperature).softmax(1), (z / temperature).softmax(1)
    kd = temperature**2 * (p * (p / q).log()).sum() / N
    expected = {
        "cross_entropy": gamma * mean_log_loss(z),
        "kd_of_logits": alpha * kd,
        "node": beta * 0.8 * node,
        "edge": beta * 0.24 * edge,
        "teacher_head": mean_log_loss(w),
    }
    assert list(losses.terms) == list(expected)
    for name, value in expected.items():
        # Cross-entropies are computed in float32.
        rtol = 1e-6 if name in ("cross_entropy", "teacher_head") else 1e-12
        torch.testing.assert_close(losses.terms[name].double(), value, rtol=rtol, atol=0)
    torch.testing.assert_close(losses.total, torch.stack(list(expected.values())).sum(), rtol=1e-6, atol=0)


def test_what_a_label_would_be_does_not_matter_where_it_is_unknown() -> None:
    module = distiller(EGA()).eval()
    images, feature, batch = inputs()
    known = (LABELS >= 0).nonzero().flatten()
    terms = module(images, feature, batch).terms
    alone = module(images[known], feature[known], Batch(known, LABELS[known])).terms
    torch.testing.assert_close(terms["cross_entropy"], alone["cross_entropy"])
    torch.testing.assert_close(terms["teacher_head"], alone["teacher_head"])
    assert terms["edge"] > alone["edge"], "unlabelled images are nodes like the others"


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_parted_between_the_two_optimisers(name: str) -> None:
    module = distiller(METHODS[name](), alpha=1.0)
    student, teacher = module.student_parameters(), list(module.teacher_parameters())
    ids = [id(parameter) for parameter in [*student, *teacher]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in module.parameters()}
    assert {id(p) for p in module.student.parameters()} <= {id(p) for p in student}
    names = {key.split(".", 1)[0] for key, p in module.named_parameters() if any(p is q for q in teacher)}
    assert names == ({"teacher_head", "method"} if "conv" in name else {"teacher_head"})


@pytest.mark.parametrize("name", METHODS)
def test_the_teachers_side_learns_from_its_own_cross_entropy_only(name: str) -> None:
    module = distiller(METHODS[name](), alpha=0.5)
    images, feature, batch = inputs()
    losses = module(images, feature, batch)
    own = list(module.teacher_parameters())
    head, method = teacher_head(module), module.method
    embedding, logits = head(feature)
    loss = cross_entropy(logits, LABELS, ignore_index=-1)
    if "conv" in name:
        # The teacher's nodes, moved by hand: own + neighbours of the signed mean over the chosen edges.
        assert isinstance(method, EGA) and method.refinement is not None
        conv = method.refinement.teacher
        assert isinstance(conv, SignedConv)
        weights = correlations(embedding, embedding) - torch.eye(N)
        if name == "knn-conv":
            chosen = weights.masked_fill(torch.eye(N, dtype=torch.bool), -2).topk(3).indices
            weights = weights * torch.zeros(N, N).scatter(1, chosen, 1)
        around = (weights / weights.abs().sum(1, keepdim=True)) @ embedding
        loss = loss + cross_entropy(
            head.classify(conv.own(embedding) + conv.neighbours(around)), LABELS, ignore_index=-1
        )
    found, expected = gradients(losses.total, own), gradients(loss, own)
    assert all(g is not None and g.any() for g in expected)
    assert close(found, expected)
    for term in [value for key, value in losses.terms.items() if key != "teacher_head"]:
        assert not any(g is not None and g.any() for g in gradients(term, own))


@pytest.mark.parametrize("name", METHODS)
def test_the_student_learns_from_its_own_terms_only(name: str) -> None:
    module = distiller(METHODS[name](), alpha=0.5)
    losses = module(*inputs())
    own = module.student_parameters()
    terms = torch.stack([value for key, value in losses.terms.items() if key != "teacher_head"]).sum()
    found = gradients(losses.total, own)
    assert close(found, gradients(terms, own))
    assert not any(g is not None and g.any() for g in gradients(losses.terms["teacher_head"], own))
    assert all(g is not None and g.isfinite().all() for g in found)


def test_every_term_of_the_method_reaches_the_students_backbone() -> None:
    module = distiller(EGA(refine="conv", dim=DIM), alpha=0.5)
    losses = module(*inputs())
    first = next(module.student.backbone.parameters())
    for key, term in losses.terms.items():
        (gradient,) = gradients(term, [first])
        assert (gradient is not None and bool(gradient.any())) == (key != "teacher_head"), key


def test_without_a_teacher_there_is_cross_entropy_alone() -> None:
    module = distiller(None, teacher=False, gamma=2.0)
    images, _, batch = inputs()
    losses = module(images, None, batch)
    assert list(losses.terms) == ["cross_entropy"] and losses.teacher is None
    torch.testing.assert_close(losses.total.double(), 2.0 * mean_log_loss(losses.student.logits), rtol=1e-6, atol=0)
    assert list(module.teacher_parameters()) == []


def test_kd_beside_no_method() -> None:
    losses = distiller(None, alpha=1.0)(*inputs())
    assert list(losses.terms) == ["cross_entropy", "kd_of_logits", "teacher_head"]


def test_degenerate_nodes_of_both_sides_are_counted() -> None:
    module = distiller(EGA())
    images, feature, batch = inputs()
    assert module(images, feature, batch).degenerate.item() == 0
    with torch.no_grad():
        teacher_head(module).project.bias.zero_()
        feature[:3] = 0  # a projection to a constant row
    assert module(images, feature, batch).degenerate.item() == 3
