"""The labels that training uses: images held out for validation, few labels, wrong labels."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError


def hold_out(images: ImageSet, fraction: float, generator: Generator) -> tuple[ImageSet, ImageSet]:
    """Return (training, validation) images: `fraction` of every class is for validation, at least one image.

    Images without a label stay training images.

    Raises:
        RelgraphError: if a class would keep no training image.
    """
    held = torch.zeros(len(images), dtype=torch.bool)
    for label, name in enumerate(images.classes):
        members = _members(images, label)
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise RelgraphError(
                f"class {name!r} has {len(members)} training images, and {count} for validation leave none to train on"
            )
        held[_draw(members, count, generator)] = True
    return images.select(~held), replace(images.select(held), split="val")


def keep_count(images: ImageSet, count: int, generator: Generator) -> ImageSet:
    """Return the images with the labels of `count` of them per class, and -1 for the others.

    Raises:
        RelgraphError: if a class has fewer.
    """
    for label, name in enumerate(images.classes):
        found = len(_members(images, label))
        if count > found:
            raise RelgraphError(
                f"class {name!r} has {found} training images, fewer than the {count} labels per class asked for"
            )
    return _keep(images, [count] * len(images.classes), generator)


def keep_fraction(images: ImageSet, fraction: float, generator: Generator) -> ImageSet:
    """Return the images with the labels of a share of every class, at least one, and -1 for the others."""
    sizes = [len(_members(images, label)) for label in range(len(images.classes))]
    return _keep(images, [max(1, round(fraction * size)) for size in sizes], generator)


def _keep(images: ImageSet, counts: list[int], generator: Generator) -> ImageSet:
    labels = torch.full_like(images.labels, -1)
    for label, count in enumerate(counts):
        labels[_draw(_members(images, label), count, generator)] = label
    return images.relabel(labels)


def add_noise(images: ImageSet, share: float, generator: Generator) -> ImageSet:
    """Return the images with another class, each of them equally likely, on a share of those that have a label.

    A wrong label is never the true one; where others draw from all classes, 1 / classes of their noise stays right.
    """
    labelled = (images.labels >= 0).nonzero().flatten()
    wrong = _draw(labelled, round(share * len(labelled)), generator)
    classes = len(images.classes)
    labels = images.labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, classes, (len(wrong),), generator=generator)) % classes
    return images.relabel(labels)


def _members(images: ImageSet, label: int) -> Tensor:
    return (images.labels == label).nonzero().flatten()


def _draw(members: Tensor, count: int, generator: Generator) -> Tensor:
    return members[torch.randperm(len(members), generator=generator)[:count]]
