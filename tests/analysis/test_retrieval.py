"""Retrieval: numbers of the libraries and of definitions, scikit-learn's average precision, a loop, and ties."""

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.analysis.retrieval import overlap, retrieval
from tests.checks import assert_refused, case
from tests.methods.golden import embeddings

# From METHODS2, section 19: pytorch-metric-learning 2.8.1, AIR-Distiller's eval_market1501, and definitions.
GOLDEN = {
    "pml_precision_at_1_asymmetric_B12": 0.75,
    "pml_mean_average_precision_asymmetric_B12": 0.7045815295815295,
    "pml_mean_average_precision_at_r_asymmetric_B12": 0.5740740740740741,
    "pml_precision_at_1_student_only_B12": 1.0,
    "pml_mean_average_precision_student_only_B12": 0.9166666666666666,
    "pml_mean_average_precision_at_r_student_only_B12": 0.75,
    "pml_precision_at_1_teacher_only_B12": 0.75,
    "pml_mean_average_precision_teacher_only_B12": 0.6884920634920636,
    "pml_mean_average_precision_at_r_teacher_only_B12": 0.6041666666666666,
    "asymmetric_mean_average_precision_own_excluded_B12 (definition)": 0.63621632996633,
    "asymmetric_recall@1_own_excluded_B12 (definition)": 0.6666666666666666,
    "asymmetric_recall@2_own_excluded_B12 (definition)": 0.75,
    "asymmetric_recall@4_own_excluded_B12 (definition)": 0.9166666666666666,
    "pml_map_at_r_teacher_only_lone_labels_B12": 0.9,
    "overlap@1_asymmetric_B12 (definition)": 0.5,
    "overlap@1_own_graphs_B12 (definition)": 0.6666666666666666,
    "overlap@3_asymmetric_B12 (definition)": 0.5555555555555555,
    "overlap@3_own_graphs_B12 (definition)": 0.6111111111111112,
    "overlap@5_asymmetric_B12 (definition)": 0.5333333333333333,
    "overlap@5_own_graphs_B12 (definition)": 0.39999999999999997,
    "reid_mAP": 0.875,
    "reid_cmc@1": 1.0,
    "reid_cmc@2": 1.0,
    "reid_cmc@3": 1.0,
    "ties_AP_gallery_order (definition)": 0.5,
}
LABELS = torch.arange(12) // 3
OWN = torch.arange(12)


def assert_golden(found: float, key: str) -> None:
    assert found == pytest.approx(100 * GOLDEN[key], rel=1e-12), key


def test_numbers_of_pytorch_metric_learning() -> None:
    student, teacher = embeddings(12)
    for side, queries, gallery, own in (
        ("asymmetric", student, teacher, None),
        ("student_only", student, student, OWN),
        ("teacher_only", teacher, teacher, OWN),
    ):
        for block in (None, 5):
            found = retrieval(queries, gallery, LABELS, LABELS, own, (1,), block)
            assert_golden(found["recall@1"], f"pml_precision_at_1_{side}_B12")
            assert_golden(found["mAP"], f"pml_mean_average_precision_{side}_B12")
            assert_golden(found["mAP@R"], f"pml_mean_average_precision_at_r_{side}_B12")
    lone = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6])
    assert_golden(retrieval(teacher, teacher, lone, lone, OWN)["mAP@R"], "pml_map_at_r_teacher_only_lone_labels_B12")


def test_numbers_by_definition_where_the_own_image_is_no_answer() -> None:
    student, teacher = embeddings(12)
    found = retrieval(student, teacher, LABELS, LABELS, OWN, (1, 2, 4))
    assert_golden(found["mAP"], "asymmetric_mean_average_precision_own_excluded_B12 (definition)")
    for k in (1, 2, 4):
        assert_golden(found[f"recall@{k}"], f"asymmetric_recall@{k}_own_excluded_B12 (definition)")
    for k in (1, 3, 5):
        across = overlap(student, teacher, teacher, own=OWN, k=k)
        assert_golden(across, f"overlap@{k}_asymmetric_B12 (definition)")
        own_graphs = overlap(student, teacher, student, teacher, own=OWN, k=k, block=5)
        assert_golden(own_graphs, f"overlap@{k}_own_graphs_B12 (definition)")


