"""The laws that every method keeps, in every way that it has; what a method computes is in its own test."""

import doctest
import io
import math
import pickle
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.analysis.method_info import method_info
from relgraph.graph import segments
from relgraph.methods import METHODS, Batch, Method, Output, RunFacts
from relgraph.methods.relational import Relational
from relgraph.names import build_method
from relgraph.networks.heads import Projector
from relgraph.options import options_of
from relgraph.training.spread import labelled_cross_entropy
from tests.checks import assert_refused, case
from tests.methods.golden import random_output

N, IMAGES, CLASSES, DIM, VIEWS = 8, 12, 4, 5, 3
# Equal in both networks, which FSP needs, and the last channels a multiple of those before, which IRG needs.
MAPS = ((3, 8, 8), (3, 8, 8), (4, 4, 4), (8, 2, 2))
LABELS = torch.tensor([0, 1, 2, 3, 0, -1, 2, 3, 0, 1, -1, 2])
INDICES = torch.tensor([3, 0, 7, 9, 4, 5, 11, 10])
BATCH = Batch(INDICES, LABELS[INDICES])
SCORES = (CLASSES, 8, 8)
RUN = RunFacts(DIM, 6, 7, MAPS, MAPS, IMAGES, LABELS, Projector(7, 7), scores=SCORES, image=(3, 8, 8))
WIDTHS = {"student": RUN.student_width, "teacher": RUN.teacher_width}
SHARED: dict[str, Any] = {"graph": "dense", "temperature": 4.0, "node_weight": 0.8, "edge_weight": 0.24}

# Whose state `remember` changes. All others remember nothing.
MEMORIES = {"crd", "seed", "moco", "rrd", "lightly", "holistic"}
# Whose value depends on no network's scale, so that the largest number of bfloat16 is nothing to it.
SCALE_FREE = {"ega", "pkt", "nce", "sp", "cc", "at", "nst", "cka", "dist", "csd", "rop", "d3still", "raml"}
# Which relate the student's nodes to the teacher's, behind a linear layer where it has another width.
ASYMMETRIC = {"csd", "rop", "d3still", "raml"}
# Which rank 4 others of an image, and can say nothing of one alone.
RANKS = {"darkrank"}

# Whose logits are at positions: the outputs of their tests have these in place of those of images.
DENSE = {"holistic", "skd"}
SHAPES: dict[str, tuple[int, ...]] = {"logits": (CLASSES,)}

# Whose graphs are of the positions of one image: see `test_dense`.
OF_POSITIONS = {"pairwise", "gram"}

GRAPHICAL = [name for name, cls in METHODS.items() if "graph" in options_of(cls) and name not in OF_POSITIONS]
RELATIONAL = [name for name, cls in METHODS.items() if issubclass(cls, Relational) and name not in OF_POSITIONS]
each_method = pytest.mark.parametrize("name", METHODS)

KNN = "graph=knn k=4"
Options = dict[str, Any]


def on_both(*options: str) -> list[str]:
    """Return options on all pairs and on a sparse graph."""
    return [f"{option}{graph}" for option in options for graph in ("", f" {KNN}")]


# Options with which a method is another computation than by default; each keeps the laws as well.
WAYS: dict[str, list[str]] = {
    "ega": [
        f"{KNN} neighbours=union",
        *on_both("kernel=cosine", "kernel=gaussian:0.4"),
    ],
    "sp": on_both("kernel=cosine scale=by_max"),
    "pkt": on_both("kernel=gaussian:0.4", "kernel=cosine scale=softmax:0.5 criterion=cross_entropy"),
    "kd": ["temperature=0.5", "standardise=true"],
    "dkd": ["standardise=true"],
    "dist": ["tau=4 epsilon=0"],
    "holistic": ["objective=hinge width=8"],
    "skd": ["official=true", "holistic_weight=0.01 pixel_weight=0"],
    "cka": ["unbiased=true", "rows=true", f"centred=false official=true {KNN}"],
    "anchor": ["head=mlp", "distance=mean_square head=linear"],
    "rrd": ["official=true"],
    "lightly": ["head=mlp official=true"],
    "rkd": [f"{KNN} neighbours=student", f"{KNN} neighbours=union", f"{KNN} neighbours=mutual", "angle_weight=0"],
    "darkrank": ["rank_beta=0.5", f"rank_beta=0.5 {KNN} neighbours=union", f"length=3 {KNN} neighbours=student"],
    "cc": [
        *on_both("correlation=gaussian", "correlation=bilinear", "correlation=bilinear unit_length=false"),
        "order=5",
        "correlation=consecutive",
    ],
    "irg": [
        *on_both(
            "edge_transition_weight=0.3",
            "form=caffe vertex_weight=0.1 edge_transition_weight=0.3",
            "form=literal vertex_weight=0.1 relation_weight=5 transition_weight=5",
        ),
        "layers=one-to-many",
        "levels=1 transition_weight=0",
    ],
    "csd": [
        "length=5 memory=queue queue=20",
        "length=6 memory=images batch_keys=false",
        f"length=3 tau=1 teacher_tau=0.01 {KNN}",
    ],
    "rop": ["length=5 reference=student memory=images"],
    "d3still": ["length=4 official=true memory=queue queue=20"],
    "raml": ["official=true"],
    "crd": ["graph=sampled negatives=9", "graph=sampled negatives=9 positives=relaxed", "tau=0.005"],
    "seed": ["head=linear", "patches=3", "tau=0.01 teacher_tau=0.05"],
    "moco": ["head=linear", "tau=0.005"],
    "infonce": ["head=linear", "tau=0.005"],
    "ntxent": ["head=linear", "tau=0.005"],
    "fitnet": ["nodes=embedding", "stage=3"],
    "ft": ["paraphrase_rate=1"],
    "sskd": ["tf_ratio=0.5 ss_ratio=1 tau=0.1"],
}


