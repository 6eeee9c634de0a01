"""Segmentation: how predicted classes of positions agree with their labels, from one confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from relgraph.data.label_maps import IGNORED
from relgraph.errors import RelgraphError


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return how many positions of each class were given which class: `(C, C)` int64, a row for each label.

    `n_ij` counts positions of class i that were called j, as `sklearn.metrics.confusion_matrix` does. Matrices add up:
    that of a whole set is the sum over its images, whose sizes may differ.

    Args:
        predicted: Classes 0..C-1 of positions, of any shape, whole numbers.
        labels: Theirs, of the same shape; 255 and negative ones are ignored.
        classes: C, 1 to 255.

    Raises:
        RelgraphError: if the shapes differ, or a position that counts has a class or a label beyond C-1.

    >>> confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 255]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    if predicted.shape != labels.shape:
        got = f"{tuple(predicted.shape)} and {tuple(labels.shape)}"
        raise RelgraphError(f"predicted classes and labels must have one shape, got {got}")
    counts = (labels >= 0) & (labels != IGNORED)
    pairs = torch.stack([labels[counts].long(), predicted[counts].long()])
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < classes:
        raise RelgraphError(f"classes must be 0..{classes - 1}, got {int(pairs.min())}..{int(pairs.max())}")
    return torch.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).view(classes, classes)


def iou(matrix: Tensor) -> Tensor:
    """Return intersection over union by class of a confusion matrix `(C, C)`, 0 to 1, `(C,)` float64.

        IoU_i = n_ii / (sum_j n_ij + sum_j n_ji - n_ii)

    The Jaccard index of the positions labelled i and those called i. A class that is absent, neither labelled nor
    called anywhere, has NaN; one that is called where no label has it has 0.

    >>> iou(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    tensor([0.5000, 0.5000,    nan], dtype=torch.float64)
    """
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def figures(matrix: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return the figures of a confusion matrix in percent: `miou`, `pixel_accuracy` and `iou_NAME` by class.

        mIoU = mean over the classes that are present of IoU_i      pixel accuracy = sum_i n_ii / sum_ij n_ij

    Classes that are absent (see `iou`) are left out, of the mean as well: `absent` names them. `{}` where no position
    counts.

    >>> found = figures(torch.tensor([[1, 1, 0], [0, 2, 0], [0, 0, 0]]), ("road", "sky", "tram"))
    >>> {name: round(value, 1) for name, value in found.items()}
    {'miou': 58.3, 'pixel_accuracy': 75.0, 'iou_road': 50.0, 'iou_sky': 66.7}
    """
    if not matrix.any():
        return {}
    each = 100 * iou(matrix)
    found = {f"iou_{name}": value for name, value in zip(classes, each.tolist(), strict=True) if value == value}
    accuracy = 100 * float(matrix.diagonal().sum()) / float(matrix.sum())
    return {"miou": float(each.nanmean()), "pixel_accuracy": accuracy, **found}


def absent(matrix: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the names of the classes that are neither labelled nor called anywhere.

    >>> absent(torch.tensor([[1, 0], [0, 0]]), ("road", "tram"))
    ['tram']
    """
    return [name for name, value in zip(classes, iou(matrix).tolist(), strict=True) if value != value]
