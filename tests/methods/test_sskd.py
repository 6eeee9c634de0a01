"""SSKD against plain loops over views and images, and against the authors' own numbers."""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from relgraph.methods import Batch, Output, Views
from relgraph.methods.sskd import SSKD, views_to_images
from relgraph.networks.heads import Projector
from relgraph.training.spread import labelled_cross_entropy
from tests.checks import assert_refused, case
from tests.methods import golden
from tests.methods.golden import GOLDEN, batch, check, embeddings, logits, random_output
from tests.methods.test_sskd_trust import naive_rank, selected

N, V, CLASSES, STUDENT, TEACHER = 5, 3, 4, 6, 8
LABELS = torch.tensor([2, 0, -1, 3, 2])
RATIOS = sorted({key.split("_ratio_")[1] for key in GOLDEN if key.startswith("sskd_total")})
TERMS = {"kd": "kd", "tf": "transformed", "ss": "self_supervision"}


def sskd(**options: Any) -> SSKD:
    return SSKD(STUDENT, TEACHER, Projector(TEACHER, TEACHER), **options).double()


def output(width: int, count: int = N, views: int = V) -> Output:
    """Return random outputs; those of the student are leaves that require gradient."""
    first, extra = (random_output(rows, 2, CLASSES, width) for rows in (count, views * count))
    return first._replace(extra=extra).each(lambda x: x.requires_grad_(width == STUDENT))


def outputs(count: int = N, views: int = V) -> tuple[Output, Output]:
    return output(STUDENT, count, views), output(TEACHER, count, views)


BATCH = batch(LABELS.tolist())


def extra(given: Output) -> Output:
    assert given.extra is not None
    return given.extra


# The authors' numbers. Their rows are 8 images, each followed by its rotations by 90, 180 and 270 degrees.
ORIGINAL = torch.arange(0, 32, 4)
ROTATED = torch.cat([ORIGINAL + 1, ORIGINAL + 2, ORIGINAL + 3])


def as_ours(z: Tensor, vectors: Tensor) -> Output:
    rotated = Output(vectors[ROTATED], z[ROTATED], vectors[ROTATED])
    return Output(vectors[ORIGINAL], z[ORIGINAL], vectors[ORIGINAL], extra=rotated)


def official(ratios: str, weight: float | None = None) -> SSKD:
    tf, ss = (float(text) for text in re.findall(r"[\d.]+", ratios))
    options: dict[str, Any] = {} if weight is None else {"kd_weight": weight, "tf_weight": weight, "ss_weight": weight}
    return SSKD(16, 16, nn.Identity(), tf_ratio=tf, ss_ratio=ss, head="none", **options)


@pytest.mark.parametrize("ratios", RATIOS)
def test_official_value_and_gradient(ratios: str) -> None:
    for term in ("ce", "kd", "tf", "ss", "total"):
        (s, t), (x_s, x_t), eight = logits(32), embeddings(32), batch(range(8))

        def value(term: str = term, inputs: tuple[Tensor, ...] = (s, t, x_s, x_t), eight: Batch = eight) -> Tensor:
            student, teacher = as_ours(inputs[0], inputs[2]), as_ours(inputs[1], inputs[3])
            assert student.logits is not None
            ce = labelled_cross_entropy(student.logits, eight.labels)
            if term == "ce":
                return ce
            if term == "total":
                method: Tensor = official(ratios)(student, teacher, eight)
                return SSKD.gamma * ce + SSKD.weight * method
            return official(ratios, 1.0).terms(student, teacher, eight)[TERMS[term]]

        with case(term):
            check(f"sskd_{term}_ratio_{ratios}", value, {"student_logits": s, "student_proj": x_s})


def test_the_authors_second_stage() -> None:
    vectors = embeddings(32)[1]
    check("sskd_teacher_stage2_contrastive_ce", lambda: views_to_images(vectors[ROTATED], vectors[ORIGINAL]), {})


# A loop over views and images.
def softmaxed(row: list[float], temperature: float) -> list[float]:
    exps = [math.exp(x / temperature) for x in row]
    return [e / sum(exps) for e in exps]


def divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    pairs = zip(softmaxed(student, temperature), softmaxed(teacher, temperature), strict=True)
    return temperature**2 * sum(t * math.log(t / s) for s, t in pairs)


Rows = dict[tuple[int, int], list[float]]  # by image and view


