"""What every method has from its base: detached teachers, sums of terms, purity, and names that are looked up."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.methods import EGA, KD, METHODS, Batch, Method, Output, build_method

N, DIM, CLASSES = 8, 6, 4
BATCH = Batch(torch.arange(N), torch.arange(N) % CLASSES)
INSTANCES: dict[str, Callable[[], Method]] = {
    "ega": EGA,
    "ega-knn-conv": lambda: EGA(graph="knn", k=3, refine="conv", dim=DIM).double(),
    "kd": KD,
}


class Product(Method):
    """Two terms, of which one reads what was remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.given: Output | None = None

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        self.given = teacher
        return {"a": (student.embedding * teacher.embedding).sum(), "b": student.embedding.sum() * self.seen}

    def remember(self, student: Output, teacher: Output, batch: Batch) -> None:
        self.seen += len(batch.indices)


def output(requires_grad: bool = False) -> Output:
    return Output(
        torch.randn(N, DIM, dtype=torch.float64, requires_grad=requires_grad),
        torch.randn(N, CLASSES, dtype=torch.float64, requires_grad=requires_grad),
        torch.randn(N, 5, dtype=torch.float64, requires_grad=requires_grad),
        (torch.randn(N, 3, 4, 4, dtype=torch.float64, requires_grad=requires_grad),),
    )


def tensors(given: Output) -> list[Tensor]:
    return [part for part in (given.embedding, given.logits, given.feature, *given.maps) if part is not None]


def test_the_loss_is_the_sum_of_its_terms_which_come_in_order() -> None:
    method, student, teacher = Product(), output(), output()
    method.remember(student, teacher, BATCH)
    terms = method.terms(student, teacher, BATCH)
    assert list(terms) == ["a", "b"]
    torch.testing.assert_close(method(student, teacher, BATCH), terms["a"] + terms["b"])


def test_bare_embeddings_are_outputs_without_logits() -> None:
    method, student, teacher = Product(), output(), output()
    torch.testing.assert_close(method(student.embedding, teacher.embedding), method(student, teacher, BATCH))
    method(student.embedding, teacher.embedding)
    assert method.given is not None and method.given.logits is None and method.given.feature is None


def test_the_teacher_comes_detached_whole() -> None:
    method, student, teacher = Product(), output(), output(requires_grad=True)
    method(student, teacher)
    assert method.given is not None
    assert not any(part.requires_grad for part in tensors(method.given))
    assert len(tensors(teacher)) == 4
    assert all(torch.equal(a, b) for a, b in zip(tensors(method.given), tensors(teacher), strict=True))
    assert teacher.embedding.requires_grad, "the caller's own tensor is left as it was"


@pytest.mark.parametrize("name", INSTANCES)
def test_gradient_reaches_the_student_and_never_the_teacher(name: str) -> None:
    """L4."""
    method, student, teacher = INSTANCES[name](), output(requires_grad=True), output(requires_grad=True)
    torch.autograd.backward(method(student, teacher, BATCH))
    assert all(part.grad is None for part in tensors(teacher))
    read = student.logits if name == "kd" else student.embedding
    assert read is not None and read.grad is not None and read.grad.any()


@pytest.mark.parametrize("name", INSTANCES)
def test_a_loss_is_pure(name: str) -> None:
    """L5: two calls, one value; nothing is written, and what most methods remember is nothing."""
    method, student, teacher = INSTANCES[name](), output(), output()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    first = method(student, teacher, BATCH)
    assert torch.equal(method(student, teacher, BATCH), first)
    method.remember(student, teacher, BATCH)
    assert torch.equal(method(student, teacher, BATCH), first)
    assert all(torch.equal(state[key], value) for key, value in method.state_dict().items())


def test_only_remembering_changes_the_next_loss() -> None:
    method, student, teacher = Product(), output(), output()
    first = method(student, teacher, BATCH)
    assert torch.equal(method(student, teacher, BATCH), first)
    method.remember(student, teacher, BATCH)
    assert not torch.equal(method(student, teacher, BATCH), first)


def test_a_base_method_trains_nothing_of_the_teachers() -> None:
    method = Product()
    assert list(method.teacher_parameters()) == [] and method.refined_teacher(output(), output()) is None
    with pytest.raises(NotImplementedError):
        Method()(output(), output())


def test_methods_are_built_from_the_options_that_they_name() -> None:
    options = {"graph": "knn", "k": 3, "node_weight": 2.0, "edge_weight": 1.0, "temperature": 2.5, "lr": 0.1}
    ega, kd = build_method("ega", options), build_method("kd", options)
    assert isinstance(ega, EGA) and ega.node_weight == 2.0 and ega.edge_weight == 1.0
    assert isinstance(kd, KD) and kd.temperature == 2.5
    student, teacher = output(), output()
    assert torch.equal(ega(student, teacher), EGA(2.0, 1.0, "knn", 3)(student, teacher))
    assert build_method("none", options) is None
    assert METHODS == {"ega": EGA, "kd": KD}


def test_unknown_methods_and_refused_options() -> None:
    with pytest.raises(RelgraphError, match=r"^unknown method 'egga': did you mean 'ega'\? \(known: ega, kd, none\)$"):
        build_method("egga", {})
    with pytest.raises(RelgraphError, match=r"^edge_weight must be at least 0, got -1\.0$"):
        build_method("ega", {"edge_weight": -1.0})
