"""The fingerprint of a split: by it a run knows whether the images are still those that it was made of."""

import hashlib
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from relgraph.data.images import ImageFiles, ImageSet
from relgraph.errors import RelgraphError

# Bytes of streamed files up to which their contents are read for a fingerprint: seconds, and less than an epoch.
CONTENT_LIMIT = 4 * 2**30


def fingerprint(images: ImageSet) -> dict[str, Any]:
    """Return the fingerprint of a split, as JSON holds it.

    `images` is their number, and `sha256` that of their classes, true labels, positions and checksums: in memory of the
    pixels, of streamed files of their names and sizes. Of these `modified` is the SHA-256 of the times of modification,
    and `content` that of the contents, `None` if they have more than 4 GiB.

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
    for part in (images.true_labels, images.index, images.checksums()):
        found.update(part.cpu().numpy().astype("<i8").tobytes())
    return found.hexdigest()


def _modified(files: ImageFiles) -> str:
    times = [os.stat(os.path.join(files.folder, os.fsdecode(name))).st_mtime_ns for name in files.names]
    return hashlib.sha256(np.array(times, dtype="<i8").tobytes()).hexdigest()


def _content(files: ImageFiles) -> str | None:
    """Return the SHA-256 of the files' CRC-32, which threads read; `None` if they are too large."""
    paths = [os.path.join(files.folder, os.fsdecode(name)) for name in files.names]
    if sum(map(os.path.getsize, paths)) > CONTENT_LIMIT:
        return None
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(_crc, paths), "fingerprint", len(paths), unit="img", leave=False, disable=None))
    return hashlib.sha256(np.array(found, dtype="<i8").tobytes()).hexdigest()


def _crc(path: str) -> int:
    with open(path, "rb") as stream:
        return zlib.crc32(stream.read())
