"""Keys beyond the batch against loops over anchors and keys, and against the batch where it is the memory."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph import blocks
from relgraph.graph.criteria import Criterion, frobenius, huber, mean_square
from relgraph.graph.kernels import Kernel, cosine, euclidean, pearson
from relgraph.graph.keys import keys_around, nearest_keys, related_to_keys
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_anchor_norm, by_mean, raw, softmax
from relgraph.graph.search import Prepared, Rows
from relgraph.graph.topology import Nearest
from tests.checks import assert_refused, case
from tests.graph.test_factored import largest_tensor, with_gradient

N, D, M = 6, 4, 23


def nodes() -> tuple[Tensor, Tensor, Tensor]:
    student, teacher, keys = (torch.randn(rows, D).double() for rows in (N, N, M))
    return student, teacher, keys


def related(
    relation: Relation,
    student: Tensor,
    teacher: Tensor,
    keys: Rows,
    k: int,
    own: Tensor | None = None,
    batch: bool = False,
) -> Tensor:
    """Return the relation to the keys that the teacher's nodes are nearest to."""
    chosen = keys_around(relation.kernel, teacher, keys, k, own, batch=batch)
    return related_to_keys(relation, student, teacher, keys, chosen, batch=batch)


def near(kernel: Kernel, teacher: Tensor, keys: Tensor, k: int, own: Tensor | None) -> list[list[int]]:
    """Return the k nearest keys of each node, by Python's sort."""
    found, slots = [], [-1] * N if own is None else own.tolist()
    for slot, row in zip(slots, kernel(teacher, keys).tolist(), strict=True):
        order = sorted(range(len(keys)), key=lambda j: -row[j] if kernel.nearest_is_largest else row[j])
        found.append([j for j in order if j != slot][:k])
    return found


def test_the_nearest_are_those_of_a_loop() -> None:
    _, teacher, keys = nodes()
    slots = torch.randperm(M)[:N]
    for kernel, k, own, block in product((cosine, euclidean), (1, 5, M - 1), (None, slots), (None, 1, 7, 100)):
        with case(kernel.name, k, own, block):
            found = nearest_keys(kernel.nodes(teacher), kernel.nodes(keys), k, kernel, own, block=block)
            assert found.tolist() == near(kernel, teacher, keys, k, own)


