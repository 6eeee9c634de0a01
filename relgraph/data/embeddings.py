"""A store of embeddings on disk: written shard by shard, verified when it is opened, read row by row.

A store is a directory with `manifest.json`, `images.npy`, a checksum `(images,)` int64 for each image, and the shards
`shard-00000.npy`, ..., each `(images in the shard, views, width)`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.manifest import DTYPES, Contents, Manifest, manifest_file
from relgraph.data.views import FixedViews
from relgraph.errors import RelgraphError
from relgraph.files import first_line, replacing

# Bytes that a GPU holds by default: 50,000 images with 20 views of width 1024, and a small part of a common one.
RESIDENT_LIMIT = 4 * 2**30


class StoredView:
    """One view of all images of a store, `(images, width)`, read when it is asked for: `relgraph.graph.search.Rows`."""

    def __init__(self, store: "EmbeddingStore", view: int) -> None:
        self._store, self._view = store, view
        self.shape = store.contents.images, store.contents.width

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return the embeddings of some images, `(B, width)` float32 on the store's device."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)), device=self._store.device)
        return self._store.rows(torch.full_like(index, self._view), index)


class EmbeddingStore:
    """A finished, verified store: the embedding of every view of every image.

    Attributes:
        path: its directory.
        contents: the images, views and teacher that were embedded.
        checksums: `(images,)` int64, one for each image.
        device: where rows are handed out.
        resident: whether the embeddings lie on the device as one tensor; otherwise they are gathered from the files,
            which are mapped into memory and not copied.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu", *, limit: int | None = None) -> None:
        """Open the store at `path` for a device; with more than `limit` bytes the embeddings stay in the files.

        By default that is 4 GiB for a GPU, and 0 for the CPU, whose memory the system fills from the files by itself.

        Raises:
            RelgraphError: if it is not a store, not finished, or a file of it is missing or damaged.
        """
        self.path = path
        manifest = Manifest.read(path)
        check_complete(path, manifest)
        self.contents = manifest.contents
        self.checksums = read_checksums(path, self.contents)
        for shard, fault in _faults(path, manifest):
            raise RelgraphError(f"{shard_file(path, shard)} {fault}: the same relgraph embed command writes it again")
        self._shards = [np.load(shard_file(path, shard), "r", allow_pickle=False) for shard in manifest.written]
        self.device = torch.device(device)
        usual = 0 if self.device.type == "cpu" else RESIDENT_LIMIT
        self.resident = self.contents.bytes <= (usual if limit is None else limit)
        self._table: Tensor | None = None
        if self.resident:
            shape = self.contents.images, self.contents.views, self.contents.width
            self._table = torch.empty(shape, dtype=DTYPES[self.contents.dtype], device=self.device)
            for part, shard in zip(torch.split(self._table, self.contents.images_per_shard), self._shards, strict=True):
                part.copy_(torch.from_numpy(np.array(shard)))

    def views(self) -> FixedViews:
        """Return the views that were embedded, on the store's device."""
        return self.contents.fixed_views().to(self.device)

    def view(self, view: int = 0) -> StoredView:
        """Return one view of all images, which a search over all of them reads a block at a time.

        Raises:
            RelgraphError: if there is no such view.
        """
        if not 0 <= view < self.contents.views:
            raise RelgraphError(f"{self.path} has views 0 to {self.contents.views - 1}, got {view}")
        return StoredView(self, view)

    def rows(self, view: Tensor, index: Tensor) -> Tensor:
        """Return the embeddings `(B, width)` of view `view` `(B,)` of the images `index` `(B,)`, float32 on the device.

        A resident store is read without waiting for the device.
        """
        if self._table is not None:
            return self._table[index, view].float()
        found = torch.empty(len(index), self.contents.width)
        shard, row = np.divmod(index.cpu().numpy(), self.contents.images_per_shard)
        view = view.cpu()
        for number in np.unique(shard):
            here = torch.from_numpy(shard == number)
            found[here] = torch.from_numpy(self._shards[number][row[here], view[here]]).float()
        return found.to(self.device, non_blocking=True)