def at_distances(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries `(Q, D)` and a gallery `(M, D)` of such cosines that these distances `(Q, M)` have their order."""
    wanted = (1 - distances.double()).T / 4
    rest = (1 - wanted.square().sum(1, keepdim=True)).sqrt()
    return torch.eye(len(distances), len(distances) + 1, dtype=torch.float64), torch.cat([wanted, rest], dim=1)


def test_numbers_of_a_reidentification_with_junk() -> None:
    """What has the identity and the camera of the query is neither right nor wrong."""
    distances = torch.tensor([
        [.10, .40, .20, .90, .30, .70], [.50, .15, .55, .25, .35, .45], [.61, .32, .83, .24, .75, .16],
        [.9, .8, .7, .6, .5, .4],
    ])  # fmt: skip
    identity, held = torch.tensor([0, 1, 2, 9]), torch.tensor([0, 1, 0, 2, 1, 0])
    junk = (identity[:, None] == held) & (torch.tensor([0, 1, 1, 0, 0, 1]) == 0)
    for block in (None, 2):
        found = retrieval(*at_distances(distances), identity, held, None, (1, 2, 3), block, junk=junk)
        assert_golden(found["mAP"], "reid_mAP")
        for k in (1, 2, 3):
            assert_golden(found[f"recall@{k}"], f"reid_cmc@{k}")


def test_of_equally_near_images_the_first_of_the_gallery_comes_first() -> None:
    queries, gallery = at_distances(torch.tensor([[0.2, 0.2, 0.2, 0.5]]))
    for block in (None, 1, 3):
        found = retrieval(queries, gallery, torch.tensor([1]), torch.tensor([0, 1, 0, 1]), None, (1, 2), block)
        assert_golden(found["mAP"], "ties_AP_gallery_order (definition)")
        assert (found["recall@1"], found["recall@2"]) == (0, 100)


def test_average_precision_is_that_of_scikit_learn_where_nothing_ties() -> None:
    queries, gallery = torch.randn(30, 6), torch.randn(200, 6)
    asked, held = torch.randint(0, 5, (30,)), torch.randint(0, 4, (200,))
    similarity = normalize(queries.double()) @ normalize(gallery.double()).T
    expected = [average_precision_score(held == label, row) for label, row in zip(asked, similarity, strict=True)
                if label < 4]  # fmt: skip
    assert len(expected) < 30, "a query without a positive leaves the mean"
    for block in (None, 17):
        found = retrieval(queries, gallery, asked, held, block=block)
        assert found["mAP"] == pytest.approx(100 * sum(expected) / len(expected), rel=1e-9)


def by_loop(queries: Tensor, gallery: Tensor, asked: Tensor, held: Tensor, own: Tensor, k: int) -> dict[str, float]:
    """Return the figures of a loop over queries and ranks."""
    rows = []
    for query, label, place in zip(queries, asked.tolist(), own.tolist(), strict=True):
        near = (normalize(gallery.double()) @ normalize(query.double(), dim=0)).float().tolist()
        order = sorted((j for j in range(len(gallery)) if j != place), key=lambda j: (-near[j], j))
        right = [int(held[j]) == label >= 0 for j in order]
        if not any(right):
            continue
        count, hits, total, of_first = sum(right), 0, 0.0, 0.0
        for rank, hit in enumerate(right, start=1):
            hits += hit
            total += hit * hits / rank
            of_first += (rank <= count) * hit * hits / rank
        rows.append([any(right[:k]), total / count, of_first / count])
    means = [100 * sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return dict(zip((f"recall@{k}", "mAP", "mAP@R"), means, strict=True))


def test_figures_are_those_of_a_loop_with_ties_unknown_labels_and_own_images() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        queries, gallery = torch.randn(25, 4).sign().to(dtype), torch.randn(40, 4).sign().to(dtype)
        asked, held = torch.randint(-1, 6, (25,)), torch.randint(-1, 5, (40,))
        own = torch.where(torch.rand(25) < 0.5, torch.randperm(40)[:25], -1)
        expected = by_loop(queries, gallery, asked, held, own, 3)
        for block in (None, 1, 7):
            with case(dtype, block):
                assert retrieval(queries, gallery, asked, held, own, (3,), block) == pytest.approx(expected, rel=1e-12)


def test_a_length_changes_nothing_and_a_perfect_student_is_perfect() -> None:
    vectors = torch.randn(20, 8)
    labels, own = torch.arange(20) % 4, torch.arange(20)
    longer = vectors * torch.rand(20, 1) * 100
    assert retrieval(longer, vectors, labels, labels, own) == retrieval(vectors, longer, labels, labels, own)
    assert overlap(longer, vectors, vectors, own=own, k=10) == 100
    around = torch.eye(4)[labels] + 1e-3 * torch.randn(20, 4)
    perfect = retrieval(around, torch.eye(4)[labels], labels, labels, own)
    assert perfect == {"recall@1": 100, "recall@5": 100, "recall@10": 100, "mAP": 100, "mAP@R": 100}


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    x, labels = torch.randn(5, 3), torch.arange(5)
    told = "k must be between 1 and the number of images in the gallery that can answer a query, 4, got 5"
    counts = "both networks' queries and galleries must be of the same images, got 5 and 4, 5 and 5"
    assert_refused(
        (lambda: retrieval(x, x, labels, labels, labels, k=(1, 5)), told),
        (lambda: retrieval(x, x, labels, labels, labels, k=(1,)), "none of 5 queries has an image of its label in th…"),
        (lambda: retrieval(x, x, labels, labels[1:], k=(1,)), "labels must be one for each query and image of the ga…"),
        (lambda: overlap(x, x, x, own=labels, k=5), told),
        (lambda: overlap(x, x[1:], x, k=2), counts),
    )
