"""CRD against double loops over images in float64: negatives one by one, with the memory written slot by slot."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.topology import AllPairs, Given, Nearest
from relgraph.methods import Batch, Output, RunFacts
from relgraph.methods.crd import CRD, nce
from relgraph.names import build_method
from tests.checks import assert_refused, case
from tests.methods.golden import value_and_gradient, vectors

IMAGES, N, STUDENT, TEACHER, KEY = 12, 4, 5, 7, 6
TAU = 0.3
LABELS = torch.tensor([2, 0, 5, 0, -1, 2, 2, 0, 2, 5, -1, 2])
INDICES = torch.tensor([0, 4, 9, 3])
BATCH = Batch(INDICES, LABELS[INDICES])
RUN = RunFacts(3, STUDENT, TEACHER, images=IMAGES, labels=LABELS)
GRAPHS = {"sampled": None, "dense": None, "knn": 3}


def crd(graph: str = "sampled", labels: Tensor | None = LABELS, **options: object) -> CRD:
    negatives = 9 if graph == "sampled" else None
    options = {"k": GRAPHS[graph], "negatives": negatives, "tau": TAU, "key_dim": KEY, **options}
    return CRD(STUDENT, TEACHER, IMAGES, labels, graph, **options).double()  # type: ignore[arg-type]


def features() -> tuple[Tensor, Tensor]:
    return vectors(N, STUDENT, TEACHER)


def outputs(student: Tensor, teacher: Tensor) -> tuple[Output, Output]:
    return Output(student, feature=student), Output(teacher, feature=teacher)


def others(image: int) -> list[int]:
    """Return the images of other classes, one by one."""
    return [j for j in range(IMAGES) if j != image and (LABELS[j] < 0 or LABELS[j] != LABELS[image])]


def unit_rows(layer: torch.nn.Linear, x: Tensor) -> list[Tensor]:
    rows = [torch.stack([row @ w + b for w, b in zip(layer.weight, layer.bias, strict=True)]) for row in x]
    return [row / row.square().sum().sqrt() for row in rows]


def chosen(loss: CRD, graph: str, anchors: list[Tensor], keys: Tensor) -> list[list[int]]:
    if graph == "sampled":
        drawn: list[list[int]] = loss.sampler.others(INDICES, 9).tolist()
        return drawn
    found = []
    for anchor, image in zip(anchors, INDICES.tolist(), strict=True):
        scores = sorted((-(anchor @ keys[j]).item(), j) for j in others(image))
        found.append([j for _, j in scores[: GRAPHS[graph]]])
    return found


def naive(loss: CRD, graph: str, student: Tensor, teacher: Tensor, z: list[float] | None = None) -> tuple[Tensor, ...]:
    """Return the losses of both directions, and both Z: of this batch unless they are given."""
    g = unit_rows(loss.embed_student, student), unit_rows(loss.embed_teacher, teacher)
    keys = loss.teacher_bank.keys, loss.student_bank.keys
    losses, constants = [], []
    own_images = loss.sampler.same(INDICES) if loss.positives == "relaxed" else INDICES
    for side in range(2):
        negatives = chosen(loss, graph, g[side], keys[side])
        exponentials = [
            [torch.exp(anchor @ keys[side][j] / TAU) for j in [image, *row]]
            for anchor, image, row in zip(g[side], own_images.tolist(), negatives, strict=True)
        ]
        flat = torch.stack([value for row in exponentials for value in row])
        constants.append(flat.mean().detach() * IMAGES if z is None else torch.tensor(z[side], dtype=torch.float64))
        total = torch.zeros((), dtype=torch.float64)
        for own, *rest in exponentials:
            noise = len(rest) / IMAGES
            total = total - torch.log(own / constants[-1] / (own / constants[-1] + noise + 1e-7))
            for value in rest:
                total = total - torch.log(noise / (value / constants[-1] + noise + 1e-7))
        losses.append(total / N)
    return *losses, *constants


@pytest.mark.parametrize(("graph", "positives"), [*((graph, "exact") for graph in GRAPHS), ("sampled", "relaxed")])
def test_a_naive_loop(graph: str, positives: str) -> None:
    """Value and gradient, in the first step, where Z is the batch's, and in later ones, where it is the first's."""
    loss = crd(graph, positives=positives)
    z = None
    for _ in range(3):
        student, teacher = features()
        expected = naive(loss, graph, student, teacher, z)
        terms = loss.terms(student, teacher, BATCH)
        assert list(terms) == ["student_anchors", "teacher_anchors"]
        torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(expected[:2]), rtol=1e-10, atol=0)
        leaves = [student, *loss.parameters()]
        found = torch.autograd.grad(loss(student, teacher, BATCH), leaves)
        for gradient, wanted in zip(found, torch.autograd.grad(expected[0] + expected[1], leaves), strict=True):
            assert wanted.any()
            torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-13)
        loss.remember(*outputs(student.detach(), teacher), BATCH)
        z = [constant.item() for constant in expected[2:]] if z is None else z
        assert loss.log_z.exp().tolist() == pytest.approx(z, rel=1e-12)


def test_it_remembers_the_embeddings_of_both_networks() -> None:
    loss, (student, teacher) = crd(bank_momentum=0.25), features()
    banks = loss.student_bank, loss.teacher_bank
    before = [bank.keys.clone() for bank in banks]
    embedded = unit_rows(loss.embed_student, student), unit_rows(loss.embed_teacher, teacher)
    loss.remember(*outputs(student, teacher), BATCH)
    for bank, old, rows in zip(banks, before, embedded, strict=True):
        for index, row in zip(INDICES.tolist(), rows, strict=True):
            slot = 0.25 * old[index] + 0.75 * row
            old[index] = (slot / slot.norm()).detach()
        torch.testing.assert_close(bank.keys, old)
        assert not bank.keys.requires_grad


def test_what_the_first_batch_leaves_is_what_its_loss_used() -> None:
    """Z of the batch itself, also from bfloat16, in which a loop computes the loss; later batches leave it alone."""
    loss, (student, teacher) = crd("dense").float(), outputs(*(x.detach().bfloat16() for x in features()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss.terms(student, teacher, BATCH)
    banks = loss.student_bank.keys.clone(), loss.teacher_bank.keys.clone()
    loss.remember(student, teacher, BATCH)
    for bank, keys in zip((loss.student_bank, loss.teacher_bank), banks, strict=True):
        bank.keys.copy_(keys)
    torch.testing.assert_close(loss.terms(student, teacher, BATCH), terms, rtol=1e-5, atol=0)
    z = loss.log_z.clone()
    loss.remember(student, teacher, BATCH)
    assert torch.equal(loss.log_z, z)


def test_names_and_rules_of_the_graph_and_how_many_negatives() -> None:
    built = build_method("crd", RUN, {"graph": "knn", "k": 2}, ["tau=0.1"])
    assert built is not None and built.weights == {"crd": 0.8}
    knn = built.parts["crd"]
    assert isinstance(knn, CRD) and knn.rule.k == 2 and knn.tau == 0.1
    assert CRD(STUDENT, TEACHER, IMAGES, LABELS).rule.k == 16384 and crd(negatives=5).rule.k == 5
    student, teacher = features()
    for graph, k, rule in (("dense", None, AllPairs()), ("knn", 3, Nearest(3))):
        named, given = crd(graph, k=k), CRD(STUDENT, TEACHER, IMAGES, LABELS, rule, tau=TAU, key_dim=KEY).double()
        given.load_state_dict(named.state_dict())
        assert torch.equal(named(student, teacher, BATCH), given(student, teacher, BATCH))


def test_zeros_that_stay_zeros_and_a_low_temperature_are_finite() -> None:
    for graph in GRAPHS:
        for student in (torch.zeros(N, STUDENT), torch.full((N, STUDENT), 65504.0).half()):
            loss, teacher = crd(graph, tau=0.005).float(), torch.zeros(N, TEACHER)
            for layer in (loss.embed_student, loss.embed_teacher):
                torch.nn.init.zeros_(layer.bias)
            with case(graph, student.dtype):
                for _ in range(2):
                    value, gradient = value_and_gradient(loss, student.requires_grad_(), teacher, BATCH)
                    assert value.isfinite() and gradient.isfinite().all()
                    loss.remember(student, teacher, BATCH)
                assert all(bool(tensor.isfinite().all()) for tensor in loss.state_dict().values())


def test_probabilities_beyond_floats_are_finite_and_small_ones_keep_their_digits() -> None:
    for scale in (1e3, -1e3):
        p, n = (torch.full(shape, scale, requires_grad=True) for shape in ((3,), (3, 4)))
        value = nce(p, n, torch.full((3,), 4), 0.05)
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (p, n)))
    value = nce(torch.full((2,), 30.0), torch.full((2, 1000), 1e-5).log(), torch.full((2,), 1000), 1e-3)
    assert value.item() == pytest.approx(1000 * (math.log1p(1e-5) + 1e-7), rel=1e-4)


def refused(**options: Any) -> Callable[[], object]:
    return partial(CRD, **{"student_width": 5, "teacher_width": 7, "images": 12, "labels": LABELS, **options})


def test_which_options_it_refuses() -> None:
    of_knn = "k belongs to the graph 'knn', got k = 3 and another graph"
    sampled = "negatives are those of the graph 'sampled', got 9 and another graph"
    classes = "negatives are images of other classes: expected at least 2 classes among 12 images, got 1"
    relaxed = "relaxed positives are images of the same class: expected labels, got none"
    edges = torch.tensor([[0], [1]])
    assert_refused(
        (refused(graph="dens"), "unknown graph 'dens': did you mean 'dense'? (known: dense, knn, sampled)"),
        (refused(k=3), of_knn),
        (refused(graph=Nearest(3), k=3), of_knn),
        (refused(positives="relaxed", labels=None), relaxed),
        (refused(graph="dense", negatives=9), sampled),
        (refused(graph=Nearest(3), negatives=9), sampled),
        (refused(labels=LABELS.tolist()), "labels must be a tensor (images,) of integers, got list"),
        (refused(labels=torch.zeros(5)), "labels must be one for each of the 12 images, got (5,)"),
        (refused(labels=torch.ones(12)), classes),
    )
    own = (
        "CRD takes the graph 'sampled', 'dense' or 'knn', which its own scores and labels choose in its memory: "
        "edges among the images of a batch are none of them, got"
    )
    for graph in (edges, Given(edges), Nearest(3, "student")):
        assert_refused((refused(graph=graph), f"{own} {type(graph).__name__}"))


def test_which_batches_it_refuses() -> None:
    def given(student: tuple[int, ...], teacher: tuple[int, ...], indices: Sequence[float]) -> Callable[[], object]:
        batch = Batch(torch.tensor(indices), torch.zeros(len(indices)))
        return partial(crd(), torch.zeros(student).double(), torch.zeros(teacher).double(), batch)

    bare = Output(torch.zeros(4, 5)), Output(torch.zeros(4, 7))
    real = Batch(INDICES.double(), BATCH.labels)
    alike = "embeddings must be (N, D), student and teacher of the same N images, got (4, 5) and (3, 7)"
    four, integers = [0, 1, 2, 3], "indices must be integers, got torch.float64"
    assert_refused(
        (given((4, 6), (4, 7), four), "CRD was built for student nodes (N, 5), got (4, 6)"),
        (given((4, 5), (4, 5), four), "CRD was built for teacher nodes (N, 7), got (4, 5)"),
        (given((4, 5), (3, 7), four), alike),
        (given((4, 5), (4, 7), [0, 1, 2]), "indices must be one for each of the 4 keys, got (3,)"),
        (given((4, 5), (4, 7), [0, 1, 2, 12]), "indices must name images 0 to 11, got 12"),
        (given((4, 5), (4, 7), [0, 1, -2, 3]), "indices must name images 0 to 11, got -2"),
        (partial(crd(), *features(), real), integers),
        (partial(crd().remember, *features(), real), integers),
        (lambda: crd()(*bare, BATCH), "CRD reads features: expected Output(embedding, feature=...)…"),
    )
