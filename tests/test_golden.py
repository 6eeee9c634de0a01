"""The authors' own numbers: `golden.json` holds what each official code gave in float64 for inputs of a closed form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.kernels import (
    Kernel,
    cosine,
    dot,
    euclidean,
    gaussian,
    gaussian_taylor,
    linear,
    squared_euclidean,
)
from relgraph.graph.matching import (
    by_anchor_norm,
    by_anchor_sum,
    by_max,
    by_mean,
    cross_entropy,
    huber,
    kl,
    mean_square,
    softmax,
)
from relgraph.graph.memory import Queue
from relgraph.graph.pair import MATCHES, STUDENT, TEACHER, graph_pair, weights
from relgraph.graph.relation import Relation, own_then_rest
from relgraph.graph.topology import ALL_PAIRS
from relgraph.methods import EGA, KD, Output

GOLDEN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))[
    "golden"
]
Loss = Callable[[Tensor, Tensor], Tensor]


def outer(rows: int, first: int, columns: int, start: int) -> Tensor:
    """Return `(i + first)(j + start)`."""
    i = torch.arange(rows, dtype=torch.float64) + first
    j = torch.arange(columns, dtype=torch.float64) + start
    return i[:, None] * j


def embeddings(n: int = 8, dim: int = 16) -> tuple[Tensor, Tensor]:
    return torch.cos(0.07 * outer(n, 2, dim, 1)), torch.sin(0.1 * outer(n, 1, dim, 1))


def logits(n: int = 8, classes: int = 10) -> tuple[Tensor, Tensor]:
    return 2 * torch.cos(0.2 * outer(n, 1, classes, 2)), 2 * torch.sin(0.3 * outer(n, 1, classes, 1))


def queue_keys() -> Tensor:
    columns = torch.sin(0.05 * outer(16, 1, 32, 2) + 0.3)
    return torch.nn.functional.normalize(columns, dim=0).T


def maps(*shape: int, phase: float) -> tuple[Tensor, Tensor]:
    b, c, h, w = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    student = torch.cos(0.07 * (b + 2) * (c + 1) + 0.15 * (h + 2) * (w + 1) + phase)
    return student, torch.sin(0.1 * (b + 1) * (c + 1) + 0.2 * (h + 1) * (w + 2) + phase)


def seed(student_temperature: float, teacher_temperature: float) -> Loss:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (own_then_rest(cosine, x, teacher, queue_keys()) for x in (student, teacher))
        return cross_entropy(
            softmax(student_temperature)(s, ALL_PAIRS), softmax(teacher_temperature)(t, ALL_PAIRS), ALL_PAIRS
        )

    return loss


def moco(temperature: float) -> Loss:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return -softmax(temperature)(own_then_rest(cosine, student, teacher, queue_keys()), ALL_PAIRS)[:, 0].mean()

    return loss


def in_batch(temperature: float) -> Loss:
    return lambda student, teacher: -softmax(temperature)(cosine(student, teacher), ALL_PAIRS).diagonal().mean()


def detached_max(weights: Tensor, topology: object = None) -> Tensor:
    return weights / weights.max().detach()


def kd(temperature: float) -> Loss:
    return lambda student, teacher: KD(temperature)(Output(student, student), Output(teacher, teacher))


# PKT's code divides by the norm + 1e-7, which shows in the ninth digit.
pkt_kernel = Kernel("pkt", lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-7), dot, lambda c: (c + 1) / 2)

LOSSES: dict[str, Loss] = {
    "ega_node": EGA(1, 0),
    "ega_edge": EGA(0, 1),
    "ega_total_node0.8_edge0.24": EGA(),
    "ega_paper_lambda0.3 (L_node+0.3*L_edge)": EGA(1, 0.3),
    "ega_seq_node0.8_edge0.3": EGA(0.8, 0.3),
    "hint_mse": lambda student, teacher: mean_square(student, teacher),
    "sp": Relation(linear, scale=by_anchor_norm, criterion=mean_square),
    "pkt": Relation(pkt_kernel, scale=by_anchor_sum, criterion=kl),
    "rkd_distance": Relation(euclidean, scale=by_mean, criterion=huber),
    **{f"cc_rbf_taylor_g0.4_P{p}": Relation(gaussian_taylor(0.4, p), criterion=mean_square) for p in (1, 2, 3, 5)},
    "cc_rbf_exact_g0.4 (P->inf)": Relation(gaussian(0.4), criterion=mean_square),
    "cc_bilinear_raw": Relation(linear, criterion=mean_square),
    "cc_bilinear_l2normalised": Relation(cosine, criterion=mean_square),
    "irg_edge_feat_only_mse": Relation(squared_euclidean, scale=by_max, criterion=mean_square),
    "irg_edge_feat_only_mse_maxdetached": Relation(squared_euclidean, scale=detached_max, criterion=mean_square),
    "seed_tauS0.2_tauT0.0001": seed(0.2, 0.0001),
    "seed_tauS0.2_tauT0.01": seed(0.2, 0.01),
    "seed_tauS0.2_tauT0.05": seed(0.2, 0.05),
    "seed_tauS0.07_tauT0.0001": seed(0.07, 0.0001),
    "moco_infonce_T0.07": moco(0.07),
    "moco_infonce_T0.2": moco(0.2),
    "infonce_inbatch_T0.07 (definition)": in_batch(0.07),
}


def check(key: str, loss: Loss, student: Tensor, teacher: Tensor, side: str = "student") -> None:
    """Compare the value, the gradient's norm and its first element with the entry of that name."""
    entry = GOLDEN[key]
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    assert value.item() == pytest.approx(entry["value"], rel=1e-10, abs=1e-14)
    if "grad_fro" not in entry:
        return
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.norm().item() == pytest.approx(entry["grad_fro"][side], rel=1e-10)
    assert gradient.flatten()[0].item() == pytest.approx(entry["grad_first"][side], rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("key", LOSSES)
def test_official_value_and_gradient(key: str) -> None:
    check(key, LOSSES[key], *embeddings())


@pytest.mark.parametrize("graph", ["dense", "knn"])
@pytest.mark.parametrize(("n", "dim"), [(4, 5), (64, 256), (128, 64)])
@pytest.mark.parametrize(
    ("term", "node", "edge"), [("total_node0.8_edge0.24", 0.8, 0.24), ("node", 1, 0), ("edge", 0, 1)]
)
def test_ega_at_other_sizes(term: str, node: float, edge: float, n: int, dim: int, graph: str) -> None:
    loss = EGA(node, edge, graph, k=n - 1 if graph == "knn" else None)
    check(f"ega_{term}_B{n}_D{dim}", loss, *embeddings(n, dim))


def test_ega_of_one_image() -> None:
    check("ega_total_node0.8_edge0.24_B1_D16", EGA(), *embeddings(1))
    check("ega_node_B1_D16", EGA(1, 0), *embeddings(1))
    assert EGA(0, 1)(*embeddings(1)).item() < 1e-15  # the official code's number is pure rounding, 2.2e-16


def test_ega_matrices() -> None:
    pair = graph_pair(*embeddings())
    student, teacher, across = (weights(pair, kind) for kind in (STUDENT, TEACHER, MATCHES))
    found = {
        "ega_edge_matrix_teacher_sum": teacher.sum(),
        "ega_edge_matrix_student_sum": student.sum(),
        "ega_node_matrix_sum": across.sum(),
        "ega_node_matrix_trace": across.trace(),
        "ega_edge_teacher_01": teacher[0, 1],
        "ega_node_ts_01": across[1, 0],  # golden: teacher row 0, student column 1
        "ega_node_ts_10": across[0, 1],
    }
    for key, value in found.items():
        assert value.item() == pytest.approx(GOLDEN[key]["value"], rel=1e-10), key


def test_ega_of_equal_embeddings_pulls_no_edge() -> None:
    student = embeddings()[0].requires_grad_()
    value = EGA(0, 1)(student, student.detach().clone())
    torch.autograd.backward(value)
    assert value.item() == GOLDEN["ega_edge_identical_inputs"]["value"] == 0
    assert student.grad is not None and not student.grad.any()


def test_sp_of_maps() -> None:
    student, teacher = (x.flatten(1) for x in maps(8, 8, 4, 4, phase=0.5))
    check("sp_featuremap", LOSSES["sp"], student, teacher)


@pytest.mark.parametrize("temperature", [1, 4])
def test_kd(temperature: int) -> None:
    check(f"kd_T{temperature}", kd(temperature), *logits(), side="student_logits")


def test_seed_queue_after_one_step() -> None:
    queue = Queue(32, 16).double()
    queue.keys.copy_(queue_keys())
    teacher = embeddings()[1]
    queue.remember(cosine.nodes(teacher))
    assert queue.keys.sum().item() == pytest.approx(GOLDEN["seed_queue_sum_after_update"]["value"], rel=1e-10)
    assert queue.next == 8