@pytest.fixture(autouse=True)
def at_positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "name" in request.fixturenames and request.getfixturevalue("name") in DENSE:
        monkeypatch.setitem(SHAPES, "logits", SCORES)


def ways(name: str) -> list[str]:
    """Return the options of each way: all pairs, a sparse graph where there is one, and those of the table."""
    return ["", *([KNN] if name in GRAPHICAL else []), *WAYS.get(name, [])]


def looped(test: Callable[..., None], cases: dict[str, list[tuple[Any, ...]]]) -> Any:
    """Return a test for each method that goes through its cases, each with the numbers that it draws alone."""

    def each(name: str) -> None:
        for given in cases[name]:
            torch.manual_seed(0)
            with case(*given):
                test(name, *given)

    each.__doc__ = test.__doc__
    return pytest.mark.parametrize("name", [name for name, some in cases.items() if some])(each)


def each_way(test: Callable[[str, str], None]) -> Any:
    return looped(test, {name: [(way,) for way in ways(name)] for name in METHODS})


# Each method that has relations or nodes of another kind than the others, which all refine their nodes in one place.
REFINED = {"ega", "pkt", "rkd", "irg", "csd", "nce", "cka", "ccl", "darkrank", "raml"}


def each_refined_way(*without: str, names: Iterable[str] = METHODS) -> Callable[[Callable[..., None]], Any]:
    """Go through each way without these words; with refined nodes, through all pairs and the sparse graph as well."""
    refinements: tuple[Options, ...] = {"refine": "smooth"}, {"refine": "conv", "nodes": "embedding"}
    cases: dict[str, list[tuple[Any, ...]]] = {}
    for name in names:
        refined = [(way, some) for way in ("", KNN) for some in refinements] if name in REFINED else []
        every: list[tuple[str, Options]] = [*((way, {}) for way in ways(name)), *refined]
        cases[name] = [given for given in every if not any(word in given[0] for word in without)]
    return partial(looped, cases=cases)


def make(name: str, way: str = "", **changes: Any) -> Method:
    queue = ["queue=50"] if name in MEMORIES - {"crd", "holistic"} else []
    built = build_method(name, RUN, {**SHARED, **changes}, [*queue, *way.split()], beta=1.0)
    assert built is not None
    ((_, method),) = built.each()
    return method.double()


def output(side: str, n: int = N) -> Output:
    """Return an output with extra views, for methods that ask for them; the others do not mind them."""
    given = random_output(n, DIM, CLASSES, WIDTHS[side], MAPS)
    given = given._replace(logits=torch.randn(n, *SHAPES["logits"]).double())
    return given._replace(extra=random_output(VIEWS * n, DIM, CLASSES, WIDTHS[side]))


def outputs(n: int = N) -> tuple[Output, Output]:
    return output("student", n), output("teacher", n)


def batch_of(n: int) -> Batch:
    return Batch(INDICES[:n], LABELS[INDICES[:n]])


def tensors(given: Output) -> dict[str, Tensor]:
    """Return all parts by name, those of extra views among them."""
    vectors = "embedding", "logits", "feature"
    names = *vectors, *(f"map {i}" for i in range(len(MAPS))), *(f"extra {name}" for name in vectors)
    return dict(zip(names, given.tensors(), strict=True))


def reordered(given: Output, order: Tensor) -> Output:
    """Return an output for the same images in another order."""
    assert given.extra is not None
    extra = given.extra.each(lambda x: x.view(VIEWS, -1, *x.shape[1:])[:, order].flatten(0, 1))
    return given._replace(extra=None).each(lambda x: x[order])._replace(extra=extra)


def learning(given: Output) -> Output:
    """Return a copy whose tensors are leaves that require gradient."""
    return given.each(lambda x: x.detach().clone().requires_grad_())


def gradients(value: Tensor, student: Output) -> dict[str, Tensor]:
    """Return the gradient of each part of the student's output; zeros where there is none."""
    parts = tensors(student)
    found = torch.autograd.grad(value, [*parts.values()], allow_unused=True, materialize_grads=True)
    return dict(zip(parts, found, strict=True))


