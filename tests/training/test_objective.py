"""The objective against a hand-written formula, and who receives gradient from which term."""

import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.graph.pair import Pair
from relgraph.graph.refine import Refinement, SignedConv
from relgraph.methods import EGA, KD, SP, SSKD, Batch, Method, Output, Sum, Views
from relgraph.names import build_backbone
from relgraph.networks.heads import Head
from relgraph.networks.student import Student
from relgraph.networks.teachers import Features
from relgraph.training.inputs import StepInputs
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


def inputs() -> tuple[Tensor, Features, Batch]:
    """Return images, what a teacher of two stages saw in them, and the batch."""
    images, feature = torch.randn(N, 1, 8, 8, dtype=torch.float64), torch.randn(N, WIDTH, dtype=torch.float64)
    maps = tuple(torch.randn(N, 3, side, side, dtype=torch.float64) for side in (4, 2))
    return images, Features(feature, maps), Batch(torch.arange(N), LABELS)


def mean_log_loss(logits: Tensor) -> Tensor:
    """Return the cross-entropy over the images that have a label, image by image."""
    known = [i for i in range(N) if LABELS[i] >= 0]
    return torch.stack([logits[i].exp().sum().log() - logits[i, LABELS[i]] for i in known]).sum() / len(known)


def correlations(x: Tensor, y: Tensor) -> Tensor:
    return torch.corrcoef(torch.cat([x, y]))[:N, N:]


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


