"""Sums against their parts one by one: names, weights, memories, and the teacher's sides."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relgraph.graph.refine import Refinement
from relgraph.methods import CCL, EGA, KD, PKT, SEED, SP, SSKD, Batch, Method, Output, Sum, Views
from relgraph.methods.base import as_output
from relgraph.training.spread import Spread
from tests.checks import assert_refused
from tests.methods.golden import random_output

N, D, CLASSES = 6, 4, 3
BATCH = Batch(torch.arange(N), torch.arange(N) % CLASSES)


class Remembers(Method):
    """Adds the mean of the last teacher's embeddings that it was shown."""

    reads = ("embedding", "indices")
    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(()))

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        return {"remembers": student.embedding.sum() * self.memory}

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        self.memory.copy_(as_output(teacher).embedding.mean())


def output() -> Output:
    return random_output(N, D, CLASSES, D, ((2, 4, 4),)).each(Tensor.float)


def test_terms_carry_the_weights_and_the_names_of_their_methods() -> None:
    student, teacher = output(), output()
    methods: dict[str, tuple[float, Method]] = {"ega": (2.0, EGA()), "kd": (0.9, KD()), "ccl": (0.5, CCL())}
    terms = Sum(methods).terms(student, teacher, BATCH)
    ega, kd, ccl = (method.terms(student, teacher, BATCH) for _, method in methods.values())
    expected = {
        "ega_node": 2 * ega["node"],
        "ega_edge": 2 * ega["edge"],
        "kd": 0.9 * kd["kd"],
        "ccl_nce": 0.5 * ccl["nce"],
        "ccl_jeffreys": 0.5 * ccl["jeffreys"],
    }
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(Sum(methods)(student, teacher, BATCH), torch.stack(list(expected.values())).sum())
    terms = Sum({"ega": (3.0, EGA()), "kd": (0.0, KD())}).terms(student, teacher)
    torch.testing.assert_close(terms, {"ega_node": 3 * ega["node"], "ega_edge": 3 * ega["edge"], "kd": torch.zeros(())})
    assert list(Sum({"ega": (3.0, EGA())}).terms(student, teacher)) == ["node", "edge"], "of one method, as they are"


def test_it_reads_what_its_methods_read() -> None:
    assert Sum({"sp": (1.0, SP()), "ccl": (1.0, CCL())}).reads == ("embedding", "labels", "logits", "map")
    assert Sum({"pkt": (1.0, PKT(nodes="embedding"))}).reads == ("embedding",)
    assert Sum({"kd": (1.0, KD()), "any": (1.0, Method())}).reads == (), "one that names no part may read every one"


def test_remembering_reaches_every_method_and_keeps_memories_apart() -> None:
    student, teacher = output(), output()
    loss = Sum({"a": (1.0, Remembers()), "b": (10.0, Remembers()), "kd": (1.0, KD())})
    before = loss.terms(student, teacher, BATCH)
    assert before["a_remembers"].item() == 0 == before["b_remembers"].item()
    loss.remember(student, teacher, BATCH)
    after = loss.terms(student, teacher, BATCH)
    expected = student.embedding.sum() * teacher.embedding.mean()
    torch.testing.assert_close(after["a_remembers"], expected)
    torch.testing.assert_close(after["b_remembers"], 10 * expected)
    one, other = (loss.parts[name].memory for name in ("a", "b"))
    assert isinstance(one, Tensor) and isinstance(other, Tensor) and one.data_ptr() != other.data_ptr()


def refined(names: Sequence[str] = ("ega", "pkt", "kd")) -> Sum:
    methods: dict[str, tuple[float, Method]] = {
        "ega": (0.5, EGA(refinement=Refinement("conv", D))),
        "pkt": (100.0, PKT(refinement=Refinement("conv", D))),
        "kd": (1.0, KD()),
    }
    loss = Sum({name: methods[name] for name in names})
    for parameter in loss.parameters():
        nn.init.normal_(parameter)
    return loss


def classifier() -> Callable[[Output], Tensor]:
    """Return the cross-entropy of a head on the labels of the batch."""
    head = nn.Linear(D, CLASSES)

    def loss(given: Output) -> Tensor:
        return cross_entropy(head(given.embedding if given.feature is None else given.feature), BATCH.labels)

    return loss