class StoreWriter:
    """A store being written: new at `path`, or continued there.

    Shards that the manifest lists and that are intact stay; all others, `missing`, are to be written.
    """

    def __init__(self, path: Path, contents: Contents, checksums: Tensor) -> None:
        """Start or continue a store of these contents; `checksums` `(images,)` int64 are those of the images.

        Raises:
            RelgraphError: if something else is at `path`: another thing than a store, or a store of other contents.
        """
        self.path = path
        if manifest_file(path).is_file():
            self.manifest = Manifest.read(path)
            for name, was in vars(self.manifest.contents).items():
                now = getattr(contents, name)
                if was != now:
                    reason = f"something else: {name} was {was}, is now {now}"
                    if name == "checksums":
                        image = first_changed(read_checksums(path, self.manifest.contents), checksums)
                        reason = f"other images: the first that differs is image {image}"
                    raise RelgraphError(f"{path} was started with {reason}; choose another --out")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RelgraphError(f"{path} exists already and is not a store of embeddings: choose another --out")
        else:
            path.mkdir(parents=True, exist_ok=True)
            self.manifest = Manifest(contents, [None] * contents.shards)
            self.manifest.write(path)  # first: stopped after it, the directory is known as a store that was begun
        _save(path / "images.npy", checksums.numpy())  # the same bytes, in place of what may be damaged
        for shard, _ in _faults(path, self.manifest):
            self.manifest.shards[shard] = None

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are to be written."""
        return [shard for shard, digest in enumerate(self.manifest.shards) if digest is None]

    def write(self, shard: int, rows: Tensor) -> None:
        """Write a shard, `(images in the shard, views, width)`, and then the manifest that lists it.

        Raises:
            RelgraphError: if the shape is another, a number is not finite, or the disk is full.
        """
        contents = self.manifest.contents
        shape = len(contents.positions(shard)), contents.views, contents.width
        if rows.shape != shape:
            raise RelgraphError(f"a shard must be {shape}, got {tuple(rows.shape)}")
        stored = rows.to(DTYPES[contents.dtype])
        wrong = (~stored.flatten(1).isfinite().all(1)).nonzero().flatten()
        if len(wrong):
            image, fits = int(contents.positions(shard)[wrong[0]]), bool(rows[wrong[0]].isfinite().all())
            hint = f" in {contents.dtype}: use --dtype float32" if fits else ""
            raise RelgraphError(f"the embedding of image {image} of the training split is not finite{hint}")
        self.manifest.shards[shard] = _save(shard_file(self.path, shard), stored.numpy())
        self.manifest.write(self.path)


def shard_file(path: Path, shard: int) -> Path:
    """Return the file of a shard in a store's directory."""
    return path / f"shard-{shard:05}.npy"


def check_complete(path: Path, manifest: Manifest) -> None:
    """Raise RelgraphError if shards of a store are still to be written."""
    done, total = len(manifest.written), len(manifest.shards)
    if done < total:
        told = f"{path} is not finished, {done} of {total} shards are written"
        raise RelgraphError(f"{told}: the same relgraph embed command continues it")


def first_changed(stored: Tensor, found: Tensor) -> int | None:
    """Return the first position at which two rows of checksums `(N,)` differ, None if they are equal.

    >>> first_changed(torch.tensor([3, 4, 5]), torch.tensor([3, 9, 9]))
    1
    """
    changed = (stored != found).nonzero().flatten()
    return int(changed[0]) if len(changed) else None


def _faults(path: Path, manifest: Manifest) -> Iterator[tuple[int, str]]:
    """Yield each written shard that is not what the manifest says, and a word about it: every byte is verified."""
    small = manifest.contents.bytes < 2**30  # read in a second or two
    for shard in tqdm(manifest.written, f"verify {path}", unit="shard", leave=False, disable=True if small else None):
        file = shard_file(path, shard)
        if not file.is_file():
            yield shard, "is missing"
        elif _digest(file) != manifest.shards[shard]:
            yield shard, "is damaged (its SHA-256 is not the manifest's)"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _save(file: Path, array: Any) -> str:
    """Write an array whole or not at all and return the file's SHA-256."""
    with replacing(file) as part:
        with part.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        return _digest(part)


def checksums_digest(checksums: Tensor) -> str:
    """Return the SHA-256 of the checksums `(images,)` int64 of all images."""
    return hashlib.sha256(checksums.numpy().astype("<i8").tobytes()).hexdigest()


def read_checksums(path: Path, contents: Contents) -> Tensor:
    """Return the checksums of a store's images, `(images,)` int64.

    Raises:
        RelgraphError: if their file is missing or damaged.
    """
    file = path / "images.npy"
    try:
        found = torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise RelgraphError(f"{file} cannot be read: {first_line(error)}") from error
    if found.dtype != torch.int64 or checksums_digest(found) != contents.checksums:
        raise RelgraphError(f"{file} is damaged: its checksums are not those of the manifest")
    return found