def state(method: Method) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if not torch.equal(one[key], other[key])}


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def value_and_gradients(
    method: Method, student: Output, teacher: Output, batch: Batch = BATCH
) -> tuple[Tensor, dict[str, Tensor]]:
    student = learning(student)
    value = method(student, teacher, batch)
    return value.detach(), gradients(value, student)


@each_way
def test_a_loss_is_pure(name: str, way: str) -> None:
    """L5: two calls, one value, one gradient, and nothing is written, not into the inputs either, nor drawn."""
    method, (student, teacher) = make(name, way).eval(), outputs()
    student, given = learning(student), teacher.each(torch.clone)
    seen, before, random = student.each(torch.clone), state(method), torch.get_rng_state()
    first, second = (method(student, teacher, BATCH) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), random)
    same(gradients(first, student), gradients(second, student))
    assert not differing(state(method), before)
    assert not differing(tensors(student), tensors(seen)) and not differing(tensors(teacher), tensors(given))


@each_way
def test_training_changes_nothing_but_running_statistics_and_terms_are_named_scalars(name: str, way: str) -> None:
    method, (student, teacher) = make(name, way), outputs()
    before, terms = state(method), method.terms(learning(student), teacher, BATCH)
    assert all(re.fullmatch(r"[a-z][a-z_0-9]*", key) for key in terms)
    assert all(term.shape == () and term.dtype == torch.float64 and term.isfinite() for term in terms.values())
    assert len(terms) > 1 or list(terms) == [name] or "weight=0" in way
    torch.autograd.backward(torch.stack([*terms.values()]).sum())
    # Those of BatchNorm layers, which no loss in training mode reads.
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(key.endswith(statistics) for key in differing(state(method), before))
    value = method(student, teacher, BATCH)
    assert torch.equal(method(student, teacher, BATCH), value)


@each_way
def test_only_remembering_changes_a_memory(name: str, way: str) -> None:
    method, (student, teacher) = make(name, way).eval(), outputs()
    first, before = method(student, teacher, BATCH), state(method)
    method.remember(learning(student), learning(teacher), BATCH)
    written = differing(state(method), before)
    remembers = name in MEMORIES or "memory=" in way or (name == "skd" and way != "")
    assert bool(written) == remembers
    assert not written & {key for key, _ in method.named_parameters()}
    assert not any(buffer.requires_grad for buffer in method.buffers())
    assert torch.equal(method(student, teacher, BATCH), first) == (not remembers)


@each_way
def test_a_checkpoint_holds_all_that_the_loss_depends_on(name: str, way: str) -> None:
    """L12, a method's part: what was remembered, and what is drawn, goes on as it would have."""
    method, (student, teacher) = make(name, way), outputs()
    method.remember(student, teacher, BATCH)
    other = make(name, way)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        assert torch.equal(other.eval()(student, teacher, BATCH), method.eval()(student, teacher, BATCH))
        for each in (method, other):
            each.remember(student, teacher, BATCH)


