"""Classes that are kept out of training: validation and test images are of classes that no training image has."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError, unknown
from relgraph.seeding import generator

Classes = float | tuple[str, ...]  # a share of all classes, or their names


@dataclass(frozen=True)
class UnseenClasses:
    """Which classes are held out, as retrieval is judged: by their shares of all classes, or by name.

    Attributes:
        val: For validation.
        test: For testing.

    Raises:
        RelgraphError: if a share is out of range, or a class is named twice.
    """

    val: Classes
    test: Classes

    def __post_init__(self) -> None:
        """Check the shares, or that each name stands once."""
        if isinstance(self.val, float) and isinstance(self.test, float):
            if not (self.val >= 0 and self.test > 0 and self.val + self.test < 1):
                told = "the shares of held-out classes must be at least 0 for validation, above 0 for testing"
                raise RelgraphError(f"{told} and below 1 together, got {self.val:g} and {self.test:g}")
            return
        assert isinstance(self.val, tuple) and isinstance(self.test, tuple)
        named = (*self.val, *self.test)
        if not self.test or len(set(named)) < len(named):
            twice = next((name for name in named if named.count(name) > 1), None)
            told = "no test class" if twice is None else f"{twice!r} twice"
            raise RelgraphError(f"held-out classes are named once each, some of them for testing, got {told}")

    def split(self, images: ImageSet, seed: int, dataset: str) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Return training, validation and test images, cut from an original training split of labelled images.

        Each has the classes of its own images alone, in the order of the original ones, and labels that count these;
        images without a label are training images, and `index` stays that of the original split. Shares are rounded to
        whole classes, at least one where they are above 0, and drawn by the seed alone, those for testing first: they
        do not change with the share for validation.

        Raises:
            RelgraphError: if there are no classes, one is not known, or none would be left to train on.
        """
        known = images.classes
        if not known:
            raise RelgraphError(f"{dataset} has no labels, by which classes could be held out")
        val, test = self._chosen(known, seed)
        if len(val) + len(test) >= len(known):
            told = f"{len(val)} for validation and {len(test)} for testing"
            raise RelgraphError(f"{dataset} has {len(known)} classes: {told} leave none to train on")
        held = {*val, *test}
        seen = [label for label in range(len(known)) if label not in held]
        train = _of_classes(images, seen, "train", unlabelled=True)
        return train, _of_classes(images, val, "val"), _of_classes(images, test, "test")

    def _chosen(self, known: tuple[str, ...], seed: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the classes for validation and for testing, ascending."""
        if isinstance(self.val, float) and isinstance(self.test, float):
            val, test = (0 if share == 0 else max(1, round(share * len(known))) for share in (self.val, self.test))
            order = torch.randperm(len(known), generator=generator("held-out classes", seed)).tolist()
            return sorted(order[test : test + val]), sorted(order[:test])
        assert isinstance(self.val, tuple) and isinstance(self.test, tuple)
        for name in (*self.val, *self.test):
            if name not in known:
                raise unknown("class that is held out", name, known)
        return sorted(map(known.index, self.val)), sorted(map(known.index, self.test))


def _of_classes(images: ImageSet, chosen: list[int], split: str, *, unlabelled: bool = False) -> ImageSet:
    """Return the images of some classes, numbered among these, and with them those without a label if asked for."""
    numbers = torch.full((len(images.classes) + 1,), -1)  # the last one is that of the label -1
    numbers[chosen] = torch.arange(len(chosen))
    which: Tensor = torch.isin(images.labels, torch.tensor(chosen, dtype=torch.long))
    found = images.select(which | (images.labels < 0) if unlabelled else which)
    classes = tuple(images.classes[label] for label in chosen)
    return replace(found, labels=numbers[found.labels], classes=classes, split=split)
