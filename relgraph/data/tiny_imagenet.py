"""The files of Tiny-ImageNet, or of a part of it, in its own layout."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from relgraph.data.folders import Listed, Listing, Listings, list_images
from relgraph.data.images import names_in_one
from relgraph.data.listing import LeftOut, find_images
from relgraph.errors import RelgraphError


def list_tiny_imagenet(folder: Path) -> tuple[tuple[str, ...], Listings]:
    """Return the names of Tiny-ImageNet's classes, or of a part of them, and its images in its own layout.

    `wnids.txt` lists the classes by their WordNet numbers, which order them, and `words.txt` names them; images are in
    `train/WNID/images/*.JPEG` and `val/images/*.JPEG`, the latter with their classes in `val/val_annotations.txt`. The
    labels of `test/` were never published, so that `val` is the test split.

    Raises:
        RelgraphError: if files are missing or disagree with each other; no image is read.
    """
    train = list_images(folder / "train")
    wnids = sorted(_lines(folder / "wnids.txt"))
    _check_listed(wnids, list(train), f"{folder / 'train'}: expected a folder for each class of wnids.txt")
    least, most = (pick(train, key=lambda wnid: len(train[wnid])) for pick in (min, max))
    if len(train[least]) < len(train[most]):  # published with 500 each: a copy that broke off has fewer
        found = f"found {len(train[most])} in {most} and {len(train[least])} in {least}"
        raise RelgraphError(f"{folder / 'train'}: expected as many images in every class, {found}")
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    for wnid in wnids:
        if wnid not in words:
            raise RelgraphError(f"{folder / 'words.txt'}: expected a name for {wnid}, found none")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    # The first synonym of every class, with the WordNet number behind it where two classes share it.
    classes = tuple(n if names.count(n) == 1 else f"{n} ({wnid})" for n, wnid in zip(names, wnids, strict=True))
    val = folder / "val" / "images"
    return classes, {
        "train": Listed.by_class(folder / "train", train), "test": Listed.by_class(val, _list_val(folder, wnids))
    }  # fmt: skip


def _list_val(folder: Path, wnids: Sequence[str]) -> Listing:
    """Return the validation images of Tiny-ImageNet by their annotated classes."""
    annotations, found = folder / "val" / "val_annotations.txt", {wnid: list[str]() for wnid in wnids}
    for number, line in enumerate(_lines(annotations), start=1):
        name, wnid, *_ = [*line.split("\t"), ""]  # what follows is a bounding box
        if wnid not in found:
            raise RelgraphError(f"{annotations}, line {number}: expected an image and a class, found {line[:60]!r}")
        found[wnid].append(name)
    images, named = folder / "val" / "images", [name for names in found.values() for name in names]
    (there,) = find_images(images, [(images, "")], LeftOut())
    _check_listed(named, there, f"{annotations}: expected a line for each file of {images}")
    return {wnid: names_in_one(names) for wnid, names in found.items()}


def _check_listed(listed: Sequence[str], there: Sequence[str], expected: str) -> None:
    """Raise RelgraphError unless a list names once what is there, and nothing else."""
    counts, found = Counter(listed), Counter(there)
    for name in sorted(counts | found):
        if counts[name] != found[name]:
            raise RelgraphError(f"{expected}, found {name} {counts[name]} times in the list and {found[name]} there")


def _lines(file: Path) -> list[str]:
    """Return the lines of a list of Tiny-ImageNet that are not empty."""
    try:
        return list(filter(None, file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise RelgraphError(f"{file}: expected a list of Tiny-ImageNet ({reason})") from error
