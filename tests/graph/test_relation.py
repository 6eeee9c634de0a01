"""What is no part of a relation, or no batch. Relations in every form are in test_forms.py and test_own_parts.py."""

from functools import partial
from typing import Any

import pytest
import torch

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import pearson
from relgraph.graph.pair import check_nodes
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Nearest
from tests.checks import assert_refused


def test_what_is_no_part_or_no_batch_is_refused() -> None:
    x, sizes = torch.zeros(4, 3), "embeddings must be (N, D), student and teacher of the same N images, got"
    width = "matching nodes needs embeddings of one width: project student and teacher to it, got 3 and 5"
    check_nodes(x, torch.zeros(4, 5))
    assert_refused(
        (lambda: Relation()(x, torch.zeros(5, 3)), f"{sizes} (4, 3) and (5, 3)"),
        (lambda: Relation()(x[:, 0], x[:, 0]), f"{sizes} (4,) and (4,)"),
        (lambda: Relation()(x[:0], x[:0]), "embeddings must not be empty, got (0, 3) and (0, 3)"),
        (lambda: Relation()(x[:, :0], x), "embeddings must not be empty, got (4, 0) and (4, 3)"),
        (lambda: Relation()(x.long(), x), "embeddings must be of floating point, got torch.int64 and torch.float32"),
        (lambda: Relation()(x, x.to("meta")), "student and teacher must lie on one device, got cpu and meta"),
        (lambda: check_nodes(x, torch.zeros(4, 5), one_width=True), width),
    )
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"kernel": lambda x, y: x}, "kernel of a relation is a Kernel"),
        ({"topology": mean_square}, "topology of a relation is a Rule"),
        ({"topology": Nearest}, "topology of a relation is a Rule"),
        ({"scale": "softmax"}, "scale of a relation is a Scale"),
        ({"criterion": pearson}, "criterion of a relation is a Criterion"),
    )
    assert_refused(*((partial(Relation, **part), f"the {message}, such as…") for part, message in wrong))


@pytest.mark.parametrize("n", [6, 1500])
def test_a_part_that_returns_another_shape_is_refused_in_every_form(n: int) -> None:
    x, row = torch.randn(n, 2), "the row of a criterion returns one number for each anchor: expected ("
    wrong: list[Relation] = [Relation(criterion=torch.nn.functional.mse_loss, form=f) for f in ("matrix", "blocked")]
    rule = Relation(topology=lambda student, teacher, kernel: student)  # type: ignore[arg-type, return-value]
    assert_refused(
        *((partial(relation, x, x), f"{row}…") for relation in wrong),
        (lambda: Relation(scale=lambda weights: weights.sum(-1))(x, x), "a scale keeps the shape of the weights: …"),
        (lambda: rule(x[:6], x[:6]), "a rule returns Edges(edge_index, anchors), got Tensor"),
    )
