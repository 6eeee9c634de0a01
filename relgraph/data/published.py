"""Readers of the data sets that were published as arrays: digits, CIFAR and STL-10."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relgraph.data.catalogue import PUBLISHED, STL_IMAGE, File, provide, read_checked, wrong_checksum
from relgraph.data.downloads import checksum
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.errors import RelgraphError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class OriginalSplits:
    """The original splits of a data set, before labels are hidden or images held out.

    `normalisation` is (mean, std), None where nobody published them; `unlabelled` `(N, C, H, W)` uint8 are images to be
    added to the training set, which need not lie in memory.
    """

    train: ImageSet
    test: ImageSet
    crop_padding: int
    flip: bool
    val: ImageSet | None = None
    normalisation: Normalisation | None = None
    unlabelled: Tensor | None = None


CIFAR_NORMALISATION: dict[str, Normalisation] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def original_split(images: Tensor | ImageFiles, labels: Tensor, classes: tuple[str, ...], split: str) -> ImageSet:
    """Return all images of an original split."""
    return ImageSet(images, labels, classes, split, torch.arange(len(images)))


def read_published(name: str, root: Path) -> OriginalSplits:
    """Return digits, cifar10, cifar100, stl10 or stl10+unlabelled, downloaded to `root` if it is not there.

    Raises:
        RelgraphError: if a file is missing or is not the published one, or the download fails.
    """
    if name == "digits":
        return _digits()
    return (_cifar if name.startswith("cifar") else _stl10)(name, provide(name, root))


def check_published(name: str, folder: Path) -> None:
    """Compare the files of a data set with their published checksums.

    Raises:
        RelgraphError: if one differs.
    """
    for file in PUBLISHED[name].files:
        if file.md5 and checksum(folder / file.name) != file.md5:
            raise wrong_checksum(folder, file)


def _digits() -> OriginalSplits:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    classes = tuple(str(name) for name in data.target_names)
    # Every fifth image of a class is a test image: a split that no library's random numbers can change.
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(classes)):
        test[(labels == label).nonzero().flatten()[4::5]] = True
    return OriginalSplits(
        original_split(images[~test], labels[~test], classes, "train"),
        original_split(images[test], labels[test], classes, "test"),
        crop_padding=1,
        flip=False,
    )


def _cifar(name: str, folder: Path) -> OriginalSplits:
    *batches, test, meta = PUBLISHED[name].files
    kind = "fine_labels" if name == "cifar100" else "labels"
    names = "fine_label_names" if name == "cifar100" else "label_names"
    # Pickles, which can run code when they are opened: these are opened after their checksum was compared.
    classes = tuple(pickle.loads(read_checked(folder, meta), encoding="latin1")[names])

    def read(files: list[File], split: str) -> ImageSet:
        parts = [pickle.loads(read_checked(folder, file), encoding="latin1") for file in files]
        pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
        labels = torch.tensor([label for part in parts for label in part[kind]])
        return original_split(torch.from_numpy(pixels), labels, classes, split)

    return OriginalSplits(
        read(batches, "train"), read([test], "test"), crop_padding=4, flip=True, normalisation=CIFAR_NORMALISATION[name]
    )


def _stl10(name: str, folder: Path) -> OriginalSplits:
    train, train_labels, test, test_labels, names, *unlabelled = PUBLISHED[name].files
    classes = tuple((folder / names.name).read_text(encoding="utf-8").split())

    def read(images: File, labels: File, split: str) -> ImageSet:
        known = np.frombuffer(read_checked(folder, labels), dtype=np.uint8).astype(np.int64) - 1  # published from 1
        return original_split(_stl_images(folder, images).contiguous(), torch.from_numpy(known), classes, split)

    return OriginalSplits(
        read(train, train_labels, "train"),
        read(test, test_labels, "test"),
        crop_padding=4,
        flip=True,
        unlabelled=_stl_images(folder, unlabelled[0]) if unlabelled else None,
    )


def _stl_images(folder: Path, file: File) -> Tensor:
    """Return images `(N, 3, 96, 96)` that stay in their file until they are copied."""
    path = folder / file.name
    if checksum(path) != file.md5:
        raise wrong_checksum(folder, file)
    if path.stat().st_size % STL_IMAGE:
        raise RelgraphError(f"{path}: expected images of {STL_IMAGE} bytes, found {path.stat().st_size} bytes in all")
    stored = np.memmap(path, dtype=np.uint8, mode="c")  # never written, but torch requires an array that could be
    return torch.from_numpy(stored.reshape(-1, 3, 96, 96).swapaxes(2, 3))  # each channel is stored column by column
