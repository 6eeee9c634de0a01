"""Data sets that are Python objects: torch's, Hugging Face's, or a list of images; they are read once into memory."""

import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from tqdm import tqdm

from relgraph.data.decoding import ImageSize, as_seen, quiet
from relgraph.data.folders import SPLITS, check_memory
from relgraph.data.listing import LeftOut
from relgraph.data.sources import NoFiles, OriginalSplits, Source, original_split, resized
from relgraph.errors import RelgraphError
from relgraph.own_code import telling
from relgraph.printing import no_bar

READ_TWICE = 8  # images: one that is flipped at random, as half of them are, is seen with 255 of 256
DATASETS_LEAST = 4
KINDS = "a PIL image, a tensor (C, H, W) of uint8 or of floats in [0, 1], or a uint8 array (H, W, C)"


class OwnData(Source):
    """A data set made of what a user wrote: an object, or a class or function that returns one when it is called.

    The object is one data set of images, or a mapping of `train`, `test` and `val` (or `validation`), or the pair
    (train, test). Each has a length and items by number, or is iterated over. An item is `(image, label)`, a mapping
    with `image` and `label`, or an image alone. An image is a PIL image of any mode, turned as its EXIF says and
    composed on white as files are; a uint8 tensor `(C, H, W)`; a float tensor in [0, 1], which is rounded; or a uint8
    array `(H, W, C)`. A label is a number from 0 on, and -1 or `None` where a training image has none.

    Class names are the attribute `classes` of the data set, the names of the feature `label` of Hugging Face's, or
    "0" to "n-1". One data set with labels has an empty test split, which `datasets.load` draws; `val` alone is the test
    split, as in a folder.
    """

    def __init__(self, target: Any, name: str) -> None:
        """Take the object, class or function, and its name."""
        self.target, self.name = target, name

    @property
    def short_name(self) -> str:
        """The attribute that it is, in names of files."""
        return re.split("[:.]", self.name)[-1].lower()

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits; `root` plays no part.

        Raises:
            RelgraphError: if the data set raises an error or is none, an item is no image with its label or another one
                when it is read again, images differ in size without an `image_size`, need more than 8 GiB, or the mode
                is stream.
        """
        made = self._made()
        if isinstance(made, Source):
            return made.read(root, image_size, mode)
        if mode == "stream":
            raise NoFiles(f"{self.name} is read into memory: expected --images auto or memory, got stream")
        parts, left_out = _splits(made, self.name), LeftOut()
        reader = _Reader(self.name, image_size, left_out)
        found = {split: reader.read(split, dataset) for split, dataset in parts.items()}
        classes = _common_classes(self.name, parts, {split: labels for split, (_, labels) in found.items()})
        images, _ = found["train"]
        found.setdefault("test", (images[:0], torch.empty(0, dtype=torch.int64)))
        sets = {split: original_split(*pair, classes, split) for split, pair in found.items()}
        return OriginalSplits(sets["train"], sets["test"], crop_padding=min(images.shape[-2:]) // 8, flip=True,
                              val=sets.get("val"), left_out=left_out)  # fmt: skip

    def _made(self) -> Any:
        if isinstance(self.target, type) or (callable(self.target) and not hasattr(self.target, "__getitem__")):
            with telling(f"{self.name} could not be made"):
                return self.target()
        return self.target


class HuggingFace(Source):
    """A data set of the Hugging Face hub, `NAME[/CONFIG]`, by the package datasets, which is optional.

    It has the columns `image` and, where there are labels, `label`. NAME is `data` or `owner/data`, so that a CONFIG is
    the third part. Splits of other names than train, validation and test are left out.
    """

    def __init__(self, place: str) -> None:
        self.place, self.name = place, f"huggingface:{place}"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits; the package keeps downloads in its own cache, and `root` plays no part.

        Raises:
            RelgraphError: if the package is not installed, it cannot read the data set, or that does not fit `OwnData`.
        """
        owner, slash, rest = self.place.partition("/")
        name, _, config = rest.partition("/")
        with telling(f"{self.name} could not be read"):
            found = _load_dataset(self.name)(f"{owner}{slash}{name}", config or None)
        known = {split: part for split, part in found.items() if split in (*SPLITS, "validation")}
        original = OwnData(known, self.name).read(root, image_size, mode)
        others = ", ".join(sorted(map(str, found.keys() - known.keys())))
        original.left_out.notes.extend([f"left out the splits {others}"] if others else [])
        return original


