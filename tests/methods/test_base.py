"""What every method has from its base: detached teachers, sums of terms, the nodes of an output, checks at the border.

The laws that all methods keep are in test_laws.py.
"""

from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph import methods
from relgraph.graph.relation import Relation
from relgraph.methods import (
    AT,
    DIST,
    DKD,
    EGA,
    KD,
    METHODS,
    MLLD,
    RKD,
    SEED,
    Batch,
    Method,
    Output,
    Pixelwise,
    RunFacts,
)
from relgraph.methods.base import labels_of, logits_of, nodes_of, stage_maps
from relgraph.methods.own import Related
from relgraph.names import build_method
from relgraph.processes import SINGLE_PROCESS
from relgraph.training.spread import gathered, spread_over
from tests.checks import assert_refused, case
from tests.methods.golden import random_output

N, DIM, CLASSES = 8, 6, 4
RUN = RunFacts(DIM, DIM, DIM)
BATCH = Batch(torch.arange(N), torch.arange(N) % CLASSES)


class Product(Method):
    """Two terms, of which one reads what was remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.given: Output | None = None

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        self.given = teacher
        return {"a": (student.embedding * teacher.embedding).sum(), "b": student.embedding.sum() * self.seen}

    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        self.seen += len(batch.indices)


def output() -> Output:
    return random_output(N, DIM, CLASSES, 5, ((3, 4, 4), (3, 2, 2)))


def test_the_loss_is_the_sum_of_its_terms_which_come_in_order() -> None:
    method, student, teacher = Product(), output(), output()
    method.remember(student, teacher, BATCH)
    terms = method.terms(student, teacher, BATCH)
    assert list(terms) == ["a", "b"]
    torch.testing.assert_close(method(student, teacher, BATCH), terms["a"] + terms["b"])


def test_bare_vectors_stand_for_embedding_and_feature_and_nothing_else() -> None:
    method, student, teacher = Product(), output(), output()
    torch.testing.assert_close(method(student.embedding, teacher.embedding), method(student, teacher, BATCH))
    method(student, teacher.embedding)
    assert method.given is not None and method.given.logits is None and method.given.maps == ()
    assert torch.equal(method.given.embedding, teacher.embedding)
    assert method.given.feature is not None and torch.equal(method.given.feature, teacher.embedding)


@pytest.mark.parametrize("bare", [False, True])
def test_the_teacher_comes_detached_whole(bare: bool) -> None:
    method, student, teacher = Product(), output(), output().each(Tensor.requires_grad_)
    method(student, teacher.embedding if bare else teacher)
    assert method.given is not None
    assert not any(part.requires_grad for part in method.given.tensors())
    if not bare:
        assert len(teacher.tensors()) == 5
        assert all(torch.equal(a, b) for a, b in zip(method.given.tensors(), teacher.tensors(), strict=True))
    assert teacher.embedding.requires_grad, "the caller's own tensor is left as it was"


def never(given: Output) -> Tensor:
    raise AssertionError("nothing is to be classified")


def test_a_base_method_trains_nothing_of_the_teachers_and_compares_nothing() -> None:
    method = Product()
    assert list(method.teacher_parameters()) == []
    assert method.teacher_terms(output(), output(), BATCH, never) == {}
    assert_refused(
        (lambda: Method()(output(), output()), "Method needs a method compare(student, teacher, batch), found none")
    )


def test_terms_that_are_no_scalars_are_refused() -> None:
    class Rows(Method):
        def __init__(self, found: Any) -> None:
            super().__init__()
            self.found = found

        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
            return {"rows": self.found}

    told = "Rows compares by terms that are scalars, got rows:"
    assert_refused(
        (lambda: Rows(torch.ones(3))(output(), output()), f"{told} (3,)"),
        (lambda: Rows(2.0)(output(), output()), f"{told} float"),
    )


def test_the_parts_of_an_output_that_can_be_nodes() -> None:
    given = output()
    assert nodes_of(given, "embedding", "SP") is given.embedding
    assert nodes_of(given, "feature", "SP") is given.feature
    assert torch.equal(nodes_of(given, "map", "SP"), given.maps[1].reshape(N, 12))
    assert stage_maps(given, "FSP", least=2) is given.maps


def test_parts_that_are_missing_are_named() -> None:
    bare, two, given = Output(torch.zeros(2, 3)), Batch(torch.arange(2), None), output()  # type: ignore[arg-type]
    labels = "NCE reads labels: expected a Batch(indices, labels) as the third argument, got none"
    last = "SP reads the last stage map: expected Output(embedding, maps=(...)) of both networks, or nodes='feature'"
    shape = "KD needs logits of one shape (N, classes) from student and teacher, got (8, 4) and (8, 3)"
    bare_logits = "KD reads logits: expected Output(embedding, logits) of student and teacher, got bare embeddings"
    feature = "RKD reads features: expected Output(embedding, feature=...) of both networks"
    maps = (
        "FSP reads stage maps (N, C, H, W): expected Output(embedding, maps=(...)) with at least 3 "
        "of student and teacher, got 2"
    )
    assert_refused(
        (lambda: nodes_of(bare, "feature", "RKD"), feature),
        (lambda: nodes_of(bare, "map", "SP"), f"{last} for vectors"),
        (lambda: stage_maps(given, "FSP", least=3), maps),
        (lambda: logits_of(given, bare, "KD"), bare_logits),
        (lambda: logits_of(given, given._replace(logits=torch.zeros(N, 3)), "KD"), shape),
        (lambda: labels_of(None, "NCE", N), labels),
        (lambda: labels_of(two, "NCE", 2), labels),
        (lambda: labels_of(BATCH, "NCE", 7), "NCE reads one label for each of the 7 images, got (8,)"),
    )


def test_what_a_method_does_not_read_may_be_left_out() -> None:
    s, t = output(), output()
    reading: dict[Method, tuple[str, ...]] = {
        **dict.fromkeys((KD(), DKD(), DIST(), MLLD(), Pixelwise(official=True)), ("logits",)),
        AT(): ("maps",),
        RKD(): ("feature",),
        SEED(5, 5, queue=4, patches=1).double(): ("feature", "extra"),
    }
    extra = Output(torch.ones(N, 1).double(), feature=torch.randn(N, 5).double())
    s, t = (x._replace(extra=extra) for x in (s, t))
    for method, parts in reading.items():
        with case(type(method).__name__):
            one, other = (Output(**{part: getattr(x, part) for part in parts}) for x in (s, t))
            torch.testing.assert_close(method(one, other, BATCH), method(s, t, BATCH))
            torch.testing.assert_close(spread_over(method)(one, other, BATCH), method(s, t, BATCH))
            method.remember(one, other, BATCH)
            whole = gathered(one, method.reads, SINGLE_PROCESS)
            torch.testing.assert_close(whole.tensors(), one.tensors())
            assert one.embedding is None and one.detach().embedding is None and one.rows == N
    missing = "reads embeddings: expected Output(embedding) of both networks, got none"
    only = Output(logits=torch.zeros(N, CLASSES))
    assert_refused(
        (lambda: EGA()(only, only), f"EGA {missing}"),
        (lambda: spread_over(EGA())(torch.zeros(N, DIM), only), f"EGA {missing}"),
        (lambda: RKD(nodes="embedding")(only, only), f"RKD {missing}"),
        (lambda: RKD()(only, only), "RKD reads features: expected Output(embedding, feature=...)…"),
    )


def test_shapes_are_known_without_numbers_on_the_meta_device() -> None:
    s, t = (torch.empty(12, width, device="meta", requires_grad=width == 5) for width in (5, 7))
    for name in ("ega", "rkd", "pkt", "cc", "sp", "darkrank", "cka"):
        with case(name):
            given = {"nodes": "feature"} if name != "ega" else {}
            t_of_width = t if name != "ega" else t[:, :5]
            loss = METHODS[name](**given)(s, t_of_width)
            assert loss.shape == () and loss.is_meta and torch.autograd.grad(loss, s)[0].shape == (12, 5)


def test_all_names_of_the_package_and_no_module_are_imported_by_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from relgraph.methods import *", names)
    names.pop("__builtins__")
    assert sorted(names) == sorted(methods.__all__) and "sum" not in names
    assert {cls.__name__ for cls in METHODS.values()} < names.keys()
    public = {name for name, value in vars(methods).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public == set(methods.__all__)


def test_a_relation_passes_gradient_to_the_teacher_and_a_method_of_it_does_not() -> None:
    s, t = (torch.randn(N, DIM, requires_grad=True) for _ in range(2))
    for loss, learns in ((Relation(), True), (Related(Relation()), False)):
        gradient = torch.autograd.grad(loss(s, t), t, allow_unused=True)[0]
        assert (gradient is not None) == learns


def test_what_is_no_output_or_no_batch_is_refused() -> None:
    outputs = (
        "a method takes vectors (N, D) or an Output(embedding, logits=..., feature=..., maps=...) of each network, got"
    )
    given: Any
    for given in (None, [1.0, 2.0], (torch.zeros(2, 3), torch.zeros(2, 3)), BATCH):
        message = f"{outputs} {type(given).__name__}"
        refused = (partial(Product(), *pair, BATCH) for pair in ((given, output()), (output(), given)))
        assert_refused(*((call, message) for call in refused))
    for given in (BATCH.labels, (BATCH.indices, BATCH.labels), output()):
        message = f"the third argument of a method is a Batch(indices, labels), got {type(given).__name__}"
        assert_refused((partial(Product(), output(), output(), given), message))


def test_methods_are_built_from_the_options_that_they_name() -> None:
    options = {"graph": "knn", "k": 3, "node_weight": 2.0, "edge_weight": 1.0, "temperature": 2.5, "lr": 0.1}
    built = [build_method(name, RUN, options) for name in ("ega", "kd")]
    ega, kd = (method.parts[name] for name, method in zip(("ega", "kd"), built, strict=True) if method is not None)
    assert isinstance(ega, EGA) and ega.node_weight == 2.0 and ega.edge_weight == 1.0
    assert isinstance(kd, KD) and kd.temperature == 2.5
    student, teacher = output(), output()
    assert torch.equal(ega(student, teacher), EGA(2.0, 1.0, graph="knn", k=3)(student, teacher))
    assert build_method("none", RUN, options) is None
