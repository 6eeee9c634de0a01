"""Names of data sets."""

import re
from collections.abc import Callable

from relgraph import own_code
from relgraph.data.catalogue import SOURCES as DATASETS
from relgraph.data.file_sources import ClassFolders, Folder, Table
from relgraph.data.own import HuggingFace, OwnData
from relgraph.data.pixel_sources import Cityscapes
from relgraph.data.sources import Source
from relgraph.data.unseen import UnseenClasses
from relgraph.errors import RelgraphError, unknown
from relgraph.names.own import find_own

OWN_DATA: dict[str, Callable[[str], Source]] = {
    "folder": Folder, "classes": ClassFolders, "csv": Table, "huggingface": HuggingFace, "cityscapes": Cityscapes
}  # fmt: skip


def own_data(spec: object) -> str:
    """Return which kind of data in a place of the user's own a spelling names: a key of `OWN_DATA`; else "".

    >>> own_data("classes:photos"), own_data("digits")
    ('classes', '')
    """
    kind, _, place = str(spec).partition(":")
    return kind if place and kind in OWN_DATA else ""


def dataset(spec: object) -> Source:
    """Return the data set of a spelling: a built-in one such as `cifar100`, or one of `OWN_DATA`; or an object.

    Raises:
        RelgraphError: for an unknown name.

    >>> dataset("folder:/photos/birds").short_name
    'birds'
    """
    if isinstance(spec, Source):
        return spec
    kind, _, place = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind in OWN_DATA and place:
        return OWN_DATA[kind](place)
    if isinstance(spec, str) and spec in DATASETS:
        return DATASETS[spec]
    own = find_own("datasets", spec)
    if own is None:
        others = "folder:PATH", "classes:PATH", "csv:FILE", "huggingface:NAME", "cityscapes:PATH"
        raise unknown("data set", str(spec), [*DATASETS, *others, *own_code.registered("datasets")])
    return own[0] if isinstance(own[0], Source) else OwnData(*own)


def unseen_classes(spec: str) -> UnseenClasses:
    """Return the held-out classes of a spelling: their shares for validation and testing, or their names.

    >>> unseen_classes("0.16,0.2")
    UnseenClasses(val=0.16, test=0.2)
    >>> unseen_classes("val=apple,bear+test=cat").val
    ('apple', 'bear')

    Raises:
        RelgraphError: if it is spelled otherwise, a share is out of range, or a class is named twice.
    """
    if "=" not in spec:
        try:
            val, test = map(float, spec.split(","))
        except ValueError:
            told = "classes are held out as VAL,TEST, shares such as 0.16,0.2, or as val=NAME,...+test=NAME,..."
            raise RelgraphError(f"{told}, got {spec!r}") from None
        return UnseenClasses(val, test)
    named: dict[str, tuple[str, ...]] = {}
    for part in re.split(r"\+(?=(?:val|test)=)", spec):
        split, sign, text = part.partition("=")
        if split not in ("val", "test") or not sign or split in named:
            raise RelgraphError(f"held-out classes are named once each as val=NAME,...+test=NAME,..., got {spec!r}")
        named[split] = tuple(name.strip() for name in text.split(",") if name.strip())
    return UnseenClasses(named.get("val", ()), named.get("test", ()))
