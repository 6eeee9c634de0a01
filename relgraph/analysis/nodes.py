"""The nodes of a graph pair for other programs: attributes, a title and a colour."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from relgraph.analysis.colours import NO_CLASS, class_colour
from relgraph.data.images import SPLITS
from relgraph.errors import RelgraphError, unknown
from relgraph.graph.pair import Pair
from relgraph.graph.search import nearest_in_blocks

# The name of an attribute, and its key in the pair's node stores, mostly the same; two are of the whole pair.
MASKS = tuple(f"{split}_mask" for split in SPLITS)
OWN_KEYS = ("prediction", "correct", "labelled", "degenerate", "community", "overlap", "file", *MASKS)
ATTRIBUTES = {"index": "image_id", "class_name": "", "split": "", "label": "y", **{name: name for name in OWN_KEYS}}
DEFAULT_ATTRIBUTES = ("index", "label", "class_name", "split", "prediction", "correct", "labelled", "file")
MEASURED = ("community", "overlap")
# Attributes that belong to a network's node; all others belong to the image.
OF_NETWORK = ("prediction", "correct", "degenerate", "community")
# All but the characters of XML 1.0. The carriage return is one of them, but it comes back from a file as a line feed.
UNWRITABLE = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_attributes(names: Sequence[str]) -> None:
    """Raise RelgraphError if a name is not among `ATTRIBUTES`.

    >>> check_attributes(["labels"])
    Traceback (most recent call last):
    ...
    relgraph.errors.RelgraphError: unknown node attribute 'labels': did you mean 'label'? (known: class_name, ...)
    """
    for name in names:
        if name not in ATTRIBUTES:
            raise unknown("node attribute", name, ATTRIBUTES)


def measure(pair: Pair, names: Sequence[str], k: int) -> None:
    """Put those of `community` and `overlap` that are among the names into the pair's nodes, `(N,)` each.

    Both read each network's own graph of the k nearest neighbours, whatever edges the pair holds: `community` is the
    node's in its network's (Louvain), `overlap` the share of neighbours that both networks choose.

    Raises:
        RelgraphError: if `k` is not in 1..N-1, or for `overlap` in a pair of one network.
    """
    from relgraph.analysis.neighbourhoods import communities, neighbour_overlap

    if not set(MEASURED) & set(names):
        return
    tables = {side: nearest_in_blocks(pair[side].x, k) for side in pair.node_types}
    if "overlap" in names and len(tables) < 2:
        raise RelgraphError(
            f"the attribute overlap is of two networks' neighbours, got the {pair.node_types[0]}'s alone"
        )
    for side, table in tables.items():
        if "overlap" in names:
            pair[side].overlap = neighbour_overlap(*(neighbours for neighbours, _ in tables.values()))
        if "community" in names:
            pair[side].community = communities(*table)


def titles_of(pair: Pair, kind: str) -> list[tuple[str, str]]:
    """Return each node's title, its class name or its index where it has none, and the colour of its class."""
    columns = _columns(pair, kind)
    labels = columns.get("label", [None] * len(pair[kind].x))
    names = columns.get("class_name", labels)
    titles = []
    for index, name, label in zip(columns["index"], names, labels, strict=True):
        title = str(index) if name is None or not str(name).strip() else str(name)
        titles.append((title, NO_CLASS if label is None else class_colour(label)))
    return titles


def writable(text: str) -> str:
    r"""Return the text with each character that XML cannot hold, or would change, replaced by U+FFFD.

    >>> writable("a & b\x00")
    'a & b\ufffd'
    """
    return UNWRITABLE.sub("\ufffd", text)


def columns_of(
    pair: Pair, kinds: Sequence[str], names: Sequence[str] | None = None, *, merged: bool = False
) -> dict[str, dict[str, list[Any]]]:
    """Return the kind and the named attributes of each network's nodes: a list for each, `None` where a node lacks it.

    Without names these are `DEFAULT_ATTRIBUTES`, as far as the pair has them. Where the pair has them, `x` and `y`,
    its position, and `image`, the path of its thumbnail, follow.

    `merged` returns one node `n` for an image, the two networks' nodes in one: the attributes of a network begin with
    its name, `student_prediction`, `teacher_prediction`.

    Raises:
        RelgraphError: for an unknown name, one that no node of these kinds has, or metadata of the wrong shape.
    """
    check_attributes(names or ())
    tables = {kind: _columns(pair, kind) for kind in kinds}
    for name in names or ():
        if not any(name in columns for columns in tables.values()):
            known = sorted({name for columns in tables.values() for name in columns} & set(ATTRIBUTES))
            raise RelgraphError(f"no node of this pair has the attribute {name!r}: expected {', '.join(known)}")
    chosen = {*(DEFAULT_ATTRIBUTES if names is None else names), "x", "y", "image"}
    kept = {kind: {n: values for n, values in columns.items() if n in chosen} for kind, columns in tables.items()}
    if not merged:
        return {kind: {"kind": [kind] * len(pair[kind].x), **columns} for kind, columns in kept.items()}
    if len(pair["student"].x) != len(pair["teacher"].x):
        got = f"{len(pair['student'].x)} and {len(pair['teacher'].x)}"
        raise RelgraphError(f"the difference has one node for each image, got other numbers of both networks, {got}")
    of_image = {name: values for name, values in kept["student"].items() if name not in OF_NETWORK}
    own = {f"{kind}_{name}": kept[kind][name] for kind in kinds for name in OF_NETWORK if name in kept[kind]}
    return {"n": of_image | own}


def _columns(pair: Pair, kind: str) -> dict[str, list[Any]]:
    """Return the attributes of each node of one kind, as plain values, `None` where the pair does not have them."""
    store = pair[kind]
    count = len(store.x)
    columns: dict[str, list[Any]] = {"index": list(range(count))}
    for name, key in ATTRIBUTES.items():
        if key and key in store:
            found = torch.as_tensor(store[key]) if key in ("image_id", "y") else store[key]
            shape = (len(found),) if isinstance(found, list) else tuple(found.shape)
            if shape != (count,):
                raise RelgraphError(f"{key} must hold one value for each of {count} {kind} nodes, got {shape}")
            if key in ("image_id", "y") and (found.is_floating_point() or found.is_complex()):
                raise RelgraphError(f"{key} must hold whole numbers to be exported, got {found.dtype}")
            columns[name] = [writable(text) for text in found] if isinstance(found, list) else found.tolist()
    if hasattr(pair, "split"):
        columns["split"] = [writable(pair.split)] * count
    if getattr(pair, "split", "") == "all":
        of_split = torch.stack([store[name] for name in MASKS]).long().argmax(0)
        columns["split"] = [SPLITS[number] for number in of_split.tolist()]
    if "label" in columns:
        labels, classes = columns["label"], [writable(name) for name in getattr(pair, "classes", [])]
        if classes:
            columns["class_name"] = [classes[n] if 0 <= n < len(classes) else None for n in labels]
        for name in {"label", "correct"} & columns.keys():  # a negative label is unknown, and whether it is correct too
            columns[name] = [value if label >= 0 else None for value, label in zip(columns[name], labels, strict=True)]
    if "position" in store:
        columns["x"], columns["y"] = store.position.double().T.tolist()
    if "image" in store:
        columns["image"] = [writable(path) for path in store.image]
    return columns
