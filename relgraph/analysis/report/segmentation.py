"""The section on classes of pixels: images with the maps of all networks, IoU by class, and similarity of positions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from math import isnan
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize

from relgraph.analysis.colours import NO_CLASS, area_colours
from relgraph.analysis.masks import DIFFERENCE, classes_of, difference, mask_picture
from relgraph.analysis.pictures import data_uri, matrix_picture, thumbnails
from relgraph.analysis.report.page import NOTHING, fill
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.segmentation import absent, confusion, iou
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import IGNORED
from relgraph.outputs import Output

BATCH = 16  # images at a time
IMAGES = 1_000  # of a split that are read, at most
DIFFERING, EVEN = 4, 4  # images that are shown: those where two networks differ most, and evenly spaced ones
SIDE = 240  # of a picture in pixels, at most
SIMILAR = 3  # images of which similarities are shown
GRID = 12  # positions along the longer side of a map, at most: similarities of all pairs of them go into the page

Network = Callable[[Tensor], Output]  # uint8 images to outputs with logits (B, C, h, w) and, for similarities, maps


TEACHER = "the teacher"
RUNS = 5  # that are shown beside each other, at most


class Shown(NamedTuple):
    """An image of the split.

    Attributes:
        image: Its position.
        share: Of its labelled pixels, to how many the two networks that are compared give another class; of a network
            alone, to how many it gives a wrong one.
        label: Its map of classes `(h, w)`.
        maps: Those of the networks, by name, of the same size.
        similar: The cosines of all pairs of positions of the last map, `(h, w, h, w)`, by network.
    """

    image: int
    share: float
    label: Tensor
    maps: dict[str, Tensor]
    similar: dict[str, Tensor]


class Segmented(NamedTuple):
    """What several networks make of the pixels of a split.

    Attributes:
        shown: Some images: where two networks differ most, or one is most often wrong, then evenly spaced ones.
        matrices: The confusion matrix `(C, C)` of each network, by name.
        before: The name of the network that `after` is compared with; `None` where there is none.
        after: The name of the network that is shown.
        images: Number of images that were read.
    """

    shown: list[Shown]
    matrices: dict[str, Tensor]
    before: str | None
    after: str
    images: int


def of_runs(runs: Mapping[str, TrainedRun], images: ImageSet) -> Segmented | None:
    """Return what the students of runs and a teacher make of images, by the runs' names; `None` without any.

    Compared are the first run with a teacher and, before it, the first without; otherwise its teacher, if that has
    scores of the classes.
    """
    shown = dict([(name, run) for name, run in runs.items() if run.recipe.learns_labels][:RUNS])
    if not shown:
        return None
    networks: dict[str, Network] = {name: run.dense_outputs for name, run in shown.items()}
    taught = {name: run for name, run in shown.items() if run.teacher is not None}
    after, before = next(iter({**taught, **shown})), next((name for name in shown if name not in taught), None)
    teacher = next((run.teacher for run in taught.values()), None)
    if teacher is not None:
        networks = {TEACHER: partial(taught[after].dense_outputs, teacher=True), **networks}
        if before is None and teacher.scores(images.classes, images.images.shape[-2:]):
            before = TEACHER
    return segmented(networks, images, None if before == after else before, after)


@torch.no_grad()
def segmented(networks: Mapping[str, Network], images: ImageSet, before: str | None, after: str) -> Segmented:
    """Return what networks make of images with maps, and of `before` and `after` where they differ.

    Each network sees every image once, and those that are shown a second time. One without logits of these classes has
    similarities alone.
    """
    images = images.select(torch.arange(min(len(images), IMAGES), device=images.labels.device))
    classes, shares = len(images.classes), list[float]()
    matrices = dict[str, Tensor]()
    for label, outputs in _outputs(networks, images):
        maps, counts = _maps(outputs, label), label != IGNORED
        for name, each in maps.items():
            matrices[name] = matrices.get(name, 0) + confusion(each, label, classes)
        other = label if before is None else maps[before]
        shares.append(float((maps[after] != other)[counts].float().mean()) if counts.any() else 0.0)
    chosen = _chosen(torch.tensor(shares))
    again = _outputs(networks, images.select(torch.tensor(chosen)))
    shown = [
        Shown(place, shares[place], label, _maps(outputs, label),
              {name: _similar(last) for name, (_, last) in outputs.items() if last is not None})
        for place, (label, outputs) in zip(chosen, again, strict=True)
    ]  # fmt: skip
    return Segmented(shown, matrices, before, after, len(images))


Outputs = Mapping[str, tuple[Tensor | None, Tensor | None]]


def _outputs(networks: Mapping[str, Network], images: ImageSet) -> Iterator[tuple[Tensor, Outputs]]:
    """Yield the label of each image, and by network its logits `(C, h, w)` and its last map, if it has them."""
    assert images.maps is not None
    parts, classes = torch.split(torch.arange(len(images)), BATCH), len(images.classes)
    with closing(images.batches(parts)) as batches:
        for part, pixels in zip(parts, batches, strict=True):
            found = {name: network(pixels) for name, network in networks.items()}
            for row, place in enumerate(part.tolist()):
                yield (
                    images.maps.own(place),
                    {
                        name: (
                            one.logits[row] if one.logits is not None and one.logits.shape[1] == classes else None,
                            one.maps[-1][row] if one.maps else None,
                        )
                        for name, one in found.items()
                    },
                )


def _maps(outputs: Outputs, label: Tensor) -> dict[str, Tensor]:
    """Return the map of classes by each network that has logits, at the size of the label."""
    return {name: classes_of(x, label.shape).cpu() for name, (x, _) in outputs.items() if x is not None}


def _chosen(shares: Tensor) -> list[int]:
    """Return the positions of the images with the largest shares, then of evenly spaced ones, each once."""
    most = shares.argsort(descending=True, stable=True)[:DIFFERING].tolist()
    even = [len(shares) * place // EVEN for place in range(EVEN)]
    return list(dict.fromkeys([*most, *even]))


def _similar(last: Tensor) -> Tensor:
    """Return the cosines `(h, w, h, w)` of all pairs of positions of a map `(C, H, W)`, averaged to few positions."""
    share = min(1.0, GRID / max(last.shape[1:]))
    rows, columns = (max(1, round(share * side)) for side in last.shape[1:])
    unit = normalize(adaptive_avg_pool2d(last.float(), (rows, columns)), dim=0)
    return torch.einsum("cij,chw->ijhw", unit, unit).cpu()


def segmentation_section(found: Segmented, images: ImageSet, names: Sequence[str] | None = None) -> Markup:
    """Return the section: pictures of some images, bars of IoU by class and network, and similarities of positions.

    `names` are those of all images, where they have any.
    """
    where = torch.tensor([one.image for one in found.shown], device=images.labels.device)
    pictures, colours = thumbnails(images.select(where), SIDE), area_colours(len(images.classes))
    rows, similar = [], []
    for place, (one, picture) in enumerate(zip(found.shown, pictures, strict=True)):
        name = f"number {int(images.index[one.image])}" if names is None else names[one.image]
        rows.append({"name": name, "share": one.share, "panels": _panels(one, picture, colours, found)})
        if place < SIMILAR and one.similar:
            similar.append({"name": name, "picture": data_uri(picture), "ratio": picture.width / picture.height,
                            "maps": {who: _tiles(each) for who, each in one.similar.items()}})  # fmt: skip
    told = ("both are right", f"gained by {found.after}", f"lost against {found.before}", "both are wrong")
    keys = [*zip(images.classes, colours, strict=True), ("no label", NO_CLASS)]
    return fill(
        "segmentation.html", images=found.images, shown=rows, differing=min(DIFFERING, len(rows)), similar=similar,
        before=found.before, after=found.after, keys=keys,
        kinds=list(zip(told, DIFFERENCE.values(), strict=True)), **_bars(found, images),
    )  # fmt: skip


def _tiles(similar: Tensor) -> tuple[int, int, str]:
    """Return the columns and rows of positions, and a picture with a tile for each: its cosines with all others."""
    rows, columns = similar.shape[:2]
    tiles = similar.transpose(1, 2).reshape(rows * rows, columns * columns)
    return columns, rows, matrix_picture(tiles, -1.0, 1.0, "RdBu_r")


def _panels(one: Shown, picture: Image.Image, colours: Sequence[str], found: Segmented) -> list[tuple[str, str]]:
    """Return the pictures of an image with their titles: itself, its label, the networks' maps, and the difference."""
    drawn = {"Image": picture, "Label": _drawn(one.label, colours)}
    drawn |= {name: _drawn(each, colours) for name, each in one.maps.items()}
    if found.before is not None:
        changed = difference(one.maps[found.before], one.maps[found.after], one.label)
        drawn["Difference"] = _drawn(changed, [*DIFFERENCE.values()])
    return [(name, data_uri(each)) for name, each in drawn.items()]


