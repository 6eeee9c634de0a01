import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relgraph.data.manifest import Contents, Manifest, images_per_shard
from relgraph.errors import RelgraphError

CONTENTS = Contents(
    dataset="folder:birds", images=10, image_shape=(3, 8, 8), streamed=False, checksums="aa", teacher="timm:x",
    arguments=("a=1",), fingerprint="bb", input_size=None, mean=(0.5, 0.1, 0.3), std=(1.0, 0.2, 1.0), width=4,
    dtype="float16", precision="32-true", views=2, crop_padding=1, flip=True, view_seed=3, images_per_shard=4,
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    manifest = Manifest(CONTENTS, ["x", None, "z"])
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert not manifest.complete
    assert json.loads((tmp_path / "manifest.json").read_text())["complete"] is False


def test_sizes() -> None:
    assert (CONTENTS.shards, CONTENTS.bytes) == (3, 10 * 2 * 4 * 2)
    assert [CONTENTS.positions(shard).tolist() for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert replace(CONTENTS, images=12).shards == 3


@pytest.mark.parametrize("images", [1, 1442, 50_000, 1_281_167])
@pytest.mark.parametrize("width", [64, 512, 2048])
@pytest.mark.parametrize("views", [1, 16])
def test_shards_are_neither_tiny_nor_too_large(images: int, width: int, views: int) -> None:
    count = images_per_shard(images, views * width * 4)
    size = count * views * width * 4
    assert size <= 256 * 2**20
    assert count >= images or size > 15 * 2**20
    assert -(-images // count) <= max(33, 1 + images * views * width * 4 / (255 * 2**20))


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "cannot be read as JSON"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "cannot be read as JSON"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda file: file.write_text("[1]"), "its format is not"),
        (spoiled(lambda c: c.update(format="other")), "its format is not"),
        (spoiled(lambda c: c.update(version=2)), "its version is 2, expected 1"),
        (spoiled(lambda c: c.update(contents=None)), "its contents must be dataset, images"),
        (spoiled(lambda c: c["contents"].pop("width")), "its contents must be dataset, images"),
        (spoiled(lambda c: c["contents"].update(more=1)), "its contents must be dataset, images"),
        (spoiled(lambda c: c["contents"].update(width="4")), "width cannot be '4'"),
        (spoiled(lambda c: c["contents"].update(width=-4)), "width cannot be -4"),
        (spoiled(lambda c: c["contents"].update(width=True)), "width cannot be True"),
        (spoiled(lambda c: c["contents"].update(mean=["a"])), "mean cannot be"),
        (spoiled(lambda c: c["contents"].update(flip=0)), "flip cannot be 0"),
        (spoiled(lambda c: c["contents"].update(images_per_shard=0)), "must be at least 1"),
        (spoiled(lambda c: c["contents"].update(dtype="object")), "dtype float32 or float16"),
        (spoiled(lambda c: c.update(shards=[1, 2, 3])), "its shards are not a list"),
        (spoiled(lambda c: c["shards"].pop()), "it lists 2 shards, expected 3"),
        (spoiled(lambda c: c.update(complete=False)), "its entry complete is False"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    Manifest(CONTENTS, ["x", "y", "z"]).write(tmp_path)
    spoil(tmp_path / "manifest.json")
    with pytest.raises(RelgraphError, match=r"manifest\.json .*" + told.replace("[", r"\[")) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)
