"""A store of embeddings on disk: written shard by shard, read row by row, each of which is verified as it is read.

A store is a directory with `manifest.json`, `images.npy`, the record of the images `(images, 3)` int64, and the shards
`shard-00000.npy`, ..., each `(images in the shard, views, width)`: records of a row and its CRC-32.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from relgraph.data.fingerprint import ImageRecord, first
from relgraph.data.images import ImageSet
from relgraph.data.manifest import DTYPES, RECORD, Contents, is_store, manifest_file
from relgraph.data.sealed_rows import SealedRows, write_rows
from relgraph.data.views import FixedViews
from relgraph.errors import RelgraphError
from relgraph.files import only_begun
from relgraph.printing import no_bar, tell
from relgraph.processes import SINGLE_PROCESS, ProcessGroup

# Bytes that a GPU holds by default: 50,000 images with 20 views of width 1024, and a small part of a common one.
RESIDENT_LIMIT = 4 * 2**30

COMPARED = 2**16  # images whose record is read at a time: with what they are compared to, a few megabytes


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
    """A finished store: the embedding of every view of every image.

    Attributes:
        path: its directory.
        contents: the images, views and teacher that were embedded.
        device: where rows are handed out.
        resident: whether the embeddings lie on the device as one tensor; otherwise they are gathered from the files,
            which are mapped into memory and not copied.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu", *, limit: int | None = None) -> None:
        """Open the store at `path` for a device; with more than `limit` bytes the embeddings stay in the files.

        By default that is 4 GiB for a GPU, and 0 for the CPU, whose memory the system fills from the files by itself.
        Of each file the header and the size are checked here, and each row's checksum whenever it is read: a store of
        any size opens at once.

        Raises:
            RelgraphError: if it is not a store, not finished, or what is read of it is damaged.
        """
        self.path, self.contents = path, Contents.read(path)
        check_complete(path, self.contents)
        self._record = open_record(path, self.contents)
        self._shards = [open_shard(path, self.contents, shard) for shard in range(self.contents.shards)]
        self.device = torch.device(device)
        usual = 0 if self.device.type == "cpu" else RESIDENT_LIMIT
        self.resident = self.contents.bytes <= (usual if limit is None else limit)
        self._table = self._read_all() if self.resident else None

    def _read_all(self) -> Tensor:
        """Return all embeddings `(images, views, width)` on the device."""
        contents = self.contents
        shape = contents.images, contents.views, contents.width
        table = torch.empty(shape, dtype=DTYPES[contents.dtype], device=self.device)
        for part, shard in zip(torch.split(table, contents.images_per_shard), self._shards, strict=True):
            for block, rows in shard.blocks():
                part.flatten(0, 1)[block] = torch.from_numpy(rows).to(self.device)
        return table

    def first_changed(self, images: ImageSet, processes: ProcessGroup = SINGLE_PROCESS) -> int | None:
        """Return the position of the first of `images` that is not the one that was embedded; None if there is none.

        Of streamed files those with another time of modification alone are read. Of several processes each looks at its
        share of the images, so that they may find different ones.

        Raises:
            RelgraphError: if a file is gone, cannot be read, or what the store knows of an image is damaged.
        """
        own = torch.arange(len(images))[processes.share(len(images))]
        shown = processes.first and len(own) > COMPARED
        for positions in tqdm(
            torch.split(own, COMPARED), f"verify {self.path}", leave=False, disable=no_bar(shown=shown)
        ):
            some = images.select(positions)
            changed = record_of(self._record, some.index.cpu().numpy()).first_changed(some)
            if changed is not None:
                return int(positions[changed])
        return None

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

        Raises:
            RelgraphError: if one is not as it was written.
        """
        if self._table is not None:
            return self._table[index, view].float()
        found = np.empty((len(index), self.contents.width), np.float32)
        shard, image = np.divmod(index.cpu().numpy(), self.contents.images_per_shard)
        row = image * self.contents.views + view.cpu().numpy()
        for number in np.unique(shard):
            here = shard == number
            found[here] = self._shards[number].read(row[here])
        return torch.from_numpy(found).to(self.device, non_blocking=True)


class StoreWriter:
    """A store being written: new at `path`, or continued there.

    Several processes may write one: the first begins it, each verifies its share of the shards that are there, and the
    shards of `own` are to be written by this one.

    Attributes:
        contents: what it is to hold.
        processes: those that write it.
        missing: the numbers of the shards to write: those that were not there, or not intact.
        own: those of them that this process writes.
    """

    def __init__(
        self, path: Path, contents: Contents, record: ImageRecord, processes: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        """Start or continue a store of these contents; `record` is that of the images, which the first process reads.

        Raises:
            RelgraphError: if something else is at `path`: another thing than a store, or a store of other contents.
        """
        self.path, self.contents, self.processes = path, contents, processes
        processes.all_or_none(lambda: self._begin(record) if processes.first else None)
        every, small = slice(processes.rank, None, processes.count), contents.bytes < 2**30  # read in a second or two
        shards = tqdm(range(contents.shards)[every], f"verify {path}", leave=False,
                      disable=no_bar(shown=processes.first and not small))  # fmt: skip
        found = [(shard, fault) for shard in shards if (fault := self._fault(shard)) is not None]
        faults = sorted(fault for part in processes.exchange(found) for fault in part)
        self.missing = [shard for shard, _ in faults]
        self.own = self.missing[every]
        if processes.first:
            tell(*filter(None, (fault for _, fault in faults)))

    @property
    def images(self) -> int:
        """Number of images in the missing shards."""
        return sum(len(self.contents.positions(shard)) for shard in self.missing)

    def _begin(self, record: ImageRecord) -> None:
        check_place(self.path)
        if manifest_file(self.path).is_file():
            self._check_same(Contents.read(self.path), record)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self.contents.write(self.path)  # first: stopped after it, the directory is known as a store that was begun
        # Anew, since files may have been touched, or the record damaged.
        rows = torch.stack([record.checksums, record.modified, record.content], dim=1)
        write_rows(self.path / RECORD, rows.numpy(), self.contents.first_row(0))

    def _check_same(self, was: Contents, record: ImageRecord) -> None:
        for name, value in vars(was).items():
            now = getattr(self.contents, name)
            if value != now:
                reason = f"something else: {name} was {value}, is now {now}"
                if name == "checksums":
                    old = read_record(self.path, was)
                    image = first((old.checksums != record.checksums) | (old.content != record.content))
                    reason = f"other images: the first that differs is image {image}"
                raise RelgraphError(f"{self.path} was started with {reason}; choose another --out")

    def _fault(self, shard: int) -> str | None:
        """Return what is wrong with a shard, which says that it is written again; "" if it is not there."""
        if not shard_file(self.path, shard).exists():
            return ""
        try:
            for _ in open_shard(self.path, self.contents, shard).blocks():
                pass
        except RelgraphError as error:
            return str(error)
        return None

    def write(self, shard: int, rows: Tensor) -> None:
        """Write a shard, `(images in the shard, views, width)`.

        Raises:
            RelgraphError: if the shape is another, a number is not finite, or the disk is full.
        """
        contents = self.contents
        shape = len(contents.positions(shard)), contents.views, contents.width
        if rows.shape != shape:
            raise RelgraphError(f"a shard must be {shape}, got {tuple(rows.shape)}")
        stored = rows.to(DTYPES[contents.dtype])
        wrong = first(~stored.flatten(1).isfinite().all(1))
        if wrong is not None:
            image, fits = int(contents.positions(shard)[wrong]), bool(rows[wrong].isfinite().all())
            hint = f" in {contents.dtype}: use --dtype float32" if fits else ""
            raise RelgraphError(f"the embedding of image {image} of the training split is not finite{hint}")
        write_rows(shard_file(self.path, shard), stored.numpy(), contents.first_row(shard))


def shard_file(path: Path, shard: int) -> Path:
    """Return the file of a shard in a store's directory."""
    return path / f"shard-{shard:05}.npy"