def _load_dataset(name: str) -> Any:
    """Return the function of the package, of a version that runs no code of a data set's own."""
    told = f"{name} needs the package datasets, version {DATASETS_LEAST} or later"
    try:
        import datasets
    except Exception as error:  # a broken installation raises nearly anything
        found = "which is not installed or broken: pip install 'relgraph[huggingface]'"
        raise RelgraphError(f"{told}, {found}") from error
    if int(datasets.__version__.partition(".")[0]) < DATASETS_LEAST:
        raise RelgraphError(f"{told}, which runs no code of a data set's own, found {datasets.__version__}")
    return datasets.load_dataset


def _splits(made: Any, name: str) -> dict[str, Any]:
    """Return the data set of each split, train first."""
    if isinstance(made, tuple) and len(made) == 2:
        made = {"train": made[0], "test": made[1]}
    elif isinstance(made, tuple):
        raise RelgraphError(
            f"{name}: expected a mapping of train, val and test, or (train, test), got {len(made)} parts"
        )
    elif not isinstance(made, Mapping):
        made = {"train": made}
    found = {{"validation": "val"}.get(split, split): dataset for split, dataset in made.items()}
    if "train" not in found or not found.keys() <= set(SPLITS) or len(found) < len(made):
        raise RelgraphError(f"{name}: expected splits train, test and val, found {', '.join(map(str, made)) or 'none'}")
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
    return {split: found[split] for split in SPLITS if split in found}


class _Reader:
    """Reads the splits of a data set, whose images all have the shape of the first."""

    def __init__(self, name: str, image_size: ImageSize | None, left_out: LeftOut) -> None:
        self.name, self.image_size, self.left_out = name, image_size, left_out
        self._shape: torch.Size | None = None
        self._before = 0  # images of splits that are read

    def read(self, split: str, dataset: Any) -> tuple[Tensor, Tensor]:
        """Return the images `(N, C, H, W)` uint8 and labels `(N,)` of a split."""
        pixels, labels, count = bytearray(), [], _length(dataset)
        items = self._items(split, dataset)
        for number, item in tqdm(items, f"read {split}", count, unit="img", leave=False, disable=no_bar()):
            where = f"{self.name}: image {number} of {split}"
            image, label = self._parts(item, where)
            found = self._fitting(image, where)
            check_memory(self._before + max(count or 0, number + 1), *found.shape)
            pixels += found.numpy().tobytes()
            labels.append(_label(label, where))
        if self._shape is None or not labels:
            raise RelgraphError(f"{self.name}: expected images in {split}, found none")
        images = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, *self._shape)
        self._check_constant(split, dataset, images)
        self._before += len(images)
        return images, torch.tensor(labels)

    def _items(self, split: str, dataset: Any) -> Iterator[tuple[int, Any]]:
        count = _length(dataset)
        if count is None and not hasattr(dataset, "__iter__"):
            told = f"expected a data set with a length and items by number, got {type(dataset).__name__}"
            raise RelgraphError(f"{self.name}: {split}: {told}")
        number = 0
        items = iter(dataset) if count is None else (dataset[position] for position in range(count))
        while True:
            with telling(f"{self.name}: image {number} of {split} could not be read"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield number, item
            number += 1

    def _check_constant(self, split: str, dataset: Any, images: Tensor) -> None:
        """Raise RelgraphError if images change from one reading to the next."""
        for number in range(min(READ_TWICE, _length(dataset) or 0)):
            where = f"{self.name}: image {number} of {split}"
            again = self._fitting(self._parts(dataset[number], where)[0], where)
            if not torch.equal(again, images[number]):
                told = "expected the same image each time, got another: leave out random transforms"
                raise RelgraphError(f"{where}: {told}, views are drawn by --augment")

    def _parts(self, item: Any, where: str) -> tuple[Any, Any]:
        """Return the image and the label of an item."""
        if isinstance(item, Mapping):
            if "image" not in item:
                raise RelgraphError(f"{where}: expected the columns image and label, found {', '.join(item)}")
            if "label" not in item and len(item) > 1:
                note = f"read without labels, which the column label has, found {', '.join(item)}"
                self.left_out.notes.extend([note] if note not in self.left_out.notes else [])
            return item["image"], item.get("label")
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) not in (1, 2):
            raise RelgraphError(f"{where}: expected an image, or an image and its label, got {len(item)} values")
        return item[0], item[1] if len(item) == 2 else None

    def _fitting(self, image: Any, where: str) -> Tensor:
        """Return an image `(C, H, W)` uint8, resized and cropped to the image size, of the shape of the first."""
        pixels = _pixels(image, self.image_size, where)
        if self._shape is None:
            self._shape = pixels.shape
        if pixels.shape != self._shape:
            (channels, height, width), (c, h, w) = self._shape, pixels.shape
            hint = ": give --image-size to resize them" if c == channels else ""
            told = f"expected {channels} x {height} x {width} like the first image, found {c} x {h} x {w}"
            raise RelgraphError(f"{where}: {told}{hint}")
        return pixels


