"""The transform of an index beside the rows of a store: they stay as they are, and what is damaged is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import relgraph
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.index_transform import FILE, read_transform
from relgraph.data.manifest import Contents, manifest_file
from relgraph.graph.alignment import VectorTransform
from relgraph.names import index_transform
from relgraph.training.stores import Embedded
from tests.checks import assert_refused_like, case
from tests.pictures import write_folder


def embed(store: Path, index: str | None = None) -> str:
    """Store the vectors of a few images, and return the spelling of the index's transform."""
    photos = store.parent / "photos"
    if not photos.exists():
        write_folder(photos, {"train": 8, "test": 1})
    options: dict[str, Any] = {
        "dataset": f"folder:{photos}",
        "teacher": "embedded:digits",
        "device": "cpu",
        "precision": "32-true",
    }
    found = relgraph.embed(**options, workers=0, views=2, out=store, index_transform=index)
    assert isinstance(found, Embedded)
    return found.index


@pytest.fixture
def store(tmp_path: Path) -> Path:
    assert embed(tmp_path / "store") == "centre", "of a new store"
    return tmp_path / "store"


def test_it_is_fitted_to_the_first_view_and_leaves_the_rows(store: Path) -> None:
    shards = {file.name: file.read_bytes() for file in store.glob("*.npy")}
    sha256, rows = Contents.read(store).sha256, EmbeddingStore(store).view(0)[:]
    for spelling, again in (("centre", "centre"), ("pca:5", "pca:5"), ("pca:5", None), ("none", "none")):
        with case(spelling, again):
            assert embed(store, again) == spelling
            found = read_transform(store)
            assert found is not None and found[1] == spelling
            pca, centre = index_transform(spelling)
            expected = VectorTransform.fit(rows, pca=pca, centre=centre)
            torch.testing.assert_close(found[0].state_dict(), expected.state_dict())
            torch.testing.assert_close(found[0](rows).norm(dim=1), torch.ones(len(rows)))
    assert {file.name: file.read_bytes() for file in store.glob("*.npy")} == shards
    assert Contents.read(store).sha256 == sha256, "runs know the store by it"


def test_a_store_of_before_has_none_and_gets_one(store: Path) -> None:
    Contents.read(store).write(store)
    (store / FILE).unlink()
    assert read_transform(store) is None and len(EmbeddingStore(store).view(0)) == 16
    assert embed(store) == "centre" and read_transform(store) is not None


def test_damage_is_told_and_mended(store: Path) -> None:
    data = (store / FILE).read_bytes()
    manifest = manifest_file(store).read_text()
    other = manifest.replace(json.loads(manifest)["index"]["sha256"], "0" * 64)
    for name, change, told in (
        (FILE, data[:-1] + b"x", "index.safetensors is damaged or of another store: relgraph embed with"),
        (FILE, None, "index.safetensors is missing, which the manifest names"),
        ("manifest.json", other.encode(), "index.safetensors is damaged or of another store"),
    ):
        with case(told):
            file = store / name
            file.unlink() if change is None else file.write_bytes(change)
            assert_refused_like((lambda: read_transform(store), told))
            assert embed(store) == "centre" and (store / FILE).read_bytes() == data


def test_wrong_spellings_are_one_line(store: Path) -> None:
    told = "the transform of an index is centre, pca:D or none, with a number D of directions, got "
    assert_refused_like(
        *(
            (lambda each=each: index_transform(each), told)
            for each in ("pca", "pca:0", "pca:x", "centre:3", "mean", "")
        ),
        (lambda: embed(store, "pca:16"), "pca must keep 1 to 15 directions, in which the vectors vary, got 16$"),
        (lambda: embed(store.parent / "new", "pca:"), told),
        (
            lambda: relgraph.embed(out="x.npy", index_transform="none"),
            "index_transform is of a store: expected none to be given for the table x.npy, got none$",
        ),
    )
    assert not (store.parent / "new").exists() and embed(store) == "centre"
