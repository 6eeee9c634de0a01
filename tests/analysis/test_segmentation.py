"""Figures of segmentation against scikit-learn's, with ignored positions and absent classes."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torch import Tensor

from relgraph.analysis.segmentation import absent, confusion, figures, iou
from relgraph.data.label_maps import IGNORED
from tests.checks import assert_refused

NAMES = ("sky", "road", "car", "tram", "bird")  # no position is a tram, labelled or called; birds are only called


def drawn(dtype: torch.dtype, ignored: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 7, 9), generator=generator)
    predicted = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, labels.shape, generator=generator)]
    predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.6, labels, predicted)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = ignored
    return predicted.to(dtype), labels.to(dtype)


@pytest.mark.parametrize(("dtype", "ignored"), [(torch.uint8, IGNORED), (torch.int64, -1), (torch.int64, IGNORED)])
def test_figures_are_those_of_scikit_learn(dtype: torch.dtype, ignored: int) -> None:
    predicted, labels = drawn(dtype, ignored)
    kept = labels != ignored
    known, called = labels[kept].numpy(), predicted[kept].numpy()
    matrix = sum(confusion(*image, 5) for image in zip(predicted, labels, strict=True))
    assert isinstance(matrix, Tensor)
    np.testing.assert_array_equal(matrix.numpy(), confusion_matrix(known, called, labels=range(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the absent class
        jaccard = jaccard_score(known, called, labels=[0, 1, 2, 3, 4], average=None, zero_division=0)
    assert iou(matrix).isnan().tolist() == [False, False, False, True, False]
    np.testing.assert_allclose(iou(matrix).nan_to_num().numpy(), jaccard, rtol=1e-15)
    assert jaccard[4] == 0 and (matrix[:, 4] > 0).any()
    found = figures(matrix, NAMES)
    present = jaccard[[0, 1, 2, 4]]
    expected = {f"iou_{name}": 100 * value for name, value in zip(("sky", "road", "car", "bird"), present, strict=True)}
    expected |= {"miou": 100 * present.mean(), "pixel_accuracy": 100 * accuracy_score(known, called)}
    assert found == pytest.approx(expected, rel=1e-12)
    assert absent(matrix, NAMES) == ["tram"]


def test_where_no_position_counts_there_are_no_figures() -> None:
    matrix = confusion(torch.zeros(2, 3), torch.full((2, 3), IGNORED), 2)
    assert figures(matrix, ("a", "b")) == {} and absent(matrix, ("a", "b")) == ["a", "b"]
    assert confusion(torch.zeros(0), torch.zeros(0), 1).tolist() == [[0]]


def test_what_does_not_fit_is_refused() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.long)
    assert_refused(
        (
            partial(confusion, zeros, zeros[0], 2),
            "predicted classes and labels must have one shape, got (2, 3) and (3,)",
        ),
        (partial(confusion, zeros + 2, zeros, 2), "classes must be 0..1, got 0..2"),
        (partial(confusion, zeros, zeros + 7, 2), "classes must be 0..1, got 0..7"),
        (partial(confusion, zeros - 1, zeros, 2), "classes must be 0..1, got -1..0"),
    )