def open_shard(path: Path, contents: Contents, shard: int) -> SealedRows:
    """Return the rows of a shard, one after the other those of each image.

    Raises:
        RelgraphError: if the file is missing, or holds other rows.
    """
    shape = len(contents.positions(shard)), contents.views
    return SealedRows(shard_file(path, shard), shape, contents.width, contents.dtype, contents.first_row(shard))


def check_complete(path: Path, contents: Contents) -> None:
    """Raise RelgraphError if shards of a store are still to be written."""
    missing = [shard for shard in range(contents.shards) if not shard_file(path, shard).is_file()]
    if missing:
        done = f"{contents.shards - len(missing)} of {contents.shards} shards are written"
        told = f"{path} is not finished, {shard_file(path, missing[0]).name} is missing, {done}"
        raise RelgraphError(f"{told}: the same relgraph embed command continues it")


def check_place(path: Path) -> None:
    """Raise RelgraphError if a store can be neither begun nor continued at `path`, and change nothing there."""
    # In this order: another process may be beginning it.
    if not path.exists() or (path.is_dir() and only_begun(path)):
        return
    if not is_store(path):
        raise RelgraphError(f"{path} exists already and is not a store of embeddings: choose another --out")
    Contents.read(path)


def open_record(path: Path, contents: Contents) -> SealedRows:
    """Return the rows of what a store knows of its images, which `record_of` reads.

    Raises:
        RelgraphError: if the file is missing, or holds other rows.
    """
    return SealedRows(path / RECORD, (contents.images,), 3, "int64", contents.first_row(0))


def record_of(rows: SealedRows, numbers: NDArray[np.int64]) -> ImageRecord:
    """Return what a store knows of some images, by their positions in it.

    Raises:
        RelgraphError: if it is not as it was written.
    """
    return ImageRecord(*torch.from_numpy(rows.read(numbers).copy()).unbind(1))


def read_record(path: Path, contents: Contents) -> ImageRecord:
    """Return what a store knows of all its images.

    Raises:
        RelgraphError: if the file is missing or damaged.
    """
    return record_of(open_record(path, contents), np.arange(contents.images))
