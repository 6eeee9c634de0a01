"""The fingerprint of a split: by it a run knows whether the images are still those that it was made of."""

import hashlib
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.images import ImageFiles, ImageSet
from relgraph.errors import RelgraphError
from relgraph.files import reading
from relgraph.printing import no_bar
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

# Bytes of streamed files up to which their contents are read for a fingerprint: seconds, and less than an epoch.
CONTENT_LIMIT = 4 * 2**30


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What a store of embeddings knows of each of its images, `(N,)` int64 each.

    Attributes:
        checksums: Those of `ImageSet.checksums`: in memory of the pixels, of streamed files of their names and sizes.
        modified: When streamed files were modified, in nanoseconds; 0 in memory.
        content: The CRC-32 of streamed files; 0 in memory.
    """

    checksums: Tensor
    modified: Tensor
    content: Tensor

    @classmethod
    def of(cls, images: ImageSet, processes: ProcessGroup = SINGLE_PROCESS) -> "ImageRecord":
        """Return the record of a split; files are read, which is a small part of decoding them.

        Of several processes each reads its share, and the first has all of it, the others their own.

        Raises:
            RelgraphError: if a file is gone, or cannot be read.
        """

        def read(own: ImageSet) -> Tensor:
            found, files = _seen(own), own.images
            found[:, 2] = _checksums(files) if isinstance(files, ImageFiles) else 0
            return found

        return cls(*_shared_out(images, processes, read).unbind(1))

    @property
    def sha256(self) -> str:
        """SHA-256 of the images: files that are only touched keep it."""
        return _digest(torch.stack([self.checksums, self.content]))

    def first_changed(self, images: ImageSet) -> int | None:
        """Return the position of the first of N images that is not the one of this record; None if there is none.

        Only files with another time of modification are read.

        Raises:
            RelgraphError: if a file is gone, or cannot be read.
        """
        (checksums, modified, _), files = _seen(images).unbind(1), images.images
        changed = self.checksums != checksums
        if isinstance(files, ImageFiles):
            touched = (self.modified != modified).nonzero().flatten()
            changed[touched] |= self.content[touched] != _checksums(files[touched])
        return first(changed)


def first(mask: Tensor) -> int | None:
    """Return the first position at which a mask `(N,)` is true, None if there is none.

    >>> first(torch.tensor([False, True, True]))
    1
    """
    found = mask.nonzero().flatten()
    return int(found[0]) if len(found) else None


def fingerprint(images: ImageSet, processes: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
    """Return the fingerprint of a split, as JSON holds it.

    `images` is their number, and `sha256` that of their classes, true labels, positions, label maps if they have any,
    and checksums: in memory of the pixels, of streamed files of their names and sizes. Of these `modified` is the
    SHA-256 of the times of modification, and `content` that of the contents, `None` if they have more than 4 GiB. Of
    several processes each looks at its share, and the first has the fingerprint.

    Raises:
        RelgraphError: if a file is gone.
    """
    checksums, modified, sizes = _shared_out(images, processes, _seen).unbind(1)
    if not processes.first:
        return {}
    found: dict[str, Any] = {"images": len(images), "sha256": _known(images, checksums)}
    if isinstance(images.images, ImageFiles):
        found |= {"modified": _digest(modified), "content": _content(images.images, sizes)}
    return found


def check_unchanged(
    images: ImageSet, known: Mapping[str, Any], owner: str, processes: ProcessGroup = SINGLE_PROCESS
) -> str | None:
    """Check that a split is the one of a fingerprint, and return a line for the user if that cannot be told for sure.

    Files that were touched, moved or copied have other times of modification: then their contents are compared. Of
    several processes each looks at its share, and the first one compares.

    Raises:
        RelgraphError: if it is another one; the message names the split, what `owner` was made of, and what was found.
    """
    told = f"the {images.split} images are not those of {owner}"
    if known.get("images") != len(images):
        raise RelgraphError(f"{told}: expected {known.get('images')} images, found {len(images)}")
    checksums, modified, sizes = _shared_out(images, processes, _seen).unbind(1)
    if not processes.first:
        return None
    if known.get("sha256") != _known(images, checksums):
        raise RelgraphError(f"{told}: expected the same names, sizes and labels in the same order, found others")
    if not isinstance(images.images, ImageFiles) or known.get("modified") == _digest(modified):
        return None
    if known.get("content") is None:
        return f"{images.split} images: files were modified since, and too large to compare their contents"
    if known["content"] != _content(images.images, sizes):
        raise RelgraphError(f"{told}: expected files of the same content, found other content in files of equal size")
    return None


def _known(images: ImageSet, checksums: Tensor) -> str:
    found = hashlib.sha256("\0".join(images.classes).encode(errors="surrogateescape"))
    maps = () if images.maps is None else (images.maps.sums,)
    for part in (images.true_labels, images.index, checksums, *maps):
        found.update(part.cpu().numpy().astype("<i8").tobytes())
    return found.hexdigest()


def _seen(images: ImageSet) -> Tensor:
    """Return checksum, time of modification and size of each image, `(N, 3)`; the two are 0 in memory."""
    if not isinstance(images.images, ImageFiles):
        checksums = images.checksums()
        return torch.stack([checksums, *torch.zeros(2, len(checksums), dtype=torch.int64)], dim=1)
    status = images.images.status()
    return torch.stack([images.images.checksums(status), *status.flip(1).unbind(1)], dim=1)


def _shared_out(images: ImageSet, processes: ProcessGroup, read: Callable[[ImageSet], Tensor]) -> Tensor:
    """Return what each process reads of its share of the images: on the first the rows of all, on others their own."""
    share = torch.arange(len(images))[processes.share(len(images))]
    own = images if processes.count == 1 else images.select(share)  # which copies images in memory
    rows = processes.all_or_none(lambda: read(own))
    return torch.cat(processes.to_first(rows) or [rows])


def _digest(numbers: Tensor) -> str:
    return hashlib.sha256(numbers.numpy().astype("<i8").tobytes()).hexdigest()


def _content(files: ImageFiles, sizes: Tensor) -> str | None:
    """Return the SHA-256 of the files' CRC-32; `None` if they are too large."""
    return None if int(sizes.sum()) > CONTENT_LIMIT else _digest(_checksums(files))


def _checksums(files: ImageFiles) -> Tensor:
    """Return the CRC-32 `(N,)` int64 of the contents, which threads read."""
    paths = [files.path(number) for number in range(len(files))]
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(_crc, paths), "fingerprint", len(paths), unit="img", leave=False, disable=no_bar()))
    return torch.tensor(found, dtype=torch.int64)


def _crc(path: str) -> int:
    with reading(Path(path)), open(path, "rb") as stream:
        return zlib.crc32(stream.read())
