"""The published data sets: where they come from, which files they are made of, and which of these are there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from relgraph.data.archives import unpack
from relgraph.data.downloads import checksum, fetch, megabytes, part_of
from relgraph.errors import RelgraphError


class File(NamedTuple):
    """A file of a data set: its least size in bytes, that of its pixels, and its MD5 where one is published."""

    name: str
    size: int = 1
    md5: str = ""


@dataclass(frozen=True)
class Published:
    """A data set as it was published; `size` is the archive's, in bytes, and `pixels` an image's height and width."""

    folder: str
    url: str
    md5: str
    size: int
    files: tuple[File, ...]
    train: int
    test: int
    classes: int
    pixels: int
    unlabelled: int = 0

    @property
    def archive(self) -> str:
        """The name of the archive."""
        return self.url.rpartition("/")[2]


CIFAR_BATCH, STL_IMAGE = 10_000 * 3 * 32 * 32, 3 * 96 * 96  # bytes

_STL_FILES = (
    File("train_X.bin", 5_000 * STL_IMAGE, "918c2871b30a85fa023e0c44e0bee87f"),
    File("train_y.bin", 5_000, "5a34089d4802c674881badbb80307741"),
    File("test_X.bin", 8_000 * STL_IMAGE, "7f263ba9f9e0b06b93213547f721ac82"),
    File("test_y.bin", 8_000, "36f9794fa4beb8a2c72628de14fa638e"),
    File("class_names.txt"),
)


def _stl10(files: tuple[File, ...], unlabelled: int) -> Published:
    return Published(
        folder="stl10_binary",
        url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        md5="91f7769df0f17e558f3565bffb0c7dfb",
        size=2_640_397_119,
        files=files,
        train=5_000,
        test=8_000,
        classes=10,
        pixels=96,
        unlabelled=unlabelled,
    )


# Addresses and sums of CIFAR and STL-10 are those of torchvision (a test compares them).
PUBLISHED = {
    "cifar10": Published(
        folder="cifar-10-batches-py",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        size=170_498_071,
        files=(
            File("data_batch_1", CIFAR_BATCH, "c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", CIFAR_BATCH, "d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", CIFAR_BATCH, "54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", CIFAR_BATCH, "634d18415352ddfa80567beed471001a"),
            File("data_batch_5", CIFAR_BATCH, "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("test_batch", CIFAR_BATCH, "40351d587109b95175f43aff81a1287e"),
            File("batches.meta", md5="5ff9c542aee3614f3951f8cda6e48888"),
        ),
        train=50_000,
        test=10_000,
        classes=10,
        pixels=32,
    ),
    "cifar100": Published(
        folder="cifar-100-python",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        size=169_001_437,
        files=(
            File("train", 5 * CIFAR_BATCH, "16019d7e3df5f24257cddd939b257f8d"),
            File("test", CIFAR_BATCH, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            File("meta", md5="7973b15100ade9c7d40fb424638fde48"),
        ),
        train=50_000,
        test=10_000,
        classes=100,
        pixels=32,
    ),
    "stl10": _stl10(_STL_FILES, 0),
    "stl10+unlabelled": _stl10(
        (*_STL_FILES, File("unlabeled_X.bin", 100_000 * STL_IMAGE, "5242ba1fed5e4be9e1e742405eb56ca4")), 100_000
    ),
    # The sum that public loaders of this archive compare with; its publishers give none. Nor do they give the labels of
    # its test images, so their validation images, 50 a class, are the test split everywhere.
    "tiny-imagenet": Published(
        folder="tiny-imagenet-200",
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        size=248_100_043,
        files=tuple(map(File, ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt"))),
        train=100_000,
        test=10_000,
        classes=200,
        pixels=64,
    ),
}


class State(NamedTuple):
    """What there is of a data set: ready, packed, missing or incomplete, and a sentence about it."""

    word: str
    detail: str


def state(name: str, root: Path) -> State:
    """Return what there is of a data set in `root`, by the names and sizes of files alone."""
    published = PUBLISHED[name]
    folder, archive = root / published.folder, root / published.archive
    lacking = _lacking(published, folder)
    if not lacking:
        return State("ready", str(folder))
    if folder.exists():
        return State("incomplete", f"{folder} lacks {', '.join(lacking)}: move it away to have it made anew")
    if archive.is_file():
        return State("packed", f"{archive} is unpacked at the first use")
    size, part = megabytes(published.size), part_of(archive)
    begun = f", {megabytes(part.stat().st_size)} of it are there" if part.is_file() else ""
    return State("missing", f"{size} from {published.url}{begun}")


def provide(name: str, root: Path) -> Path:
    """Return the folder of a data set in `root`, downloaded and unpacked if it is not there.

    An archive that somebody put there is used.

    Raises:
        RelgraphError: if that fails, the archive is not the published one, or a folder is there in part.
    """
    published = PUBLISHED[name]
    folder, archive = root / published.folder, root / published.archive
    found = state(name, root)
    if found.word == "ready":
        return folder
    if found.word == "incomplete":
        raise RelgraphError(f"{name} is incomplete: {found.detail}")
    if found.word == "missing":
        fetch(published.url, archive, published.md5)
    elif checksum(archive) != published.md5:
        raise RelgraphError(f"{archive} is not the published archive (its checksum differs): fetch {published.url}")
    unpack(archive, folder)
    lacking = _lacking(published, folder)
    if lacking:
        raise RelgraphError(f"{archive}: expected {', '.join(lacking)} in it, found none")
    return folder


def read_checked(folder: Path, file: File) -> bytes:
    """Return the content of a file of a data set once its checksum is the published one.

    Raises:
        RelgraphError: if it is not.
    """
    content = (folder / file.name).read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise wrong_checksum(folder, file)
    return content


def wrong_checksum(folder: Path, file: File) -> RelgraphError:
    """Return the error for a file that is not the published one."""
    return RelgraphError(
        f"{folder / file.name} is not the published file (its checksum differs): move {folder} away to have it made "
        "anew"
    )


def _lacking(published: Published, folder: Path) -> list[str]:
    """Return the names of files that are not there, or smaller than their pixels."""

    def there(file: File) -> bool:
        path = folder / file.name
        return path.is_dir() or (path.is_file() and path.stat().st_size >= file.size)

    return [file.name for file in published.files if not there(file)]
