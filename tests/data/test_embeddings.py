import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.data import embeddings
from relgraph.data.embeddings import EmbeddingStore, StoreWriter, checksums_digest, shard_file
from relgraph.data.fixed_views import FixedViews
from relgraph.data.manifest import Contents, Manifest
from relgraph.errors import RelgraphError
from relgraph.graph.kernels import linear
from relgraph.graph.search import above_in_blocks, nearest_in_blocks
from tests.limits import run

IMAGES, VIEWS, WIDTH = 10, 3, 5
CHECKSUMS = torch.arange(IMAGES) * 7
VALUES = torch.randn(IMAGES, VIEWS, WIDTH, generator=torch.Generator().manual_seed(0))


def contents(**changes: Any) -> Contents:
    usual = Contents(
        dataset="digits", images=IMAGES, image_shape=(1, 8, 8), streamed=False, checksums=checksums_digest(CHECKSUMS),
        teacher="t", arguments=(), fingerprint="f", input_size=8, mean=(0.5,), std=(1.0,), width=WIDTH, dtype="float32",
        precision="32-true", views=VIEWS, crop_padding=1, flip=False, view_seed=0, images_per_shard=4,
    )  # fmt: skip
    return replace(usual, **changes)


def fill(writer: StoreWriter, shards: list[int]) -> None:
    for shard in shards:
        writer.write(shard, VALUES[writer.manifest.contents.positions(shard)])


def write(path: Path, **changes: Any) -> Path:
    writer = StoreWriter(path, contents(**changes), CHECKSUMS)
    fill(writer, writer.missing)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write(tmp_path / "store")


KINDS = (("float32", 0), ("float16", 0), ("float16", 2**20))


def test_every_row_comes_back(tmp_path: Path) -> None:
    for dtype, limit in KINDS:
        store = EmbeddingStore(write(tmp_path / f"{dtype}-{limit}", dtype=dtype), limit=limit)
        assert store.resident == (limit > 0)
        view, index = torch.arange(IMAGES * VIEWS) % VIEWS, torch.arange(IMAGES * VIEWS) // VIEWS
        order = torch.randperm(IMAGES * VIEWS)
        rows = store.rows(view[order], index[order])
        assert rows.dtype == torch.float32
        assert torch.equal(rows, VALUES.flatten(0, 1)[order].to(getattr(torch, dtype)).float())
        assert torch.equal(store.checksums, CHECKSUMS)


def test_on_the_cpu_a_store_stays_in_its_files(store: Path) -> None:
    assert not EmbeddingStore(store).resident
    assert EmbeddingStore(store, limit=2**20).resident


def test_a_view_is_read_in_parts(tmp_path: Path) -> None:
    for dtype, limit in KINDS:
        store = EmbeddingStore(write(tmp_path / f"{dtype}-{limit}", dtype=dtype), limit=limit)
        expected = VALUES[:, 2].to(getattr(torch, dtype)).float()
        rows = store.view(2)
        assert rows.shape == expected.shape and len(rows) == IMAGES
        order = torch.randperm(IMAGES)
        for index in (slice(None), slice(3, 9), slice(2, 100, 3), slice(0, 0), order):
            assert rows[index].dtype == torch.float32 and torch.equal(rows[index], expected[index])
        for found, inside in zip(nearest_in_blocks(rows, 3, block=4), nearest_in_blocks(expected, 3), strict=True):
            assert torch.equal(found, inside) or torch.allclose(found, inside)
    with pytest.raises(RelgraphError, match="has views 0 to 2, got 3"):
        store.view(3)


