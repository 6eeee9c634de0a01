"""The laws that every method keeps, on every method there is; what a method computes is in its own test."""

import doctest
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.analysis.method_info import method_info
from relgraph.errors import RelgraphError
from relgraph.graph import segments
from relgraph.methods import METHODS, SSKD, Batch, Method, Output, RunFacts
from relgraph.methods.base import Part
from relgraph.methods.options import options_of
from relgraph.methods.relational import Relational
from relgraph.names import build_method, has_graph
from relgraph.networks.heads import Projector
from relgraph.training.spread import labelled_cross_entropy

N, IMAGES, CLASSES, DIM, VIEWS = 8, 12, 4, 5, 3
# Equal in both networks, which FSP needs, and the last channels a multiple of those before, which IRG needs.
MAPS = ((3, 8, 8), (3, 8, 8), (4, 4, 4), (8, 2, 2))
LABELS = torch.tensor([0, 1, 2, 3, 0, -1, 2, 3, 0, 1, -1, 2])
INDICES = torch.tensor([3, 0, 7, 9, 4, 5, 11, 10])
BATCH = Batch(INDICES, LABELS[INDICES])
RUN = RunFacts(DIM, 6, 7, MAPS, MAPS, IMAGES, LABELS, Projector(7, 7))
WIDTHS = {"student": RUN.student_width, "teacher": RUN.teacher_width}
SHARED: dict[str, Any] = {
    "graph": "dense",
    "k": None,
    "neighbours": "teacher",
    "refine": None,
    "nodes": None,
    "temperature": 4.0,
    "node_weight": 0.8,
    "edge_weight": 0.24,
}
READS = {"embedding", "feature", "map", "maps", "logits", "labels", "indices"}

# Whose state `remember` changes. All others remember nothing.
MEMORIES = {"crd", "seed", "moco"}
# Whose value depends on no network's scale, so that the largest number of bfloat16 is nothing to it.
SCALE_FREE = {"ega", "pkt", "nce", "sp", "cc", "at", "nst"}
# Which rank 4 others of an image, and can say nothing of one alone.
RANKS = {"darkrank"}

GRAPHICAL = [name for name, cls in METHODS.items() if has_graph(cls)]
RELATIONAL = [name for name, cls in METHODS.items() if issubclass(cls, Relational)]
FORMS: dict[str, dict[str, Any]] = {"own": {"graph": None}, "dense": {}, "knn": {"graph": "knn", "k": 4}}


def forms_of(name: str) -> list[str]:
    """Return all pairs, a sparse graph where there is one, and a way of the method's own where that is another."""
    if name not in GRAPHICAL:
        return ["dense"]
    default = options_of(METHODS[name])["graph"].default
    return ["dense", "knn"] if default == "dense" else ["own", "dense", "knn"]


EACH_FORM = [(name, form) for name in METHODS for form in forms_of(name)]
REFINED = [
    (name, form, refine)
    for name, form in EACH_FORM
    for refine in ((None, "smooth", "conv") if name in RELATIONAL else (None,))
]
each_method = pytest.mark.parametrize("name", METHODS)
each_form = pytest.mark.parametrize(("name", "form"), EACH_FORM)
each_form_and_refinement = pytest.mark.parametrize(("name", "form", "refine"), REFINED)


def make(name: str, **changes: Any) -> Method:
    built = build_method(name, RUN, {**SHARED, **changes}, beta=1.0)
    assert built is not None
    ((_, method),) = built.each()
    return method.double()


def output(side: str, n: int = N) -> Output:
    width = WIDTHS[side]
    shapes = [(n, DIM), (n, CLASSES), (n, width), *((n, *stage) for stage in MAPS)]
    embedding, logits, feature, *maps = (torch.randn(shape).double() for shape in shapes)
    # For methods that ask for extra views; the others do not mind them.
    more = [torch.randn(VIEWS * n, size).double() for size in (DIM, CLASSES, width)]
    extra = Output(more[0], more[1], more[2])
    return Output(embedding, logits, feature, tuple(maps), extra)


def outputs(n: int = N) -> tuple[Output, Output]:
    return output("student", n), output("teacher", n)


def batch_of(n: int) -> Batch:
    return Batch(INDICES[:n], LABELS[INDICES[:n]])


