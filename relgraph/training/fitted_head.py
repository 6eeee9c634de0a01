"""The fitted strategy: the teacher's head is computed from its vectors before the first step, and is then fixed."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from relgraph.errors import RelgraphError
from relgraph.graph.alignment import Moments, blocks_of, principal_directions
from relgraph.graph.search import Rows
from relgraph.networks.heads import Head

# Of scikit-learn's logistic regression, for vectors whose mean square distance from their mean is 1. Chosen on
# validation images of a quarter of CIFAR-100 (experiments/README.md).
STRENGTH = 10.0
STEPS, TOLERANCE = 2000, 1e-6
ABSENT = 20.0  # how far the logit of a class without a label is below the mean of the others


@torch.no_grad()
def fit_head(head: Head, vectors: Rows, labels: Tensor) -> float:
    """Fit a teacher's head to its own vectors, and return the accuracy on the labelled images in percent.

    The projection takes the vectors from their mean m, along their principal directions C, all over the root s of
    their mean square distance from it: `p = (x - m) C' / s`. It reads no label, and keeps all inner products where it
    is as wide as the vectors vary; further dimensions are 0. The classifier is a logistic regression on p, with the
    square of its weights as a penalty (scikit-learn's L-BFGS), at its optimum. Neither has a learning rate, and both
    are the same each time. A head without a projection has m and s in its classifier. A class that no image is
    labelled with has a logit far below the mean of the others. No paper has this head: that of EGA is trained by steps
    (`relgraph.training.head`).

    Args:
        head: Of the width of the vectors.
        vectors: Of all training images, `(N, width)`, read in blocks.
        labels: `(N,)`, -1 where unknown.

    Raises:
        RelgraphError: if the labels are of fewer than two classes, or the vectors are all equal or not finite.
    """
    labels = labels.cpu()
    mean, directions = _scaled_directions(head, vectors)
    known = (labels >= 0).nonzero().flatten()
    own = torch.cat([(vectors[part].cpu().double() - mean) @ directions.T for part in torch.split(known, 2**14)])
    weight, bias = _logistic_regression(own, labels[known], head.classify.out_features)
    right = ((own @ weight.T + bias).argmax(1) == labels[known]).double().mean()
    if isinstance(head.project, nn.Linear):
        _set(head.project, directions, -directions @ mean)
    else:
        weight = weight @ directions
        bias = bias - weight @ mean
    _set(head.classify, weight, bias)
    return 100 * right.item()


def _scaled_directions(head: Head, vectors: Rows) -> tuple[Tensor, Tensor]:
    """Return the mean of the vectors `(width,)` and C / s `(dim, width)`; without a projection C is the identity."""
    moments = Moments(head.width, head.width)
    for block in blocks_of(vectors):
        moments.add(block, block)
    products, energy = moments.about(centred=True)
    if not bool(energy > 0):
        raise RelgraphError("teacher_head 'fitted' needs vectors that differ, got one for all images")
    directions = torch.eye(head.width, dtype=products.dtype)
    if isinstance(head.project, nn.Linear):
        found = principal_directions(products)[: head.dim]
        directions = pad(found, (0, 0, 0, head.dim - len(found)))
    return moments.means[1], directions / (energy / moments.count).sqrt()


def _logistic_regression(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight `(C, D)` and bias `(C,)` of the logistic regression, a row for each of the classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = labels.bincount().nonzero().flatten()
    if len(present) < 2:
        raise RelgraphError(f"teacher_head 'fitted' needs labels of two classes or more, got {len(present)}")
    model: Any = LogisticRegression(C=STRENGTH, max_iter=STEPS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped after that many steps it is worse, not wrong
        warnings.simplefilter("ignore", UserWarning)  # that there are nearly as many classes as images
        model.fit(rows.numpy(), labels.numpy())
    weight, bias = (torch.as_tensor(values).double() for values in (model.coef_, model.intercept_))
    if len(present) == 2:  # it gives the difference of the two
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    every = weight.mean(0).repeat(classes, 1), (bias.mean() - ABSENT).repeat(classes)
    every[0][present], every[1][present] = weight, bias
    return every


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