@each_method
def test_layers_follow_the_seed(name: str) -> None:
    """L12: what a method draws when it is built."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(state(make(name)))
    assert not differing(drawn[0], drawn[1])
    assert bool(differing(drawn[0], drawn[2])) == bool(drawn[0])


@each_refined_way()
def test_a_method_can_be_pickled(name: str, way: str, refinement: Options) -> None:
    method, (student, teacher) = make(name, way, **refinement), outputs()
    method.remember(student, teacher, BATCH)
    copy = pickle.loads(pickle.dumps(method))
    assert type(copy) is type(method)
    assert torch.equal(copy(student, teacher, BATCH), method(student, teacher, BATCH))


@each_refined_way("sampled", "consecutive")
def test_relabelling_the_batch_changes_nothing(name: str, way: str, refinement: Options) -> None:
    """L3, but for what depends on the position in the batch: CRD's random negatives, and CC's consecutive rows.

    SSKD trusts all rows here: of equally ranked ones it takes those that come first in the batch, as the official code.
    """
    order = torch.randperm(N)
    trusting = way if name != "sskd" else "tf_ratio=1 ss_ratio=1"
    method, (student, teacher) = make(name, trusting, **refinement), outputs()
    value, gradient = value_and_gradients(method, student, teacher)
    moved = [reordered(given, order) for given in (student, teacher)]
    batch = Batch(INDICES[order], BATCH.labels[order])
    found, moved_gradient = value_and_gradients(method, moved[0], moved[1], batch)
    same(found, value)
    by_view = order + N * torch.arange(VIEWS)[:, None]
    places = {True: by_view.flatten(), False: order}
    same(moved_gradient, {key: x[places[key.startswith("extra")]] for key, x in gradient.items()})


def turned(x: Tensor) -> Any:
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1]).double()).Q


def each_moved(x: Tensor) -> Any:
    scale, shift = torch.rand(2, len(x), 1).double() + 0.5
    return scale * x + shift


def each_scaled(x: Tensor) -> Any:
    return (torch.rand(len(x), 1).double() + 0.5) * x


def scaled(x: Tensor) -> Any:
    return (torch.rand(()).double() + 0.5) * x


def shifted(x: Tensor) -> Any:
    return x + torch.randn(x.shape[1:]).double()


# What nodes, or logits, may undergo without a change of the loss, in either network: each draws its own numbers.
INVARIANT: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "ega": (each_moved,), "sp": (turned, lambda x: 1e6 * scaled(x)), "pkt": (each_scaled, turned),
    "rkd": (turned, scaled, shifted), "darkrank": (turned, shifted), "irg": (turned, scaled, shifted),
    "cka": (turned, lambda x: 1e-9 * scaled(x), shifted), "dist": (lambda x: x + x[:, :1],),
}  # fmt: skip


@pytest.mark.parametrize("name", INVARIANT)
def test_stated_invariances_hold_with_equal_images(name: str) -> None:
    """L3."""
    options = {"irg": "vertex_weight=0", "sp": "nodes=feature"}.get(name, "")
    for way in ("", KNN) if name in GRAPHICAL else ("",):
        method = make(name, f"{way} {options}")
        pair, values = outputs(), []
        for change in (Tensor.clone, *INVARIANT[name]):
            moved = []
            for given in pair:
                changed: Any = {part: change(getattr(given, part)) for part in ("embedding", "feature", "logits")}
                moved.append(given._replace(**changed))
            values.append(method(*(x.each(lambda rows: torch.cat([rows[:1], rows[:-1]])) for x in moved), BATCH))
        torch.testing.assert_close(torch.stack(values), values[0].expand(len(values)), rtol=1e-7, atol=1e-9, msg=way)


@each_refined_way()
def test_gradient_reaches_what_is_read_of_the_student_and_no_teacher(name: str, way: str, refinement: Options) -> None:
    """L4, and what a method says that it reads is what it reads."""
    method = make(name, way, **refinement)
    student, teacher = (learning(given) for given in outputs())
    torch.autograd.backward(method(student, teacher, BATCH))
    assert all(part.grad is None for part in tensors(teacher).values())
    reached = {key for key, part in tensors(student).items() if part.grad is not None and part.grad.any()}
    vectors = {key for key in reached if not key.startswith("map")}
    expected = set(method.reads) & {"embedding", "feature", "logits"}
    assert vectors == expected | ({f"extra {key}" for key in expected} if method.views is not None else set())
    if {"maps", "student's maps"} & set(method.reads):
        assert reached - vectors
    else:
        assert reached - vectors == ({f"map {len(MAPS) - 1}"} if "map" in method.reads else set())


@each_refined_way("caffe")
def test_gradcheck(name: str, way: str, refinement: Options) -> None:
    """L8, but for IRG's form "caffe" and the lengths of Pairwise, which are constants for the gradient alone."""
    way = f"{way} constant_norm=false" if name == "pairwise" else way
    method, (student, teacher) = make(name, way, **refinement), outputs()
    for parameter in method.parameters():  # a learned refinement starts as the identity
        nn.init.normal_(parameter, std=0.3)
    method.remember(student, teacher, BATCH)  # CRD's Z is a constant from the second step on
    check_gradients(method, learning(student), teacher)


def check_gradients(method: Method, student: Output, teacher: Output) -> None:
    """Compare the gradient of each part that the loss depends on with differences of the loss."""
    (value, found), parts = value_and_gradients(method, student, teacher), tensors(student)
    names = [key for key, gradient in found.items() if gradient.any()]
    assert names and value.isfinite()

    def loss(*given: Tensor) -> Tensor:
        others = {**parts, **dict(zip(names, given, strict=True))}
        result: Tensor = method(student.filled(others.values()), teacher, BATCH)
        return result

    assert torch.autograd.gradcheck(loss, [parts[key] for key in names], fast_mode=True)


@each_method
def test_the_batch_is_needed_where_it_is_read(name: str) -> None:
    method, (student, teacher) = make(name), outputs()
    missing = [key for key in ("labels", "indices") if key in method.reads]
    if missing:
        message = f"reads {missing[0]}: expected a Batch(indices, labels) as the third argument, got none"
        assert_refused((lambda: method(student, teacher), f"{type(method).__name__} {message}"))
    else:
        assert torch.equal(method(student, teacher), method(student, teacher, BATCH))


def trained(method: Method) -> set[str]:
    return {key for key, parameter in method.named_parameters() if parameter.grad is not None}


def of_the_teacher(method: Method) -> set[str]:
    mine = {id(parameter) for parameter in method.teacher_parameters()}
    return {key for key, parameter in method.named_parameters() if id(parameter) in mine}