def tensors(given: Output) -> dict[str, Tensor]:
    found = {"embedding": given.embedding, "logits": given.logits, "feature": given.feature}
    return {name: part for name, part in found.items() if part is not None} | {
        f"map {i}": stage for i, stage in enumerate(given.maps)
    }


def changed(given: Output, change: Any) -> Output:
    """Return an output with every tensor put through a function."""
    assert given.logits is not None and given.feature is not None
    embedding, logits, feature = change(given.embedding), change(given.logits), change(given.feature)
    extra = None if given.extra is None else changed(given.extra, change)
    return Output(embedding, logits, feature, tuple(change(stage) for stage in given.maps), extra)


def reordered(given: Output, order: Tensor) -> Output:
    """Return an output for the same images in another order."""
    moved = changed(given._replace(extra=None), lambda x: x[order])
    assert given.extra is not None
    extra = changed(given.extra, lambda x: x.unflatten(0, (VIEWS, -1))[:, order].flatten(0, 1))
    return moved._replace(extra=extra)


def learning(given: Output) -> Output:
    """Return a copy whose tensors are leaves that require gradient."""
    return changed(given, lambda x: x.detach().clone().requires_grad_())


def gradients(value: Tensor, student: Output) -> dict[str, Tensor]:
    """Return the gradient of each part of the student's output; zeros where there is none."""
    parts = tensors(student)
    found = torch.autograd.grad(value, list(parts.values()), allow_unused=True)
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(parts.items(), found, strict=True)}


def state(method: Method) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if not torch.equal(one[key], other[key])}


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@each_form
def test_a_loss_is_pure(name: str, form: str) -> None:
    """L5: two calls, one value, one gradient, and nothing is written, not into the inputs either."""
    method, (student, teacher) = make(name, **FORMS[form]).eval(), outputs()
    student, given = learning(student), changed(teacher, torch.clone)
    seen, before = changed(student, torch.clone), state(method)
    first, second = (method(student, teacher, BATCH) for _ in range(2))
    assert torch.equal(first, second)
    same(gradients(first, student), gradients(second, student))
    assert not differing(state(method), before)
    assert not differing(tensors(student), tensors(seen)) and not differing(tensors(teacher), tensors(given))


@each_form
def test_training_changes_nothing_but_running_statistics(name: str, form: str) -> None:
    method, (student, teacher) = make(name, **FORMS[form]), outputs()
    before = state(method)
    torch.autograd.backward(method(learning(student), teacher, BATCH))
    # Those of BatchNorm layers, which no loss in training mode reads.
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(key.endswith(statistics) for key in differing(state(method), before))
    value = method(student, teacher, BATCH)
    assert torch.equal(method(student, teacher, BATCH), value)


@each_form
def test_only_remembering_changes_a_memory(name: str, form: str) -> None:
    method, (student, teacher) = make(name, **FORMS[form]).eval(), outputs()
    first, before = method(student, teacher, BATCH), state(method)
    method.remember(learning(student), learning(teacher), BATCH)
    written = differing(state(method), before)
    assert bool(written) == (name in MEMORIES)
    assert not written & {key for key, _ in method.named_parameters()}
    assert not any(buffer.requires_grad for buffer in method.buffers())
    assert torch.equal(method(student, teacher, BATCH), first) == (name not in MEMORIES)


@each_form
def test_a_checkpoint_holds_all_that_the_loss_depends_on(name: str, form: str) -> None:
    """L12, a method's part: what was remembered, and what is drawn, goes on as it would have."""
    method, (student, teacher) = make(name, **FORMS[form]), outputs()
    method.remember(student, teacher, BATCH)
    torch.manual_seed(1)
    other = make(name, **FORMS[form])
    other.load_state_dict(method.state_dict())
    for _ in range(2):
        assert torch.equal(other.eval()(student, teacher, BATCH), method.eval()(student, teacher, BATCH))
        for each in (method, other):
            each.remember(student, teacher, BATCH)


