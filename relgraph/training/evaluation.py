"""Evaluation of embeddings and logits: accuracies in percent, and the embeddings of a whole data set."""

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.networks.pieces import pieces
from relgraph.printing import no_bar

# Fixed, so that probes compare. Of 1, 0.1 and 0.01 the best and quickest on 4,000 CIFAR-100 images (256 features of a
# MobileNetV2: 26, 30, 33 %), and the best on the embeddings of the digits as well.
PROBE_C = 0.01


def accuracy(logits: Tensor, labels: Tensor, k: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Return for each k the percentage of images whose class is among the k largest logits: `{"top1": ..., ...}`.

    Args:
        logits: `(N, C)`.
        labels: `(N,)`, 0..C-1.
        k: how many predictions are counted; with fewer than k classes all are, which gives 100 %.

    >>> accuracy(torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.1, 0.0]]), torch.tensor([2, 0]), k=(1, 2))
    {'top1': 50.0, 'top2': 100.0}

    Raises:
        RelgraphError: if there are no images, or labels for another number of them.
    """
    _check_pairs(logits, labels)
    ranked = logits.topk(min(max(k), logits.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return {f"top{n}": 100 * hits[:, :n].any(dim=1).double().mean().item() for n in k}


def knn_accuracy(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, k: int = 20
) -> float:
    """Return the accuracy in percent of a majority vote among the k most similar training images (cosine).

    Every neighbour has one vote, and of classes with equal votes the lowest wins. Training images labelled -1 (unknown)
    are left out, and k is at most the number of those that remain.

    Args:
        train_features: `(N, D)`.
        train_labels: `(N,)`.
        test_features: `(M, D)`.
        test_labels: `(M,)`.
        k: number of neighbours.

    Raises:
        RelgraphError: if there are no images, the shapes disagree, or a feature is not finite.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train_features, train_labels = _known(train_features, train_labels, test_features, test_labels)
    # On unit vectors the Euclidean order is the cosine one, and scikit-learn's search for it takes half the time.
    vote = KNeighborsClassifier(min(k, len(train_labels)), algorithm="brute")
    unit = [normalize(features.float()) for features in (train_features, test_features)]
    return _score(vote, unit[0], train_labels, unit[1], test_labels)


def linear_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy in percent of a logistic regression on frozen features.

    Features are standardised by the training images; the regression is scikit-learn's (L-BFGS, C = 0.01), which is
    deterministic. Training images labelled -1 (unknown) are left out.

    Args:
        train_features: `(N, D)`.
        train_labels: `(N,)`.
        test_features: `(M, D)`.
        test_labels: `(M,)`.

    Raises:
        RelgraphError: if there are no images or fewer than two classes, the shapes disagree, or a feature is not
            finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train_features, train_labels = _known(train_features, train_labels, test_features, test_labels)
    if (train_labels == train_labels[0]).all():
        raise RelgraphError("a linear probe needs two classes or more among the training labels, got one")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=1000))
    with warnings.catch_warnings():
        # A probe stopped after that many steps is a little worse, not wrong.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _score(probe, train_features.float(), train_labels, test_features.float(), test_labels)


def embed(
    network: nn.Module, images: Tensor | ImageSet, prepare: Callable[[Tensor], Tensor], batch_size: int,
    device: torch.device | str, progress: str | None = None, workers: int = 0,
) -> Tensor:  # fmt: skip
    """Return the outputs of a network for images, `(N, D)` float32 on the CPU; in evaluation mode, without gradient.

    Args:
        network: a map `(B, C, H, W) -> (B, D)`, already on `device`.
        images: `(N, C, H, W)` uint8, or a split, whose images may be in files.
        prepare: turns a uint8 batch on `device` into the network's input.
        batch_size: images at a time.
        device: where `prepare` and the network run.
        progress: title of a progress bar on a terminal; None disables it.
        workers: processes that decode images in files ahead; 0: this one.

    Raises:
        RelgraphError: if there are no images, or a file of them cannot be decoded.
    """
    if len(images) == 0:
        raise RelgraphError("there are no images to embed")
    total, hidden = -(-len(images) // batch_size), no_bar(shown=bool(progress))
    with torch.no_grad(), _evaluating(network), closing(_batches(images, batch_size, workers)) as batches:
        bar = tqdm(batches, desc=progress, total=total, unit="batch", leave=False, disable=hidden)
        prepared = (piece for batch in bar for piece in pieces(prepare(batch.to(device))))
        return torch.cat([network(piece).float().cpu() for piece in prepared])


def _score(model: Any, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy in percent of scikit-learn's model on one set, fitted to another."""
    model.fit(train.cpu().numpy(), train_labels.cpu().numpy())
    return 100 * float(model.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def _batches(images: Tensor | ImageSet, batch_size: int, workers: int) -> Generator[Tensor, None, None]:
    if isinstance(images, Tensor):
        yield from torch.split(images, batch_size)
    else:
        yield from images.batches(torch.split(torch.arange(len(images)), batch_size), workers)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and afterwards every module of it in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _known(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training features and labels of the images whose label is known, all of them checked."""
    _check_pairs(train, train_labels)
    train, train_labels = train[(train_labels >= 0).to(train.device)], train_labels[train_labels >= 0]
    _check_pairs(train, train_labels)
    _check_pairs(test, test_labels)
    widths = train.shape[1], test.shape[1]
    if widths[0] != widths[1]:
        raise RelgraphError(f"training and test features must be equally wide, got {widths[0]} and {widths[1]}")
    if not (train.isfinite().all() and test.isfinite().all()):
        raise RelgraphError("features must be finite, got NaN or infinity: did the training diverge?")
    return train, train_labels


def _check_pairs(rows: Tensor, labels: Tensor) -> None:
    if rows.ndim != 2 or labels.shape != rows.shape[:1]:
        raise RelgraphError(f"expected (N, D) and (N,) labels, got {tuple(rows.shape)} and {tuple(labels.shape)}")
    if len(rows) == 0:
        raise RelgraphError("there are no images to evaluate")
