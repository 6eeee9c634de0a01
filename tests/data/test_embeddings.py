"""Stores of embeddings: rows, files, manifests, and what becomes of those that are unfinished or damaged."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from relgraph.data import embeddings
from relgraph.data.embeddings import EmbeddingStore, StoreWriter, read_record, shard_file
from relgraph.data.fingerprint import ImageRecord
from relgraph.data.images import ImageSet
from relgraph.data.manifest import Contents, images_per_shard
from relgraph.data.views import FixedViews
from relgraph.graph import search
from relgraph.graph.kernels import linear
from relgraph.graph.search import nearest_in_blocks
from tests.checks import assert_refused_like
from tests.limits import run

IMAGES, VIEWS, WIDTH = 10, 3, 5
RECORD = ImageRecord(*(torch.arange(IMAGES) * 7 + part for part in range(3)))
PIXELS = torch.zeros(IMAGES, 1, 1, 1, dtype=torch.uint8)
VALUES = torch.randn(IMAGES, VIEWS, WIDTH, generator=torch.Generator().manual_seed(0))
CONTENTS = Contents(
    dataset="folder:birds", images=IMAGES, image_shape=(3, 8, 8), streamed=False, checksums=RECORD.sha256,
    teacher="timm:x", arguments=("a=1",), fingerprint="bb", input_size=None, mean=(0.5, 0.1, 0.3), std=(1.0, 0.2, 1.0),
    width=WIDTH, dtype="float32", precision="32-true", views=VIEWS, crop_padding=1, flip=True, view_seed=3,
    images_per_shard=4,
)  # fmt: skip


def fill(writer: StoreWriter, shards: list[int]) -> None:
    for shard in shards:
        writer.write(shard, VALUES[writer.contents.positions(shard)])


def write(path: Path, **changes: Any) -> Path:
    writer = StoreWriter(path, replace(CONTENTS, **changes), RECORD)
    fill(writer, writer.missing)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write(tmp_path / "store")


def test_every_row_and_every_view_comes_back(tmp_path: Path) -> None:
    for dtype, limit in (("float32", 0), ("float16", 0), ("float16", 2**20)):
        store = EmbeddingStore(write(tmp_path / f"{dtype}-{limit}", dtype=dtype), limit=limit)
        expected = VALUES.to(getattr(torch, dtype)).float()
        assert store.resident == (limit > 0) and torch.equal(
            read_record(store.path, store.contents).content, RECORD.content
        )
        order = torch.randperm(IMAGES * VIEWS)
        found = store.rows(order % VIEWS, order // VIEWS)
        assert found.dtype == torch.float32 and torch.equal(found, expected.flatten(0, 1)[order])
        rows, expected = store.view(2), expected[:, 2]
        assert rows.shape == expected.shape and len(rows) == IMAGES
        for index in (slice(None), slice(3, 9), slice(2, 100, 3), slice(0, 0), torch.randperm(IMAGES)):
            assert rows[index].dtype == torch.float32 and torch.equal(rows[index], expected[index])
        for near, inside in zip(nearest_in_blocks(rows, 3, block=4), nearest_in_blocks(expected, 3), strict=True):
            torch.testing.assert_close(near, inside)
        assert_refused_like((partial(store.view, 3), "has views 0 to 2, got 3"))
    assert not EmbeddingStore(tmp_path / "float32-0").resident, "on the CPU a store stays in its files"


def searched(x: Any) -> list[Tensor]:
    """Return all that is searched for among rows, a few at a time."""
    search.check_finite(x, "teacher", 16)
    neighbours, weights = search.nearest_in_blocks(x, 3, linear, 16)
    edges = torch.stack([neighbours.flatten(), torch.arange(len(x)).repeat_interleave(3)])
    return [
        search.nearest_in_blocks(x, 3, block=16)[1], neighbours, weights,
        search.edge_weights(x, x, edges, linear, 16), search.above_in_blocks(x, 700, linear, 32),
        search.matches_in_blocks(x, x, linear, 32), search.degenerate_in_blocks(x, block=16),
    ]  # fmt: skip


# A store of 20 MiB is searched with 10 MiB more than Python and its libraries take.
LIMITED = """
import sys, torch
from pathlib import Path
from relgraph.data.embeddings import EmbeddingStore
from tests.data.test_embeddings import searched
from tests.limits import limit_data