@each_refined_way()
def test_a_loss_trains_every_parameter_but_the_teachers(name: str, way: str, refinement: Options) -> None:
    """None is left out, which a wrapper for several devices would wait for."""
    method, (student, teacher) = make(name, way, **refinement), outputs()
    torch.autograd.backward(method(learning(student), teacher, BATCH))
    assert trained(method) == {key for key, _ in method.named_parameters()} - of_the_teacher(method)
    if name in RELATIONAL:
        assert bool(of_the_teacher(method)) == (refinement.get("refine") == "conv")


@each_refined_way()
def test_the_teachers_terms_train_the_teachers_parameters_alone(name: str, way: str, refinement: Options) -> None:
    method, student, teacher = make(name, way, **refinement), learning(outputs()[0]), outputs()[1]
    head = nn.Linear(DIM, CLASSES).double()  # of a network whose embedding is the feature's first numbers

    def cross_entropy(given: Output, head: nn.Linear = head) -> Tensor:
        logits = head(given.embedding if given.feature is None else given.feature[:, :DIM])
        return labelled_cross_entropy(logits, BATCH.labels)

    terms = method.teacher_terms(student, teacher, BATCH, cross_entropy)
    assert bool(terms) == bool(of_the_teacher(method))
    for term in terms.values():
        assert term.shape == () and term.isfinite()
        torch.autograd.backward(term)
    assert trained(method) == of_the_teacher(method)
    assert all(part.grad is None for part in tensors(student).values())


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
    "tiny bfloat16": extreme(1e-30, torch.bfloat16),  # of float16, 1 / 6e-8 as a gradient has no place in float16
    "large float16": extreme(LARGE, torch.float16),
    "extreme bfloat16": extreme(1e38, torch.bfloat16),
}
NUMBERS = {"tiny bfloat16", "extreme bfloat16"}  # never of the student alone; `tests/faults` has more of them


def finite(method: Method, student: Output, teacher: Output, batch: Batch) -> None:
    student = learning(student)
    terms = method.float().terms(student, teacher, batch)
    value = torch.stack(list(terms.values())).sum()
    assert all(term.isfinite() for term in terms.values())
    # Relative to the value: float16 cannot hold the gradient of a square of its largest numbers itself.
    value = value / value.detach().abs().clamp_min(1)
    learned = [*tensors(student).values(), *method.parameters()]
    assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(value, learned, allow_unused=True))


def bears(name: str, way: str, refinement: Options, case: str) -> bool:
    """Return whether the loss fits into float32: not where it grows with the scale, or neighbours are added up."""
    if refinement.get("refine") == "conv":
        return False
    free = name in SCALE_FREE and not refinement and "unit_length=false" not in way and "consecutive" not in way
    return free or case != "extreme bfloat16"


@each_refined_way()
def test_degenerate_batches_give_finite_values_and_gradients(name: str, way: str, refinement: Options) -> None:
    """L11."""
    method, (student, teacher) = make(name, way, **refinement), outputs()
    for degenerate, change in DEGENERATE.items():
        alone = () if degenerate in NUMBERS else ("student",)
        for who in (*alone, "teacher", "both") if bears(name, way, refinement, degenerate) else ():
            with case(degenerate, who):
                s = student.each(Tensor.float if who == "teacher" else change)
                t = teacher.each(Tensor.float if who == "student" else change)
                finite(method, s, t, BATCH)


@each_method
def test_one_or_two_images_are_a_batch(name: str) -> None:
    for n in (1, 2):
        for way in ways(name):
            if "graph=knn" in way and name != "crd":
                continue
            with case(way, n):
                given: Any = *(each.each(Tensor.float) for each in outputs(n)), batch_of(n)
                if name in RANKS:
                    length = 3 if "length=3" in way else 4
                    message = f"DarkRank ranks {length} others of each image: expected at least {length}…"
                    assert_refused((partial(make(name, way), *given), message))
                else:
                    finite(make(name, way), *given)


PRECISIONS = ((torch.float32, True), (torch.bfloat16, True), (torch.float16, False), (torch.bfloat16, False))


@each_refined_way()
def test_relations_are_float32_under_autocast_and_of_half_precision(name: str, way: str, refinement: Options) -> None:
    """L6; layers alone compute in the type of autocast."""
    layers, method, pair = nn.Linear | nn.Conv2d | nn.ConvTranspose2d, make(name, way, **refinement), outputs()
    for dtype, autocast in PRECISIONS:
        with case(dtype, autocast):
            student, teacher = (given.each(partial(Tensor.to, dtype=dtype)) for given in pair)
            exact = method.double().terms(student.each(Tensor.double), teacher.each(Tensor.double), BATCH)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                terms = method.float().terms(student, teacher, BATCH)
            assert all(term.dtype == torch.float32 for term in terms.values())
            rough = autocast and any(isinstance(module, layers) for module in method.modules())
            found = {key: term.double() for key, term in terms.items()}
            torch.testing.assert_close(found, exact, rtol=0.05 if rough else 1e-4, atol=0.05 if rough else 1e-6)


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which "meta" does not have
    monkeypatch.setattr(segments, "torch_scatter", None)  # whose kernels are for the CPU and CUDA alone