def close(found: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    """Return whether all gradients are there and agree."""
    return all(
        a is not None and b is not None and torch.allclose(a, b, rtol=1e-10, atol=1e-12)
        for a, b in zip(found, expected, strict=True)
    )


def test_the_official_loss() -> None:
    """gamma * CE + alpha * KD + beta * (0.8 L_node + 0.24 L_edge), written out once more."""
    gamma, alpha, beta, temperature = 0.7, 0.9, 1.3, 3.0
    module = distiller(Sum({"ega": (beta, EGA())}), gamma=gamma, alpha=alpha, temperature=temperature)
    images, seen, batch = inputs()
    losses = module(StepInputs(images, seen, batch))
    s, z = losses.student.embedding, losses.student.logits
    t, w = teacher_head(module)(seen.pooled)
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


def test_the_weights_of_a_sum_are_those_of_the_loss() -> None:
    ega, sp = EGA(), SP()
    module = distiller(Sum({"ega": (0.5, ega), "sp": (3.0, sp)}))
    images, seen, batch = inputs()
    losses = module(StepInputs(images, seen, batch))
    student, head = module.student(images), teacher_head(module)
    teacher = Output(head(seen.pooled)[0], feature=seen.pooled, maps=seen.maps)
    expected = {f"ega_{name}": 0.5 * term for name, term in ega.terms(student, teacher).items()}
    expected["sp"] = 3.0 * sp(student, teacher)
    found = {name: term for name, term in losses.terms.items() if name != "cross_entropy"}
    torch.testing.assert_close(found, expected)
    flat = [maps[-1].flatten(1) for maps in (student.maps, seen.maps)]
    gram = [(x @ x.T) / (x @ x.T).norm(dim=1, keepdim=True) for x in flat]
    torch.testing.assert_close(expected["sp"], 3.0 * (gram[0] - gram[1]).square().mean())


def test_no_map_leaves_it() -> None:
    losses = distiller(SP())(StepInputs(*inputs()))
    assert losses.student.maps == losses.teacher.maps == ()
    assert losses.student.feature is not None and losses.teacher.feature is not None


def test_what_a_label_would_be_does_not_matter_where_it_is_unknown() -> None:
    module = distiller(EGA()).eval()
    images, seen, batch = inputs()
    known = (LABELS >= 0).nonzero().flatten()
    both = module(StepInputs(images, seen, batch))
    alone = module(StepInputs(images[known], Features(seen.pooled[known]), Batch(known, LABELS[known])))
    torch.testing.assert_close(both.terms["cross_entropy"], alone.terms["cross_entropy"])
    torch.testing.assert_close(both.teacher_terms, alone.teacher_terms)
    assert both.terms["edge"] > alone.terms["edge"], "unlabelled images are nodes like the others"


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_any_label(name: str) -> None:
    """What is learned from labels is 0 and sends no gradient; the method learns as ever."""
    module = distiller(METHODS[name]())
    images, seen, _ = inputs()
    losses = module(StepInputs(images, seen, Batch(torch.arange(N), torch.full((N,), -1))))
    assert losses.terms["cross_entropy"] == 0 and losses.total.isfinite()
    assert all(term == 0 for term in losses.teacher_terms.values())
    for parameter in module.parameters():
        (gradient,) = torch.autograd.grad(losses.total, parameter, retain_graph=True, allow_unused=True)
        assert gradient is None or gradient.isfinite().all()
    found = gradients(losses.total, [next(module.student.backbone.parameters()), *teacher_head(module).parameters()])
    assert found[0] is not None and found[0].any()
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


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
    images, seen, batch = inputs()
    losses = module(StepInputs(images, seen, batch))
    own = list(module.teacher_parameters())
    head = teacher_head(module)
    embedding, logits = head(seen.pooled)
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
        loss = loss + cross_entropy(
            head.classify(conv.own(embedding) + conv.neighbours(around)), LABELS, ignore_index=-1
        )
    found, expected = gradients(losses.total, own), gradients(loss, own)
    assert all(g is not None and g.any() for g in expected)
    assert close(found, expected)
    names = {"conv": ["teacher_refined"], "knn-conv": ["teacher_refined"], "sum-conv": ["teacher_ega_refined"]}
    assert list(losses.teacher_terms) == ["teacher_head", *names.get(name, [])]
    for term in losses.terms.values():
        assert not any(g is not None and g.any() for g in gradients(term, own))


@pytest.mark.parametrize("name", METHODS)
def test_the_student_learns_from_its_own_terms_only(name: str) -> None:
    module = distiller(METHODS[name](), alpha=0.5)
    losses = module(StepInputs(*inputs()))
    own = module.student_parameters()
    found = gradients(losses.total, own)
    assert close(found, gradients(torch.stack(list(losses.terms.values())).sum(), own))
    for term in losses.teacher_terms.values():
        assert not any(g is not None and g.any() for g in gradients(term, own))
    assert all(g is not None and g.isfinite().all() for g in found)


def test_every_term_of_the_method_reaches_the_students_backbone() -> None:
    module = distiller(EGA(refinement=Refinement("conv", DIM)), alpha=0.5)
    losses = module(StepInputs(*inputs()))
    first = next(module.student.backbone.parameters())
    for key, term in {**losses.terms, **losses.teacher_terms}.items():
        (gradient,) = gradients(term, [first]) if term.requires_grad else (None,)
        assert (gradient is not None and bool(gradient.any())) == (key in losses.terms), key


def test_without_a_teacher_there_is_cross_entropy_alone() -> None:
    module = distiller(None, teacher=False, gamma=2.0)
    images, _, batch = inputs()
    losses = module(StepInputs(images, None, batch))
    assert list(losses.terms) == ["cross_entropy"] and losses.teacher is None and not losses.teacher_terms
    torch.testing.assert_close(losses.total, 2.0 * mean_log_loss(losses.student.logits), rtol=1e-10, atol=0)
    assert list(module.teacher_parameters()) == []


def test_kd_beside_no_method() -> None:
    losses = distiller(None, alpha=1.0)(StepInputs(*inputs()))
    assert list(losses.terms) == ["cross_entropy", "kd_of_logits"] and list(losses.teacher_terms) == ["teacher_head"]


def staged(stage: Stage, images: Tensor, seen: Features, batch: Batch, alpha: float = 0.5) -> tuple[Distiller, Losses]:
    torch.manual_seed(1)
    module = distiller(SP(), alpha=alpha)
    return module, module(StepInputs(images, seen, batch), stage)


def test_stages_part_what_the_student_learns_from() -> None:
    given = inputs()
    stages: tuple[Stage, ...] = ("both", "method", "labels")
    both, method, labels = (staged(stage, *given)[1] for stage in stages)
    assert list(both.terms) == list(method.terms) == ["cross_entropy", "kd_of_logits", "sp"]
    zero = torch.zeros((), dtype=torch.float64)
    assert method.terms == {"cross_entropy": zero, "kd_of_logits": zero, "sp": both.terms["sp"]}
    assert labels.terms == {name: both.terms[name] for name in ("cross_entropy", "kd_of_logits")}
    assert both.teacher_terms == method.teacher_terms == labels.teacher_terms


class Counting(SP):
    """Counts how often it is computed."""

    calls = 0

    def compare_pair(
        self, pair: Pair | None, student: Output, teacher: Output, batch: Batch | None
    ) -> dict[str, Tensor]:
        self.calls += 1
        return super().compare_pair(pair, student, teacher, batch)


def test_a_method_that_had_its_stage_is_not_computed() -> None:
    method = Counting()
    module, given = distiller(method, alpha=0.5), StepInputs(*inputs())
    assert list(module(given, "method").terms) == ["cross_entropy", "kd_of_logits", "counting"]
    for _ in range(2):
        losses = module(given, "labels")
        assert method.calls == 1 and list(losses.terms) == ["cross_entropy", "kd_of_logits"]
        assert losses.terms["cross_entropy"] > 0
    assert module(given, "both").terms["counting"] > 0 and method.calls == 2


def test_a_run_that_goes_on_after_the_stage_never_computes_the_method() -> None:
    method = Counting()
    module, given = distiller(method), StepInputs(*inputs())
    for _ in range(3):
        losses = module(given, "labels")
        assert method.calls == 0 and list(losses.terms) == ["cross_entropy"]


@pytest.mark.parametrize(("stage", "reached"), [("both", True), ("method", False), ("labels", True)])
def test_what_waits_gets_no_gradient_so_that_no_optimiser_touches_it(stage: Stage, reached: bool) -> None:
    """A gradient of 0 would let momentum and weight decay move the classifier while the method trains alone."""
    module, losses = staged(stage, *inputs())
    torch.autograd.backward(losses.total)
    assert all((parameter.grad is not None) == reached for parameter in module.student.head.parameters())
    first = next(module.student.backbone.parameters())
    assert first.grad is not None and first.grad.any()
    assert all(parameter.grad is not None for parameter in module.teacher_parameters())


def test_a_term_that_waits_does_no_harm() -> None:
    """0 times infinity is not a number: the teacher's maps are infinite, and the labels are learned."""
    images, seen, batch = inputs()
    far = Features(seen.pooled, tuple(stage * math.inf for stage in seen.maps))
    module, losses = staged("labels", images, far, batch)
    torch.autograd.backward(losses.total)
    assert "sp" not in losses.terms and losses.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert not staged("both", images, far, batch)[1].total.isfinite(), "else this test could not fail"


def test_degenerate_nodes_of_both_sides_are_counted() -> None:
    module = distiller(EGA())
    images, seen, batch = inputs()
    assert module(StepInputs(images, seen, batch)).degenerate.item() == 0
    with torch.no_grad():
        teacher_head(module).project.bias.zero_()
        seen.pooled[:3] = 0  # a projection to a constant row
    assert module(StepInputs(images, seen, batch)).degenerate.item() == 3


V = 2  # extra views of each image


class Asking(Method):
    """Keeps what it was given, of a method that asks for extra views."""

    views = Views("patches", V)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        self.given = student, teacher
        assert student.extra is not None and teacher.extra is not None
        return {"asking": (student.extra.embedding - teacher.extra.embedding).square().mean()}


def extra_views(side: int) -> tuple[Tensor, Features]:
    """Return two extra views of all images, and what a teacher of one stage saw in them."""
    feature = torch.randn(V * N, WIDTH, dtype=torch.float64)
    return torch.randn(V * N, 1, side, side, dtype=torch.float64), Features(feature, (feature[:, :, None, None],))


def batches_seen(module: Distiller) -> set[int]:
    """Return how many batches each batch norm of the student has seen."""
    return {int(x) for name, x in module.student.named_buffers() if name.endswith("num_batches_tracked")}


def both_passes(module: Distiller, images: Tensor, extra: Tensor) -> tuple[Output, Output]:
    """Return what a copy of the student says of images and extra views, views of one size in one batch."""
    student = deepcopy(module.student)
    if images.shape[1:] != extra.shape[1:]:
        return student(images), student(extra)
    both: Output = student(torch.cat([images, extra]))
    assert both.logits is not None and both.feature is not None
    first, rest = (
        Output(both.embedding[rows], both.logits[rows], both.feature[rows], tuple(stage[rows] for stage in both.maps))
        for rows in (slice(0, N), slice(N, N + V * N))
    )
    return first, rest


@pytest.mark.parametrize(("side", "passes"), [(8, 1), (4, 2)])
def test_extra_views_of_one_size_share_a_batch_with_the_images(side: int, passes: int) -> None:
    """They then share the statistics of batch norm, as in SSKD's official code; small patches have their own."""
    method = Asking()
    module, (images, seen, batch), (extra, extra_teacher) = distiller(method), inputs(), extra_views(side)
    first, rest = both_passes(module, images, extra)
    losses = module(StepInputs(images, seen, batch, extra, extra_teacher))
    assert batches_seen(module) == {passes}
    student, teacher = method.given
    assert student.extra is not None and teacher.extra is not None
    torch.testing.assert_close(student._replace(extra=None), first, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(student.extra, rest._replace(maps=()), rtol=1e-10, atol=1e-12)
    embedding, logits = teacher_head(module)(extra_teacher.pooled)
    torch.testing.assert_close(teacher.extra, Output(embedding, logits, extra_teacher.pooled))
    torch.testing.assert_close(teacher.embedding, teacher_head(module)(seen.pooled)[0])
    torch.testing.assert_close(teacher.maps, seen.maps, rtol=0, atol=0)
    assert teacher.extra.maps == student.extra.maps == ()
    expected = (rest.embedding - embedding).square().mean()
    torch.testing.assert_close(losses.terms["asking"], expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(losses.terms["cross_entropy"], mean_log_loss(logits_of(first)), rtol=1e-10, atol=0)
    for kept, given in ((losses.student, student.extra), (losses.teacher, teacher.extra)):
        assert kept.maps == () and torch.equal(kept.extra.embedding, given.embedding)


def logits_of(output: Output) -> Tensor:
    assert output.logits is not None
    return output.logits


def test_extra_views_change_the_statistics_of_the_images_batch() -> None:
    module, (images, seen, batch), (extra, extra_teacher) = distiller(Asking()), inputs(), extra_views(8)
    beside = module(StepInputs(images, seen, batch, extra, extra_teacher)).student
    alone = deepcopy(module.student)(images)
    assert not torch.allclose(beside.logits, alone.logits), "else the test before this one could not fail"


@pytest.mark.parametrize("side", [8, 4])
def test_extra_views_teach_the_student_and_not_the_teacher(side: int) -> None:
    module, (images, seen, batch), (extra, extra_teacher) = distiller(Asking()), inputs(), extra_views(side)
    losses = module(StepInputs(images, seen, batch, extra, extra_teacher))
    first = next(module.student.backbone.parameters())
    assert all(g is not None and g.any() for g in gradients(losses.terms["asking"], [first]))
    assert not any(g is not None for g in gradients(losses.terms["asking"], list(module.teacher_parameters())))
    alone = cross_entropy(teacher_head(module)(seen.pooled)[1], LABELS, ignore_index=-1)
    torch.testing.assert_close(losses.teacher_terms, {"teacher_head": alone}, rtol=1e-10, atol=0)


def test_a_method_that_asks_for_rotations_is_what_it_is_alone() -> None:
    """SSKD beside 0.1 of the cross-entropy, as its authors have it."""
    method = SSKD(64, WIDTH, nn.Linear(WIDTH, WIDTH).double(), temperature=3.0).double()
    module = distiller(method, gamma=0.1)
    images, seen, batch = inputs()
    extra, feature = torch.randn(3 * N, 1, 8, 8).double(), torch.randn(3 * N, WIDTH).double()
    student: Output = deepcopy(module.student)(torch.cat([images, extra]))
    losses = module(StepInputs(images, seen, batch, extra, Features(feature)))
    head, z, x = teacher_head(module), logits_of(student), student.feature
    assert x is not None
    rest = Output(student.embedding[N:], z[N:], x[N:])
    taught, extra_taught = (Output(head(part)[0], head(part)[1], part) for part in (seen.pooled, feature))
    first = Output(student.embedding[:N], z[:N], x[:N], extra=rest)
    expected = method.terms(first, taught._replace(extra=extra_taught), batch)
    torch.testing.assert_close(losses.terms["cross_entropy"], 0.1 * mean_log_loss(z[:N]), rtol=1e-10, atol=0)
    found = {name: term for name, term in losses.terms.items() if name != "cross_entropy"}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_labels_of_no_weight_have_no_part() -> None:
    """No gradient of 0 either, by which weight decay would move the classifier, nor 0 times infinity."""
    module, given = distiller(EGA(), gamma=0.0), StepInputs(*inputs())
    with torch.no_grad():
        module.student.head.classify.weight[0] = math.inf
    losses = module(given)
    assert losses.terms["cross_entropy"] == 0 < losses.terms["node"] and losses.total.isfinite()
    torch.autograd.backward(losses.total)
    assert all(parameter.grad is None for parameter in module.student.head.classify.parameters())
    first = next(module.student.backbone.parameters())
    assert first.grad is not None and first.grad.any() and first.grad.isfinite().all()
