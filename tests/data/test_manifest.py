import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

from relgraph.data.manifest import Contents, images_per_shard
from tests.checks import assert_refused_like

CONTENTS = Contents(
    dataset="folder:birds", images=10, image_shape=(3, 8, 8), streamed=False, checksums="aa", teacher="timm:x",
    arguments=("a=1",), fingerprint="bb", input_size=None, mean=(0.5, 0.1, 0.3), std=(1.0, 0.2, 1.0), width=4,
    dtype="float16", precision="32-true", views=2, crop_padding=1, flip=True, view_seed=3, images_per_shard=4,
)  # fmt: skip


def test_round_trip_and_sizes(tmp_path: Path) -> None:
    CONTENTS.write(tmp_path)
    assert Contents.read(tmp_path) == CONTENTS
    assert (CONTENTS.shards, CONTENTS.bytes, replace(CONTENTS, images=12).shards) == (3, 10 * 2 * 4 * 2, 3)
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
        (text.replace('"width": 4', '"width": 5'), changed),
        (text.replace('"flip": true', '"flip": 1'), changed),
        (json.dumps({**whole, "contents": None}), changed),
    )
    for content, told in spoilt:
        assert content != text
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert_refused_like((lambda: Contents.read(tmp_path), r"manifest\.json .*" + re.escape(told)))
    file.unlink()
    assert_refused_like((lambda: Contents.read(tmp_path), "cannot be read as JSON"))