def _drawn(found: Tensor, colours: Sequence[str]) -> Image.Image:
    """Return a map of classes as a picture, at most `SIDE` pixels wide and high (nearest)."""
    scale = min(1.0, SIDE / max(found.shape))
    size = [max(1, round(scale * side)) for side in found.shape]
    return mask_picture(interpolate(found[None, None], size, mode="nearest-exact")[0, 0], colours)


def _bars(found: Segmented, images: ImageSet) -> dict[str, Any]:
    """Return the table of IoU in percent: a row for the mean and for each class that is present, a column a network."""
    each = {name: 100 * iou(matrix) for name, matrix in found.matrices.items()}
    missing = absent(torch.stack([*found.matrices.values()]).sum(0), images.classes)
    rows = [("Mean", [float(values.nanmean()) for values in each.values()])]
    rows += [(name, [float(values[number]) for values in each.values()]) for number, name in enumerate(images.classes)
             if name not in missing]  # fmt: skip
    drawn = [[name, *map(_bar, values, range(len(values)))] for name, values in rows]
    return {"header": ["Class", *each], "rows": drawn, "absent": missing}


def _bar(value: float, place: int) -> Markup | str:
    """Return a share in percent with a bar in the colour of a run; a dash where there is none."""
    if isnan(value):
        return NOTHING
    return Markup('<span class="bar" style="--v:{0}%;--c:var(--run-{1})">{0}</span>').format(f"{value:.1f}", place % 10)
