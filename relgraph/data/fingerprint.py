"""The fingerprint of a split: by it a run knows whether the images are still those that it was made of."""

import hashlib
import os
import zlib
from collections.abc import Mapping
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
    def of(cls, images: ImageSet) -> "ImageRecord":
        """Return the record of a split; files are read, which is a small part of decoding them.

        Raises:
            RelgraphError: if a file is gone, or cannot be read.
        """
        checksums, files = images.checksums(), images.images
        if not isinstance(files, ImageFiles):
            return cls(checksums, torch.zeros_like(checksums), torch.zeros_like(checksums))
        return cls(checksums, _times(files), _checksums(files))

    @property
    def sha256(self) -> str:
        """SHA-256 of the images: files that are only touched keep it."""
        return hashlib.sha256(torch.stack([self.checksums, self.content]).numpy().astype("<i8").tobytes()).hexdigest()

    def first_changed(self, images: ImageSet) -> int | None:
        """Return the position of the first of `images` that is another one than `index` says; None if there is none.

        Only files with another time of modification are read.

        Raises:
            RelgraphError: if a file is gone, or cannot be read.
        """
        index, files = images.index.cpu(), images.images
        changed = self.checksums[index] != images.checksums()
        if isinstance(files, ImageFiles):
            touched = (self.modified[index] != _times(files)).nonzero().flatten()
            changed[touched] |= self.content[index[touched]] != _checksums(files[touched])
        return first(changed)


def first(mask: Tensor) -> int | None:
    """Return the first position at which a mask `(N,)` is true, None if there is none.

    >>> first(torch.tensor([False, True, True]))
    1
    """
    found = mask.nonzero().flatten()
    return int(found[0]) if len(found) else None


def fingerprint(images: ImageSet) -> dict[str, Any]:
    """Return the fingerprint of a split, as JSON holds it.

    `images` is their number, and `sha256` that of their classes, true labels, positions, label maps if they have any,
    and checksums: in memory of the pixels, of streamed files of their names and sizes. Of these `modified` is the
    SHA-256 of the times of modification, and `content` that of the contents, `None` if they have more than 4 GiB.

    Raises:
        RelgraphError: if a file is gone.
    """
    found: dict[str, Any] = {"images": len(images), "sha256": _known(images)}
    if isinstance(images.images, ImageFiles):
        found |= {"modified": _modified(images.images), "content": _content(images.images)}
    return found


def check_unchanged(images: ImageSet, known: Mapping[str, Any], owner: str) -> str | None:
    """Check that a split is the one of a fingerprint, and return a line for the user if that cannot be told for sure.

    Files that were touched, moved or copied have other times of modification: then their contents are compared.

    Raises:
        RelgraphError: if it is another one; the message names the split, what `owner` was made of, and what was found.
    """
    told = f"the {images.split} images are not those of {owner}"
    if known.get("images") != len(images):
        raise RelgraphError(f"{told}: expected {known.get('images')} images, found {len(images)}")
    if known.get("sha256") != _known(images):
        raise RelgraphError(f"{told}: expected the same names, sizes and labels in the same order, found others")
    if not isinstance(images.images, ImageFiles) or known.get("modified") == _modified(images.images):
        return None
    if known.get("content") is None:
        return f"{images.split} images: files were modified since, and too large to compare their contents"
    if known["content"] != _content(images.images):
        raise RelgraphError(f"{told}: expected files of the same content, found other content in files of equal size")
    return None


def _known(images: ImageSet) -> str:
    found = hashlib.sha256("\0".join(images.classes).encode(errors="surrogateescape"))
    maps = () if images.maps is None else (images.maps.sums,)
    for part in (images.true_labels, images.index, images.checksums(), *maps):
        found.update(part.cpu().numpy().astype("<i8").tobytes())
    return found.hexdigest()


def _modified(files: ImageFiles) -> str:
    return hashlib.sha256(_times(files).numpy().astype("<i8").tobytes()).hexdigest()


def _content(files: ImageFiles) -> str | None:
    """Return the SHA-256 of the files' CRC-32; `None` if they are too large."""
    if sum(map(os.path.getsize, _paths(files))) > CONTENT_LIMIT:
        return None
    return hashlib.sha256(_checksums(files).numpy().astype("<i8").tobytes()).hexdigest()


def _paths(files: ImageFiles) -> list[str]:
    return [files.path(number) for number in range(len(files))]


def _times(files: ImageFiles) -> Tensor:
    """Return the times of modification `(N,)` int64, in nanoseconds."""
    return torch.tensor([os.stat(path).st_mtime_ns for path in _paths(files)], dtype=torch.int64)


def _checksums(files: ImageFiles) -> Tensor:
    """Return the CRC-32 `(N,)` int64 of the contents, which threads read."""
    paths = _paths(files)
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(_crc, paths), "fingerprint", len(paths), unit="img", leave=False, disable=no_bar()))
    return torch.tensor(found, dtype=torch.int64)


def _crc(path: str) -> int:
    with reading(Path(path)), open(path, "rb") as stream:
        return zlib.crc32(stream.read())
