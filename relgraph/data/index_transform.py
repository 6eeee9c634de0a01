"""The transform of an index, kept beside the rows of a store of embeddings, which stay as they are.

`index.safetensors` has its tensors and its description; `manifest.json` names it with its SHA-256. A store without it
is as good for training.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from relgraph.data.manifest import Contents, manifest_file
from relgraph.errors import RelgraphError
from relgraph.files import digest, first_line, reading, write_atomically
from relgraph.graph.alignment import COMPARED, VectorTransform

FILE = "index.safetensors"
ENTRY = "index"  # in the manifest


def write_transform(path: Path, transform: VectorTransform, spelling: str) -> None:
    """Write the transform of a store, in the place of another one.

    Args:
        path: Directory of the store.
        transform: What was fitted to its rows.
        spelling: How a user spelled it, such as `pca:64`.

    Raises:
        RelgraphError: if the store's manifest cannot be read, or a file not written.
    """
    contents = Contents.read(path)
    told = {"transform": spelling, "store": contents.sha256, **transform.plain()}
    tensors = {name: values.float().cpu().contiguous() for name, values in transform.state_dict().items()}
    data = save(tensors, {"relgraph": json.dumps(told)})
    write_atomically(path / FILE, data)
    contents.write(path, {ENTRY: {"file": FILE, "sha256": digest(data)}})


def read_transform(path: Path) -> tuple[VectorTransform, str] | None:
    """Return the transform of the store at `path`, and how a user spelled it; `None` where it has none.

    Raises:
        RelgraphError: if it is damaged, gone, or of another store.
    """
    entry = entry_of(path)
    if entry is None:
        return None
    file = path / FILE
    again = "relgraph embed with the store's options and --index-transform writes it again"
    with reading(file):
        if not file.is_file():
            raise RelgraphError(f"{file} is missing, which the manifest names: {again}")
        data = file.read_bytes()
    if not isinstance(entry, dict) or entry.get("sha256") != digest(data):
        raise RelgraphError(f"{file} is damaged or of another store: {again}")
    try:
        with safe_open(file, framework="pt") as opened:
            told: dict[str, Any] = json.loads(opened.metadata()["relgraph"])
        if told["store"] != Contents.read(path).sha256:
            raise RelgraphError(f"{file} is damaged or of another store: {again}")
        if told.get("of") != COMPARED:
            raise RelgraphError(f"{file} is of an earlier version, whose indexes did not compare {COMPARED}: {again}")
        return VectorTransform.like(load(data), told), str(told["transform"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RelgraphError(f"{file} cannot be read ({first_line(error)}): {again}") from error


def entry_of(path: Path) -> Any:
    """Return what a store's manifest says of its transform; `None` where it has none."""
    with reading(manifest_file(path)):
        return json.loads(manifest_file(path).read_bytes()).get(ENTRY)
