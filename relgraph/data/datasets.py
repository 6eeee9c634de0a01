"""Data sets ready for training: images held out for validation, few or wrong labels, and what normalises them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import torch
from torch import Generator, Tensor

from relgraph.data.decoding import ImageSize
from relgraph.data.images import SPLITS, ImageFiles, ImageSet
from relgraph.data.listing import LeftOut
from relgraph.data.sources import Normalisation, OriginalSplits, Source, resize_into
from relgraph.data.unseen import UnseenClasses
from relgraph.errors import RelgraphError
from relgraph.seeding import generator

SAMPLE = 10_000  # streamed images that mean and std are taken from
TEST_FRACTION = 0.2
PURPOSES = {"val": "validation", "test": "testing"}


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training, validation and test images, mean and std per channel (0..1 scale), and the augmentation that suits.

    A data set without labels has no `classes`, the label -1 for every training image, and no validation or test images.
    `left_out` is what its folder holds beside them. Where it is `unseen`, validation and test images are of classes
    that no training image has, and each split has the `classes` of its own images.
    """

    name: str
    train: ImageSet
    val: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    left_out: LeftOut = field(default_factory=LeftOut)
    unseen: bool = False

    @property
    def held_out(self) -> dict[str, list[str]]:
        """The names of the classes that are kept out of training, those for validation and for testing; else empty."""
        return {split.split: list(split.classes) for split in (self.val, self.test)} if self.unseen else {}

    @property
    def of_pixels(self) -> bool:
        """Whether it is pixels that have classes: every split has `maps`."""
        return self.train.maps is not None

    def file_names(self, images: ImageSet) -> list[str] | None:
        """Return the path of each image's file within the folder of the data set; `None` where they come from none.

        Those of further images, which lie elsewhere, are absolute.
        """
        if images.files is None:
            return None
        every = [split.files for split in (self.train, self.val, self.test) if split.files is not None]
        folder = os.path.join(os.path.commonpath([os.path.abspath(files.folder) for files in every]), "")
        paths = (os.path.abspath(images.files.path(number)) for number in range(len(images)))
        return [path.removeprefix(folder) for path in paths]


def load(
    source: Source,
    *,
    root: Path,
    image_size: ImageSize | None,
    val_fraction: float,
    labels_per_class: int | None,
    seed: int,
    label_fraction: float = 1.0,
    label_noise: float = 0.0,
    mode: str = "auto",
    skip_bad: bool = False,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    unlabelled: Path | None = None,
    unseen: UnseenClasses | None = None,
    ignore: tuple[int, ...] = (),
    labelled_images: int | None = None,
) -> DataSet:
    """Load a data set: one of `catalogue.SOURCES`, of `file_sources`, or another object like them.

    Of a data set with classes and without a test split, a share `test_fraction` of every class becomes it, drawn by
    `split_seed` alone, before anything else: `seed` never moves it. What is left is the original training split.

    Where the data set has no validation images of its own, a share `val_fraction` of every class of the training images
    becomes them, drawn by `seed`. A share of 0 leaves the validation split empty. `root` is where downloads are kept.
    With an `image_size` the images are resized to it (bicubic). The `mode` auto, memory or stream is that of
    `folders.read_folder`.

    Where `unseen` names classes, or shares of them that are drawn by `split_seed` alone, these are kept out of
    training: all their images in the original training split become the validation and test images, and the original
    ones of these splits are left out, so that no share of images is drawn.

    All but `labels_per_class` training labels a class, or the share `label_fraction` of every class, become -1; of
    those that remain, the share `label_noise` becomes wrong. All of it is drawn by `seed`, each from a stream of its
    own; validation and test images keep their labels.

    The unlabelled images of stl10+unlabelled, and all that are in the folder `unlabelled` at any depth, are training
    images with the label -1. Mean and std are those of the others, as without them.

    A folder with neither train/, val/ nor test/ in it is a data set without labels: all its images, at any
    depth, are training images with the label -1, `classes` is empty, and so are the validation and test images,
    whatever the `val_fraction`: without classes nothing is held out. Mean and std are those of all images.

    Where pixels have classes, images are held out by their number, not by class, and `labelled_images` of the training
    images keep their label; the numbers `ignore` in files of labels stand, as 255 does, for no class.

    With `skip_bad` image files that cannot be read are left out before anything is drawn, and named in `left_out`;
    streamed images are decoded once to find them.

    Raises:
        RelgraphError: if a number is out of range, the files are missing or wrong, a class has too
            few images, labels are to be hidden or changed where there are none, or a share is given for a test split
            that is not drawn.

    >>> from relgraph.data.sources import Digits
    >>> digits = load(Digits(), root=Path("data"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)
    >>> digits.train.images.shape, len(digits.val), len(digits.test)
    (torch.Size([1299, 1, 8, 8]), 143, 355)
    """
    _check(val_fraction, labels_per_class, label_fraction, label_noise)
    original = _read(source, root, image_size, mode, skip_bad, unlabelled, ignore)
    share = label_fraction if label_fraction < 1 else None
    of_classes = {"labels_per_class": labels_per_class, "label_fraction": share, "label_noise": label_noise or None,
                  "holdout_classes": unseen}  # fmt: skip
    _check_pixels(source.name, original.train, labelled_images, of_classes)
    _check_unlabelled(source.name, original.train, labels_per_class, label_fraction, label_noise)
    whole = len(original.train)
    if unseen is not None:
        train, val, test = unseen.split(original.train, split_seed, source.name)
    else:
        train, test = _with_test(source.name, original.train, original.test, test_fraction, split_seed)
        whole, (train, val) = len(train), _with_val(train, original.val, val_fraction, seed)
    pixels = train.images if isinstance(train.images, Tensor) else train.sample(SAMPLE)
    mean, std = original.normalisation or channel_statistics(pixels)
    if labelled_images is not None:
        train = keep_images(train, labelled_images, generator("labels", seed))
    train = _with_labels(train, labels_per_class, label_fraction, label_noise, seed)
    train = _with_unlabelled(train, original, whole)
    return DataSet(source.name, train, val, test, mean, std, original.crop_padding, original.flip, original.left_out,
                   unseen is not None)  # fmt: skip