def loop(kernel: Kernel, row: Any, keys: Tensor, k: int, own: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean over anchors of a row of their own vector and their nearest keys."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        teacher, total = teacher.detach(), torch.zeros(()).double()
        for i, chosen in enumerate(near(kernel, teacher, keys, k, own)):
            mine = torch.cat([teacher[i : i + 1], keys[chosen]])
            s, t = kernel(student[i : i + 1], mine)[0], kernel(teacher[i : i + 1], mine)[0]
            total = total + row(s, t)
        return total / N

    return loss


def largest(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().amax(-1)


def soft(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.exp() * student).sum(-1)


def test_a_relation_to_keys_is_a_loop_over_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, keys = nodes()
    slots = torch.randperm(M)[:N]
    parts: list[tuple[Kernel, Any, Any, Any]] = [
        (cosine, raw, largest, largest),
        (cosine, softmax(0.3), soft, lambda s, t: soft(*((x / 0.3).log_softmax(-1) for x in (s, t)))),
        (pearson, by_anchor_norm, mean_square, lambda s, t: (s / s.norm() - t / t.norm()).square().mean()),
        (euclidean, raw, huber, partial(torch.nn.functional.smooth_l1_loss)),
    ]
    for block, own, (kernel, scale, criterion, row), k in product((2**21, 60), (None, slots), parts, (1, 4, 100)):
        monkeypatch.setattr(blocks, "LARGEST", block)
        relation = Relation(kernel, scale=scale, criterion=criterion, against="teacher")
        prepared = kernel.nodes(keys)

        def found(s: Tensor, t: Tensor, k: int = k, relation: Relation = relation, keys: Tensor = prepared,
                  own: Tensor | None = own) -> Tensor:  # fmt: skip
            return related(relation, s, t.detach(), keys, k, own)

        with case(block, own, kernel.name, scale.name, k):
            expected = with_gradient(loop(kernel, row, keys, k, own), student, teacher)
            torch.testing.assert_close(with_gradient(found, student, teacher), expected, rtol=1e-9, atol=1e-10)


def test_the_batch_may_stand_beside_its_nearest_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, keys = nodes()
    slots = torch.randperm(M)[:N]
    left = [j for j in range(M) if j not in slots.tolist()]
    for block, own, k in product((2**21, 60), (None, slots), (1, 4, 100)):
        monkeypatch.setattr(blocks, "LARGEST", block)
        relation = Relation(euclidean, criterion=largest, against="teacher")
        held = keys if own is None else keys[left]

        def found(s: Tensor, t: Tensor, k: int = k, own: Tensor | None = own, relation: Relation = relation) -> Tensor:
            return related(relation, s, t.detach(), keys, k, own, batch=True)

        def expected(s: Tensor, t: Tensor, k: int = k, held: Tensor = held) -> Tensor:
            t, rows = t.detach(), []
            for i, chosen in enumerate(near(euclidean, t, held, k, None)):
                mine = torch.cat([t, held[chosen]])
                rows.append(largest(euclidean(s[i : i + 1], mine), euclidean(t[i : i + 1], mine)))
            return torch.stack(rows).mean()

        with case(block, own, k):
            one, other = (with_gradient(loss, student, teacher) for loss in (found, expected))
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_where_the_batch_is_the_memory_it_is_the_relation_of_the_batch() -> None:
    student, teacher, _ = nodes()
    own = torch.arange(N)
    for scale, criterion in ((raw, frobenius), (raw, mean_square), (softmax(0.5), Criterion(soft))):
        relation = Relation(cosine, scale=scale, criterion=criterion, against="teacher")

        def found(s: Tensor, t: Tensor, relation: Relation = relation) -> Tensor:
            return related(relation, s, t, cosine.nodes(t), N - 1, own)

        expected = with_gradient(lambda s, t, r=relation: r(s, t.detach()), student, teacher)  # type: ignore[misc]
        value = with_gradient(lambda s, t, f=found: f(s, t.detach()), student, teacher)  # type: ignore[misc]
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_keys_in_files_are_prepared_when_they_are_read() -> None:
    student, teacher, keys = nodes()
    relation = Relation(cosine, criterion=largest, against="teacher")
    expected = related(relation, student, teacher, cosine.nodes(keys), 3)
    torch.testing.assert_close(related(relation, student, teacher, Prepared(keys, cosine), 3), expected)


def test_neither_all_weights_nor_all_chosen_keys_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", 2000)
    student, teacher, keys = torch.randn(100, D, requires_grad=True), torch.randn(100, D), torch.randn(3000, D)
    relation = Relation(cosine, criterion=largest, against="teacher")
    keys = cosine.nodes(keys)
    with largest_tensor(views=False) as seen:
        torch.autograd.backward(related(relation, student, teacher, keys, 20))
    # Of 300,000 weights and 8,400 numbers of chosen keys; the positions of the nearest are held twice at a time.
    assert seen.numel <= 2 * 100 * (20 + 20)


def test_half_precision_autocast_and_degenerate_nodes() -> None:
    student, teacher, keys = (x.float() for x in nodes())
    student[1], teacher[2], teacher[4] = 0, 0, teacher[3]
    relation = Relation(cosine, criterion=largest, against="teacher")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        with case(dtype), torch.autocast("cpu", dtype=torch.bfloat16):
            ends = student.to(dtype).requires_grad_(), teacher.to(dtype)
            value = related(relation, *ends, cosine.nodes(keys), 3)
            (gradient,) = torch.autograd.grad(value, ends[0])
            assert value.dtype == (torch.float32 if dtype == torch.float32 else dtype) and value.isfinite()
            assert gradient.isfinite().all() and not gradient[1].any()


def test_what_is_refused() -> None:
    student, teacher, keys = nodes()
    need = 'keys beyond the batch need a relation on all pairs with against="teacher" and a scale of each anchor by…'
    across = partial(Relation, cosine, against="teacher")
    told = "relating the student's nodes to the teacher's needs embeddings of one width: project the student to the…"
    assert_refused(
        *(
            (partial(related, relation, student, teacher, keys, 3), need)
            for relation in (Relation(cosine), across(Nearest(2)), across(scale=by_mean))
        ),
        (lambda: related(across(), student[:, :3], teacher, keys, 3), told),
        (
            lambda: related(across(), student, teacher, keys[:, :3], 3),
            "keys must be (M, 4) as the teacher's nodes, got (23, 3)",
        ),
    )