# A store of 20 MiB is searched with 6 MiB more than Python and its libraries take.
LIMITED = """
import sys, torch
from pathlib import Path
from relgraph.data.embeddings import EmbeddingStore
from relgraph.graph import search
from relgraph.graph.kernels import linear
from tests.limits import limit_data

torch.set_num_threads(1)
rows, small = EmbeddingStore(Path(sys.argv[1])).view(), torch.randn(300, 8)

def searched(x):
    search.check_finite(x, "teacher", 16)
    correlations = search.nearest_in_blocks(x, 3, block=16)[1]
    neighbours, weights = search.nearest_in_blocks(x, 3, linear, 16)
    edges = torch.stack([neighbours.flatten(), torch.arange(len(x)).repeat_interleave(3)])
    return (
        correlations, neighbours, weights, search.edge_weights(x, x, edges, linear, 16),
        search.above_in_blocks(x, 700, linear, 32), search.matches_in_blocks(x, x, linear, 32),
        search.degenerate_in_blocks(x, block=16),
    )

searched(small)
limit_data(6 * 2**20)
torch.save(searched(rows if sys.argv[2] == "files" else rows[:]), sys.argv[3])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit other memory")
def test_a_store_is_searched_that_does_not_fit_memory(tmp_path: Path) -> None:
    values = torch.randint(-2, 3, (640, 1, 8192)).float()  # whole numbers, whose products are exact
    values[5], values[7] = 1.0, values[9]
    checksums = torch.arange(640)
    changes = {"images": 640, "width": 8192, "views": 1, "images_per_shard": 200}
    writer = StoreWriter(tmp_path / "store", contents(**changes, checksums=checksums_digest(checksums)), checksums)
    for shard in writer.missing:
        writer.write(shard, values[200 * shard : 200 * (shard + 1)])

    bitten, done = (
        run(LIMITED, tmp_path / "store", where, tmp_path / "found", threshold=65536) for where in ("memory", "files")
    )
    assert bitten.returncode != 0 and "memory" in bitten.stderr.lower(), "the limit is none"
    assert done.returncode == 0, done.stderr
    correlations, neighbours, weights, edges, above, matched, degenerate = torch.load(tmp_path / "found")
    x = values[:, 0]
    torch.testing.assert_close(correlations, nearest_in_blocks(x, 3)[1], rtol=0, atol=1e-6)
    assert torch.equal(neighbours, nearest_in_blocks(x, 3, linear)[0])
    assert torch.equal(weights, linear(x).fill_diagonal_(-torch.inf).topk(3).values)
    assert torch.equal(edges, weights.flatten())
    assert above.shape[1] > 0 and torch.equal(above, above_in_blocks(x, 700, linear))
    assert (~matched).nonzero().flatten().tolist() == [7, 9]
    assert degenerate.nonzero().tolist() == [[5]]


def test_files_are_plain_arrays(store: Path) -> None:
    shards = [np.load(shard_file(store, shard), allow_pickle=False) for shard in range(3)]
    assert [shard.shape for shard in shards] == [(4, 3, 5), (4, 3, 5), (2, 3, 5)]
    np.testing.assert_array_equal(np.concatenate(shards), VALUES.numpy())
    assert sorted(files(store)) == [
        "images.npy", "manifest.json", "shard-00000.npy", "shard-00001.npy", "shard-00002.npy",
    ]  # fmt: skip


def test_its_views_are_those_of_the_manifest(store: Path) -> None:
    views = EmbeddingStore(store).views()
    assert torch.equal(views.dx, FixedViews(IMAGES, VIEWS, padding=1, flip=False, seed=0).dx)


def test_an_unfinished_store_cannot_be_opened_and_goes_on(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "stopped"
    fill(StoreWriter(path, contents(), CHECKSUMS), [0, 2])
    shard_file(path, 1).write_bytes(b"half")  # as a stop between a shard and the manifest leaves it
    with pytest.raises(RelgraphError, match="stopped is not finished, 2 of 3 shards are written: the same relgraph"):
        EmbeddingStore(path)
    writer = StoreWriter(path, contents(), CHECKSUMS)
    assert writer.missing == [1]
    fill(writer, [1])
    assert files(path) == files(store)


@pytest.mark.parametrize("owner", [Manifest, embeddings])
def test_a_stop_before_the_first_shard_can_be_continued(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, "write" if owner is Manifest else "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            StoreWriter(tmp_path / "stopped", contents(), CHECKSUMS)
    write(tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(store)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def turn(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 16
    file.write_bytes(data)


def pickled(file: Path) -> None:
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (cut, "is damaged"),
    (turn, "is damaged .its SHA-256 is not the manifest's."),
    (pickled, "is damaged"),
    (Path.unlink, "is missing"),
]


def test_a_damaged_shard_is_refused_and_written_again(store: Path) -> None:
    before = files(store)
    for damage, told in DAMAGES:
        damage(shard_file(store, 1))
        with pytest.raises(RelgraphError, match=rf"shard-00001\.npy {told}.*relgraph embed command writes it again"):
            EmbeddingStore(store)
        writer = StoreWriter(store, contents(), CHECKSUMS)
        assert writer.missing == [1]
        fill(writer, [1])
        assert files(store) == before


def test_damaged_checksums_are_refused_and_written_again(store: Path) -> None:
    before = files(store)
    for damage, _ in DAMAGES:
        damage(store / "images.npy")
        with pytest.raises(RelgraphError, match=r"images\.npy (is damaged|cannot be read)"):
            EmbeddingStore(store)
        assert StoreWriter(store, contents(), CHECKSUMS).missing == []
        assert files(store) == before


def test_the_shard_of_another_store_is_refused(tmp_path: Path, store: Path) -> None:
    shutil.copy(shard_file(store, 0), shard_file(store, 1))
    with pytest.raises(RelgraphError, match=r"shard-00001\.npy is damaged"):
        EmbeddingStore(store)


def test_another_store_is_not_continued(store: Path) -> None:
    before = files(store)
    for name, value in {"teacher": "other", "views": 4, "dtype": "float16", "view_seed": 1, "std": (2.0,)}.items():
        was = getattr(contents(), name)
        with pytest.raises(RelgraphError) as caught:
            StoreWriter(store, contents(**{name: value}), CHECKSUMS)
        assert str(caught.value).endswith(
            f"was started with something else: {name} was {was}, is now {value}; choose another --out"
        )
        assert files(store) == before


def test_other_images_are_not_continued(store: Path) -> None:
    changed = CHECKSUMS.clone()
    changed[6] += 1
    with pytest.raises(RelgraphError, match="other images: the first that differs is image 6"):
        StoreWriter(store, contents(checksums=checksums_digest(changed)), changed)


def test_what_is_no_store_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for path in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(RelgraphError, match="exists already and is not a store of embeddings"):
            StoreWriter(path, contents(), CHECKSUMS)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_numbers_that_cannot_be_stored(tmp_path: Path) -> None:
    for dtype, value, told in (
        ("float32", float("nan"), "not finite$"),
        ("float16", 1e5, "not finite in float16: use --dtype float32"),
    ):
        writer = StoreWriter(tmp_path / dtype, contents(dtype=dtype), CHECKSUMS)
        rows = VALUES[4:8].clone()
        rows[1, 2, 3] = value
        with pytest.raises(RelgraphError, match=f"the embedding of image 5 of the training split is {told}"):
            writer.write(1, rows)
        assert Manifest.read(tmp_path / dtype).shards == [None, None, None]


def test_a_shard_of_another_shape(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", contents(), CHECKSUMS)
    with pytest.raises(RelgraphError, match=r"a shard must be \(2, 3, 5\), got \(4, 3, 5\)"):
        writer.write(2, VALUES[:4])