def _read(
    source: Source, root: Path, image_size: ImageSize | None, mode: str, skip_bad: bool, unlabelled: Path | None,
    ignore: tuple[int, ...],
) -> OriginalSplits:  # fmt: skip
    """Return the original splits of a data set with what was asked of its files."""
    source = source if unlabelled is None else source.beside(unlabelled.expanduser())
    source = source.ignoring(ignore) if ignore else source
    return (source.skipping() if skip_bad else source).read(root.expanduser(), image_size, mode)


def _with_labels(train: ImageSet, count: int | None, share: float, noise: float, seed: int) -> ImageSet:
    """Return the training images with the labels of classes that are kept, of which some become wrong."""
    if count is not None or share < 1:
        train = keep_labels(train, count, share, generator("labels", seed))
    return add_noise(train, noise, generator("label noise", seed)) if noise > 0 else train


def _with_unlabelled(train: ImageSet, original: OriginalSplits, first: int) -> ImageSet:
    """Return the training images and, numbered from `first`, the further images of a data set."""
    for images in original.unlabelled:
        train, first = _join(train, images, original.pool, first), first + len(images)
    return train


def _with_val(train: ImageSet, val: ImageSet | None, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the training and validation images; the latter are drawn if the data set has none of its own."""
    if val is not None:
        return train, val
    if fraction == 0:
        return train, replace(train.select(torch.arange(0)), split="val")
    return hold_out(train, fraction, generator("validation", seed))


def joined(data: DataSet) -> ImageSet:
    """Return the original training split of which classes were held out: all images, in its order, without labels."""
    found = together([data.train, data.val, data.test])
    labels = torch.full((len(found),), -1)
    whole = replace(found, labels=labels, classes=data.train.classes, split="train", truth=None, part=None)
    return whole.select(whole.index.argsort())


def together(splits: Sequence[ImageSet]) -> ImageSet:
    """Return the images of several splits as those of one, `all`, with the classes that any of them has.

    `part` says which split an image is of.
    """
    parts = [split for split in splits if len(split)]
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    numbers = [torch.tensor([*map(classes.index, part.classes), -1]) for part in parts]  # the last is that of no label
    labels, truth = (torch.cat([number[own.cpu()] for number, own in zip(numbers, each, strict=True)]) for each in
                     ([part.labels for part in parts], [part.true_labels for part in parts]))  # fmt: skip
    index = torch.cat([part.index for part in parts])
    of = torch.cat([torch.full((len(part),), SPLITS.index(part.split)) for part in parts])
    images, decoded = parts[0].images, parts[0].decoded
    for part in parts[1:]:
        images = images.followed_by(part.images) if isinstance(images, ImageFiles) else torch.cat([images, part.pixels])
        decoded = None if decoded is None or part.decoded is None else decoded.followed_by(part.decoded)
    maps = reduce(lambda a, b: a if a is None or b is None else a.followed_by(b), [part.maps for part in parts])
    return ImageSet(images, labels, classes, "all", index, truth, decoded, of, maps)


def _with_test(dataset: str, train: ImageSet, test: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the training and test split; the latter is drawn if a data set with classes has none."""
    if train.classes and len(test) == 0:
        train, test = hold_out(train, fraction, generator("test split", seed), "test")
        train, test = (replace(part, index=torch.arange(len(part))) for part in (train, test))
    elif (fraction, seed) != (TEST_FRACTION, 0):
        told = f"{dataset} has {'a test split of its own' if train.classes else 'no labels'}"
        raise RelgraphError(f"{told}: expected neither test_fraction nor split_seed, got {fraction} and {seed}")
    return train, test


def _check(val: float, count: int | None, share: float, noise: float) -> None:
    both = f"labels_per_class and label_fraction exclude each other: expected one of them, got {count} and {share}"
    for valid, told in (
        (0 <= val < 1, f"the share of validation images must be at least 0 and below 1, got {val}"),
        (0 < share <= 1, f"the share of labels must be above 0 and at most 1, got {share}"),
        (count is None or share == 1, both),
        (0 <= noise <= 1, f"the share of wrong labels must be at least 0 and at most 1, got {noise}"),
    ):
        if not valid:
            raise RelgraphError(told)


def _check_pixels(dataset: str, train: ImageSet, labelled: int | None, others: Mapping[str, object]) -> None:
    if train.maps is None and labelled is not None:
        told = f"{dataset} has no labels of pixels: expected labels_per_class or label_fraction"
        raise RelgraphError(f"{told}, got labelled_images {labelled}")
    if train.maps is not None and (found := [name for name, value in others.items() if value is not None]):
        raise RelgraphError(f"{dataset} has labels of pixels: expected labelled_images, got {' and '.join(found)}")


def _check_unlabelled(dataset: str, train: ImageSet, count: int | None, share: float, noise: float) -> None:
    if train.classes:
        return
    options = {"labels_per_class": (count, None), "label_fraction": (share, 1.0), "label_noise": (noise, 0.0)}
    if found := " and ".join(f"{name} {value}" for name, (value, default) in options.items() if value != default):
        told = f"{dataset} has no labels to hide or to change: expected none of {', '.join(options)}, got {found}"
        raise RelgraphError(told)


def hold_out(images: ImageSet, fraction: float, generator: Generator, split: str = "val") -> tuple[ImageSet, ImageSet]:
    """Return (training, validation) images: `fraction` of every class is for validation, at least one image.

    They are for another `split` if one is named.

    Images without a label stay training images.

    Raises:
        RelgraphError: if a class would keep no training image.
    """
    held = torch.zeros(len(images), dtype=torch.bool)
    for label, group in enumerate(images.groups):
        members = (images.labels == label).nonzero().flatten()
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            found = f"{group} has {_counted(len(members))}, and {count} for {PURPOSES[split]} leave none to train on"
            raise RelgraphError(f"{found}: {_ways_out(split, images.maps is not None)}")
        held[_draw(members, count, generator)] = True
    return images.select(~held), replace(images.select(held), split=split)


def _ways_out(split: str, of_pixels: bool) -> str:
    """Return what a user can do where too few images are left to hold some out for a split."""
    own = f"give the data {'a test split' if split == 'test' else 'a validation split'} of its own"
    if of_pixels:
        return f"{own}, or more images"
    none, whole = "hold out none (--val-fraction 0 --select last)", "hold out whole classes (--holdout-classes)"
    instead = whole if split == "test" else none
    return f"{own} (a folder {split}/, or a column split), {instead}, or remove the class"


def _counted(images: int) -> str:
    """Return a number of training images in words.

    >>> _counted(1), _counted(2)
    ('1 training image', '2 training images')
    """
    return f"{images} training image{'' if images == 1 else 's'}"


def keep_labels(images: ImageSet, count: int | None, share: float, generator: Generator) -> ImageSet:
    """Return the images with the labels of `count` of them per class, and -1 for the others.

    Without a count, a `share` of every class keeps its label, at least one image.

    Raises:
        RelgraphError: if a class has fewer than `count`.
    """
    labels = torch.full_like(images.labels, -1)
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        kept = max(1, round(share * len(members))) if count is None else count
        if count is not None and count > len(members):
            found = f"class {name!r} has {_counted(len(members))}"
            raise RelgraphError(f"{found}, fewer than the {count} labels per class asked for")
        labels[_draw(members, kept, generator)] = label
    return images.relabel(labels)


def keep_images(images: ImageSet, count: int, generator: Generator) -> ImageSet:
    """Return the images with the labels of pixels of `count` of them, and -1 for the others.

    Raises:
        RelgraphError: if fewer have a label, or none is asked for.
    """
    members = (images.labels >= 0).nonzero().flatten()
    if not 1 <= count <= len(members):
        raise RelgraphError(f"labelled_images must be from 1 to the {len(members)} that have a label, got {count}")
    labels = torch.full_like(images.labels, -1)
    labels[_draw(members, count, generator)] = 0
    return images.relabel(labels)


def add_noise(images: ImageSet, share: float, generator: Generator) -> ImageSet:
    """Return the images with another class, each of them equally likely, on a share of those that have a label.

    A wrong label is never the true one; where others draw from all classes, 1 / classes of their noise stays right.

    Raises:
        RelgraphError: if there is no other class.
    """
    if len(images.classes) < 2:
        told = f"expected two training classes or more, got {len(images.classes)}"
        raise RelgraphError(f"label_noise gives images another class: {told}")
    labelled = (images.labels >= 0).nonzero().flatten()
    wrong = _draw(labelled, round(share * len(labelled)), generator)
    classes = len(images.classes)
    labels = images.labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, classes, (len(wrong),), generator=generator)) % classes
    return images.relabel(labels)