def trusted_divergence(sides: list[Rows], true: list[int], ratio: float, temperature: float) -> float:
    student, teacher = sides
    rows = selected({row: naive_rank(teacher[row], true[row[0]]) for row in teacher}, ratio)
    return sum(divergence(student[row], teacher[row], temperature) for row in rows) / max(1, len(rows))


def cosine_of(x: Tensor, y: Tensor) -> float:
    return float((x @ y / (x.norm() * y.norm())).item())


def naive(loss: SSKD, student: Output, teacher: Output, labels: Tensor) -> dict[str, float]:
    z: list[list[list[float]]] = []
    rows: list[Rows] = []
    similar: list[Rows] = []
    assert loss.ss_head is not None
    for given, head in ((student, loss.projector), (teacher, loss.ss_head)):
        view = extra(given)
        assert given.logits is not None and given.feature is not None
        assert view.logits is not None and view.feature is not None
        z.append(given.logits.tolist())
        count = len(z[0])
        places = [(i, v) for v in range(len(view.logits) // count) for i in range(count)]
        rows.append(dict(zip(places, view.logits.tolist(), strict=True)))
        images, views = ([head(x) for x in vectors.detach()] for vectors in (given.feature, view.feature))
        similar.append({p: [cosine_of(x, y) for y in images] for p, x in zip(places, views, strict=True)})
    own = [row.index(max(row)) for row in z[1]]
    classes = [own[i] if label < 0 else label for i, label in enumerate(labels.tolist())]
    pairs = zip(*z, strict=True)
    return {
        "kd": loss.kd_weight * sum(divergence(s, t, loss.temperature) for s, t in pairs) / count,
        "transformed": loss.tf_weight * trusted_divergence(rows, classes, loss.tf_ratio, loss.temperature),
        "self_supervision": loss.ss_weight * trusted_divergence(similar, list(range(count)), loss.ss_ratio, loss.tau),
    }


OPTIONS: list[dict[str, Any]] = [
    {},
    {"tf_ratio": 0.0, "ss_ratio": 0.0},
    {"tf_ratio": 0.5, "ss_ratio": 1.0, "temperature": 2.0, "tau": 0.1},
    {"transformations": "all", "tf_ratio": 0.3, "ss_ratio": 0.3},
    {"kd_weight": 0.0, "tf_weight": 1.0, "ss_weight": 3.0},
]


def test_a_naive_loop() -> None:
    for options in OPTIONS:
        for labels in (LABELS, torch.full((N,), -1), torch.tensor([0, 1, 2, 3, 0])):
            with case(options, labels):
                loss = sskd(**options)
                assert loss.views is not None
                student, teacher = outputs(views=loss.views.each)
                terms = loss.terms(student, teacher, batch(labels.tolist()))
                expected = naive(loss, student, teacher, labels)
                assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-10)


def test_the_teachers_head_is_a_copy_that_nothing_trains() -> None:
    head = nn.Sequential(nn.Linear(TEACHER, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    loss, (student, teacher) = SSKD(STUDENT, TEACHER, head), outputs()
    loss.train()
    copy = loss.ss_head
    assert copy is not None and copy is not head
    assert loss.projector.training and not any(layer.training for layer in copy.modules())
    assert head.training and all(parameter.requires_grad for parameter in head.parameters())  # as it was
    assert {name.split(".")[0] for name, _ in loss.named_parameters()} == {"projector"}
    before = {name: x.clone() for name, x in copy.state_dict().items()}
    assert before.keys() == head.state_dict().keys()
    student, teacher = (given.each(Tensor.float) for given in (student, teacher))
    optimiser = SGD(loss.requires_grad_().parameters(), lr=1.0, weight_decay=0.1)
    for _ in range(2):
        torch.autograd.backward(loss(student, teacher, BATCH))
        optimiser.step()
    assert all(torch.equal(x, before[name]) for name, x in copy.state_dict().items())


def test_the_views_that_it_asks_for_and_the_layers_of_its_head() -> None:
    loss = sskd()
    assert loss.views == Views("rotations", 3) and sskd(transformations="all").views == Views("transformations", 4)
    shapes = [tuple(parameter.shape) for parameter in loss.projector.parameters()]
    assert shapes == [(STUDENT, STUDENT), (STUDENT,)] * 2


def test_views_to_images_of_a_naive_loop() -> None:
    for count, views in ((1, 3), (5, 1), (4, 3)):
        images, seen = (torch.randn(rows, 6).double().requires_grad_() for rows in (count, views * count))
        for temperature in (0.2, 1.0):
            expected = golden.views_to_images(seen, images, temperature)
            found = views_to_images(seen, images, temperature).item()
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-14), (count, views, temperature)
        assert torch.autograd.gradcheck(views_to_images, (seen, images))


def test_views_to_images_of_half_precision_and_zeros() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        images, seen = torch.zeros(2, 3, dtype=dtype), torch.eye(6, 3, dtype=dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = views_to_images(seen, images)
        assert value.dtype == torch.float32 and value.item() == pytest.approx(math.log(2), rel=1e-6)
        assert torch.autograd.grad(value, seen)[0].isfinite().all()


def test_what_it_refuses() -> None:
    without = (
        "SSKD needs the teacher's self-supervision head, given by --ss-head RUN: "
        "`relgraph pretrain --objective sskd-head --teacher ...` trains one"
    )
    another = "the self-supervision head must take the teacher's feature (N, 8), got one for (N, 7)"
    alike = "embeddings must be (N, D), student and teacher of the same N images, got"

    def views(seen: tuple[int, ...], images: tuple[int, ...]) -> Callable[[], object]:
        return partial(views_to_images, torch.zeros(seen), torch.zeros(images))

    assert_refused(
        (lambda: SSKD(STUDENT, TEACHER, None), without),
        (lambda: SSKD(STUDENT, TEACHER, Projector(7, 7)), another),
        (views((5, 3), (2, 3)), f"{alike} (1, 3) and (2, 3)"),
        (views((0, 3), (2, 3)), f"{alike} (0, 3) and (2, 3)"),
        (views((4, 3), (2, 4)), "matching nodes needs embeddings of one width…"),
        (views((4, 3, 1), (2, 3)), f"{alike} (2, 3, 1) and (2, 3)"),
    )


def test_outputs_are_read_in_the_precision_of_the_heads() -> None:
    method, (student, teacher) = SSKD(STUDENT, TEACHER, Projector(TEACHER, TEACHER)), outputs()
    expected = method.float()(student.each(Tensor.float), teacher.each(Tensor.float), BATCH)
    for heads, given in product((torch.float64, torch.float32, torch.bfloat16), (torch.float64, torch.float32)):
        with case(heads, given):
            found = method.to(heads)(student.each(partial(Tensor.to, dtype=given)), teacher, BATCH)
            bound = 1e-1 if heads == torch.bfloat16 else 1e-4
            torch.testing.assert_close(found.float(), expected, rtol=bound, atol=bound)


def test_a_label_that_names_no_class_is_refused() -> None:
    method, given = SSKD(STUDENT, TEACHER, Projector(TEACHER, TEACHER)).double(), outputs()
    far = BATCH._replace(labels=torch.full_like(BATCH.labels, CLASSES))
    told = f"SSKD reads labels 0 to {CLASSES - 1}, or -1 where unknown, got {CLASSES}"
    assert_refused((lambda: method(*given, far), told))


@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_which_outputs_it_refuses(side: int) -> None:
    pair = outputs()
    given, width = pair[side], (STUDENT, TEACHER)[side]
    views = extra(given)
    short, wide, long = (torch.zeros(shape) for shape in ((12, width), (N, 9), (N + 1, width)))
    rotations = "SSKD reads 3 rotations of each image: expected 3 * 5 rows in Output.extra, got"
    logits = "SSKD reads logits: expected Output(embedding, logits) of student and teacher…"
    features = "SSKD reads features: expected Output(embedding, feature=...) of both networks"
    built = f"SSKD was built for {('student', 'teacher')[side]} nodes (N, {width}), got (5, 9)"
    for changed, message in (
        (given._replace(extra=None), f"{rotations} none"),
        (given._replace(extra=output(width, 12, 1)), f"{rotations} 12"),
        (given._replace(extra=views._replace(feature=short)), f"{rotations} 12 and 15"),
        (given._replace(logits=None), logits),
        (given._replace(extra=views._replace(logits=None)), logits),
        (given._replace(feature=None), features),
        (given._replace(extra=views._replace(feature=None)), features),
        (given._replace(logits=wide), "SSKD needs logits of one shape (N, classes)…"),
        (given._replace(feature=wide), built),
        (given._replace(feature=long), "embeddings must be (N, D), student and teacher of the same N images, got…"),
    ):
        ends = (changed, pair[1]) if side == 0 else (pair[0], changed)
        assert_refused((partial(sskd(), *ends, BATCH), message))
