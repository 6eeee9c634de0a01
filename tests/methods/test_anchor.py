"""The anchor against the authors' numbers and its formulas; its heads, and what a sum with it stores."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss, smooth_l1_loss

from relgraph.methods import Anchor, RunFacts
from relgraph.methods.base import Space
from relgraph.names import build_method
from relgraph.networks.heads import Regressor, layers_like
from tests.checks import assert_refused
from tests.methods.golden import check, maps, vectors


@pytest.mark.parametrize("height", [6, 4])
def test_positions_as_rows_are_lightlys_second_version(height: int) -> None:
    student, teacher = maps(2, 5, height, 6, phase=0)

    def loss() -> Tensor:
        rows = (x.movedim(1, -1).flatten(0, -2) for x in (student, teacher))
        value: Tensor = Anchor(distance="mean_square")(*rows)
        return value

    check(f"lightly_v2_{height}x6", loss, {"student": student})


def test_the_formulas() -> None:
    student, teacher = (3 * x.detach() for x in vectors(5, 4, 4))
    expected = {
        "cosine": 2 - 2 * cosine_similarity(student, teacher).mean(),
        "mean_square": mse_loss(student, teacher),
        "smooth_l1": smooth_l1_loss(student, teacher),
    }
    found = {name: Anchor(distance=name)(student, teacher) for name in expected}  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_heads() -> None:
    assert Anchor(4, 4).projector is None and Anchor(4, 4, head="none").projector is None
    assert isinstance(Anchor(4, 6).projector, nn.Linear) and isinstance(
        Anchor(4, 4, head="linear").projector, nn.Linear
    )
    layers = Anchor(4, 6, head="mlp").projector
    assert isinstance(layers, Regressor)
    names = ["Linear", "BatchNorm1d", "ReLU", "Linear", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in layers] == names
    widths = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    assert widths == [(4, 8), (8, 4), (4, 8), (8, 6)]


def test_simregs_head_is_read_from_a_file_as_it_was_stored() -> None:
    layers = Regressor(4, 6)
    layers(torch.randn(5, 4))
    again = layers_like(layers.state_dict())
    assert isinstance(again, Regressor)
    again.load_state_dict(layers.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(again.eval()(x), layers.eval()(x))


def test_one_image_in_training_is_normalised_by_the_running_statistics() -> None:
    layers = Regressor(4, 6)
    layers(torch.randn(50, 4))
    x = torch.randn(1, 4)
    found = layers(x)
    assert torch.equal(found, layers.eval()(x))
    assert layers.train()(x.expand(2, 4)).shape == (2, 6)


def test_a_sum_with_an_anchor_stores_its_head_with_the_student() -> None:
    """Whatever the other method is, and on whichever nodes."""
    run = RunFacts(dim=5, student_width=6, teacher_width=7)
    for spec in ("ega+0.5*anchor", "anchor+sp", "rkd+anchor"):
        built = build_method(spec, run, {})
        assert built is not None
        space, anchor = built.space(), built.parts["anchor"]
        assert isinstance(anchor, Anchor)
        assert space.student is anchor.projector is not None and space.part == "feature"
    built = build_method("ega+anchor", run, {}, ["anchor.nodes=embedding"])
    assert built is not None and built.space() == Space("embedding", joint=True)


def test_what_it_refuses() -> None:
    assert_refused(
        (
            lambda: Anchor(4, 6, head="none"),
            "Anchor without a head needs student and teacher of one width, got 4 and 6",
        ),
        (lambda: Anchor(distance="cosin"), "unknown distance 'cosin': did you mean 'cosine'? (known: cosine, …"),  # type: ignore[arg-type]
        (lambda: Anchor(4), "the head of Anchor ends at the teacher's width: expected teacher_width, got none"),
    )