def _draw(members: Tensor, count: int, generator: Generator) -> Tensor:
    return members[torch.randperm(len(members), generator=generator)[:count]]


def _join(train: ImageSet, unlabelled: Tensor | ImageFiles, pool: ImageFiles | None, first: int) -> ImageSet:
    """Return the training images and, numbered from `first`, those without a label, resized as the others are."""
    if isinstance(train.images, ImageFiles):
        assert isinstance(unlabelled, ImageFiles)  # both are streamed, or none
        images: Tensor | ImageFiles = train.images.with_pool(unlabelled)
    else:
        assert isinstance(unlabelled, Tensor)
        images = _concatenated(train.images, unlabelled)
    no_labels = train.labels.new_full((len(unlabelled),), -1)
    index = torch.cat([train.index, torch.arange(first, first + len(unlabelled))])
    truth = None if train.truth is None else torch.cat([train.truth, no_labels])
    decoded = None if train.decoded is None or pool is None else train.decoded.with_pool(pool)
    labels = torch.cat([train.labels, no_labels])
    maps = None if train.maps is None else train.maps.with_unlabelled(len(unlabelled))
    return replace(train, images=images, labels=labels, index=index, truth=truth, decoded=decoded, maps=maps)


def _concatenated(train: Tensor, unlabelled: Tensor) -> Tensor:
    images = torch.empty(len(train) + len(unlabelled), *train.shape[1:], dtype=torch.uint8)
    images[: len(train)] = train
    resize_into(unlabelled, images[len(train) :])
    return images


def channel_statistics(images: Tensor) -> Normalisation:
    """Return mean and standard deviation of each channel of uint8 images `(N, C, H, W)`, on the 0..1 scale.

    They come from the channel's histogram, so they are exact and need no float copy. A channel without contrast has the
    std of one grey level, 1/255: dividing by it stays finite.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    share = torch.stack(counts).double() / (images.numel() // images.shape[1])
    mean = (share * levels).sum(1, keepdim=True)
    std = (share * (levels - mean) ** 2).sum(1).sqrt().clamp_min(1 / 255)
    return tuple(mean[:, 0].tolist()), tuple(std.tolist())