torch.set_num_threads(1)
rows = EmbeddingStore(Path(sys.argv[1])).view()
searched(torch.randn(300, 8)), rows[:32]
limit_data(10 * 2**20)
torch.save(searched(rows if sys.argv[2] == "files" else rows[:]), sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit other memory")
def test_a_store_is_searched_that_does_not_fit_memory(tmp_path: Path) -> None:
    values = torch.randint(-2, 3, (640, 1, 8192)).float()  # whole numbers, whose products are exact
    values[5], values[7] = 1.0, values[9]
    record = ImageRecord(*torch.zeros(3, 640, dtype=torch.int64))
    stored = replace(CONTENTS, images=640, width=8192, views=1, images_per_shard=200, checksums=record.sha256)
    writer = StoreWriter(tmp_path / "store", stored, record)
    for shard in writer.missing:
        writer.write(shard, values[200 * shard : 200 * (shard + 1)])

    bitten, done = (
        run(LIMITED, tmp_path / "store", where, tmp_path / "found", threshold=65536) for where in ("memory", "files")
    )
    assert bitten.returncode != 0 and "memory" in bitten.stderr.lower(), "the limit is none"
    assert done.returncode == 0, done.stderr
    found, x = torch.load(tmp_path / "found"), values[:, 0]
    torch.testing.assert_close(found, searched(x), rtol=0, atol=1e-6)
    _, _, weights, edges, above, matched, degenerate = found
    assert torch.equal(weights, linear(x).fill_diagonal_(-torch.inf).topk(3).values)
    assert torch.equal(edges, weights.flatten()) and above.shape[1] > 0
    assert (~matched).nonzero().flatten().tolist() == [7, 9] and degenerate.nonzero().tolist() == [[5]]


def test_files_are_plain_arrays(store: Path) -> None:
    shards = [np.load(shard_file(store, shard), allow_pickle=False)["row"] for shard in range(3)]
    assert [shard.shape for shard in shards] == [(4, 3, 5), (4, 3, 5), (2, 3, 5)]
    np.testing.assert_array_equal(np.concatenate(shards), VALUES.numpy())
    assert sorted(files(store)) == [
        "images.npy", "manifest.json", "shard-00000.npy", "shard-00001.npy", "shard-00002.npy",
    ]  # fmt: skip
    views = FixedViews(IMAGES, VIEWS, padding=1, flip=True, seed=3)
    assert torch.equal(EmbeddingStore(store).views().dx, views.dx)


def test_an_unfinished_store_cannot_be_opened_and_goes_on(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "stopped"
    fill(StoreWriter(path, CONTENTS, RECORD), [0, 2])
    told = "stopped is not finished, shard-00001.npy is missing, 2 of 3 shards are written: the same relgraph"
    assert_refused_like((lambda: EmbeddingStore(path), told))
    writer = StoreWriter(path, CONTENTS, RECORD)
    assert writer.missing == [1]
    fill(writer, [1])
    assert files(path) == files(store)


def test_a_stop_before_the_first_shard_can_be_continued(tmp_path: Path, store: Path) -> None:
    owner: Any
    for owner, name in ((Contents, "write"), (embeddings, "write_rows")):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, Mock(side_effect=KeyboardInterrupt))
            StoreWriter(tmp_path / name, CONTENTS, RECORD)
        assert files(write(tmp_path / name)) == files(store)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def turn(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 16
    file.write_bytes(data)


def pickled(file: Path) -> None:
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def of_another_shard(file: Path) -> None:
    shutil.copy(file.with_name("shard-00000.npy"), file)


def test_damaged_files_are_refused_and_written_again(store: Path) -> None:
    before = files(store)
    damages: list[tuple[Callable[[Path], None], str]] = [
        (cut, "cannot be read"),
        (turn, "is damaged: the CRC-32 of its row 11 is another one than was written"),
        (pickled, "cannot be read"),
    ]
    again = ".*relgraph embed command writes it again"
    everything = torch.arange(IMAGES * VIEWS)

    def read(limit: int) -> Tensor:
        return EmbeddingStore(store, limit=limit).rows(everything % VIEWS, everything // VIEWS)

    for damage, told in (*damages, (of_another_shard, "is damaged: the CRC-32 of its row 0 is another one")):
        damage(shard_file(store, 1))
        for limit in (0, 2**20):
            assert_refused_like((partial(read, limit), rf"shard-00001\.npy {told}{again}"))
        writer = StoreWriter(store, CONTENTS, RECORD)
        assert writer.missing == [1]
        fill(writer, [1])
        assert files(store) == before
    for damage, _ in damages:
        damage(store / "images.npy")
        assert_refused_like((lambda: read_record(store, CONTENTS), r"images\.npy (is damaged|cannot be read)"))
        if damage is turn:  # a store opens, and its rows are read, without it
            opened, images = EmbeddingStore(store), ImageSet(PIXELS, everything[:10], ("a",), "train", everything[:10])
            assert torch.equal(opened.view()[:], VALUES[:, 0])
            told = r"images\.npy is damaged: the CRC-32 of its row 9 is another one than was written: the same"
            assert_refused_like((lambda: opened.first_changed(images), told))  # noqa: B023 (called at once)
            assert opened.first_changed(images.select(everything[:9])) == 0, "these are others"
        assert StoreWriter(store, CONTENTS, RECORD).missing == []
        assert files(store) == before


def test_rows_of_another_store_of_this_shape_are_refused(tmp_path: Path, store: Path) -> None:
    other = write(tmp_path / "other", fingerprint="g")
    shutil.copy(shard_file(other, 1), shard_file(store, 1))
    told = "the CRC-32 of its row 2 is another one"
    assert_refused_like((lambda: EmbeddingStore(store).rows(torch.tensor([2]), torch.tensor([4])), told))


def test_another_store_or_what_is_none_is_not_continued(tmp_path: Path, store: Path) -> None:
    def start(path: Path, **changes: Any) -> Callable[[], object]:
        return lambda: StoreWriter(path, replace(CONTENTS, **changes), changed)

    changed = replace(RECORD, content=RECORD.content + (torch.arange(IMAGES) == 6))
    before = files(store)
    another = {"teacher": "other", "views": 4, "dtype": "float16", "view_seed": 1, "std": (2.0,)}
    told = "was started with something else: {} was {}, is now {}; choose another --out"
    (tmp_path / "letter.txt").write_text("dear")
    assert_refused_like(
        *(
            (start(store, **{name: value}), re.escape(told.format(name, getattr(CONTENTS, name), value)) + "$")
            for name, value in another.items()
        ),
        (start(store, checksums=changed.sha256), "other images: the first that differs is image 6; choose"),
        (start(tmp_path), "exists already and is not a store of embeddings"),
        (start(tmp_path / "letter.txt"), "exists already and is not a store of embeddings"),
    )
    assert files(store) == before and (tmp_path / "letter.txt").read_text() == "dear"


def test_shards_that_cannot_be_stored(tmp_path: Path) -> None:
    for dtype, value, told in (
        ("float32", float("nan"), "not finite$"),
        ("float16", 1e5, "not finite in float16: use --dtype float32"),
    ):
        writer, rows = StoreWriter(tmp_path / dtype, replace(CONTENTS, dtype=dtype), RECORD), VALUES[4:8].clone()
        rows[1, 2, 3] = value
        assert_refused_like(
            (partial(writer.write, 1, rows), f"the embedding of image 5 of the training split is {told}"),
            (partial(writer.write, 2, VALUES[:4]), r"a shard must be \(2, 3, 5\), got \(4, 3, 5\)"),
        )
        assert not list((tmp_path / dtype).glob("shard*"))


def test_round_trip_and_sizes(tmp_path: Path) -> None:
    CONTENTS.write(tmp_path)
    assert Contents.read(tmp_path) == CONTENTS
    assert (CONTENTS.shards, CONTENTS.bytes, replace(CONTENTS, images=12).shards) == (3, 10 * 3 * 5 * 4, 3)
    assert [CONTENTS.positions(shard).tolist() for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_shards_are_neither_tiny_nor_too_large() -> None:
    for images, width, views in product((1, 1442, 50_000, 1_281_167), (64, 512, 2048), (1, 16)):
        count = images_per_shard(images, views * width * 4)
        size = count * views * width * 4
        assert size <= 256 * 2**20
        assert count >= images or size > 15 * 2**20
        assert -(-images // count) <= max(33, 1 + images * views * width * 4 / (255 * 2**20))


def test_what_is_no_manifest(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    CONTENTS.write(tmp_path)
    text, whole = file.read_text(), json.loads(file.read_text())
    changed = "was changed after it was written (its SHA-256 differs)"
    spoilt: tuple[tuple[str | bytes, str], ...] = (
        (text[:100], "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        ("[1]", "its format is not"),
        (json.dumps({**whole, "format": "other"}), "its format is not"),
        (json.dumps({**whole, "version": 2}), "expected 3, found 2; delete the store and run relgraph embed again"),
        (text.replace('"width": 5', '"width": 6'), changed),
        (text.replace('"flip": true', '"flip": 1'), changed),
        (json.dumps({**whole, "contents": None}), changed),
    )
    for content, told in spoilt:
        assert content != text
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert_refused_like((lambda: Contents.read(tmp_path), r"manifest\.json .*" + re.escape(told)))
    file.unlink()
    told = r"^expected a store of relgraph embed, a folder with manifest\.json, got .*"  # it may be one of photographs
    assert_refused_like((lambda: Contents.read(tmp_path), told))
    (tmp_path / "images.npy").touch()
    assert_refused_like((lambda: Contents.read(tmp_path), r"cannot be read as JSON .*: delete the store"))