@each_form_and_refinement
def test_a_method_can_be_pickled(name: str, form: str, refine: str | None) -> None:
    method, (student, teacher) = refined(name, form, refine), outputs()
    method.remember(student, teacher, BATCH)
    copy = pickle.loads(pickle.dumps(method))
    assert type(copy) is type(method)
    assert torch.equal(copy(student, teacher, BATCH), method(student, teacher, BATCH))


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, form in EACH_FORM if form != "own"])
def test_relabelling_the_batch_changes_nothing(name: str, form: str) -> None:
    """L3. On all pairs or nearest neighbours: CRD's random negatives are drawn by the position in the batch.

    SSKD trusts all rows here: of equally ranked ones it takes those that come first in the batch, as the official code.
    """
    order = torch.randperm(N)
    method, (student, teacher) = make(name, **FORMS[form]), outputs()
    if isinstance(method, SSKD):
        method.ss_ratio = 1.0
    value, gradient = value_and_gradients(method, student, teacher)
    moved = [reordered(given, order) for given in (student, teacher)]
    batch = Batch(INDICES[order], BATCH.labels[order])
    found, moved_gradient = value_and_gradients(method, moved[0], moved[1], batch)
    same(found, value)
    same(moved_gradient, {key: x[order] for key, x in gradient.items()})


def value_and_gradients(
    method: Method, student: Output, teacher: Output, batch: Batch = BATCH
) -> tuple[Tensor, dict[str, Tensor]]:
    student = learning(student)
    value = method(student, teacher, batch)
    return value.detach(), gradients(value, student)


@each_form
def test_the_teacher_receives_no_gradient_and_the_student_where_it_is_read(name: str, form: str) -> None:
    """L4, and what a method says that it reads is what it reads."""
    method = make(name, **FORMS[form])
    student, teacher = (learning(given) for given in outputs())
    torch.autograd.backward(method(student, teacher, BATCH))
    assert all(part.grad is None for part in tensors(teacher).values())
    reached = {key for key, part in tensors(student).items() if part.grad is not None and part.grad.any()}
    vectors = {key for key in reached if not key.startswith("map")}
    assert vectors == set(method.reads) & {"embedding", "feature", "logits"}
    if "maps" in method.reads:
        assert reached - vectors
    else:
        assert reached - vectors == ({f"map {len(MAPS) - 1}"} if "map" in method.reads else set())


@each_method
def test_the_batch_is_needed_where_it_is_read(name: str) -> None:
    method, (student, teacher) = make(name), outputs()
    if {"labels", "indices"} & set(method.reads):
        with pytest.raises(
            RelgraphError, match=r"expected a Batch\(indices, labels\) as the third argument, got none$"
        ):
            method(student, teacher)
    else:
        assert torch.equal(method(student, teacher), method(student, teacher, BATCH))


def refined(name: str, form: str, refine: str | None) -> Method:
    return make(name, **FORMS[form], refine=refine, nodes="embedding" if refine == "conv" else None)


def trained(method: Method) -> set[str]:
    return {key for key, parameter in method.named_parameters() if parameter.grad is not None}


def of_the_teacher(method: Method) -> set[str]:
    mine = {id(parameter) for parameter in method.teacher_parameters()}
    return {key for key, parameter in method.named_parameters() if id(parameter) in mine}


@each_form_and_refinement
def test_a_loss_trains_every_parameter_but_the_teachers(name: str, form: str, refine: str | None) -> None:
    """None is left out, which a wrapper for several devices would wait for."""
    method, (student, teacher) = refined(name, form, refine), outputs()
    torch.autograd.backward(method(learning(student), teacher, BATCH))
    assert trained(method) == {key for key, _ in method.named_parameters()} - of_the_teacher(method)
    if name in RELATIONAL:
        assert bool(of_the_teacher(method)) == (refine == "conv")


@each_form_and_refinement
def test_the_teachers_terms_train_the_teachers_parameters_alone(name: str, form: str, refine: str | None) -> None:
    method, student, teacher = refined(name, form, refine), learning(outputs()[0]), outputs()[1]
    head = nn.Linear(DIM, CLASSES).double()  # of a network whose embedding is the feature's first numbers

    def cross_entropy(given: Output) -> Tensor:
        logits = head(given.embedding if given.feature is None else given.feature[:, :DIM])
        return labelled_cross_entropy(logits, BATCH.labels)

    terms = method.teacher_terms(student, teacher, BATCH, cross_entropy)
    assert bool(terms) == bool(of_the_teacher(method))
    for term in terms.values():
        assert term.shape == () and term.isfinite()
        torch.autograd.backward(term)
    assert trained(method) == of_the_teacher(method)
    assert all(part.grad is None for part in tensors(student).values())


