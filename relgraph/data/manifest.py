"""The description of a store of embeddings: `manifest.json`, in a directory with the store's arrays."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgraph.data.decoding import ImageSize
from relgraph.data.views import FixedViews
from relgraph.errors import RelgraphError
from relgraph.files import digest, first_line, write_atomically

FORMAT = "relgraph embeddings"
VERSION = 3  # 1 drew other views, 2 had one checksum a shard
RECORD = "images.npy"  # what a store knows of its images
DTYPES = {"float32": torch.float32, "float16": torch.float16}

# A shard is a 32nd of the store, which is what an interrupt costs at most: not below 16 MiB, so that a small store is
# one file, and not above 256 MiB, which have to fit into memory while they are computed.
SHARDS, SHARD_MIN, SHARD_MAX = 32, 16 * 2**20, 256 * 2**20


@dataclass(frozen=True)
class Contents:
    """The images, views and teacher that were embedded, and the format.

    Attributes:
        dataset: name of the data set, as it was given.
        images: number of images of its original training split, which are all in the store.
        image_shape: `(C, H, W)` of the images as they were loaded.
        streamed: whether they came from files one by one, whose checksums are others than those of images in memory.
        checksums: SHA-256 of the checksums of the images.
        teacher: name of the teacher, as it was given.
        arguments: its constructor arguments, sorted.
        fingerprint: SHA-256 of its weights.
        input_size: side of its input in pixels, or height and width; None for those of the images.
        mean: what was subtracted from each channel of its input.
        std: what each channel was then divided by.
        width: length of an embedding.
        dtype: of the stored numbers, float32 or float16.
        precision: in which the teacher computed, as the recipe names it.
        views: number of views of every image; the first is the image itself.
        crop_padding: black pixels around the images before a crop.
        flip: whether half the crops are mirrored.
        view_seed: what the crops depend on.
        images_per_shard: number of images in a shard; the last has fewer.
    """

    dataset: str
    images: int
    image_shape: tuple[int, ...]
    streamed: bool
    checksums: str
    teacher: str
    arguments: tuple[str, ...]
    fingerprint: str
    input_size: ImageSize | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int
    dtype: str
    precision: str
    views: int
    crop_padding: int
    flip: bool
    view_seed: int
    images_per_shard: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.images_per_shard)

    @property
    def bytes(self) -> int:
        """Size of all embeddings."""
        return self.images * self.views * self.width * DTYPES[self.dtype].itemsize

    def positions(self, shard: int) -> Tensor:
        """Return the positions of a shard's images in the data set's original training split."""
        start = shard * self.images_per_shard
        return torch.arange(start, min(start + self.images_per_shard, self.images))

    def fixed_views(self) -> FixedViews:
        """Return the views of the images."""
        return FixedViews(self.images, self.views, padding=self.crop_padding, flip=self.flip, seed=self.view_seed)

    @property
    def sha256(self) -> str:
        """SHA-256 of all of this, by which a store is known."""
        return digest(json.dumps(asdict(self), sort_keys=True).encode())

    def first_row(self, shard: int) -> int:
        """Return where the CRC-32 of a shard's first row begins: a store's rows are numbered, from its SHA-256 on."""
        return int(self.sha256[:8], 16) + shard * self.images_per_shard * self.views

    def write(self, path: Path, beside: Mapping[str, Any] | None = None) -> None:
        """Write `manifest.json` into the directory `path`, whole or not at all.

        Args:
            path: The directory.
            beside: Further entries, of what is no part of the embeddings.

        Raises:
            RelgraphError: if it cannot be written.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "sha256": self.sha256,
            "contents": asdict(self),
            **(beside or {}),
        }
        write_atomically(manifest_file(path), (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> "Contents":
        """Return the contents of the store in the directory `path`.

        Raises:
            RelgraphError: if its manifest is missing, damaged, or of another version.
        """
        file = manifest_file(path)
        if not is_store(path):
            raise RelgraphError(f"expected a store of relgraph embed, a folder with {file.name}, got {path}")
        again = "delete the store and run relgraph embed again"
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RelgraphError(f"{file} cannot be read as JSON ({first_line(error)}): {again}") from error
        told = f"{file} is not the manifest of a store of embeddings"
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RelgraphError(f"{told}: its format is not {FORMAT!r}; {again}")
        if content.get("version") != VERSION:
            found = content.get("version")
            raise RelgraphError(f"{told} of this version: expected {VERSION}, found {found!r}; {again}")
        if content.get("sha256") != digest(json.dumps(content.get("contents"), sort_keys=True).encode()):
            raise RelgraphError(f"{told}: it was changed after it was written (its SHA-256 differs); {again}")
        contents = content["contents"]
        contents.update({name: tuple(value) for name, value in contents.items() if isinstance(value, list)})
        return cls(**contents)


def images_per_shard(images: int, bytes_per_image: int) -> int:
    """Return how many images go into a shard.

    >>> images_per_shard(50_000, 4 * 512 * 4), images_per_shard(1442, 64 * 4)
    (2048, 65536)
    """
    size = min(max(images * bytes_per_image // SHARDS, SHARD_MIN), SHARD_MAX)
    return max(1, size // bytes_per_image)


def manifest_file(path: Path) -> Path:
    """Return the file of the manifest in a store's directory."""
    return path / "manifest.json"


def is_store(path: Path) -> bool:
    """Return whether a directory holds a store, also one whose manifest is gone."""
    return manifest_file(path).is_file() or (path / RECORD).is_file()