def _length(dataset: Any) -> int | None:
    """Return the length of a data set whose items have numbers, `None` of one to iterate over."""
    by_number = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    return len(dataset) if by_number and not isinstance(dataset, IterableDataset) else None


def _label(label: Any, where: str) -> int:
    if isinstance(label, Image) or getattr(label, "ndim", 0) > 1:
        told = "labels of pixels are read from files, as dataset folder:PATH or csv:FILE"
        raise RelgraphError(f"{where}: expected the label of an image, got a map of them: {told}")
    try:
        number = -1 if label is None else operator.index(label)
    except TypeError:
        number = -2
    if number < -1:
        raise RelgraphError(f"{where}: expected a label of 0 and more, or -1 or None for none, got {str(label)[:50]!r}")
    return number


def _pixels(image: Any, image_size: ImageSize | None, where: str) -> Tensor:
    """Return an image of any kind as `(C, H, W)` uint8, with an `image_size` resized and cropped as a file's."""
    if isinstance(image, Image):
        with quiet(), telling(f"{where}: not a readable image"):
            return torch.from_numpy(np.asarray(as_seen(image, image_size)).transpose(2, 0, 1).copy())
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise RelgraphError(f"{where}: expected {KINDS}, got an array {image.shape} of {image.dtype}")
        pixels = torch.from_numpy(image.copy())
        pixels = pixels[None] if image.ndim == 2 else pixels.permute(2, 0, 1)
    elif isinstance(image, Tensor):
        pixels = _whole_numbers(image.detach().cpu().as_subclass(Tensor), where)
    else:
        raise RelgraphError(f"{where}: expected {KINDS}, got {type(image).__name__}")
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        told = f"expected 1 or 3 channels in (C, H, W), got {tuple(pixels.shape)}"
        raise RelgraphError(f"{where}: {told}")
    return pixels.contiguous() if image_size is None else resized(pixels[None], image_size)[0]


def _whole_numbers(image: Tensor, where: str) -> Tensor:
    """Return a tensor as uint8; of floats 1 is 255."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise RelgraphError(f"{where}: expected {KINDS}, got a tensor {tuple(image.shape)} of {image.dtype}")
    if not bool(((image >= 0) & (image <= 1)).all()):  # NaN is neither
        found = f"found {float(image.min()):.3g} to {float(image.max()):.3g}"
        raise RelgraphError(
            f"{where}: expected floats in [0, 1], {found}: leave out a normalisation, which is done here"
        )
    return (image.float() * 255).round().to(torch.uint8)


def _common_classes(name: str, parts: Mapping[str, Any], labels: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the classes of all splits; none if no image has a label."""
    for split in labels.keys() - {"train"}:
        if bool((labels[split] < 0).any()):
            number = int((labels[split] < 0).nonzero()[0])
            raise RelgraphError(f"{name}: image {number} of {split}: expected a label, found none")
    count = 1 + max(int(values.max()) for values in labels.values())
    if count == 0:
        return ()
    named = {split: found for split, dataset in parts.items() if (found := _classes(dataset)) is not None}
    classes = next(iter(named.values()), tuple(map(str, range(count))))
    if any(other != classes for other in named.values()):
        raise RelgraphError(f"{name}: expected the same classes in {' and '.join(named)}, found others")
    if count > len(classes) or len(classes) < 2:
        raise RelgraphError(f"{name}: expected labels of at least 2 classes, below {len(classes)}, found {count - 1}")
    return classes


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of the classes as a data set has them, or what it is a part of; `None` if it has none."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    of_label = features.get("label") if isinstance(features, Mapping) else None
    names = getattr(dataset, "classes", None) or getattr(of_label, "names", None)
    return None if names is None else tuple(map(str, names))