@each_form
def test_terms_are_named_scalars_of_the_precision_of_the_nodes(name: str, form: str) -> None:
    terms = make(name, **FORMS[form]).terms(*outputs(), BATCH)
    assert all(re.fullmatch(r"[a-z][a-z_0-9]*", key) for key in terms)
    assert all(term.shape == () and term.dtype == torch.float64 and term.isfinite() for term in terms.values())
    assert len(terms) > 1 or list(terms) == [name]


LARGE = 65504.0  # the largest number of float16


def extreme(value: float, dtype: torch.dtype) -> Any:
    return lambda x: (value * torch.where(x > 0, 1, -1)).to(dtype)


def second_row(value: float) -> Any:
    def change(x: Tensor) -> Tensor:
        x = x.float()
        x[1] = value
        return x

    return change


DEGENERATE: dict[str, Any] = {
    "all zeros": lambda x: torch.zeros_like(x).float(),
    "all rows equal": lambda x: x[:1].expand_as(x).float().clone(),
    "two equal rows": lambda x: torch.cat([x[:1], x[:-1]]).float(),
    "a row of zeros": second_row(0.0),
    "a constant row": second_row(0.1),
    "all constant": lambda x: torch.full_like(x, 7.7).float(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "tiny bfloat16": extreme(1e-30, torch.bfloat16),  # of float16, 1 / 6e-8 as a gradient has no place in float16
    "large float16": extreme(LARGE, torch.float16),
    "large bfloat16": extreme(LARGE, torch.bfloat16),
    "extreme bfloat16": extreme(1e38, torch.bfloat16),
}


def finite(method: Method, student: Output, teacher: Output, batch: Batch) -> None:
    student = learning(student)
    terms = method.float().terms(student, teacher, batch)
    value = torch.stack(list(terms.values())).sum()
    assert all(term.isfinite() for term in terms.values())
    # Relative to the value: float16 cannot hold the gradient of a square of its largest numbers itself.
    value = value / value.detach().abs().clamp_min(1)
    learned = [*tensors(student).values(), *method.parameters()]
    assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(value, learned, allow_unused=True))


def cases() -> Iterator[tuple[str, str, str | None, str]]:
    for name, form, refine in REFINED:
        for case in DEGENERATE:
            # Where the value grows with the scale, and where neighbours are added up, that is too much for float32.
            if refine != "conv" and (case != "extreme bfloat16" or (name in SCALE_FREE and refine is None)):
                yield name, form, refine, case


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize(("name", "form", "refine", "case"), list(cases()))
def test_degenerate_batches_give_finite_values_and_gradients(
    name: str, form: str, refine: str | None, case: str, who: str
) -> None:
    """L11."""
    student, teacher = outputs()
    student = changed(student, Tensor.float if who == "teacher" else DEGENERATE[case])
    teacher = changed(teacher, Tensor.float if who == "student" else DEGENERATE[case])
    finite(refined(name, form, refine), student, teacher, BATCH)


