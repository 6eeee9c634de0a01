"""Published data sets whose pixels have classes: nuclei, PASCAL VOC, Oxford-IIIT Pet and Cityscapes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from relgraph.data.decoding import ImageSize
from relgraph.data.downloads import Archive, State
from relgraph.data.file_sources import FileSource
from relgraph.data.folders import Listings
from relgraph.data.images import ImageSet
from relgraph.data.label_files import meanings
from relgraph.data.label_maps import LabelMaps
from relgraph.data.listing import LeftOut
from relgraph.data.pixel_files import PixelFiles, read_pixels, without_ignored
from relgraph.data.sources import OriginalSplits, Published, Source, original_split, refuse_stream, resize
from relgraph.errors import RelgraphError

ASSETS = Path(__file__).parents[1] / "assets"


class Nuclei(Source):
    """525 grey images of cells, 64 x 64 pixels, whose pixels are background, nucleus or the rim of one.

    400 are training and 125 test images, of which many show parts of one micrograph. They are of the Data Science Bowl
    2018 (Caicedo et al., Nature Methods 16, 2019) and come with the package: see assets/README.md.
    """

    name = "nuclei"
    preset = "pixels"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits, resized to `image_size` (bicubic, labels nearest); nothing is downloaded.

        Raises:
            RelgraphError: if the mode is stream.
        """
        refuse_stream(self.name, mode)
        train, test = (_read_nuclei(split) for split in ("train", "test"))
        return resize(OriginalSplits(train, test, crop_padding=8, flip=True), image_size)