@pytest.mark.slow
@pytest.mark.usefixtures("on_meta")
@each_refined_way("sampled", "union", "mutual")
def test_no_number_is_read_back_from_the_device(name: str, way: str, refinement: Options) -> None:
    """On the device "meta", which has no numbers to read; nor can a tensor of another device stand beside its own."""
    # The draws come from the device's generator, which "meta" has not; edges of unequal numbers are counted.
    method = make(name, way, **refinement).to("meta")
    student, teacher = (given.each(lambda x: x.to("meta").requires_grad_()) for given in outputs())
    batch = Batch(INDICES.to("meta"), BATCH.labels.to("meta"))
    value = method(student, teacher, batch)
    assert value.device.type == "meta"
    torch.autograd.backward(value)
    method.remember(student, teacher, batch)


def complete_graphs(name: str, n: int, choosers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the graphs that hold every pair of n images as an edge."""
    if name == "crd":  # whose neighbours are those of the training set, which a batch's edges are not
        return [{"graph": "knn", "k": IMAGES - 1}]
    edges = torch.tensor([[j, i] for i in range(n) for j in range(n) if i != j]).T
    return [*({"graph": "knn", "k": n - 1, "neighbours": by} for by in choosers), {"graph": edges}]


@each_refined_way("graph=", "consecutive", "unbiased", "memory=", names=GRAPHICAL)
def test_every_pair_as_an_edge_is_all_pairs(name: str, way: str, refinement: Options) -> None:
    """L2, in value and gradient, of two images as well."""
    for n in (N,) if name in RANKS else (N, 2):
        choosers = ("teacher", "student", "union", "mutual") if way == "" and n > 2 else ("teacher",)
        dense, given = make(name, way, **refinement), (*outputs(n), batch_of(n))
        for parameter in dense.parameters():
            nn.init.normal_(parameter)
        expected, terms = value_and_gradients(dense, *given), dense.terms(*given)
        for graph in complete_graphs(name, n, choosers):
            with case(graph, n):
                sparse = make(name, way, **refinement, **graph)
                sparse.load_state_dict(dense.state_dict())
                same(value_and_gradients(sparse, *given), expected)
                same(sparse.terms(*given), terms)


# DarkRank ranks the 4 nearest of an image, however many others there are.
@pytest.mark.parametrize("name", [name for name in GRAPHICAL if name not in RANKS])
def test_a_sparse_graph_is_another_loss(name: str) -> None:
    student, teacher = outputs()
    dense, sparse = make(name), make(name, KNN)
    sparse.load_state_dict(dense.state_dict())
    assert not torch.isclose(sparse(student, teacher, BATCH), dense(student, teacher, BATCH))


@pytest.mark.parametrize("name", RELATIONAL)
def test_what_every_method_over_graphs_refuses(name: str) -> None:
    edges = torch.tensor([[1, 2, 7, 0, 3], [0, 0, 3, 5, 6]])
    belong = "k and neighbours belong to the graph 'knn', got k = 3 and neighbours = 'teacher'"
    sizes = "embeddings must be (N, D), student and teacher of the same N images, got (4, "
    (four, _), (_, five), empty = outputs(4), outputs(5), outputs(0)
    assert_refused(
        (lambda: make(name, graph="dnse"), "unknown graph 'dnse': did you mean 'dense'? (known: dense, knn)"),
        (lambda: make(name, graph="knn", k=0), "k must be at least 1, got 0"),
        (lambda: make(name, k=3), belong),
        (lambda: make(name, graph="knn", neighbours="teachr"), "unknown neighbours 'teachr'…"),
        (
            lambda: make(name, graph=torch.zeros(3, 64, dtype=torch.long)),
            "edge_index must be (2, E) of integers, got (3, 64) of torch.int64",
        ),
        (lambda: make(name)(four, five, batch_of(4)), f"{sizes}…"),
        (lambda: make(name)(*empty, batch_of(0)), "embeddings must not be empty, got (0, …"),
        (
            lambda: make(name, graph="knn")(*outputs(4), batch_of(4)),
            "k must be between 1 and the number of nodes less one, 3, got 8",
        ),
        (lambda: make(name, graph=edges)(*outputs(4), batch_of(4)), "edge_index must name nodes 0 to 3, got 7"),
    )
    if name != "ega":  # whose nodes are embeddings
        assert_refused(
            (lambda: make(name, nodes="featur"), "unknown nodes 'featur': did you mean 'feature'? (known: …")
        )
    if name not in ("sp", *ASYMMETRIC):  # whose nodes are flattened, or of widths that are known
        graphs = (Output(torch.zeros(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 4, 3)) for _ in range(2))
        message = "a graph pair holds one batch (N, D), got (2, 4, 3)"
        assert_refused((lambda: make(name)(*graphs, batch_of(2)), message))


# The range of each number that is an option.
RANGES: dict[str, str] = {
    "ega": "node_weight at least 0, edge_weight at least 0",
    "cc": "order at least 0, rbf_gamma above 0, key_dim above 0",
    "rkd": "distance_weight at least 0, angle_weight at least 0",
    "irg": "vertex_weight at least 0, relation_weight at least 0, transition_weight at least 0, levels at least 1, "
    "edge_transition_weight at least 0",
    "darkrank": "rank_alpha above 0, rank_beta above 0, length at least 2",
    "nce": "tau above 0",
    "ccl": "tau above 0",
    "csd": "length at least 2, queue above 0, tau above 0, teacher_tau above 0",
    "rop": "length at least 2, queue above 0, tau above 0, rho at least 0",
    "d3still": "length at least 2, queue above 0, feature_weight at least 0, inconsistent_weight at least 0, "
    "consistent_weight at least 0",
    "raml": "across_weight at least 0, within_weight at least 0",
    "crd": "k at least 1, negatives above 0, tau above 0, key_dim above 0, bank_momentum at least 0 and below 1",
    "seed": "queue above 0, tau above 0, teacher_tau above 0, patches at least 0",
    "moco": "queue above 0, tau above 0",
    "infonce": "tau above 0",
    "ntxent": "tau above 0",
    "sskd": "temperature above 0, kd_weight at least 0, tf_weight at least 0, ss_weight at least 0, tau above 0, "
    "tf_ratio at least 0 and at most 1, ss_ratio at least 0 and at most 1",
    "kd": "temperature above 0",
    "dkd": "temperature above 0, target_weight at least 0, others_weight at least 0",
    "dist": "tau above 0, inter_weight at least 0, intra_weight at least 0, epsilon at least 0",
    "mlld": "temperature above 0, instance_weight at least 0, batch_weight at least 0, class_weight at least 0",
    "rrd": "queue above 0, tau above 0, teacher_tau above 0",
    "lightly": "queue above 0, tau above 0, local_weight at least 0",
    "pixelwise": "temperature above 0",
    "holistic": "penalty at least 0, width at least 8, discriminator_lr at least 0",
    "skd": "pixel_weight at least 0, pair_weight at least 0, holistic_weight at least 0",
    "cwd": "temperature above 0",
    "cirkd": "tau above 0, pixel_weight at least 0, region_weight at least 0, pixel_queue above 0, "
    "region_queue above 0, pixel_keys above 0, region_keys above 0, pool above 0 and at most 1",
    "fitnet": "stage at least 0",
    "vid": "init_variance above 1e-05 and below inf",
    "ab": "margin above 0",
    "ft": "paraphrase_rate above 0 and at most 1",
}


@each_method
def test_a_value_out_of_range_and_an_unknown_word_are_refused(name: str) -> None:
    options = options_of(METHODS[name])
    ranges = {key: item.range for key, item in options.items() if item.range}
    pool = ["pool above 0 and at most 1"] if name in (*RELATIONAL, *OF_POSITIONS) else []
    known = [*pool, *([RANGES[name]] if name in RANGES else [])]
    assert ", ".join(f"{key} {words}" for key, words in ranges.items()) == ", ".join(known)
    for key, words in ranges.items():
        fractions = (math.nan, math.inf) if float in options[key].kinds else ()
        wrong = (-1, *fractions, *((1.5,) if words.endswith("most 1") else (1,) if words.endswith("below 1") else ()))
        for value in wrong:
            call = partial(METHODS[name].for_run, RUN, **{key: value})
            finite = "finite and " * (value == math.inf and "most" not in words and "below" not in words)
            assert_refused((call, f"{key} must be {finite}{words}, got {value}"))
    words_of = {key: item.words for key, item in options.items() if item.words and key != "graph"}
    for key, known in words_of.items():
        message = f"unknown {key} 'dnse'"
        assert known
        assert_refused((partial(METHODS[name].for_run, RUN, **{key: "dnse"}), f"{message}…"))


@pytest.mark.parametrize(
    "name", [name for name in METHODS if {"nodes"} <= options_of(METHODS[name]).keys() and name != "cwd"]
)
def test_the_nodes_that_are_asked_for_are_read_and_no_others(name: str) -> None:
    for part in sorted({*options_of(METHODS[name])["nodes"].words} - {"positions"}):
        method, (student, teacher) = make(name, nodes=part).eval(), outputs()
        if name in ("nce", "ccl", "fitnet"):  # which relate nodes of one width
            teacher = teacher._replace(feature=student.feature.sin())  # type: ignore[union-attr]
        others: dict[str, Any] = {key: torch.zeros(1) for key in {"embedding", "feature"} - {part}}
        pair = student._replace(**others), teacher._replace(**others)
        value, copy = method(student, teacher, BATCH), deepcopy(method)
        with case(part):
            assert part in method.reads or name == "fitnet"
            assert torch.equal(method(*pair, BATCH), value)
            for side in range(2):
                moved = list(pair)
                moved[side] = changed_nodes(pair[side], part)
                assert not torch.equal(method(*moved, BATCH), value)
            method.remember(student, teacher, BATCH)
            copy.remember(*pair, BATCH)
            assert not differing(state(copy), state(method))


def changed_nodes(given: Output, part: str) -> Output:
    if part == "map":
        return given._replace(maps=tuple(stage**2 for stage in given.maps))
    return given._replace(**{part: getattr(given, part) ** 2})


# The published weight, that of the cross-entropy beside it, in how many of 270 epochs the method trains alone, whether
# each image contributes by itself, what the method reads, and its terms.
PUBLISHED: dict[str, tuple[float, float, int, bool, str, str]] = {
    "ega": (1, 1, 0, False, "embedding", "node edge"),
    "sp": (3000, 1, 0, False, "map", "sp"),
    "cc": (100, 1, 0, False, "feature", "cc"),
    "rkd": (1, 1, 0, False, "feature", "distance angle"),
    "irg": (1, 1, 0, False, "feature maps logits", "vertex edge transition"),
    "pkt": (30000, 1, 0, False, "feature", "pkt"),
    "darkrank": (1, 1, 0, False, "feature", "darkrank"),
    "nce": (1, 1, 0, False, "embedding labels", "nce"),
    "ccl": (1, 1, 0, False, "embedding logits labels", "nce jeffreys"),
    "cka": (1, 1, 0, False, "feature", "cka"),
    "pixelwise": (1, 1, 0, True, "logits", "pixelwise"),
    "pairwise": (0.5, 1, 0, True, "map", "pairwise"),
    "holistic": (0.1, 1, 0, False, "logits", "holistic"),
    "skd": (1, 1, 0, False, "logits map", "pixelwise pairwise"),
    "cwd": (50, 1, 0, True, "map", "cwd"),
    "gram": (2, 1, 0, True, "map", "gram"),
    "cirkd": (1, 1, 0, False, "map", "cirkd"),
    "csd": (1, 1, 0, False, "feature", "csd"),
    "rop": (1, 1, 0, False, "feature", "rop"),
    "d3still": (1, 1, 0, False, "feature", "feature inconsistent consistent"),
    "raml": (10, 1, 0, False, "feature", "node across within"),
    "crd": (0.8, 1, 0, False, "feature indices", "student_anchors teacher_anchors"),
    "seed": (1, 0, 0, False, "feature", "seed"),
    "rrd": (1, 1, 0, False, "feature", "rrd"),
    "lightly": (1, 0, 0, False, "feature", "lightly"),
    "moco": (1, 0, 0, False, "feature", "moco"),
    "infonce": (1, 0, 0, False, "feature", "infonce"),
    "ntxent": (1, 0, 0, False, "feature", "ntxent"),
    "sskd": (1, 0.1, 0, False, "feature logits labels", "kd transformed self_supervision"),
    "anchor": (1, 0, 0, True, "feature", "anchor"),
    "kd": (1, 1, 0, True, "logits", "kd"),
    "dkd": (1, 1, 0, False, "logits labels", "target others"),
    "dist": (2, 1, 0, False, "logits", "inter intra"),
    "mlld": (0.9, 0.1, 0, False, "logits", "instance batch class"),
    "fitnet": (100, 1, 0, True, "maps", "fitnet"),
    "at": (1000, 1, 0, True, "maps", "at"),
    "vid": (1, 1, 0, True, "maps", "vid"),
    "nst": (50, 1, 0, True, "maps", "nst"),
    "fsp": (50, 1, 30, True, "maps", "fsp"),
    "ab": (1, 1, 30, True, "maps", "ab"),
    "ft": (200, 1, 0, True, "maps", "ft"),
}


@each_method
def test_a_method_has_its_published_weights_and_says_what_it_is_and_reads(name: str) -> None:
    method, cls, info = make(name), METHODS[name], method_info(name)
    found = (method.weight, method.gamma, round(270 * method.init_share), method.pointwise)
    assert (*found, " ".join(method.reads), " ".join(method.terms(*outputs(), BATCH))) == PUBLISHED[name]
    assert method.augment == ("crop" if method.gamma or name == "anchor" else "contrastive")
    assert cls.__name__.lower() == name
    assert re.search(r"\b(19|20)\d\d\b", info.paper), "authors, year, arXiv number"
    assert info.differs not in ("", "-") and "\n" not in info.differs and not info.differs.endswith(".")
    assert info.criterion not in ("", "-") and info.kernel and info.topology
    assert cls.__doc__ is not None and "Paper, official code and this one:" in cls.__doc__
    (example,) = doctest.DocTestFinder(recurse=False).find(cls, globs={})
    assert any(line.want for line in example.examples)
    assert "Raises:" in cls.__doc__ and "RelgraphError" in cls.__doc__