@each_method
def test_one_image_alone_is_a_batch(name: str) -> None:
    student, teacher = (changed(given, Tensor.float) for given in outputs(1))
    if name in RANKS:
        with pytest.raises(RelgraphError, match="expected at least"):
            make(name)(student, teacher, batch_of(1))
    else:
        finite(make(name), student, teacher, batch_of(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_form
def test_relations_are_float32_under_autocast(name: str, form: str, dtype: torch.dtype) -> None:
    """L6."""
    method, (student, teacher) = make(name, **FORMS[form]), outputs()
    student, teacher = (changed(given, lambda x: x.to(dtype)) for given in (student, teacher))
    exact = method.terms(changed(student, Tensor.double), changed(teacher, Tensor.double), BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.float().terms(student, teacher, BATCH)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    if not any(isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) for module in method.modules()):
        torch.testing.assert_close({k: v.double() for k, v in terms.items()}, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "form", "refine"),
    # CRD's draws come from the device's generator, which "meta" has not.
    [each for each in REFINED if each[:2] != ("crd", "own")],
)
def test_no_number_is_read_back_from_the_device(
    name: str, form: str, refine: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device "meta", which has no numbers to read; nor can a tensor of another device stand beside its own."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # nor does it have autocast
    monkeypatch.setattr(segments, "torch_scatter", None)  # whose kernels are for the CPU and CUDA alone
    method = refined(name, form, refine).to("meta")
    student, teacher = (changed(given, lambda x: x.to("meta").requires_grad_()) for given in outputs())
    batch = Batch(INDICES.to("meta"), BATCH.labels.to("meta"))
    value = method(student, teacher, batch)
    assert value.device.type == "meta"
    torch.autograd.backward(value)
    method.remember(student, teacher, batch)


def refinements(name: str) -> list[tuple[str | None, Part | None]]:
    """Return refinements and the nodes that they move, `None` the method's own."""
    if name not in RELATIONAL:
        return [(None, None)]
    return [(None, None), ("smooth", None), ("conv", "embedding")]


def sparse_forms() -> Iterator[tuple[str, str | None, Part | None, dict[str, Any]]]:
    edges = torch.tensor([[j, i] for i in range(N) for j in range(N) if i != j]).T
    for name in GRAPHICAL:
        for refine, nodes in refinements(name):
            # CRD's neighbours are those of the training set, which a batch's edges are not.
            yield name, refine, nodes, {"graph": "knn", "k": IMAGES - 1 if name == "crd" else N - 1}
            if name != "crd":
                yield name, refine, nodes, {"graph": "knn", "k": N - 1, "neighbours": "union"}
                yield name, refine, nodes, {"graph": edges}


def described(given: object) -> str:
    return (
        ",".join(str(v) for v in given.values() if not isinstance(v, Tensor)) if isinstance(given, dict) else str(given)
    )


@pytest.mark.parametrize(("name", "refine", "nodes", "sparse"), list(sparse_forms()), ids=described)
def test_every_pair_as_an_edge_is_all_pairs(
    name: str, refine: str | None, nodes: Part | None, sparse: dict[str, Any]
) -> None:
    """L2, in value and gradient."""
    student, teacher = outputs()
    dense = make(name, refine=refine, nodes=nodes)
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    other = make(name, refine=refine, nodes=nodes, **sparse)
    other.load_state_dict(dense.state_dict())
    found, expected = (value_and_gradients(method, student, teacher) for method in (other, dense))
    same(found, expected)
    terms = other.terms(student, teacher, BATCH)
    same(terms, dense.terms(student, teacher, BATCH))


# DarkRank ranks the 4 nearest of an image, however many others there are.
@pytest.mark.parametrize("name", [name for name in GRAPHICAL if name not in RANKS])
def test_a_sparse_graph_is_another_loss(name: str) -> None:
    student, teacher = outputs()
    dense = make(name)
    sparse = make(name, **FORMS["knn"])
    sparse.load_state_dict(dense.state_dict())
    assert not torch.isclose(sparse(student, teacher, BATCH), dense(student, teacher, BATCH))


@each_method
def test_a_method_says_what_it_is(name: str) -> None:
    cls, info = METHODS[name], method_info(name)
    assert cls.__name__.lower() == name
    assert re.search(r"\b(19|20)\d\d\b", info.paper), "authors, year, arXiv number"
    assert info.differs not in ("", "-") and "\n" not in info.differs and not info.differs.endswith(".")
    assert info.criterion not in ("", "-") and info.kernel and info.topology
    assert 0 < cls.weight < math.inf and 0 <= cls.init_share < 1
    reads = make(name).reads
    assert reads and set(reads) <= READS and len(set(reads)) == len(reads)


@each_method
def test_a_method_documents_where_it_differs_and_shows_an_executed_example(name: str) -> None:
    cls = METHODS[name]
    assert cls.__doc__ is not None and "Paper, official code and this one:" in cls.__doc__
    (example,) = doctest.DocTestFinder(recurse=False).find(cls, globs={})
    assert any(line.want for line in example.examples)
    assert "Raises:" in cls.__doc__ and "RelgraphError" in cls.__doc__
