"""Evaluation of features without a trained classifier: by the nearest training images, and by a linear probe."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relgraph.data.images import ImageSet
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.evaluation import embed, knn_accuracy, linear_probe

BATCH = 512
# Number of training images among which neighbours are searched: more would cost time and hardly change the result.
KNOWN = 10_000
NEIGHBOURS = 20


def judge_features(
    backbone: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device | str,
    train: ImageSet,
    images: ImageSet,
    workers: int,
    *,
    probe: bool = False,
    known: int = KNOWN,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:
    """Return `knn` and, with `probe`, `linear`, the accuracies in percent of a backbone's features on a split.

    Neighbours and probe use at most `known` training images, drawn once, with their true labels, including those that
    were hidden from the training: the figures evaluate features, and nothing is trained by them. Returns `{}` where
    training images or the split have no labels. Of several processes each embeds its share of the images.
    """
    labels = train.true_labels.cpu()
    labelled = (labels >= 0).nonzero().flatten()
    if len(labelled) == 0 or len(images) == 0 or bool((images.true_labels < 0).any()):
        return {}
    chosen = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))[:known]]

    def features(part: ImageSet) -> Tensor:
        own = part.select(torch.arange(len(part))[processes.share(len(part))])
        return processes.collect(embed(backbone, own, prepare, BATCH, device, None, workers).to(device)).cpu()

    of_train, of_test = features(train.select(chosen)), features(images)
    known_labels, asked = labels[chosen], images.true_labels.cpu()
    found = {"knn": knn_accuracy(of_train, known_labels, of_test, asked, k=NEIGHBOURS)}
    if probe and bool((known_labels != known_labels[0]).any()):
        found["linear"] = linear_probe(of_train, known_labels, of_test, asked)
    return found
