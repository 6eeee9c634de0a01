"""The fitted strategy: the teacher's head is computed from its vectors before the first step, and is then fixed."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

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
    labelled with has a logit far below the mean of the others.

    Args:
        head: Of the width of the vectors.
        vectors: Of all training images, `(N, width)`, read in blocks.
        labels: `(N,)`, -1 where unknown.

    Raises:
        RelgraphError: if the labels are of fewer than two classes, or the vectors are all equal or not finite.
    """
    moments = Moments(head.width, head.width)
    for block in blocks_of(vectors):
        moments.add(block, block)
    products, energy = moments.about(centred=True)
    mean, scale = moments.means[1], (energy / moments.count).sqrt()
    if not bool(scale > 0):
        raise RelgraphError("teacher_head 'fitted' needs vectors that differ, got one for all images")
    if isinstance(head.project, nn.Linear):
        found = principal_directions(products)[: head.dim] / scale
        weight = torch.zeros(head.dim, head.width, dtype=found.dtype)
        weight[: len(found)] = found
        _set(head.project, weight, -weight @ mean)
    else:
        weight = torch.eye(head.width, dtype=mean.dtype) / scale
    known = (labels >= 0).nonzero().flatten().cpu()
    own = torch.cat([(vectors[part].cpu().double() - mean) @ weight.T for part in torch.split(known, 2**14)])
    coefficients, intercepts = _logistic_regression(own, labels[known.to(labels.device)].cpu(), head.classify)
    right = ((own @ coefficients.T + intercepts).argmax(1) == labels.cpu()[known]).double().mean()
    if not isinstance(head.project, nn.Linear):
        coefficients = coefficients / scale
        intercepts = intercepts - coefficients @ mean
    _set(head.classify, coefficients, intercepts)
    return 100 * right.item()


def _logistic_regression(rows: Tensor, labels: Tensor, like: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight `(C, D)` and bias `(C,)` of the logistic regression, for all classes of a classifier."""
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
    every = weight.mean(0).repeat(like.out_features, 1), (bias.mean() - ABSENT).repeat(like.out_features)
    every[0][present], every[1][present] = weight, bias
    return every


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