def _read_nuclei(split: str) -> ImageSet:
    """Return a split of `Nuclei`: two pictures, of images and of labels, hold its tiles row by row."""
    tiles = []
    for name in (f"nuclei-{split}.webp", f"nuclei-{split}-labels.png"):
        with Image.open(ASSETS / name) as opened:
            whole = torch.from_numpy(np.array(opened.convert("L")))
        rows, columns = (side // 64 for side in whole.shape)
        tiles.append(whole.view(rows, 64, columns, 64).transpose(1, 2).reshape(-1, 64, 64))
    images, maps = tiles
    labels = torch.zeros(len(images), dtype=torch.int64)
    found = original_split(images[:, None], labels, ("background", "nucleus", "rim"), split)
    return replace(found, maps=LabelMaps.of(maps))


@dataclass(frozen=True)
class PublishedPixels(Published):
    """Image files with labels of pixels, listed by torchvision's reader.

    `skip` leaves out image files that cannot be read, `pool` is a folder of further ones, and the numbers `ignore`
    stand for no class.
    """

    skip: bool = False
    pool: Path | None = None
    ignore: tuple[int, ...] = ()

    preset = "pixels"

    def skipping(self) -> "PublishedPixels":
        """Return the data set without image files that cannot be read."""
        return replace(self, skip=True)

    def beside(self, pool: Path) -> "PublishedPixels":
        """Return the data set with further images from a folder."""
        return replace(self, pool=pool)

    def ignoring(self, numbers: tuple[int, ...]) -> "PublishedPixels":
        """Return the data set with these numbers in its labels read as 255, a pixel without a class."""
        return replace(self, ignore=numbers)

    def list(self, root: Path) -> PixelFiles:
        """Return the image files of each split and those of their labels.

        Raises:
            OSError: if a list is missing.
        """
        raise NotImplementedError

    def check(self, root: Path) -> str:
        """Look for the files that the lists name.

        Raises:
            RelgraphError: if one is not there.
        """
        found = self._listed(root)
        for split, (folder, names, _) in found.images.items():
            for path in (*(os.path.join(os.fsencode(folder), name) for name in names), *found.labels[split]):
                if not os.path.isfile(path):
                    raise RelgraphError(f"{os.fsdecode(path)}: expected a file of {self.name}, found none")
        return "its lists agree with its files"

    def read(self, root: Path, image_size: ImageSize | None, mode: str) -> OriginalSplits:
        """Return the splits, downloaded if they are not in `root`.

        Raises:
            RelgraphError: if the download fails, files are missing, or one that is decoded is unreadable.
        """
        self.provide(root)
        return read_pixels(self._listed(root), image_size, mode, LeftOut(self.skip), self.pool)

    def _listed(self, root: Path) -> PixelFiles:
        try:
            return self.list(root)
        except (OSError, RuntimeError, ValueError) as error:  # what torchvision raises of files that are not there
            told = getattr(error, "strerror", None) or error
            raise RelgraphError(f"{self.folder(root)}: expected the files of {self.name} ({told})") from error


class Voc(PublishedPixels):
    """PASCAL VOC 2012 (Everingham et al. 2015): 20 classes and the background; borders of objects have no class.

    The labels of its test images were never published, so that `val` is the test split.
    """

    @property
    def archive(self) -> Archive:
        """The archive with the sum that torchvision knows."""
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        known = DATASET_YEAR_DICT["2012"]
        lists = (f"VOC2012/ImageSets/Segmentation/{split}.txt" for split in ("train", "val"))
        files = dict.fromkeys((*lists, "VOC2012/JPEGImages", "VOC2012/SegmentationClass"), "")
        return Archive(self.name, "VOCdevkit", known["url"], known["md5"], 1_999_639_040, files)

    def list(self, root: Path) -> PixelFiles:
        """Return the image files of each split and those of their labels."""
        from torchvision.datasets import VOCSegmentation

        read = {split: VOCSegmentation(root, "2012", name) for split, name in (("train", "train"), ("test", "val"))}
        pairs = {split: (found.images, found.masks) for split, found in read.items()}
        classes = without_ignored(("background", *VOC_CLASSES), self.ignore)
        return _files(self.folder(root), pairs, classes, meanings(self.ignore))


class Pets(PublishedPixels):
    """Oxford-IIIT Pet (Parkhi et al. 2012): pet or background; outlines, "not classified" there, have no class."""

    @property
    def archive(self) -> Archive:
        """The archive of its images, with the sum that torchvision knows."""
        return self._archives()[0]

    def _archives(self) -> tuple[Archive, Archive]:
        """Return the archives of the images and of their labels, which lie in the folder `oxford-iiit-pet`."""
        from torchvision.datasets import OxfordIIITPet

        (images, md5), (labels, other) = OxfordIIITPet._RESOURCES
        lists = dict.fromkeys(("trainval.txt", "test.txt", "trimaps"), "")
        return (Archive(self.name, "images", images, md5, 791_918_971, {"": ""}),
                Archive(self.name, "annotations", labels, other, 19_173_078, lists))  # fmt: skip

    def folder(self, root: Path) -> Path:
        """Return where it lies in `root`."""
        return root / "oxford-iiit-pet"

    def state(self, root: Path) -> State:
        """Return what there is in `root`, by the names of files alone."""
        found = [archive.state(self.folder(root)) for archive in self._archives()]
        return next((state for state in found if state.word != "ready"), State("ready", str(self.folder(root))))

    def provide(self, root: Path) -> Path:
        """Return its folder in `root`, downloaded and unpacked if it is not there.

        Raises:
            RelgraphError: if that fails, or an archive is not the published one.
        """
        for archive in self._archives():
            archive.provide(self.folder(root))
        return self.folder(root)

    def list(self, root: Path) -> PixelFiles:
        """Return the image files of each split and those of their labels: 1 is the pet, 2 background, 3 the outline."""
        from torchvision.datasets import OxfordIIITPet

        read = {split: OxfordIIITPet(root, name, "segmentation") for split, name in
                (("train", "trainval"), ("test", "test"))}  # fmt: skip
        pairs = {split: (found._images, found._segs) for split, found in read.items()}
        return _files(self.folder(root), pairs, ("background", "pet"), meanings(self.ignore, {1: 1, 2: 0}))


class Cityscapes(FileSource):
    """Cityscapes (Cordts et al. 2016) in a folder with `leftImg8bit` and `gtFine`: its 19 classes of evaluation.

    It is not downloaded, which asks for an account. The labels of its test images were never published, so that `val`
    is the test split.
    """

    kind = "cityscapes"

    def list_pixels(self, path: Path, left_out: LeftOut) -> PixelFiles | None:
        """Return the image files of each split and those of their labels, whose ids become train ids.

        Raises:
            RelgraphError: if files are missing.
        """
        from torchvision import datasets

        told = (f"{path}: expected leftImg8bit/ and gtFine/ of Cityscapes, each with train/ and val/, which "
                "www.cityscapes-dataset.com gives to whoever has an account there, found no such")  # fmt: skip
        try:
            read = {split: datasets.Cityscapes(path, name, target_type="semantic") for split, name in
                    (("train", "train"), ("test", "val"))}  # fmt: skip
        except (OSError, RuntimeError) as error:
            raise RelgraphError(f"{told} folders") from error
        if not all(found.images for found in read.values()):
            raise RelgraphError(f"{told} images")
        pairs = {split: (found.images, [target for (target,) in found.targets]) for split, found in read.items()}
        known = sorted((found.train_id, found.id, found.name) for found in datasets.Cityscapes.classes
                       if 0 <= found.train_id < 255)  # fmt: skip
        classes = meanings(self.ignore, {number: train for train, number, _ in known})
        return _files(path, pairs, tuple(name for *_, name in known), classes)

    def list(self, path: Path, left_out: LeftOut) -> tuple[tuple[str, ...], Listings]:
        """Return the classes and the image files of each split: it has labels of pixels alone."""
        raise NotImplementedError


def _files(folder: Path, read: Any, classes: tuple[str, ...], meaning: Any) -> PixelFiles:
    """Return the files of images and labels whose paths torchvision's readers have."""
    pairs = {split: [(os.path.relpath(image, folder), str(label)) for image, label in zip(*found, strict=True)]
             for split, found in read.items()}  # fmt: skip
    return PixelFiles.of(folder, pairs, classes, meaning)


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