def test_the_teachers_sides_are_trained_by_terms_without_weights() -> None:
    student, teacher, loss, classify = output(), output(), refined(), classifier()
    terms = loss.teacher_terms(student, teacher, BATCH, classify)
    assert list(terms) == ["ega_refined", "pkt_refined"]
    for name in ("ega", "pkt"):
        method = loss.parts[name]
        assert isinstance(method, Method)
        expected = method.teacher_terms(student, teacher, BATCH, classify)["refined"]
        torch.testing.assert_close(terms[f"{name}_refined"], expected)
    assert list(refined(["ega"]).teacher_terms(student, teacher, BATCH, classify)) == ["refined"]
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    trained = {name for name, parameter in loss.named_parameters() if parameter.grad is not None}
    mine = {id(parameter) for parameter in loss.teacher_parameters()}
    assert trained == {name for name, parameter in loss.named_parameters() if id(parameter) in mine}
    assert len(trained) == 6 and all(".refinement.teacher." in name for name in trained)


def test_a_sum_may_stand_in_a_sum() -> None:
    student, teacher = output(), output()
    inner = Sum({"ega": (2.0, EGA()), "kd": (1.0, KD())})
    terms = Sum({"both": (0.5, inner), "pkt": (1.0, PKT())}).terms(student, teacher)
    assert list(terms) == ["both_ega_node", "both_ega_edge", "both_kd", "pkt"]
    torch.testing.assert_close(terms["both_kd"], 0.5 * KD()(student, teacher))


def seed(patches: int = 0) -> SEED:
    return SEED(D, D, queue=7, patches=patches)


def sskd() -> SSKD:
    return SSKD(D, D, nn.Linear(D, D))


def test_who_asks_for_no_further_views_gets_none() -> None:
    assert Sum({"seed": (1.0, seed()), "kd": (0.9, KD())}).views is None
    assert Sum({"kd": (1.0, KD()), "seed": (1.0, seed(patches=2))}).views == Views("patches", 2)
    assert Sum({"a": (1.0, seed(patches=2)), "b": (1.0, seed(patches=2))}).views == Views("patches", 2)
    inner = Sum({"sskd": (1.0, sskd())})
    assert Sum({"inner": (1.0, inner), "kd": (1.0, KD())}).views == Views("rotations", 3)


def test_two_terms_of_one_name_are_refused() -> None:
    """One of them would be dropped from the loss."""

    class Terms(Method):
        name = "b_c"

        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
            return {self.name: student.rows * torch.ones(())}

    class Short(Terms):
        name = "c"

    total, x = Sum({"a": (1.0, Terms()), "a_b": (1.0, Short())}), torch.randn(4, D)
    told = "two terms of the loss are called a_b_c: expected another name of one of them"
    assert_refused((lambda: total(x, x), told), (lambda: Spread(total)(x, x), told))


def test_what_it_refuses() -> None:
    share = "the methods of a sum share the extra views of an image, got"
    all_of_them = SSKD(D, D, nn.Linear(D, D), transformations="all")
    for methods, message in (
        ({"sskd": (1, sskd()), "seed": (1, seed(6))}, f"{share} sskd for 3 rotations and seed for 6 patches"),
        ({"a": (1, seed(6)), "b": (1, seed(2))}, f"{share} a for 6 patches and b for 2 patches"),
        ({"a": (1, sskd()), "b": (1, all_of_them)}, f"{share} a for 3 rotations and b for 4 transformations"),
        ({}, "a sum of methods needs at least one, got none"),
        ([(1.0, KD())], 'a sum of methods has names: expected {"rkd": (1.0, RKD()), ...}, got list'),
        ({"a": KD()}, 'a in a sum is a weight and a method: expected {"rkd": (1.0, RKD()), ...}, got KD'),
        ({"a": (1.0, nn.Linear(1, 1))}, "a in a sum is a weight and a method: expected…"),
        ({"a.b": (1.0, KD())}, "the name of a method in a sum is a word without a dot, got 'a.b'"),
        ({"": (1.0, KD())}, "the name of a method in a sum is a word without a dot, got ''"),
        ({"kd": ("1", KD())}, "the weight of kd must be at least 0, got '1'"),
        ({"pkt": (1, PKT()), "kd": (-1, KD())}, "the weight of kd must be at least 0, got -1"),
        ({"pkt": (1, PKT()), "kd": (math.nan, KD())}, "the weight of kd must be at least 0, got nan"),
        ({"pkt": (1, PKT()), "kd": (math.inf, KD())}, "the weight of kd must be finite, got inf"),
    ):
        assert_refused((partial(Sum, methods), message))  # type: ignore[arg-type]


def test_the_weight_of_the_labels_is_that_of_no_part() -> None:
    assert SEED.gamma == 0 and SSKD.gamma == 0.1
    assert Sum({"seed": (1.0, seed())}).gamma == Sum({"sskd": (1.0, sskd()), "kd": (1.0, KD())}).gamma == 1
